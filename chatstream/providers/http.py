"""
Asking a provider over HTTP: one client for each, one loop that reads an answer's events.

An adapter says what to ask and how to read one event (`Answer`); everything that goes wrong on the
way becomes a `ProviderError` here. No retries and no timers but the one for connecting: those are
the caller's. Proxies are those of the environment, looked up once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import perf_counter
from typing import Any, Final

import httpx
import orjson

from chatstream.errors import ProviderError, ProviderTimeout, SettingsError
from chatstream.providers import Finish, Piece, Reasoning, Text, failures, payloads, proxies
from chatstream.providers.address import Address
from chatstream.providers.answer import SSE, Answer
from chatstream.providers.answer_decoder import AnswerDecoder, NoAnswer
from chatstream.providers.http_transport import (
    AiohttpStream,
    AiohttpTransport,
    Undecodable,
    tls_context,
)
from chatstream.providers.pace import Pace
from chatstream.providers.said import Report
from chatstream.providers.sse_decoder import Failure

END_SECONDS: Final = 0.5
"""How long after a finish reason its usage and the stream's end are waited for."""
DRAIN_SECONDS: Final = 0.2
"""How long after `[DONE]` the stream's end is waited for; without it no connection is reused."""
ERROR_BODY_SECONDS: Final = 2.0
MAX_ERROR_BODY: Final = 64 * 1024
GET_SECONDS: Final = 20.0
MAX_GET_BYTES: Final = 2 * 1024 * 1024
"""The longest list of models that is read: some four times the longest that is known."""


