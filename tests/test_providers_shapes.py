"""What single chunks of real servers look like, beside what their documentation says."""

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from chatstream.providers import Finish, Piece, Reasoning, Text, Usage
from chatstream.providers.adapters.anthropic import AnthropicAnswer
from chatstream.providers.adapters.gemini import GeminiAnswer
from chatstream.providers.adapters.ollama import OllamaAnswer
from chatstream.providers.adapters.openai import OpenAIAnswer
from chatstream.providers.http.parser import MOST_TOKENS, Answer, count_in, usage_of
from tests.asking import FORMS, answer, failure, make
from tests.upstream import Upstream
from tests.upstream_forms import AnthropicForm, Form, GeminiForm, OllamaForm, OpenAIForm

HUGE = 10**30
FRAMES: dict[str, Form] = {
    "openai": OpenAIForm,
    "gemini": GeminiForm,
    "anthropic": AnthropicForm,
    "ollama": OllamaForm,
}


def take(*deltas: object) -> list[Piece]:
    answer = OpenAIAnswer()
    return [
        piece
        for delta in deltas
        for piece in answer.take({"choices": [{"index": 0, "delta": delta}]})
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "value", ["null", "[]", "1", "true", '"x"', "[null]", "ping", "[HEARTBEAT]", "", " "]
)
async def test_what_is_no_object_between_chunks_says_nothing(
    upstream: Upstream, form: str, value: str
) -> None:
    provider = make(form, upstream.url)
    step = f"raw={quote(value, safe='')}"
    pieces = await answer(provider, f"!{step} role say=a {step} say=b {step}")
    await provider.aclose()

    assert [piece for piece in pieces if isinstance(piece, Text)] == [Text("a"), Text("b")]
    assert pieces[-1] == Finish("stop")


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stray", ["ping\n", "[HEARTBEAT]\n", "event: error\ndata: null\n\n"])
async def test_a_heartbeat_in_any_shape_says_nothing(
    upstream: Upstream, form: str, stray: str
) -> None:
    if form == "ollama" and stray.startswith("event"):
        stray = "data: null\n"
    provider = make(form, upstream.url)
    step = f"bytes={quote(stray, safe='')}"
    pieces = await answer(provider, f"!role say=a {step} say=b {step}")
    await provider.aclose()

    assert [piece for piece in pieces if isinstance(piece, Text)] == [Text("a"), Text("b")]
    assert pieces[-1] == Finish("stop")


@pytest.mark.anyio
@pytest.mark.parametrize("stray", ["ping", "[HEARTBEAT]", "null"])
async def test_heartbeats_alone_are_no_answer(
    upstream: Upstream, stray: str, caplog: pytest.LogCaptureFixture
) -> None:
    for form in FORMS:
        provider = make(form, upstream.url)
        caplog.clear()
        _, error = await failure(provider, f"!raw={quote(stray, safe='')} " * 3 + "eof")
        await provider.aclose()

        assert error.code in ("provider_error", "provider_cut")
        assert error.retryable


@pytest.mark.anyio
@pytest.mark.parametrize(
    "broken", ['{"choices":[{"del', '[{"choices":', '"{\\"choices\\":[]}"', "upstream timed out"]
)
async def test_what_may_be_content_or_an_error_is_not_passed_over(
    upstream: Upstream, broken: str
) -> None:
    for form in FORMS:
        provider = make(form, upstream.url)
        pieces, error = await failure(provider, f"!say=a raw={quote(broken, safe='')} say=b finish")
        await provider.aclose()

        assert [piece for piece in pieces if isinstance(piece, Text)] == [Text("a")]
        assert error.code.startswith("provider_")


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_chunks_in_a_list_are_chunks(upstream: Upstream, form: str) -> None:
    said = FRAMES[form].frame("text", "a 🙂 {")
    chunk = said[said.index(b"{") :].strip().decode()
    step = quote(f"[null,{chunk},{chunk}]", safe="")
    provider = make(form, upstream.url)
    pieces = await answer(provider, f"!say=x raw={step} end")
    broken = quote('[{"error":{"code":503}}]', safe="")
    _, error = await failure(provider, f"!say=x raw={broken}")
    await provider.aclose()

    text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    assert text == "xa 🙂 {a 🙂 {"
    assert error.code.startswith("provider_")


