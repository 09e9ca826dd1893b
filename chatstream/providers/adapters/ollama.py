"""The `ollama` provider: models on a machine of one's own, by Ollama's chat API."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Sequence
from typing import Any, Final, Unpack
from urllib.parse import urlsplit

import orjson

from chatstream.providers import Piece, ProviderRequest, asked_to_go_on
from chatstream.providers.http.manners import Ways
from chatstream.providers.http.parser import NDJSON, Asking, names_in, pieces_in, usage_of
from chatstream.providers.http.provider import Access, Form, HttpProvider
from chatstream.providers.http.reasons import Mark, mark_of
from chatstream.providers.http.thinking import Thoughts

DEFAULT_ADDRESS: Final = "http://127.0.0.1:11434"
DEFAULT_MODEL: Final = "llama3.2"

PROBE_SECONDS: Final = 0.15
"""To connect, and again to be answered: a machine of one's own is not further away."""
MAX_PROBE_BYTES: Final = 1024 * 1024


def provider(**access: Unpack[Access]) -> HttpProvider:
    """Return an Ollama at a `base_url`, in any form that `OLLAMA_HOST` takes."""
    access["base_url"] = base_url(access["base_url"])
    return HttpProvider(FORM, **access)


class OllamaAnswer:
    """One answer, from its lines. Whole once one says that it is `done`."""

    def __init__(self) -> None:
        self.finish: Mark | None = None
        self._thoughts = Thoughts()

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """Return what one line adds; as `Answer.take` promises."""
        pieces: list[Piece] = []
        message = chunk.get("message")
        if message:
            if thought := message.get("thinking"):
                pieces += pieces_in(thought, self._thoughts, "reasoning")
            if text := message.get("content"):
                if type(text) is str:
                    pieces += self._thoughts.take(text)
                else:
                    pieces += pieces_in(text, self._thoughts)
        if chunk.get("done"):
            self.finish = mark_of(chunk.get("done_reason")) or "stop"
            if "eval_count" in chunk or "prompt_eval_count" in chunk:
                # A prompt that was still in memory is not counted again.
                counts = chunk.get("prompt_eval_count") or 0, chunk.get("eval_count") or 0
                pieces += usage_of(counts[:1], counts[1:])
        return pieces

    def end(self) -> Sequence[Piece]:
        """Return what was held; as `Answer.end` promises."""
        return self._thoughts.end()


def base_url(host: str) -> str:
    """
    Read `OLLAMA_HOST` as Ollama's own programs do.

    >>> base_url("0.0.0.0"), base_url("gpu.example:80"), base_url("https://ollama.example/x/")
    ('http://127.0.0.1:11434', 'http://gpu.example:80', 'https://ollama.example/x')
    """
    host, mark, query = host.strip().partition("?")
    host = host.rstrip("/")
    # A server's setting to listen everywhere, which is no address to ask at.
    host = re.sub(r"^(https?://)?(?:0\.0\.0\.0|\[::\])?(?=:\d|/|$)", r"\g<1>127.0.0.1", host)
    if re.match(r"https?://", host, re.IGNORECASE):
        return f"{host}{mark}{query}"
    place, slash, path = host.partition("/")
    if not re.search(r":\d+$", place):
        place += ":11434"
    return f"http://{place}{slash}{path}{mark}{query}"


def installed(address: str = DEFAULT_ADDRESS) -> list[str] | None:
    """
    Ask which models an Ollama has; None if none is there.

    Blocks, for 0.3 s at most where the machine is this one: for the program's start alone.
    """
    place = urlsplit(address)
    connection = http.client.HTTPConnection(
        place.hostname or "", place.port or 80, timeout=PROBE_SECONDS
    )
    try:
        connection.request("GET", "/api/tags")
        response = connection.getresponse()
        tags = orjson.loads(_body_in_time(response))
        return names_in(tags, "models", "name") if response.status == 200 else None
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError):
        return None
    finally:
        connection.close()


def _body_in_time(response: http.client.HTTPResponse) -> bytes:
    """Read what comes of a body, which may never end."""
    body, due = bytearray(), time.monotonic() + PROBE_SECONDS
    while len(body) < MAX_PROBE_BYTES and time.monotonic() < due:
        data = response.read1(65536)
        if not data:
            break
        body += data
    return bytes(body)


def _asking(request: ProviderRequest, _: Ways) -> Asking:
    return Asking("api/chat", _body(request), OllamaAnswer())


def _body(request: ProviderRequest) -> dict[str, Any]:
    messages = [{"role": m.role, "content": m.content} for m in asked_to_go_on(request.messages)]
    if request.system is not None:
        messages.insert(0, {"role": "system", "content": request.system})
    body: dict[str, Any] = {"model": request.model, "messages": messages, "stream": True}
    options: dict[str, Any] = {}
    if request.temperature is not None:
        options["temperature"] = request.temperature
    if request.max_tokens is not None:
        options["num_predict"] = request.max_tokens
    if request.stop:
        options["stop"] = list(request.stop)
    if options:
        body["options"] = options
    return body


FORM: Final = Form(
    name="ollama",
    ask=_asking,
    models_at="api/tags",
    names=lambda listed: names_in(listed, "models", "name"),
    wire=NDJSON,
    pull="ollama pull",
)