class _Reading:
    """
    One answer's payloads. `done` once nothing more counts: after `[DONE]`, which is OpenAI's mark
    and nobody else's, or after an error that came too late to matter.
    """

    def __init__(self, report: Report, answer: Answer, response: httpx.Response) -> None:
        self._report = report
        self._answer = answer
        self._response = response
        self._plain = False  # content has come, and all characters whole: pieces pass as they are
        self._halves: payloads.Halves | None = None
        self._begun = False
        self._before: Sequence[Piece] = ()
        self.done = False

    def pieces(self, payload: bytes) -> Sequence[Piece]:
        """Return what one payload adds. Raises ProviderError."""
        if self.done:
            return ()
        if type(payload) is Failure:
            return self._fail(self._report.explained(None, payload, self._response))
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError:
            # Looked for where JSON was not: a token does not pay for it.
            if payload.startswith(b"[DONE]"):
                self.done = True
                return ()
            chunk = self._read_again(payload)
        try:
            if not chunk.get("error"):
                pieces = self._answer.take(chunk)
                return pieces if self._plain else self._looked_at(pieces)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            if chunk is None:
                return ()  # some send `null` between chunks
            return self._fail(self._report.unreadable(self._response, payload))
        return self._fail(self._report.explained(None, payload, self._response))

    def rest(self) -> Sequence[Piece]:
        """Return what was kept for a next payload, when there is none."""
        return self._halves.rest() if self._halves is not None else ()

    def _read_again(self, payload: bytes) -> Any:
        self._halves = self._halves or payloads.Halves()
        self._plain = False
        try:
            return payloads.read_again(payload)
        except ValueError:
            return payload  # which no answer takes

    def _looked_at(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Join halves, and keep what comes before any content: only the last of it counts."""
        if self._halves is not None:
            pieces = self._halves.join(pieces)
        if self._begun:
            return pieces
        content = any(isinstance(piece, Text | Reasoning) for piece in pieces)
        if not content and self._answer.finish is None:
            self._before = pieces[-1:] or self._before
            return ()
        self._begun = True
        self._plain = self._halves is None
        return [*self._before, *pieces]

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
        wire: str = SSE,
        connect_timeout: float,
    ) -> None:
        self.name = name
        self._wire = wire
        address = Address(name, base_url)
        secret = api_key.strip()
        if not (secret.isascii() and secret.isprintable()):
            raise SettingsError(f"the API key of {name} holds characters that no header takes")
        self._report = Report(name, secret, address.password)
        sent = {"Accept-Encoding": "identity", "User-Agent": "chatstream", **(headers or {})}
        if address.basic:
            sent["Authorization"] = address.basic
        if secret:
            sent[key_header] = key_prefix + secret
        self._address = address
        self.host = address.host
        self._barred = proxies.barred(name, address.base)
        self._pace = Pace()
        self._client = httpx.AsyncClient(
            headers=sent,
            # A provider has no business with cookies: they would tie one user's turn to another's.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=httpx.Timeout(None, connect=connect_timeout),
            transport=AiohttpTransport(
                proxy=None if self._barred else proxies.environment_proxy(address.base),
                ssl_context=tls_context(address.base),
            ),
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
            await self._check(response)
            stream: AiohttpStream = response.extensions["stream"]
            decoder, reading = AnswerDecoder(), _Reading(self._report, answer, response)
            size = told = 0
            while answer.finish is None and not reading.done:
                data = await stream.read()
                began = perf_counter()
                before = told
                for payload in decoder.feed(data) if data else decoder.close():
                    for piece in reading.pieces(payload):
                        yield piece
                        told += 1
                if not data:
                    break
                size += len(data)
                if (beat := self._pace.took(told - before, len(data), began)) is not None:
                    await beat
            if answer.finish is None:
                raise self._ended_early(response, size, told, decoder.whole)
            for piece in await _rest(stream, decoder, reading):
                yield piece
        except NoAnswer as page:
            raise await self._no_answer(response, page.beginning) from None
        except Undecodable as error:
            raise failures.encoded(self.name, str(error)) from None
        except httpx.TransportError:
            raise failures.cut(self.name) from None
        finally:
            await response.aclose()
        yield Finish(answer.finish)

    async def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path, within `GET_SECONDS`. Raises ProviderError."""
        try:
            async with asyncio.timeout(GET_SECONDS):
                return await self._get(path)
        except TimeoutError:
            raise ProviderTimeout(f"{self.name} was too slow.", retryable=True) from None

    async def _get(self, path: str) -> dict[str, Any]:
        response = await self._send("GET", path)
        try:
            await self._check(response)
            body = await _body(response.extensions["stream"], MAX_GET_BYTES)
        except Undecodable as error:
            raise failures.encoded(self.name, str(error)) from None
        except httpx.TransportError:
            raise failures.cut(self.name) from None
        finally:
            await response.aclose()
        try:
            value = payloads.read(body)
        except ValueError:
            value = None
        if not isinstance(value, dict) or "error" in value:
            raise self._report.unreadable(response, body)
        return value

    async def aclose(self) -> None:
        """Close every connection; running replies end with an error. Safe to call twice."""
        await self._client.aclose()

    def _ended_early(
        self, response: httpx.Response, size: int, told: int, whole: bool
    ) -> ProviderError:
        if told:
            return failures.cut(self.name)
        unreadable = self._report.unreadable(response, b"", size)
        return unreadable if whole else failures.cut(self.name)

    async def _no_answer(self, response: httpx.Response, beginning: bytes) -> ProviderError:
        body = beginning + await _error_body(response.extensions["stream"])
        return self._report.unreadable(response, body)

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        if self._client.is_closed:
            raise ProviderError(f"{self.name} is closed.")
        if self._barred:
            raise failures.barred(self.name, self._barred)
        url = self._address.at(path)
        if body is None:
            request = self._client.build_request(method, url)
        else:
            request = self._client.build_request(
                method,
                url,
                content=orjson.dumps(body),
                headers={"Content-Type": "application/json", "Accept": self._wire},
            )
        try:
            return await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise failures.unreachable(self.name, error) from None

    async def _check(self, response: httpx.Response) -> None:
        """Raise a ProviderError unless the provider took the request: any 2xx says so."""
        if not response.is_success:
            body = await _error_body(response.extensions["stream"])
            raise self._report.explained(response.status_code, body, response)


async def _rest(stream: AiohttpStream, decoder: AnswerDecoder, reading: _Reading) -> list[Piece]:
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
    return [*pieces, *reading.rest()]


async def _error_body(stream: AiohttpStream) -> bytes:
    """Return the beginning of a body that is looked at for what it says of a failure."""
    body = bytearray()
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            while len(body) < MAX_ERROR_BODY and (data := await stream.read()):
                body += data
    return bytes(body)


async def _body(stream: AiohttpStream, limit: int) -> bytes:
    """Return a whole body. Raises ProviderError if it is longer than the limit."""
    body = bytearray()
    while data := await stream.read():
        body += data
        if len(body) > limit:
            raise ProviderError(f"The provider sent more than {limit:,} bytes.")
    return bytes(body)