@pytest.mark.anyio
async def test_a_choice_that_is_null_says_nothing(upstream: Upstream) -> None:
    provider = make("openai", upstream.url)
    step = "raw=" + quote('{"choices":[null]}', safe="")
    pieces = await answer(provider, f"!{step} say=a {step} end")
    await provider.aclose()

    assert pieces[0] == Text("a")
    assert pieces[-1] == Finish("stop")


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        ([{"type": "text", "text": "Hello "}], [Text("Hello ")]),
        (
            [{"type": "text", "text": "a"}, {"type": "output_text", "text": "b"}],
            [Text("a"), Text("b")],
        ),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm "}]},
                {"type": "text", "text": "Hello"},
            ],
            [Reasoning("hm "), Text("Hello")],
        ),
        ([{"type": "thinking", "thinking": "hm "}], [Reasoning("hm ")]),
        ([{"type": "reasoning", "text": "hm "}], [Reasoning("hm ")]),
        ([{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "a"}], [Text("a")]),
        ([{"type": "image_url", "image_url": {"url": "x"}}], []),
        ([{"type": "thinking", "thinking": [{"type": "new", "text": "x"}]}], []),
        ([{"type": "text", "text": ""}, {"type": "text", "text": None}], []),
        ({"type": "text", "text": "a"}, [Text("a")]),
        ([{"text": "Hello "}], [Text("Hello ")]),
        ([{"type": "text", "text": {"value": "Hello ", "annotations": []}}], [Text("Hello ")]),
        ({"text": "a", "content": "a"}, [Text("a")]),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm "}]}],
            [Reasoning("hm ")],
        ),
        ([{"type": "reasoning", "text": "hm ", "summary": []}], [Reasoning("hm ")]),
        ([{"reasoning": "hm "}, {"text": "a"}], [Reasoning("hm "), Text("a")]),
        ([None, {"type": "text", "text": "a"}], [Text("a")]),
        ([{"type": "refusal", "refusal": "No."}], [Text("No.")]),
        ([], []),
    ],
)
def test_content_may_be_a_list_of_parts(content: object, pieces: list[Piece]) -> None:
    assert take({"content": content}) == pieces


def test_reasoning_may_be_a_list_of_parts_too() -> None:
    parts = [{"type": "text", "text": "hm "}]

    assert take({"reasoning_content": parts}) == [Reasoning("hm ")]
    assert take({"reasoning": "hm "}) == [Reasoning("hm ")]


@pytest.mark.parametrize(
    "thought",
    [
        {"text": "hm "},
        {"content": "hm "},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm "}]},
        {"summary": [{"type": "summary_text", "text": "hm "}]},
    ],
)
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_may_be_an_object(field: str, thought: object) -> None:
    assert take({field: thought}) == [Reasoning("hm ")]


def whole(
    deltas: list[object], message: object, delta: object = "absent", **more: Any
) -> list[Piece]:
    """Return what deltas say, and then a chunk with a whole message, and its finish reason."""
    answer = OpenAIAnswer()
    last = {"index": 0, "message": message, "finish_reason": "stop", **more}
    if delta != "absent":
        last["delta"] = delta
    chunks = [{"index": 0, "delta": delta} for delta in deltas]
    pieces = [piece for chunk in (*chunks, last) for piece in answer.take({"choices": [chunk]})]
    assert answer.finish in ("stop", "filter")
    return [*pieces, *answer.end()]


EMPTY = ["absent", None, {}, {"content": ""}, {"role": "assistant", "content": None}]


@pytest.mark.parametrize("delta", EMPTY)
def test_a_whole_message_beside_an_empty_delta_is_the_answer(delta: object) -> None:
    message = {"role": "assistant", "reasoning_content": "hm ", "content": "Hello world"}

    assert whole([], message, delta) == [Reasoning("hm "), Text("Hello world")]
    assert whole([{"role": "assistant", "content": ""}], message, delta) == [
        Reasoning("hm "),
        Text("Hello world"),
    ]


