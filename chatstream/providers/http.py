"""
Asking a provider over HTTP: one client for each, one loop that reads an answer's events.

An adapter says what to ask and how to read one event (`Answer`); everything that goes wrong on the
way becomes a `ProviderError` here. No retries and no timers but the one for connecting: those are
the caller's. Proxies are those of the environment, looked up once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx
import orjson

from chatstream.errors import ProviderError, SettingsError
from chatstream.providers import Finish, Piece, failures
from chatstream.providers.answer import SSE, Answer, Wire
from chatstream.providers.http_transport import (
    AiohttpStream,
    AiohttpTransport,
    environment_proxy,
    tls_context,
)
from chatstream.providers.ndjson_decoder import LineDecoder
from chatstream.providers.pace import Pace
from chatstream.providers.sse_decoder import EventDecoder, Failure

END_SECONDS: Final = 0.5
"""How long after a finish reason its usage and the stream's end are waited for."""
DRAIN_SECONDS: Final = 0.2
"""How long after `[DONE]` the stream's end is waited for; without it no connection is reused."""
ERROR_BODY_SECONDS: Final = 2.0
MAX_ERROR_BODY: Final = 64 * 1024

logger = logging.getLogger(__name__)


class _Reading:
    """
    One answer's payloads. `done` once nothing more counts: after `[DONE]`, which is OpenAI's mark
    and nobody else's, or after an error that came too late to matter.
    """

    def __init__(self, client: ProviderClient, answer: Answer) -> None:
        self._client = client
        self._answer = answer
        self.done = False

    def pieces(self, payload: bytes) -> Sequence[Piece]:
        """Return what one payload adds. Raises ProviderError."""
        if self.done:
            return ()
        if type(payload) is Failure:
            return self._fail(self._client.told(payload))
        try:
            chunk = orjson.loads(payload)
            if not chunk.get("error"):
                return self._answer.take(chunk)
        except (AttributeError, LookupError, TypeError, ValueError):
            # Looked for where JSON was not: a token does not pay for it.
            if payload.startswith(b"[DONE]"):
                self.done = True
                return ()
            return self._fail(failures.unreadable(self._client.name))
        return self._fail(self._client.told(payload))

    def _fail(self, failure: ProviderError) -> Sequence[Piece]:
        """Raise it, unless the answer is whole: then only its tail is odd."""
        if self._answer.finish is None:
            raise failure
        self.done = True
        return ()


