"""Whatever a provider's answer is labelled as, it is read as what its first bytes are."""

import logging
from collections.abc import AsyncIterator
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.errors import ProviderError
from chatstream.providers import Finish, Piece, Text, Usage
from chatstream.providers.http.answer_decoder import AnswerDecoder, NoAnswer
from chatstream.providers.http.json_decoder import ValueDecoder
from tests.asking import FORMS, Adapter, answer, ask, failure, make
from tests.upstream import Upstream, text_of, token
from tests.upstream_forms import GeminiForm, OllamaForm, OpenAIForm

FORM = {"openai": OpenAIForm, "ollama": OllamaForm}
BEFORE = (
    b"",
    b"\xef\xbb\xbf",
    b"\n\r\n  \t\r",
    b": OPENROUTER PROCESSING\n\n: more\n\n",
    b"\xef\xbb\xbf\n:\n\n",
    b"null\ntrue\n",
    b"ping\r\nkeep-alive\n\n",
)


@pytest.fixture(params=FORMS)
async def provider(request: pytest.FixtureRequest, upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make(request.param, upstream.url)
    yield provider
    await provider.aclose()


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Text))


def decoded(*chunks: bytes) -> list[bytes]:
    decoder = AnswerDecoder()
    found = [bytes(payload) for chunk in chunks for payload in decoder.feed(chunk)]
    return found + [bytes(payload) for payload in decoder.close()]


# What is read, over a socket


@pytest.mark.anyio
@pytest.mark.parametrize(
    "kind", ["none", "text/plain", "application/octet-stream", "application/json", "text/html"]
)
async def test_a_wrong_label_or_none_changes_nothing(provider: Adapter, kind: str) -> None:
    assert await answer(provider, f"!type={kind} tokens=3") == await answer(provider, "!tokens=3")


@pytest.mark.anyio
@pytest.mark.parametrize("before", ["%EF%BB%BF", "%0A%0A", "%3A%20working%0A%0A", "%20%0D%0A"])
async def test_what_stands_before_an_answer_says_nothing(provider: Adapter, before: str) -> None:
    for script in ("tokens=3", "whole=3"):
        assert text(await answer(provider, f"!type=none bytes={before} {script}")) == text_of(3)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [201, 202, 206, 299])
async def test_any_status_of_success_is_an_answer(provider: Adapter, status: int) -> None:
    pieces = await answer(provider, f"!taken={status} tokens=2")

    assert (text(pieces), pieces[-1]) == (text_of(2), Finish("stop"))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["application/json", "none"])
@pytest.mark.parametrize("cut", ["", "split=1 "])
async def test_one_whole_answer_is_taken_with_its_usage(
    provider: Adapter, kind: str, cut: str
) -> None:
    pieces = await answer(provider, f"!{cut}type={kind} whole=3")

    assert text(pieces) == text_of(3)
    assert pieces[-1] == Finish("stop")
    assert [piece for piece in pieces if isinstance(piece, Usage)] == [Usage(7, 3)]


@pytest.mark.anyio
async def test_a_whole_answer_that_is_cut_is_a_cut(provider: Adapter) -> None:
    _, error = await failure(provider, "!type=none eof-at=30 whole=3")

    assert error.code == "provider_cut"


@pytest.mark.anyio
async def test_the_others_forms_are_read_by_each_adapter(upstream: Upstream) -> None:
    lines = b"".join(
        payload + b"\n"
        for payload in decoded(OpenAIForm.frame("text", "a") + OpenAIForm.end("stop", (1, 2), {}))
    )
    events = b"data: %sdata: %s" % (
        OllamaForm.frame("text", "b") + b"\n",
        OllamaForm.end("stop", (1, 2), {}) + b"\n",
    )
    for form, body, said in (("openai", lines, "a"), ("ollama", events, "b")):
        provider = make(form, upstream.url)
        pieces = await answer(provider, f"!bytes={quote(body)} eof")
        await provider.aclose()

        assert (text(pieces), pieces[-1]) == (said, Finish("stop"))


@pytest.mark.anyio
@pytest.mark.parametrize("indented", [False, True])
async def test_an_array_of_chunks_that_grows_is_read_as_it_comes(
    upstream: Upstream, indented: bool
) -> None:
    option = orjson.OPT_INDENT_2 if indented else 0
    frames = [GeminiForm.frame("text", 'a "quoted\\" {'), GeminiForm.frame("finish", "STOP")]
    chunks = [orjson.dumps(orjson.loads(frame[6:]), option=option) for frame in frames]
    provider = make("gemini", upstream.url)
    reply = provider.reply(
        ask(f"!type=none bytes={quote(b'[' + chunks[0])} gate bytes={quote(b', ' + chunks[1])} eof")
    )
    first = await anext(reply)
    upstream.open_gate()
    rest = [piece async for piece in reply]
    await provider.aclose()

    assert (first, rest[-1]) == (Text('a "quoted\\" {'), Finish("stop"))