@pytest.mark.parametrize("delta", EMPTY)
def test_a_whole_message_after_deltas_is_no_new_text(delta: object) -> None:
    message = {"role": "assistant", "reasoning": "hm ", "content": "Hello world"}
    deltas: list[object] = [{"reasoning": "hm "}, {"content": "Hello "}, {"content": "world"}]
    said = [Reasoning("hm "), Text("Hello "), Text("world")]

    assert whole(deltas, message, delta) == said
    assert whole(deltas[:-1], message, deltas[-1]) == said
    assert whole([{"content": "<thi"}], {"content": "<thi"}, delta) == [Text("<thi")]
    assert whole([{"refusal": "No."}], {"refusal": "No."}, delta) == [Text("No.")]
    assert whole(deltas[1:], None, delta, text="Hello world") == said[1:]


def test_a_message_says_what_the_deltas_left_out() -> None:
    message = {"reasoning": "hm ", "content": "Hello"}

    assert whole([{"reasoning": "hm "}], message, {}) == [Reasoning("hm "), Text("Hello")]
    assert whole([], message, {"reasoning": "hm "}) == [Reasoning("hm "), Text("Hello")]


def test_a_message_that_grows_on_each_chunk_is_said_once() -> None:
    answer = OpenAIAnswer()
    pieces = [
        piece
        for text in ("He", "Hello", "Hello world", "Hello world")
        for piece in answer.take({"choices": [{"delta": {}, "message": {"content": text}}]})
    ]

    assert pieces == [Text("He"), Text("llo"), Text(" world")]


@pytest.mark.parametrize("delta", EMPTY)
def test_legacy_completions_say_their_text(delta: object) -> None:
    answer = OpenAIAnswer()
    more = {} if delta == "absent" else {"delta": delta}
    pieces = [
        piece
        for text in ("ha", "ha", "")
        for piece in answer.take({"choices": [{"index": 0, "text": text, **more}]})
    ]

    assert pieces == [Text("ha"), Text("ha")]


PARTS = [None, {"text": "Hello "}, {"type": "refusal", "refusal": "No."}]


@pytest.mark.parametrize(
    ("answer", "chunk"),
    [
        (OllamaAnswer(), {"message": {"content": PARTS}}),
        (GeminiAnswer(), {"candidates": [None, {"content": {"parts": PARTS}}]}),
        (AnthropicAnswer(), {"type": "message", "content": PARTS}),
        (AnthropicAnswer(), {"type": "content_block_delta", "delta": {"text": PARTS}}),
    ],
)
def test_every_form_reads_lists_of_parts(answer: Answer, chunk: dict[str, Any]) -> None:
    assert list(answer.take(chunk)) == [Text("Hello "), Text("No.")]


@pytest.mark.parametrize("thinking", ["hm ", {"text": "hm "}, [{"text": "hm "}]])
def test_every_form_reads_thoughts_as_parts(thinking: object) -> None:
    part = {"text": thinking, "thought": True}
    delta = {"type": "thinking_delta", "thinking": thinking}

    assert list(OllamaAnswer().take({"message": {"thinking": thinking}})) == [Reasoning("hm ")]
    assert list(GeminiAnswer().take({"candidates": [{"content": {"parts": [part]}}]})) == [
        Reasoning("hm ")
    ]
    assert list(AnthropicAnswer().take({"type": "content_block_delta", "delta": delta})) == [
        Reasoning("hm ")
    ]


def test_a_whole_message_of_anthropics_after_deltas_is_no_new_text() -> None:
    answer = AnthropicAnswer()
    answer.take({"type": "content_block_delta", "delta": {"text": "Hello"}})
    message = {"type": "message", "content": [{"text": "Hello"}], "stop_reason": "end_turn"}

    assert list(answer.take(message)) == []
    assert answer.finish == "stop"


def test_a_refusal_in_parts_is_text_and_filters() -> None:
    answer = OpenAIAnswer()
    content = [{"type": "refusal", "refusal": "No."}]
    chunk = {"choices": [{"delta": {"content": content}, "finish_reason": "stop"}]}

    assert (list(answer.take(chunk)), answer.finish) == ([Text("No.")], "filter")


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else [{"type": "text", "text": "a"}]


def test_parts_may_lie_in_one_another() -> None:
    assert take({"content": nested(3)}) == [Text("a")]


@pytest.mark.parametrize(
    "content", [5, [5], [{"type": "text", "text": 5}], {"type": ["text"]}, nested(500)]
)
def test_what_is_no_content_is_not_guessed_at(content: object) -> None:
    with pytest.raises((AttributeError, TypeError, ValueError)):
        take({"content": content})


def choice(index: object, text: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, **more}


