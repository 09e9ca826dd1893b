"""Thoughts between tags at an answer's beginning, cut in any way."""

from collections.abc import Sequence
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.providers import Piece, Reasoning, Text
from chatstream.providers.adapters.openai import OpenAIAnswer
from chatstream.providers.http.thinking import MOST_HELD, Thoughts
from tests.asking import FORMS, answer, failure, make
from tests.upstream import Upstream

Said = tuple[str, str]
SCRIPTS = (
    "<THINK>hm </Think>Hello",
    "<think>hm </think>\n\nHello <think>no</think>",
    "<think>a</thin</think>b",
    "<thinking>x</thinking>y",
    "  \n<think>\n\n</think>\n \nHi",
    "<thin",
    "<<think>x</think>",
    "<think>never closed </thi",
)


def told(pieces: Sequence[Piece]) -> Said:
    """Return the reasoning and the text; none of the pieces is empty."""
    assert all(piece.text for piece in pieces if isinstance(piece, Text | Reasoning))
    return (
        "".join(piece.text for piece in pieces if isinstance(piece, Reasoning)),
        "".join(piece.text for piece in pieces if isinstance(piece, Text)),
    )


def parted(chunks: Sequence[str]) -> Said:
    thoughts = Thoughts()
    pieces = [piece for chunk in chunks if chunk for piece in thoughts.take(chunk)]
    return told([*pieces, *thoughts.end()])


@pytest.mark.parametrize(
    ("answer", "reasoning", "text"),
    [
        ("<think>hm </think>Hello", "hm ", "Hello"),
        ("<think>hm </think>\n\nHello\n\nyou", "hm ", "Hello\n\nyou"),
        ("<think>hm </think>\r\n \t\r\n  Hello", "hm ", "  Hello"),
        ("\n <think>hm</think> Hello", "hm", " Hello"),
        ("<think>\nhm\n</think>\n\nHello", "\nhm\n", "Hello"),
        ("<think>\n\n</think>\n\nHello", "", "Hello"),
        ("<think></think>Hello", "", "Hello"),
        ("<think>hm </think>", "hm ", ""),
        ("<think>hm </think>\n\n", "hm ", ""),
        ("<think>a < b </ c</think>d", "a < b </ c", "d"),
        ("<think>hm", "hm", ""),
        ("<think>hm </think", "hm </think", ""),
        ("<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
        ("Hello <think>hm </think>", "", "Hello <think>hm </think>"),
        ("<b>Hello</b>", "", "<b>Hello</b>"),
        ("  Hello", "", "  Hello"),
        ("<thin air>", "", "<thin air>"),
        ("<thi", "", "<thi"),
        ("</think>Hello", "", "</think>Hello"),
        ("`<think>` opens", "", "`<think>` opens"),
        ("<thinking>hm</thinking>Hello", "hm", "Hello"),
        ("<thought>hm</thought>Hello", "", "<thought>hm</thought>Hello"),
        ("<seed:think>hm</seed:think>Hello", "hm", "Hello"),
        ("<THINK>hm </THINK>\n\nHello", "hm ", "Hello"),
        ("<Think>hm </tHINK></think>Hello", "hm ", "</think>Hello"),
        ("<Seed:Think>\u0130 <</seed:think>Hello", "\u0130 <", "Hello"),
        ("<THIN", "", "<THIN"),
        ("<thinking>hm</think>Hello", "hm</think>Hello", ""),
        ("\n\n", "", "\n\n"),
        ("", "", ""),
    ],
)
def test_thoughts_at_the_beginning_are_no_text(answer: str, reasoning: str, text: str) -> None:
    assert parted([answer]) == (reasoning, text)
    assert parted(list(answer)) == (reasoning, text)
    for place in range(len(answer)):
        assert parted([answer[:place], answer[place:]]) == (reasoning, text)


@given(st.sampled_from(SCRIPTS), st.lists(st.integers(0, 60), max_size=6).map(sorted))
def test_every_cut_says_the_same(answer: str, places: list[int]) -> None:
    chunks = [answer[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]

    assert parted(chunks) == parted([answer])


def test_thoughts_are_told_as_they_come() -> None:
    thoughts = Thoughts()

    assert thoughts.take("<think>a") == (Reasoning("a"),)
    assert thoughts.take("b</") == (Reasoning("b"),)
    assert thoughts.take("c") == (Reasoning("</c"),)
    assert list(thoughts.take("</think>d")) == [Text("d")]
    assert thoughts.over


def test_white_space_without_end_is_not_held() -> None:
    for beginning in ("", "<think>", "<think>x</think>"):
        thoughts = Thoughts()
        thoughts.take(f"{beginning} ")
        pieces = [piece for _ in range(3 * MOST_HELD) for piece in thoughts.take(" ")]
        assert len(pieces) > MOST_HELD


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_every_form_parts_them(upstream: Upstream, form: str) -> None:
    provider = make(form, upstream.url)
    for script in SCRIPTS:
        steps = " ".join(f"say={quote(character, safe='')}" for character in script)
        assert told(await answer(provider, f"!{steps}")) == parted([script])
        assert told(await answer(provider, f"!say={quote(script, safe='')}")) == parted([script])
    await provider.aclose()


@pytest.mark.anyio
async def test_what_is_held_when_an_answer_breaks_is_not_lost(upstream: Upstream) -> None:
    provider = make("openai", upstream.url)
    for ending in ("cut", "eof", "error=503", "plain-error"):
        pieces, _ = await failure(provider, f"!say=%3Cthin {ending}")
        assert pieces == [Text("<thin")]
    await provider.aclose()


def test_a_model_with_a_field_for_thoughts_may_use_both() -> None:
    answer = OpenAIAnswer()
    delta = {"reasoning_content": "a", "content": "<think>b</think>c"}

    assert told(answer.take({"choices": [{"delta": delta}]})) == ("ab", "c")