# What is not


@pytest.mark.anyio
async def test_a_page_fails_and_the_log_says_what_came(
    provider: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        _, error = await failure(provider, "!html")

    (record,) = [r for r in caplog.records if r.message == "no answer"]
    told = vars(record)
    assert (error.code, error.retryable) == ("provider_error", True)
    assert (told["status"], told["content_type"]) == (200, "text/html")
    assert told["length"] == 83
    assert told["title"] == "The hotel & its network"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "kind", "length"),
    [
        ("type=application/json bytes=%7B%22hello%22%3A1%7D eof", "application/json", 11),
        ("type=application/json bytes=%5B%5D eof", "application/json", 2),
        ("type=image/png bytes=%89PNG eof", "image/png", 4),
        ("type=none eof", "none", 0),
        ("type=evil%0D bytes=%7B%7D eof", "none", 2),
    ],
)
async def test_what_is_no_answer_is_told_by_its_kind(
    provider: Adapter, script: str, kind: str, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    _, error = await failure(provider, f"!{script}")

    (record,) = [r for r in caplog.records if r.message == "no answer"]
    assert (vars(record)["content_type"], vars(record)["length"]) == (kind, length)
    assert error.retryable


# The bytes


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b'data: {"a":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', b"[DONE]"]),
        (b'event: x\r\ndata: {"a":1}\r\n\r\n', [b'{"a":1}']),
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\r\n{"b":"}"}\r\n', [b'{"a":1}', b'{"b":"}"}\r']),
        (b'{"a":1}{"b":2}', [b'{"a":1}', b'{"b":2}']),
        (b'{\n "a": "\\"}"\n}\n', [b'{\n "a": "\\"}"\n}']),
        (b'[{"a":[1]},\n{"b":{}}]\n', [b'{"a":[1]}', b'{"b":{}}']),
        (b'{"a":1}', [b'{"a":1}']),
        (b'{"a":1', []),
        (b'{"a":1}\n{"b":"if (x) {"}', [b'{"a":1}', b'{"b":"if (x) {"}']),
        (b'{"a":1}\n{"b":"}{"', [b'{"a":1}']),
        (b'{"a":1}\n{"b":{"c":"{"}', [b'{"a":1}']),
        (b"", []),
    ],
)
def test_an_answer_is_found_wherever_its_bytes_are_cut(
    before: bytes, stream: bytes, payloads: list[bytes]
) -> None:
    stream = before + stream
    assert decoded(stream) == payloads
    assert decoded(*(stream[n : n + 1] for n in range(len(stream)))) == payloads
    for place in range(len(stream)):
        assert decoded(stream[:place], stream[place:]) == payloads


@pytest.mark.parametrize("stream", [b"<html>", b"\x1f\x8b\x08", b"\xff", b"\n: x\n<?xml ?>"])
def test_what_begins_as_no_answer_is_none(stream: bytes) -> None:
    with pytest.raises(NoAnswer):
        decoded(stream)


def test_endless_comments_are_not_kept() -> None:
    decoder = AnswerDecoder()
    for _ in range(1000):
        assert decoder.feed(b":" + b"x" * 1000) == []
    assert len(decoder._head) == 1


objects = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), objects, max_size=3), min_size=1, max_size=4),
    st.sampled_from([b"", b"\n", b" ", b",", b"\r\n"]),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=10),
)
def test_every_chunking_finds_the_same_objects(
    values: list[object], between: bytes, array: bool, places: list[int]
) -> None:
    said = [orjson.dumps(value) for value in values]
    stream = between.join(said) + between
    stream = b"[" + stream + b"]" if array else stream
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    decoder = ValueDecoder()
    found = [v for a, b in zip(bounds, bounds[1:], strict=False) for v in decoder.feed(stream[a:b])]
    found += decoder.close()

    assert [orjson.loads(value) for value in found] == values


def test_a_value_over_the_limit_is_refused_after_those_before_it() -> None:
    decoder = ValueDecoder(100)
    small, large = b'{"a":1}', b'{"a":"' + b"x" * 100 + b'"}'

    assert decoder.feed(b"[" + small + b"," + large) == [small]
    with pytest.raises(ProviderError, match="100 bytes"):
        decoder.feed(b"")
    with pytest.raises(ProviderError):
        ValueDecoder(100).feed(large[:-2] + b"x")
    with pytest.raises(ProviderError):
        decoder.close()


def test_a_token_is_no_dearer_for_the_look_at_the_beginning() -> None:
    decoder = AnswerDecoder()
    decoder.feed(OpenAIForm.frame("text", token(0)))

    assert decoder.feed.__self__ is decoder._decoder  # type: ignore[attr-defined]
