"""Each fault in each wire form; and the same bytes, cut anywhere, say the same in each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import httpx
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.errors import ProviderError
from chatstream.providers import Closes, Finish, ListsModels, Piece, Text, Usage
from chatstream.providers.adapters.anthropic import AnthropicAnswer
from chatstream.providers.adapters.gemini import GeminiAnswer
from chatstream.providers.adapters.ollama import OllamaAnswer
from chatstream.providers.adapters.openai import OpenAIAnswer
from chatstream.providers.http.answer_decoder import AnswerDecoder
from chatstream.providers.http.client import ProviderClient
from chatstream.providers.http.reading import Reading
from chatstream.providers.registry import Providers
from chatstream.providers.route.attempts import Route
from chatstream.settings import Settings
from tests.asking import FORMS, Adapter, answer, ask, failure, make, texts
from tests.provider_faults import AMID_CONTENT, BEFORE_CONTENT
from tests.upstream import EMOJI, MODELS, Asked, Upstream
from tests.upstream_forms import AnthropicForm, Form, GeminiForm, OllamaForm, OpenAIForm, token

# ---- the bytes


class Spoken(NamedTuple):
    """A wire form: how it is written, and what reads it."""

    form: Form
    answer: Callable[[], Any]
    newlines: Sequence[bytes] = (b"\n", b"\r\n", b"\r")


SPOKEN = {
    "openai": Spoken(OpenAIForm, OpenAIAnswer),
    "gemini": Spoken(GeminiForm, GeminiAnswer),
    "anthropic": Spoken(AnthropicForm, AnthropicAnswer),
    "ollama": Spoken(OllamaForm, OllamaAnswer, (b"\n", b"\r\n")),
}
Said = tuple[list[Piece], str | None]


@cache
def client_of(name: str) -> ProviderClient:
    return make(name, "http://127.0.0.1:9")._client


def heard(name: str, chunks: Sequence[bytes]) -> Said:
    """Return what an adapter makes of the chunks: pieces, its `Finish` too, and an error's code."""
    client = client_of(name)
    answer = SPOKEN[name].answer()
    decoder = AnswerDecoder()
    reading = Reading(client._report, httpx.Response(200), answer)
    pieces: list[Piece] = []
    try:
        for chunk in chunks:
            for payload in decoder.feed(chunk):
                pieces += reading.pieces(payload)
        for payload in decoder.close():
            pieces += reading.pieces(payload)
        pieces += reading.end()
    except ProviderError as error:
        return pieces, error.code
    return [*pieces, Finish(answer.finish)] if answer.finish else pieces, None


def written(name: str, newline: bytes, frames: Sequence[bytes]) -> bytes:
    return b"".join(frames).replace(b"\n", newline)


@pytest.mark.parametrize("name", FORMS)
def test_an_answer_in_two_parts_is_the_same_wherever_it_is_parted(name: str) -> None:
    form = SPOKEN[name].form
    frames = [
        form.frame("role", ""),
        form.frame("reasoning", EMOJI),
        form.frame("text", EMOJI),
        form.frame("text", token(0)),
        form.end(form.default_reason, (7, 2), {"include_usage": True}),
    ]
    for newline in SPOKEN[name].newlines:
        stream = written(name, newline, frames)
        pieces, error = heard(name, [stream])
        assert [p for p in pieces if isinstance(p, Text)] == [Text(EMOJI), Text(token(0))]
        assert (pieces[-1], error) == (Finish("stop"), None)
        for place in range(1, len(stream)):
            assert heard(name, [stream[:place], stream[place:]]) == (pieces, None)
        assert heard(name, [stream[n : n + 1] for n in range(len(stream))]) == (pieces, None)


@pytest.mark.parametrize("name", FORMS)
@hypothesis.settings(deadline=None)
@given(data=st.data())
def test_every_chunking_of_the_same_bytes_says_the_same(name: str, data: st.DataObject) -> None:
    form, _, newlines = SPOKEN[name]
    error = {"error": form.error(503, {})}
    content = st.one_of(
        st.text(min_size=1, max_size=5).map(partial(form.frame, "text")),
        st.text(min_size=1, max_size=5).map(partial(form.frame, "reasoning")),
        st.sampled_from((form.frame("role", ""), form.frame("empty", ""), form.usage((7, 2)))),
    )
    end = st.sampled_from(
        (
            form.end(form.default_reason, (7, 2), {"include_usage": True}),
            form.frame("finish", form.default_reason),
            form.error_frame(503, {}),
            b'{\n  "error": {"code": 503}\n}\n',
            f"{error}\n".encode(),
            form.frame("text", "cut")[:-3],
            b"",
        )
    )
    frames = data.draw(st.lists(content, max_size=5)) + data.draw(st.lists(end, max_size=2))
    stream = written(name, data.draw(st.sampled_from(newlines)), frames)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]

    assert heard(name, chunks) == heard(name, [stream])


