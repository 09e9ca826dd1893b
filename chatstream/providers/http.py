"""
Asking a provider over HTTP: one client for each, one loop that reads an answer's events.

An adapter says what to ask and how to read one event (`Answer`); everything that goes wrong on the
way becomes a `ProviderError` here. No retries and no timers but the one for connecting: those are
the caller's. Proxies are those of the environment, looked up once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx
import orjson

from chatstream.errors import ProviderError, SettingsError
from chatstream.providers import Finish, Piece, ProviderRequest, Text, failures, refusals
from chatstream.providers.answer import SSE, Asking, Wire
from chatstream.providers.http_transport import (
    AiohttpStream,
    AiohttpTransport,
    environment_proxy,
    tls_context,
)
from chatstream.providers.pace import Pace
from chatstream.providers.reading import Reading
from chatstream.providers.refusals import FieldRefused
from chatstream.providers.ways import Ask, Manners

DRAIN_SECONDS: Final = 0.2
"""How long after `[DONE]` the stream's end is waited for; without it no connection is reused."""
ERROR_BODY_SECONDS: Final = 2.0
MAX_ERROR_BODY: Final = 64 * 1024
MOST_MENDED: Final = 6
"""How many refused fields one request is mended of."""

logger = logging.getLogger(__name__)


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
        token_timeout: float = math.inf,
        pull: str = "",
    ) -> None:
        """
        Args:
            token_timeout: Of the caller: silence after the end mark is the end well before it.
            pull: The command that gets a model that is not there.
        """
        self.name = name
        self._wire = wire
        self._settle_seconds = token_timeout / 2
        self._pull = pull
        self._manners = Manners(name)
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

    async def reply(self, request: ProviderRequest, ask: Ask) -> AsyncGenerator[Piece, None]:
        """
        Ask, and yield the answer's pieces, ending with one `Finish`.

        A finish reason is a mark: what comes after it is read until `[DONE]`, the stream's end, or,
        where text came before it, a silence. It stands whatever breaks after it, unless text came
        after it. Closing the generator, or cancelling its task, closes the connection at once;
        after the end it goes back to the pool.

        Raises:
            ProviderError: There is no answer, or it ended before its end mark.
            ProviderTimeout: The provider could not be reached in time.
        """
        response, asking = await self._opened(request, ask)
        answer, stream = asking.answer, response.extensions["stream"]
        told = partial(self.told, request=request)
        reading = Reading(self.name, told, answer, self._settle_seconds, stream.close)
        decoder = self._wire.decoder()
        try:
            begun = False
            while not reading.done:
                data = await stream.read()
                payloads = decoder.feed(data) if data else decoder.close()
                for payload in payloads:
                    for piece in reading.pieces(payload):
                        yield piece
                        begun = True
                        if type(piece) is Text:
                            reading.spoken = True
                if not data:
                    break
                if begun and (beat := self._pace.took(len(payloads))) is not None:
                    await beat
            if reading.done:
                await _drain(stream)
                answer.finish = answer.finish or (asking.unsaid if reading.spoken else None)
        except httpx.TransportError:
            if not reading.whole:
                answer.finish = None
        except ProviderError:
            if not reading.whole:
                for piece in answer.end():
                    yield piece
                raise
        finally:
            reading.leave()
            await response.aclose()
        for piece in answer.end():
            yield piece
        if answer.finish is None or answer.finish == "cut":
            raise failures.cut(self.name)
        yield Finish(answer.finish)

    async def _opened(self, request: ProviderRequest, ask: Ask) -> tuple[httpx.Response, Asking]:
        """Ask, and again without a field that the server refuses, as long as that can be mended."""
        asking = self._manners.asking(request, ask)
        mended = 0
        while True:
            response = await self._send("POST", asking.path, asking.body)
            try:
                await self._check(response, self._wire.media_type, request)
                return response, asking
            except FieldRefused as refused:
                await response.aclose()
                mended += 1
                if mended > MOST_MENDED:
                    raise
                asking = self._manners.mended(refused, request, asking, ask)
            except BaseException:
                await response.aclose()
                raise

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

    def told(self, said: bytes, request: ProviderRequest | None = None) -> ProviderError:
        """Turn an error that came within a stream into ours."""
        return self._explained(None, said, {}, request)

    def _explained(
        self,
        status: int | None,
        said: bytes,
        headers: Mapping[str, str],
        request: ProviderRequest | None = None,
    ) -> ProviderError:
        error = failures.error_object(said)
        model = "" if request is None else request.model
        told = error if request is None else failures.unquoted(error, request)
        failure = failures.explain(self.name, status, told, headers, model, self._pull)
        if request is not None and failure.code == "provider_error":
            refused = refusals.refused(self.name, status, error, request)
            if refused is not None:
                return refused
        fields: dict[str, Any] = {
            "provider": self.name,
            "code": failure.code,
            "status": failure.upstream_status,
        }
        if failure.code == "model_not_found":
            fields["model"] = model
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

    async def _check(
        self, response: httpx.Response, media_type: str, request: ProviderRequest | None = None
    ) -> None:
        """Raise a ProviderError unless this is an answer in the form that was asked for."""
        status = response.status_code
        content_type = response.headers.get("content-type", "").lower()
        if status == 200 and content_type.startswith(media_type):
            return
        body = await _error_body(response.extensions["stream"])
        if status == 200 and b'"error"' not in body:
            raise failures.unreadable(self.name)
        raise self._explained(None if status == 200 else status, body, response.headers, request)


async def _drain(stream: AiohttpStream) -> None:
    """Read on to the stream's end, so that the connection can be reused."""
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while await stream.read():
                pass


async def _error_body(stream: AiohttpStream) -> bytes:
    body = bytearray()
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            while len(body) < MAX_ERROR_BODY and (data := await stream.read()):
                body += data
    return bytes(body)
