"""What single chunks of real servers look like, beside what their documentation says."""

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from chatstream.providers import Finish, Piece, Reasoning, Text, Usage
from chatstream.providers.adapters.gemini import GeminiAnswer
from chatstream.providers.adapters.openai import OpenAIAnswer
from chatstream.providers.http.parser import MOST_TOKENS, count_in, usage_of
from tests.asking import FORMS, answer, make
from tests.upstream import Upstream

HUGE = 10**30


def take(*deltas: object) -> list[Piece]:
    answer = OpenAIAnswer()
    return [
        piece
        for delta in deltas
        for piece in answer.take({"choices": [{"index": 0, "delta": delta}]})
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", ["null", "[]", "1", "true", '"x"', "[null]"])
async def test_what_is_no_object_between_chunks_says_nothing(
    upstream: Upstream, form: str, value: str
) -> None:
    provider = make(form, upstream.url)
    step = f"raw={quote(value, safe='')}"
    pieces = await answer(provider, f"!{step} role say=a {step} say=b {step}")
    await provider.aclose()

    assert [piece for piece in pieces if isinstance(piece, Text)] == [Text("a"), Text("b")]
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
        ([], []),
    ],
)
def test_content_may_be_a_list_of_parts(content: object, pieces: list[Piece]) -> None:
    assert take({"content": content}) == pieces


def test_reasoning_may_be_a_list_of_parts_too() -> None:
    parts = [{"type": "text", "text": "hm "}]

    assert take({"reasoning_content": parts}) == [Reasoning("hm ")]
    assert take({"reasoning": "hm "}) == [Reasoning("hm ")]


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
