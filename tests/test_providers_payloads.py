"""What only a lenient reader takes: half characters, bytes that are none, numbers that are none."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.providers import Finish, Piece, Reasoning, Text, Usage
from chatstream.providers.http.payloads import MAX_ODD_BYTES, Halves, read, read_again, whole
from chatstream.providers.registry import Providers
from tests.asking import FORMS, Adapter, answer, make
from tests.running import Running
from tests.upstream import Upstream
from tests.upstream_forms import AnthropicForm, Form, GeminiForm, OllamaForm, OpenAIForm

BY_NAME: dict[str, Form] = {
    "openai": OpenAIForm,
    "gemini": GeminiForm,
    "anthropic": AnthropicForm,
    "ollama": OllamaForm,
}
HIGH, LOW = chr(0xD83D), chr(0xDE42)


@pytest.fixture(params=FORMS)
async def provider(request: pytest.FixtureRequest, upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make(request.param, upstream.url)
    yield provider
    await provider.aclose()


def saying(name: str, *texts: bytes, kind: str = "text") -> str:
    """Return a script whose frames hold these bytes as the inside of a JSON string."""
    frame = BY_NAME[name].frame(kind, "PLACE")
    return " ".join(f"bytes={quote(frame.replace(b'PLACE', text))}" for text in texts)


async def said(provider: Adapter, *texts: bytes, manner: str = "", kind: str = "text") -> str:
    pieces = await answer(provider, f"!{manner}{saying(provider.name, *texts, kind=kind)} end")
    assert pieces[-1] == Finish("stop")
    wanted = Text if kind == "text" else Reasoning
    return "".join(piece.text for piece in pieces if isinstance(piece, wanted))


ODD = [
    ((rb"a\ud83d", rb"\ude42b"), "a🙂b"),
    ((rb"a\ud83d", rb"\ude42"), "a🙂"),
    ((rb"\ud83d", rb"b"), "\ufffdb"),
    ((rb"a\ude42", rb"b"), "a\ufffdb"),
    ((rb"a\ud83d\ud83d", rb"\ude42\ude42"), "a\ufffd🙂\ufffd"),
    ((rb"a\ud83d",), "a\ufffd"),
    ((rb"\ud83d", rb"\ud83d", rb"\ude42"), "\ufffd🙂"),
    ((b"a\xff", b"b"), "a\ufffdb"),
    ((b"\xe2\x98", b"b"), "\ufffdb"),
    ((b"a\x01\tb",), "a\x01\tb"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("texts", "right"), ODD)
@pytest.mark.parametrize("manner", ["", "split=1 "])
async def test_a_bad_character_never_fails_an_answer(
    provider: Adapter, texts: tuple[bytes, ...], right: str, manner: str
) -> None:
    assert await said(provider, *texts, manner=manner) == right


@pytest.mark.anyio
async def test_halves_of_thoughts_and_of_text_find_each_their_own(provider: Adapter) -> None:
    name = provider.name
    script = " ".join(
        (
            saying(name, rb"t\ud83d", kind="reasoning"),
            saying(name, rb"a\ud83d"),
            saying(name, rb"\ude42", kind="reasoning"),
            saying(name, rb"\ude80b"),
        )
    )
    pieces = await answer(provider, f"!{script} end")
    texts = {
        kind: "".join(piece.text for piece in pieces if isinstance(piece, kind))
        for kind in (Text, Reasoning)
    }

    assert texts == {Text: "a🚀b", Reasoning: "t🙂"}
    assert all(piece.text for piece in pieces if isinstance(piece, Text | Reasoning))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "odd",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nan",
        b"-nan",
        b"inf",
        b"-inf",
        b"+Infinity",
        b'"nan \\" inf", inf',
        b"1e999",
        b"1" * 5000,
        b"[" * 2000 + b"]" * 2000,
        b'{"a":[' * 1500 + b'1,"]}"' + b"]}" * 1500,
    ],
)
async def test_what_is_no_number_in_a_field_that_nobody_reads_is_read(
    upstream: Upstream, odd: bytes
) -> None:
    for name in FORMS:
        frame = BY_NAME[name].frame("text", "hello")
        prefix = frame.index(b"{") + 1
        frame = frame[:prefix] + b'"logprob":[' + odd + b"]," + frame[prefix:]
        provider = make(name, upstream.url)
        pieces = await answer(provider, f"!bytes={quote(frame)} end")
        await provider.aclose()

        assert [p.text for p in pieces if isinstance(p, Text)] == ["hello"], name


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_character_is_carried_by_the_log_and_every_transport(
    tmp_path: Path, upstream: Upstream, form: str
) -> None:
    script = saying(form, rb"a\ud83d", rb"\ude42b\ud83d", b"\xff \\u2028")
    right = "a🙂b\ufffd\ufffd \u2028"
    with Running(tmp_path, Providers({form: make(form, upstream.url)}, form)) as server:
        started = server.http.post("/turns", json={"message": f"!{script}"}).json()
        events = server.events(started["events"])
        history = server.http.get("/history").json()["history"]
        server.stop()
        server.start()
        again = server.http.get("/history").json()["history"]

    assert [entry["message"] for entry in history][-1] == right
    assert again == history
    assert [events[-1].data[name] for name in ("type", "text")] == ["turn.completed", right]


@pytest.mark.anyio
async def test_counts_before_any_content_are_not_piled_up(upstream: Upstream) -> None:
    provider = make("openai", upstream.url)
    pieces = await answer(provider, "!usage=1:1 usage=2:2 usage=3:3 tokens=1")
    await provider.aclose()

    assert pieces[0] == Usage(3, 3)
    assert [piece for piece in pieces if isinstance(piece, Usage)][0] == Usage(3, 3)


# The pure part


def test_json_is_read_by_whichever_reader_takes_it() -> None:
    assert read(b'{"a":1}') == {"a": 1}
    assert read(b'{"a":NaN,"b":"\xff"}') == {"a": None, "b": "\ufffd"}
    assert read(b"\xef\xbb\xbf{}") == {}
    assert read(b'{"a":nan,"b":"nan","c":[-inf,1]}') == {"a": None, "b": "nan", "c": [None, 1]}
    deep = b'{"a":' + b"[" * 2000 + b"]" * 2000 + b',"b":["x"],"c":{"d":1}}'
    assert {key: read(deep)[key] for key in "bc"} == {"b": ["x"], "c": {"d": 1}}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"{'a':1}",
        b"[" * 100_000 + b"]" * 99_999,
        b"[" * 2000,
        b"{" * 2000 + b"}" * 2000 + b"]",
        b"{inf",
        b'{"a":NaN,"b":"' + b"x" * MAX_ODD_BYTES + b'"}',
    ],
)
def test_what_is_no_json_or_too_much_is_not_read(payload: bytes) -> None:
    with pytest.raises(ValueError):
        read_again(payload)


texts = st.text(st.sampled_from(["a", "é", "🙂", HIGH, LOW]), min_size=1, max_size=5)


@given(st.lists(st.tuples(st.sampled_from([Text, Reasoning]), texts), max_size=8))
def test_joined_texts_are_what_the_whole_text_is(
    said: list[tuple[type[Text] | type[Reasoning], str]],
) -> None:
    halves = Halves()
    pieces: list[Piece] = []
    for kind, text in said:
        pieces += halves.join([kind(text)])
    pieces += halves.rest()

    for wanted in (Text, Reasoning):
        joined = "".join(piece.text for piece in pieces if isinstance(piece, wanted))
        assert joined == whole("".join(text for kind, text in said if kind is wanted))
    assert orjson.dumps([piece.text for piece in pieces if not isinstance(piece, Usage | Finish)])