class ProviderClient:
    """
    One provider's pooled client. Safe to use from many tasks of one event loop.

    Raises:
        SettingsError: The address or the key cannot be used.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        api_key: str = "",
        key_header: str = "Authorization",
        key_prefix: str = "",
        headers: Mapping[str, str] | None = None,
        wire: Wire = SSE,
        connect_timeout: float,
    ) -> None:
        self.name = name
        self._wire = wire
        self._secret = api_key.strip()
        if not (self._secret.isascii() and self._secret.isprintable()):
            raise SettingsError(f"the API key of {name} holds characters that no header takes")
        sent = {"Accept-Encoding": "identity", "User-Agent": "chatstream", **(headers or {})}
        if self._secret:
            sent[key_header] = key_prefix + self._secret
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL:
            raise SettingsError(f"the address of {name} is not a URL") from None
        self.host = url.host
        self._pace = Pace()
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=sent,
            # A provider has no business with cookies: they would tie one user's turn to another's.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=httpx.Timeout(None, connect=connect_timeout),
            transport=AiohttpTransport(proxy=environment_proxy(url), ssl_context=tls_context(url)),
        )

    async def reply(
        self, path: str, body: Mapping[str, Any], answer: Answer
    ) -> AsyncGenerator[Piece, None]:
        """
        Ask, and yield the answer's pieces, ending with one `Finish`.

        Once its end mark was seen an answer is whole, whatever comes or breaks after it. Closing
        the generator, or cancelling its task, closes the connection at once; after the end it goes
        back to the pool.

        Raises:
            ProviderError: There is no answer, or it ended before its end mark.
            ProviderTimeout: The provider could not be reached in time.
        """
        response = await self._send("POST", path, body)
        try:
            await self._check(response, self._wire.media_type)
            stream: AiohttpStream = response.extensions["stream"]
            decoder, reading = self._wire.decoder(), _Reading(self, answer)
            begun = False
            while answer.finish is None and not reading.done:
                data = await stream.read()
                payloads = decoder.feed(data) if data else decoder.close()
                for payload in payloads:
                    for piece in reading.pieces(payload):
                        yield piece
                        begun = True
                if not data:
                    break
                if begun and (beat := self._pace.took(len(payloads))) is not None:
                    await beat
            if answer.finish is None:
                raise failures.cut(self.name)
            for piece in await _rest(stream, decoder, reading):
                yield piece
        except httpx.TransportError:
            raise failures.cut(self.name) from None
        finally:
            await response.aclose()
        yield Finish(answer.finish)

    async def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path. Raises ProviderError."""
        response = await self._send("GET", path)
        try:
            await self._check(response, "application/json")
            value = orjson.loads(await response.aread())
        except httpx.TransportError:
            raise failures.cut(self.name) from None
        except orjson.JSONDecodeError:
            raise failures.unreadable(self.name) from None
        finally:
            await response.aclose()
        if not isinstance(value, dict):
            raise failures.unreadable(self.name)
        return value

    async def aclose(self) -> None:
        """Close every connection; running replies end with an error. Safe to call twice."""
        await self._client.aclose()

    def told(self, said: bytes) -> ProviderError:
        """Turn an error that came within a stream into ours."""
        return self._explained(None, said, {})

    def _explained(
        self, status: int | None, said: bytes, headers: Mapping[str, str]
    ) -> ProviderError:
        error = failures.error_object(said)
        failure = failures.explain(self.name, status, error, headers)
        fields = {"provider": self.name, "code": failure.code, "status": failure.upstream_status}
        logger.warning(
            "provider failed", extra={**fields, "said": " ".join(sorted(failures.words(error)))}
        )
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "provider said", extra={**fields, "body": failures.redacted(said, self._secret)}
            )
        return failure

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        if self._client.is_closed:
            raise ProviderError(f"{self.name} is closed.")
        if body is None:
            request = self._client.build_request(method, path)
        else:
            request = self._client.build_request(
                method,
                path,
                content=orjson.dumps(body),
                headers={"Content-Type": "application/json", "Accept": self._wire.media_type},
            )
        try:
            return await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise failures.unreachable(self.name, error) from None

    async def _check(self, response: httpx.Response, media_type: str) -> None:
        """Raise a ProviderError unless this is an answer in the form that was asked for."""
        status = response.status_code
        content_type = response.headers.get("content-type", "").lower()
        if status == 200 and content_type.startswith(media_type):
            return
        body = await _error_body(response.extensions["stream"])
        if status == 200 and b'"error"' not in body:
            raise failures.unreadable(self.name)
        raise self._explained(None if status == 200 else status, body, response.headers)


async def _rest(
    stream: AiohttpStream, decoder: EventDecoder | LineDecoder, reading: _Reading
) -> list[Piece]:
    """Read on to the stream's end: for the usage, and so that the connection can be reused."""
    pieces: list[Piece] = []
    with suppress(TimeoutError, httpx.TransportError, ProviderError):
        async with asyncio.timeout(DRAIN_SECONDS if reading.done else END_SECONDS) as deadline:
            while data := await stream.read():
                was_done = reading.done
                for payload in decoder.feed(data):
                    pieces += reading.pieces(payload)
                if reading.done and not was_done:
                    deadline.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS)
    return pieces


async def _error_body(stream: AiohttpStream) -> bytes:
    body = bytearray()
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            while len(body) < MAX_ERROR_BODY and (data := await stream.read()):
                body += data
    return bytes(body)
