"""
Settings: frozen values, which `Settings.from_environment` reads from the environment and `.env`.

`CHATSTREAM_<NAME>` for our own; a provider's settings keep their owner's names. The help beside
each default is what `chatstream serve --help` and the README say.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chatstream.errors import SettingsError

Names = Annotated[tuple[str, ...], NoDecode]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")

# The largest frame (`protocol.md`, section 4), less the room that its other fields need.
MAX_FRAME_TEXT = 900_000
MAX_SYSTEM_CHARS = 32_000


class Settings(BaseModel):
    """
    Everything an operator can choose. Frozen; secrets are masked in `repr`.

    The constructor reads nothing: what is not given has its default.

    Raises:
        pydantic.ValidationError: From the constructor.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        # `model` is a word of this field: OPENAI_MODEL and its like are settings.
        protected_namespaces=("model_config",),
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    insecure: bool = Field(False, description="allow listening beyond loopback with AUTH=none")
    data_dir: Path = Field(Path("./data"), description="the data folder; one process owns it")
    store: Literal["jsonl"] = Field("jsonl", description="where the event log lies")
    fsync: Literal["always", "terminal", "never"] = Field(
        "terminal",
        description="what is on disk before it is seen: every event; messages and ends; nothing",
    )
    auth: Literal["none"] = Field("none", description="proof of a caller's name; none is asked for")
    allowed_hosts: Names = Field(
        (), description="names that a Host may be, besides localhost and any address; with commas"
    )
    allowed_origins: Names = Field(
        (), description="foreign origins whose pages may call, with commas"
    )

    provider: str | None = Field(None, description="default provider; unset: the first that can")
    fallbacks: Names = Field(
        (),
        description="providers to ask, in order, where the first does not answer; with commas",
    )
    providers: Names = Field(
        (), description="adapters of your own, each `[name=]module:Class`, with commas"
    )
    prices: Path | None = Field(
        None, description="a JSON file of prices, for the cost in `GET /usage`"
    )
    system_prompt: str | None = Field(
        None, max_length=MAX_SYSTEM_CHARS, description="the system prompt of turns without one"
    )
    context_messages: int = Field(
        20, ge=0, le=1000, description="how many earlier messages go along as context"
    )
    max_message_chars: int = Field(
        32_000, ge=1, le=MAX_FRAME_TEXT, description="longest message, in code points"
    )
    reject_markup: bool = Field(False, description="refuse messages that hold HTML markup")
    max_body_bytes: int = Field(
        524_288, ge=1024, le=MAX_FRAME_TEXT, description="largest request body or frame, in bytes"
    )
    max_reply_bytes: int = Field(
        262_144, ge=1024, le=MAX_FRAME_TEXT, description="longest reply, in bytes of JSON"
    )

    rate_limit_chat: str = Field("60/minute", description="turns that a caller may start; 0 = off")
    rate_limit_default: str = Field("600/minute", description="other requests; 0 = off")
    max_connections: int | None = Field(
        None, ge=1, description="connections at once; unset: what the descriptors bear"
    )
    max_connections_per_address: int = Field(
        1000, ge=0, description="connections of one address at once; 0 = none"
    )
    max_turns: int = Field(500, ge=1, description="turns running at once")
    max_turns_per_user: int = Field(8, ge=1, description="turns of one user running at once")
    max_queued: int = Field(
        200, ge=0, le=10_000, description="turns waiting for one provider, which has no room"
    )
    queue_timeout: Seconds = Field(20, description="that a turn may wait for its provider's room")
    cache_ttl: Annotated[float, Field(ge=0, le=31_536_000)] = Field(
        0, description="how long the answer to a first message serves the same one again; 0 = off"
    )
    cache_scope: Literal["user", "all"] = Field(
        "user", description="users that get a kept answer: the one that asked, or all"
    )
    cache_bytes: int = Field(
        67_108_864, ge=65_536, description="what the kept answers may take, in bytes"
    )

    connect_timeout: Seconds = Field(5, description="to reach the provider")
    first_token_timeout: Seconds = Field(30, description="to the first content of one attempt")
    start_timeout: Seconds = Field(60, description="to the first content over all attempts")
    token_timeout: Seconds = Field(30, description="between two contents")
    turn_timeout: Seconds = Field(600, description="a whole turn")
    retries: int = Field(
        2, ge=0, le=10, description="how often each provider is asked again before any content"
    )
    orphan_timeout: Seconds | None = Field(
        None, description="without any subscriber before a turn is cancelled; unset: never"
    )
    heartbeat: Seconds = Field(15, description="silence before a heartbeat")
    drain_timeout: Annotated[float, Field(ge=0, le=86_400)] = Field(
        30, description="for running turns to end when the server stops"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe record that is logged"
    )
    log_format: Literal["text", "json"] = Field("text", description="form of the log's lines")
    log_content: bool = Field(
        False,
        description="log the beginning of what a provider sent that is no answer, to look for a "
        "fault: it may quote messages and replies",
    )

    openai_api_key: SecretStr | None = Field(
        None,
        validation_alias="OPENAI_API_KEY",
        description="OpenAI's key, or that of a server that speaks its protocol",
    )
    openai_base_url: str = Field(
        "https://api.openai.com/v1",
        validation_alias="OPENAI_BASE_URL",
        description="where its API is, with /v1",
    )
    openai_model: str = Field(
        "gpt-4o-mini",
        validation_alias="OPENAI_MODEL",
        description="the model that answers when a turn names none",
    )
    openai_prefill: bool = Field(
        False,
        validation_alias="OPENAI_PREFILL",
        description="the server takes the beginning of an answer and goes on from it (vLLM)",
    )
    openai_finish_reason: Literal["required", "optional"] = Field(
        "required",
        validation_alias="OPENAI_FINISH_REASON",
        description="optional: the server ends an answer with `[DONE]` alone; it counts as `other`",
    )
    gemini_api_key: SecretStr | None = Field(
        None, validation_alias="GEMINI_API_KEY", description="Gemini's key"
    )
    gemini_base_url: str = Field(
        "https://generativelanguage.googleapis.com",
        validation_alias="GEMINI_BASE_URL",
        description="where its API is, without a version",
    )
    gemini_model: str = Field(
        "gemini-2.5-flash",
        validation_alias="GEMINI_MODEL",
        description="the model that answers when a turn names none",
    )
    anthropic_api_key: SecretStr | None = Field(
        None, validation_alias="ANTHROPIC_API_KEY", description="Anthropic's key"
    )
    anthropic_base_url: str = Field(
        "https://api.anthropic.com",
        validation_alias="ANTHROPIC_BASE_URL",
        description="where its API is, without a version",
    )
    anthropic_model: str = Field(
        "claude-haiku-4-5",
        validation_alias="ANTHROPIC_MODEL",
        description="the model that answers when a turn names none",
    )
    anthropic_version: str = Field(
        "2023-06-01",
        validation_alias="ANTHROPIC_VERSION",
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="the version of its API that is asked for",
    )
    ollama_host: str | None = Field(
        None,
        validation_alias="OLLAMA_HOST",
        description="where Ollama is; unset: looked for at 127.0.0.1:11434",
    )
    ollama_model: str | None = Field(
        None,
        validation_alias="OLLAMA_MODEL",
        description="the model that answers; unset: the first that is found there, else llama3.2",
    )
    local_model: Path | None = Field(
        None, description="a GGUF file in place of the small model that ./run.sh installs"
    )
    no_model: bool = Field(False, description="leave the local model alone; `offline` answers")

    @field_validator("allowed_hosts", "allowed_origins", "fallbacks", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return _parts(value.lower()) if isinstance(value, str) else value

    @field_validator("providers", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return _parts(value) if isinstance(value, str) else value

    @field_validator(
        "log_level",
        "log_format",
        "fsync",
        "store",
        "auth",
        "cache_scope",
        "openai_finish_reason",
        mode="before",
    )
    @classmethod
    def _ignore_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("rate_limit_chat", "rate_limit_default")
    @classmethod
    def _check_rate(cls, value: str) -> str:
        if value != "0" and not _RATE.fullmatch(value):
            raise ValueError("takes a rate such as 60/minute (second, minute, hour, day), or 0")
        return value

    @field_validator("openai_base_url", "gemini_base_url", "anthropic_base_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        value = value.strip()
        if not re.match(r"https?://[^/?#\s]+", value, re.IGNORECASE):
            raise ValueError("takes an http or https address")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _stay_on_loopback(self) -> Self:
        if not (self.on_loopback or self.insecure):
            raise ValueError(
                f"CHATSTREAM_HOST: {self.host} can be reached from other machines, and with "
                "CHATSTREAM_AUTH=none everyone there could read every user's chats; "
                "listen on 127.0.0.1, or give --insecure"
            )
        return self

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """
        Read the environment and `.env`; `given` values other than None win over both.

        Raises:
            SettingsError: Names each wrong setting and what it takes.
            TypeError: There is no setting of a given name.
        """
        if unknown := given.keys() - cls.model_fields.keys():
            raise TypeError(f"there is no setting {', '.join(sorted(unknown))}")
        try:
            read = _Environment(**{name: v for name, v in given.items() if v is not None})
        except ValidationError as error:
            raise SettingsError("; ".join(_told(error))) from None
        return cls(**read.model_dump(exclude_unset=True))

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def limited(self, name: str) -> bool:
        """
        Return whether a limit of one caller applies.

        On loopback all callers are one, since none proves a name: limits are off unless set.
        """
        return name in self.model_fields_set or not self.on_loopback


def _parts(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def rate(text: str) -> tuple[int, int] | None:
    """
    Read a rate as (how many, in how many seconds); None is off.

    >>> rate("60/minute")
    (60, 60)
    """
    match = _RATE.fullmatch(text)
    if match is None:
        return None
    seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}[match[2]]
    return int(match[1]), seconds


def variable(name: str) -> str:
    """Return the environment variable that sets a field."""
    field = Settings.model_fields.get(name)
    if field is not None and isinstance(field.validation_alias, str):
        return field.validation_alias
    return name if name.isupper() else f"CHATSTREAM_{name.upper()}"


def _told(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_context=False):
        message = problem["msg"].removeprefix("Value error, ")
        where = variable(str(problem["loc"][0])) if problem["loc"] else None
        yield f"{where}: {message}" if where else message


class _Environment(BaseSettings, Settings):
    """The settings as the environment gives them: the only reader of `os.environ`."""

    model_config = SettingsConfigDict(
        env_prefix="CHATSTREAM_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",  # the variables of others
    )
