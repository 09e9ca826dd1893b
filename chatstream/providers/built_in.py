"""The providers that need no code of one's own: which of them the settings open, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pydantic import SecretStr

from chatstream.providers import Provider
from chatstream.providers.adapters import anthropic, gemini, ollama, openai
from chatstream.providers.adapters.offline import Offline
from chatstream.providers.http.provider import HttpProvider
from chatstream.providers.local.provider import Local, availability
from chatstream.settings import Settings


class Hosted(NamedTuple):
    """
    A provider that a key opens, or an address of one's own.

    Attributes:
        make: Makes it; None where the settings do not open it.
        opened_by: The settings that do.
    """

    name: str
    make: Callable[[Settings], HttpProvider | None]
    opened_by: str


@dataclass
class Found:
    """
    The built-in providers of some settings.

    Attributes:
        by_name: Those that can be used.
        missing: Why each of the others cannot be.
        default: Which of them answers where the settings name none.
        reason: Why, in half a sentence for the operator.
    """

    by_name: dict[str, Provider] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    default: str = ""
    reason: str = ""

    def add(self, name: str, provider: Provider, reason: str) -> None:
        """Add one. The first answers by default."""
        self.by_name[name] = provider
        if not self.default:
            self.default, self.reason = name, reason


def find(settings: Settings) -> Found:
    """Make the built-in providers that can be used. Raises SettingsError."""
    found = Found()
    for name, make, opened_by in HOSTED:
        hosted = make(settings)
        if hosted is not None:
            found.add(name, hosted, f"{opened_by} is set")
        else:
            found.missing[name] = f"{name.upper()}_API_KEY is not set"
    _find_ollama(settings, found)
    missing = "--no-model was given" if settings.no_model else availability(settings.local_model)
    if missing is None:
        found.add("local", Local(settings.local_model), "no provider's key is set")
    else:
        found.missing["local"] = missing
    why = missing or "it was chosen by CHATSTREAM_PROVIDER"
    found.add("offline", Offline(why), f"no provider's key is set, and {why}")
    return found


def _openai(settings: Settings) -> HttpProvider | None:
    if not settings.openai_api_key and "openai_base_url" not in settings.model_fields_set:
        return None
    return openai.provider(
        base_url=settings.openai_base_url,
        api_key=_secret(settings.openai_api_key),
        model=settings.openai_model,
        prefill=settings.openai_prefill,
        finish_optional=settings.openai_finish_reason == "optional",
        connect_timeout=settings.connect_timeout,
        token_timeout=settings.token_timeout,
    )


def _gemini(settings: Settings) -> HttpProvider | None:
    if not settings.gemini_api_key:
        return None
    return gemini.provider(
        base_url=settings.gemini_base_url,
        api_key=_secret(settings.gemini_api_key),
        model=settings.gemini_model,
        connect_timeout=settings.connect_timeout,
        token_timeout=settings.token_timeout,
    )


def _anthropic(settings: Settings) -> HttpProvider | None:
    if not settings.anthropic_api_key:
        return None
    return anthropic.provider(
        base_url=settings.anthropic_base_url,
        api_key=_secret(settings.anthropic_api_key),
        model=settings.anthropic_model,
        version=settings.anthropic_version,
        connect_timeout=settings.connect_timeout,
        token_timeout=settings.token_timeout,
    )


HOSTED: Final = (
    Hosted("openai", _openai, "OPENAI_API_KEY or OPENAI_BASE_URL"),
    Hosted("gemini", _gemini, "GEMINI_API_KEY"),
    Hosted("anthropic", _anthropic, "ANTHROPIC_API_KEY"),
)
"""The first that is open answers by default."""
BUILT_IN: Final = (*(hosted.name for hosted in HOSTED), "ollama", "local", "offline")


def _find_ollama(settings: Settings, found: Found) -> None:
    """Make Ollama's where it was named, or is looked for and found; only here is it looked for."""
    host, model = settings.ollama_host, settings.ollama_model
    if host is None and settings.provider is None and not found.by_name:
        models = ollama.installed()
        if not models:
            found.missing["ollama"] = "no Ollama with a model is at its default address"
            return
        host, model = ollama.DEFAULT_ADDRESS, model or models[0]
    elif host is None and "ollama" in (settings.provider, *settings.fallbacks):
        host = ollama.DEFAULT_ADDRESS
        model = model or next(iter(ollama.installed() or ()), None)
    if host is None:
        found.missing["ollama"] = "OLLAMA_HOST is not set"
        return
    provider = ollama.provider(
        base_url=host,
        model=model or ollama.DEFAULT_MODEL,
        connect_timeout=settings.connect_timeout,
        token_timeout=settings.token_timeout,
    )
    where = "is at its default address" if settings.ollama_host is None else "is named"
    found.add("ollama", provider, f"no provider's key is set, and an Ollama {where}")


def _secret(key: SecretStr | None) -> str:
    return key.get_secret_value() if key else ""
