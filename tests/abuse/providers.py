"""Answers and lists of models without end, or that inflate: what one provider can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.abuse.hostile import hostile
from tests.abuse.target import Attack, Target

TURNS = 10
"""At once; one that fails is asked again."""


@contextmanager
def world(listing: str = "names") -> Iterator[Mapping[str, str]]:
    """Let a hostile provider be asked."""
    with hostile(listing) as url:
        yield {
            "CHATSTREAM_PROVIDER": "openai",
            "CHATSTREAM_RETRIES": "0",
            "OPENAI_API_KEY": "k",
            "OPENAI_BASE_URL": url,
        }


@contextmanager
def inflating() -> Iterator[Mapping[str, str]]:
    """Let the provider's list of models inflate."""
    with world("names-bomb") as environment:
        yield environment


async def _post(target: Target, message: str, number: int) -> None:
    """Run one turn to its end, or until the time is up."""
    body = json.dumps({"message": message, "conversation_id": f"c{number}"}).encode()
    reader, writer = await target.connect()
    writer.write(
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    await reader.read()
    writer.close()


async def _asked(target: Target, answer: str) -> None:
    async def ask(number: int) -> None:
        while target.left:
            try:
                await _post(target, f"!{answer}", number)
            except OSError:
                pass
            await asyncio.sleep(0.2)

    try:
        async with asyncio.timeout(target.left):
            await asyncio.gather(*map(ask, range(TURNS)))
    except TimeoutError:
        return


def _attack(name: str, answer: str, told: str) -> Attack:
    async def attack(target: Target) -> None:
        await _asked(target, answer)

    attack.__name__ = name
    attack.__doc__ = told
    return attack


async def a_list_of_models_without_end(target: Target) -> None:
    """Have the models listed."""
    reader, writer = await target.connect()
    writer.write(b"GET /providers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    try:
        async with asyncio.timeout(target.left):
            await reader.read()
            await asyncio.sleep(target.left)
    except TimeoutError:
        pass
    writer.close()


ATTACKS: tuple[Attack, ...] = (
    _attack("an_answer_that_inflates", "bomb", "Gigabytes of comments in a few kilobytes."),
    _attack("an_error_that_inflates", "bomb-error", "An error body that does."),
    _attack("comments_without_end", "comments", "Nothing but comments."),
    _attack("blank_lines_without_end", "blank", "Nothing but line ends."),
    _attack("fields_without_end", "fields", "Fields that say nothing."),
    _attack("empty_events_without_end", "empty", "Events without data."),
    _attack("chunks_without_content", "no-content", "Chunks that hold nothing."),
    _attack("usage_without_content", "usage", "Chunks that only count."),
    _attack("blank_lines_after_a_word", "amid", "Content, and line ends after it."),
    _attack("objects_that_say_nothing", "objects", "JSON without a line end."),
    _attack("brackets_without_end", "brackets", "JSON that is nested for ever."),
    _attack("a_line_without_end", "line", "One event of gigabytes."),
    _attack("odd_json", "odd", "JSON that only the slow decoder reads."),
    _attack("quotation_marks", "quotes", "A text that is dear to search."),
    _attack("chunks_of_one_byte", "small-chunks", "HTTP's own chunks, of one byte each."),
    _attack("interim_responses_without_end", "interim", "`100 Continue`, again and again."),
    _attack("headers_without_end", "headers", "A response that never begins."),
    _attack("a_header_without_end", "header", "One header of gigabytes."),
    a_list_of_models_without_end,
)
LISTS: tuple[Attack, ...] = (a_list_of_models_without_end,)
