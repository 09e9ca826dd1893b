from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.errors import ProviderError
from chatstream.providers import Finish, Message, ProviderRequest, Reasoning, Text, Usage
from chatstream.providers.adapters.ollama import OllamaAnswer
from chatstream.providers.http.ndjson_decoder import LineDecoder
from tests.asking import Adapter, answer, failure, make
from tests.upstream import EMOJI, Upstream, token

pytestmark = pytest.mark.anyio


@pytest.fixture
async def provider(upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make("ollama", upstream.url.removeprefix("http://"))
    yield provider
    await provider.aclose()


async def test_a_question_is_asked_in_ollamas_form(upstream: Upstream, provider: Adapter) -> None:
    request = ProviderRequest(
        messages=[Message("user", "a")],
        model="other",
        system="be brief",
        temperature=0.0,
        max_tokens=5,
        stop=("END",),
    )
    assert [p async for p in provider.reply(request)][-1] == Finish("stop")

    (asked,) = upstream.asked
    assert asked.path == "/api/chat"
    assert asked.headers["accept"] == "application/x-ndjson"
    assert "authorization" not in asked.headers
    assert asked.body == {
        "model": "other",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a"},
        ],
        "stream": True,
        "options": {"temperature": 0.0, "num_predict": 5, "stop": ["END"]},
    }


async def test_what_is_not_given_is_not_sent(upstream: Upstream, provider: Adapter) -> None:
    await answer(provider, "hello")

    assert set(upstream.asked[0].body) == {"model", "messages", "stream"}


@pytest.mark.parametrize("manner", ["", "split=3 ", "split=1 ", "nl=crlf ", "gzip "])
async def test_an_answer_is_the_same_however_it_is_cut(provider: Adapter, manner: str) -> None:
    assert await answer(provider, f"!{manner}reason=1 emoji empty tokens=1") == [
        Reasoning(token(0)),
        Text(EMOJI),
        Text(token(0)),
        Usage(7, 2),
        Finish("stop"),
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "stop"), ("length", "length"), ("load", "other"), ("new", "other")],
)
async def test_done_reasons_are_ours(provider: Adapter, theirs: str, ours: str) -> None:
    assert (await answer(provider, f"!end={theirs}"))[-1] == Finish(ours)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["finish eof", "finish cut", "finish hang", "finish error"])
async def test_an_answer_is_whole_once_it_is_done(
    provider: Adapter, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.05)
    monkeypatch.setattr("chatstream.providers.http.bodies.DRAIN_SECONDS", 0.05)
    assert await answer(provider, f"!say=x {ending}") == [Text("x"), Finish("stop")]


@pytest.mark.parametrize("ending", ["eof", "cut", "done eof"])
async def test_a_stream_that_is_not_done_is_a_failure(provider: Adapter, ending: str) -> None:
    pieces, error = await failure(provider, f"!say=x {ending}")

    assert pieces == [Text("x")]
    assert (error.code, error.retryable) == ("provider_cut", True)


@pytest.mark.parametrize(
    "ending", ["error", "nl=crlf error", "plain-error", "broken", "raw-error", "huge=5000000"]
)
async def test_an_error_line_is_an_error_after_the_text(provider: Adapter, ending: str) -> None:
    pieces, error = await failure(provider, f"!say=x {ending}")

    assert pieces == [Text("x")]
    assert error.code == "provider_error"


def test_a_count_that_is_not_told_is_none_at_all() -> None:
    assert OllamaAnswer().take({"done": True, "eval_count": None}) == [Usage(0, 0)]


async def test_a_model_that_is_not_there_is_not_asked_for_again(provider: Adapter) -> None:
    _, error = await failure(provider, "!status=404")

    assert (error.code, error.retryable) == ("provider_error", False)


@pytest.mark.parametrize("chunk", [{"message": "x"}, {"message": {"content": [5]}}])
def test_a_line_of_another_shape_is_not_guessed_at(chunk: dict[str, object]) -> None:
    with pytest.raises((AttributeError, LookupError, TypeError, ValueError)):
        OllamaAnswer().take(chunk)


# The decoder


def decoded(chunks: list[bytes], limit: int = 1000) -> tuple[list[bytes], bool]:
    decoder, lines = LineDecoder(limit), []
    try:
        for chunk in chunks:
            lines += decoder.feed(chunk)
        lines += decoder.close()
    except ProviderError:
        return lines, True
    return lines, False


@given(
    st.lists(st.sampled_from([b'{"a":1}', b"", b" ", b"\r", b"x" * 30, "é☃".encode()]), max_size=8),
    st.booleans(),
    st.data(),
)
def test_lines_depend_on_the_bytes_alone(
    parts: list[bytes], ended: bool, data: st.DataObject
) -> None:
    stream = b"\n".join(parts) + b"\n" * ended
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    chunks = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]

    assert decoded(chunks, 25) == decoded([stream[n : n + 1] for n in range(len(stream))], 25)


@given(st.lists(st.sampled_from([b'{"a":1}', b'{"b":"\\n"}']), max_size=8))
def test_every_whole_line_comes_out(lines: list[bytes]) -> None:
    assert decoded([b"\n".join(lines)]) == (lines, False)
    assert decoded([b"\n\n".join([*lines, b""])]) == (lines, False)


@pytest.mark.parametrize("rest", [b'{"a":{"b":1}', b'{"done":', b'{"a":1', b"[1", b"x"])
def test_a_last_line_that_was_cut_is_dropped(rest: bytes) -> None:
    assert decoded([b'{"a":1}\n' + rest]) == ([b'{"a":1}'], False)


def test_a_line_without_end_hits_the_limit() -> None:
    decoder = LineDecoder(100)

    with pytest.raises(ProviderError, match="100 bytes"):
        for _ in range(200):
            decoder.feed(b"x")
    with pytest.raises(ProviderError):
        decoder.close()
