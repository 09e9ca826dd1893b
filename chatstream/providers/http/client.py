"""
Asking a provider over HTTP: one client for each, one loop that reads an answer's events.

An adapter says what to ask and how to read one event (`Answer`); everything that goes wrong on the
way becomes a `ProviderError` here. No retries and no timers but the one for connecting: those are
the caller's. Proxies are those of the environment, looked up once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import perf_counter
from typing import Any, Final

import httpx
import orjson

from chatstream.errors import ProviderError, ProviderTimeout, SettingsError
from chatstream.providers import Finish, Piece, ProviderRequest
from chatstream.providers.http import bodies, failures, payloads, proxies
from chatstream.providers.http.address import Address
from chatstream.providers.http.answer_decoder import AnswerDecoder, NoAnswer
from chatstream.providers.http.batching import Pace
from chatstream.providers.http.manners import Ask, Manners, Mending
from chatstream.providers.http.parser import SSE, Asking
from chatstream.providers.http.reading import Reading
from chatstream.providers.http.refusals import FieldRefused
from chatstream.providers.http.said import Report
from chatstream.providers.http.streams import Undecodable
from chatstream.providers.http.transport import AiohttpTransport, tls_context

GET_SECONDS: Final = 20.0
MAX_GET_BYTES: Final = 2 * 1024 * 1024
"""The longest list of models that is read: some four times the longest that is known."""


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
        token_timeout: float = math.inf,
        pull: str = "",
    ) -> None:
        """
        Args:
            token_timeout: Of the caller: a wait after the end mark is over before it.
            pull: The command that gets a model that is not there.
        """
        self.name = name
        self._wire = wire
        self._token_timeout = token_timeout
        self._manners = Manners(name)
        address = Address(name, base_url)
        secret = api_key.strip()
        if not (secret.isascii() and secret.isprintable()):
            raise SettingsError(f"the API key of {name} holds characters that no header takes")
        self._report = Report(name, pull, secret, address.password)
        sent = {"Accept-Encoding": "identity", "User-Agent": "chatstream", **(headers or {})}
        if address.basic:
            sent["Authorization"] = address.basic
        if secret:
            sent[key_header] = key_prefix + secret
        self._address = address
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
        self, request: ProviderRequest, ask: Ask, mending: Mending | None = None
    ) -> AsyncGenerator[Piece, None]:
        """
        Ask, and yield the answer's pieces, ending with one `Finish`.

        A finish reason is a mark: what comes after it is read until `[DONE]`, the stream's end, or,
        where text came before it, a silence. It stands whatever breaks after it, unless text came
        after it. Closing the generator, or cancelling its task, closes the connection at once;
        after the end it goes back to the pool.

        Args:
            mending: Of the same request, where a refusal of it came within a stream.

        Raises:
            ProviderError: There is no answer, or it ended before its end mark.
            ProviderTimeout: The provider could not be reached in time.
        """
        mending = mending or Mending(self._manners, request, ask)
        response, asking = await self._opened(request, mending)
        answer, stream = asking.answer, response.extensions["stream"]
        reading = Reading(self._report, response, answer, request, self._token_timeout, stream)
        decoder, reads = AnswerDecoder(), self._pace.join()
        size, told, spoken, again = 0, 0, False, False
        try:
            while not reading.done:
                data = await stream.read()
                began, told = perf_counter(), 0
                for payload in decoder.feed(data) if data else decoder.close():
                    for piece in reading.pieces(payload):
                        yield piece
                        told += 1
                if not data:
                    break
                size += len(data)
                spoken = spoken or told > 0
                if (beat := reads.took(told, len(data), began)) is not None:
                    await beat
            if reading.done:
                await bodies.drain(stream)
                answer.finish = answer.finish or (asking.unsaid if reading.spoken else None)
        except (NoAnswer, httpx.TransportError) as error:
            await self._broke(error, reading, response)
        except ProviderError as error:
            if not reading.whole:
                for piece in reading.end():
                    yield piece
                    told += 1
                if not isinstance(error, FieldRefused):
                    raise
                mending.mend(error, late=spoken or told > 0)
                again = True
        finally:
            reads.leave()
            reading.leave()
            await response.aclose()
        if again:
            async with aclosing(self.reply(request, ask, mending)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        for piece in reading.end():
            yield piece
        if answer.finish is None or answer.finish == "cut":
            raise reading.ended_early(size, whole=decoder.whole)
        mending.taken()
        yield Finish(answer.finish)

    async def _broke(
        self, error: NoAnswer | httpx.TransportError, reading: Reading, response: httpx.Response
    ) -> None:
        """Tell what a break means; an answer that has its end mark stays whole."""
        if isinstance(error, NoAnswer):
            body = error.beginning + await bodies.beginning(response.extensions["stream"])
            raise self._report.unreadable(response, body)
        if not reading.whole:
            reading.answer.finish = None
            if isinstance(error, Undecodable):
                raise failures.encoded(self.name, str(error))

    async def _opened(
        self, request: ProviderRequest, mending: Mending
    ) -> tuple[httpx.Response, Asking]:
        """Ask, and again without a field that the server refuses, as long as that can be mended."""
        while True:
            response = await self._send("POST", mending.asking.path, mending.asking.body)
            try:
                await self._check(response, request)
                return response, mending.asking
            except FieldRefused as refused:
                await response.aclose()
                mending.mend(refused)
            except BaseException:
                await response.aclose()
                raise

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
            body = await bodies.whole(response.extensions["stream"], MAX_GET_BYTES)
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

    async def _check(
        self, response: httpx.Response, request: ProviderRequest | None = None
    ) -> None:
        """Raise a ProviderError unless the provider took the request: any 2xx says so."""
        if not response.is_success:
            body = await bodies.beginning(response.extensions["stream"])
            raise self._report.explained(response.status_code, body, response, request)