@pytest.mark.parametrize("zero", [0, None, 0.0, "0", "absent"])
def test_only_the_first_of_several_answers_counts_wherever_it_stands(zero: object) -> None:
    answer = OpenAIAnswer()
    first = choice(zero, "a")
    if zero == "absent":
        del first["index"]
    usage = {"prompt_tokens": 9, "completion_tokens": 9}
    other = choice(1, "no", finish_reason="length", usage=usage)

    assert list(answer.take({"choices": [other, first]})) == [Text("a")]
    assert list(answer.take({"choices": [first, other]})) == [Text("a")]
    assert list(answer.take({"choices": [other]})) == []
    assert list(answer.take({"choices": [other], "usage": usage})) == []
    assert list(answer.take({"choices": [other, first], "usage": usage})) == [
        Text("a"),
        Usage(9, 9),
    ]
    assert answer.finish is None
    answer.take({"choices": [choice(2, "no"), other, choice(0, "", finish_reason="stop")]})
    assert answer.finish == "stop"


def test_only_the_first_candidate_counts_wherever_it_stands() -> None:
    answer = GeminiAnswer()
    parts = {"content": {"parts": [{"text": "a"}]}}
    other = {"index": 1, "content": {"parts": [{"text": "no"}]}, "finishReason": "MAX_TOKENS"}

    assert list(answer.take({"candidates": [other, {"index": 0, **parts}]})) == [Text("a")]
    assert list(answer.take({"candidates": [other, parts]})) == [Text("a")]
    assert list(answer.take({"candidates": [other]})) == []
    assert answer.finish is None


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (3, 3),
        (3.0, 3),
        ("3", 3),
        ("3.0", 3),
        (" 3 ", 3),
        (0, 0),
        (MOST_TOKENS, MOST_TOKENS),
        (3.5, None),
        (-3, None),
        (-3.0, None),
        ("-3", None),
        (HUGE, None),
        (1e300, None),
        (float("inf"), None),
        (float("nan"), None),
        ("9" * 5000, None),
        ("three", None),
        ("²", None),
        ("", None),
        (None, None),
        (True, None),
        ([3], None),
        ({}, None),
    ],
)
def test_a_count_is_a_sane_number_or_none(written: object, count: int | None) -> None:
    assert count_in(written) == count
    assert usage_of((written,), (1,)) == (() if count is None else (Usage(count, 1),))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("form", "event"),
    [
        ("openai", {"choices": [], "usage": {"prompt_tokens": 7.0, "completion_tokens": "3"}}),
        ("openai", {"choices": [{"usage": {"prompt_tokens": 7, "completion_tokens": 3}}]}),
        (
            "openai",
            {
                "choices": [{"delta": {}, "finish_reason": "stop"}],
                "x_groq": {"usage": {"prompt_tokens": 7, "completion_tokens": 3}},
            },
        ),
        ("gemini", {"usageMetadata": {"promptTokenCount": "7", "candidatesTokenCount": 3.0}}),
        (
            "anthropic",
            {
                "type": "message_delta",
                "delta": {},
                "usage": {"input_tokens": 7.0, "output_tokens": "3"},
            },
        ),
        ("ollama", {"done": True, "prompt_eval_count": 7.0, "eval_count": "3"}),
    ],
)
async def test_each_form_reads_counts_in_any_shape(
    upstream: Upstream, form: str, event: dict[str, Any]
) -> None:
    provider = make(form, upstream.url)
    mark = "finish done" if form == "anthropic" else "finish"
    step = f"raw={quote(orjson.dumps(event).decode(), safe='')}"
    pieces = await answer(provider, f"!say=x {mark} {step} eof")
    await provider.aclose()

    assert pieces == [Text("x"), Usage(7, 3), Finish("stop")]


@pytest.mark.anyio
@pytest.mark.parametrize("bad", [-1, HUGE, 1.5, "x"])
async def test_a_count_that_cannot_be_one_fails_no_turn(upstream: Upstream, bad: object) -> None:
    provider = make("openai", upstream.url)
    usage = {"choices": [], "usage": {"prompt_tokens": bad, "completion_tokens": 1}}
    step = quote(str(usage).replace("'", '"'), safe="")
    pieces = await answer(provider, f"!say=x finish raw={step} done")
    await provider.aclose()

    assert pieces == [Text("x"), Finish("stop")]