# ---- over a socket

SILENT = ("hang", "headers hang", "role hang", "pace=100 headers keepalive=0")
"""Faults that only a timer ends."""


@pytest.fixture(params=FORMS)
async def provider(request: pytest.FixtureRequest, upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make(request.param, upstream.url)
    yield provider
    await provider.aclose()


@pytest.mark.anyio
async def test_an_answer_in_two_reads_is_the_same(provider: Adapter) -> None:
    expected = await answer(provider, "!emoji tokens=1")
    places = range(1, 1000, 23)
    found = await asyncio.gather(
        *(answer(provider, f"!split-at={place} emoji tokens=1") for place in places)
    )

    assert expected[:2] == [Text(EMOJI), Text(token(0))]
    assert found == [expected] * len(places)


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_every_fault_before_the_first_content_is_mended_by_asking_again(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.route.plan.backoff", lambda *_: 0.0)
    monkeypatch.setattr("chatstream.providers.http.bodies.ERROR_BODY_SECONDS", 0.05)
    faults = [fault for fault in BEFORE_CONTENT if "date" not in fault]
    asked: dict[str, int] = {}

    def script(request: Asked) -> str:
        """Play the fault that the request tells, then a good answer."""
        number = request.headers["x-fault"]
        asked[number] = asked.get(number, 0) + 1
        return faults[int(number)] if asked[number] == 1 else "tokens=2"

    async def mended(number: int) -> tuple[list[Piece], int]:
        provider = make(form, upstream.url)
        provider._client._client.headers["X-Fault"] = str(number)
        settings = Settings()
        route = Providers({form: provider}, form).route(None, None, settings)
        answering = asyncio.create_task(_all(route))
        if faults[number] in SILENT:
            await upstream.until(
                lambda: str(number) in [a.headers["x-fault"] for a in upstream.asked]
            )
            route.expire()
        pieces = await answering
        await provider.aclose()
        return pieces, route.attempt

    with Upstream(script) as upstream:
        found = await asyncio.gather(*map(mended, range(len(faults))))
        await upstream.until(lambda: upstream.open == 0)

    for fault, (pieces, attempts) in zip(faults, found, strict=True):
        told = [piece for piece in pieces if not isinstance(piece, Usage)]
        assert (fault, told, attempts) == (fault, [*texts(2), Finish("stop")], 2)


async def _all(route: Route) -> list[Piece]:
    return [piece async for piece in route.reply(ask("hello"))]


@pytest.mark.anyio
async def test_every_fault_amid_the_text_is_told_after_it_and_never_an_end(
    upstream: Upstream, provider: Adapter
) -> None:
    # Silence is the timers', and broken framing is looked at where its text has been read.
    endings = [fault for fault in AMID_CONTENT if "hang" not in fault]
    endings += ["error-event=503", "plain-error", "code=x raw-part=1000 hang"]
    found = await asyncio.gather(*(failure(provider, f"!tokens=2 {ending}") for ending in endings))

    for ending, (pieces, error) in zip(endings, found, strict=True):
        assert (ending, pieces, error.retryable) == (ending, texts(2), True)
        cut = ending in ("cut", "eof")
        assert error.code == ("provider_cut" if cut else "provider_error")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("form", "script", "text"),
    [
        ("openai", "refusal=never", "never"),
        ("openai", "say=x end=content_filter", "x"),
        ("gemini", "block=SAFETY", ""),
        ("gemini", "say=x end=SAFETY", "x"),
        ("anthropic", "say=x end=refusal", "x"),
    ],
)
async def test_a_refusal_or_a_safety_block_is_an_answer_that_was_filtered(
    upstream: Upstream, form: str, script: str, text: str
) -> None:
    provider = make(form, upstream.url)
    pieces = await answer(provider, f"!{script}")
    await provider.aclose()

    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == text
    assert pieces[-1] == Finish("filter")


@pytest.mark.anyio
async def test_the_models_that_can_answer_are_listed(provider: Adapter) -> None:
    assert await provider.models() == list(MODELS)
    assert isinstance(provider, ListsModels)
    assert isinstance(provider, Closes)
