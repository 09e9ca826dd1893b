"""Answers and lists of models without end, or that inflate: what one provider can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.abuse import hostile
from tests.abuse.target import Attack, Target

TURNS = 12
"""At once; one that fails is asked again."""


@contextmanager
def world(listing: str = "names") -> Iterator[Mapping[str, str]]:
    """Let a hostile provider be asked."""
    with hostile.provider(listing) as url:
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
    try:
        writer.write(
            b"POST /chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await reader.read()
    finally:
        writer.close()


async def _asked(target: Target, *answers: str) -> None:
    """Ask for each of them, all at once, and again as each fails."""

    async def ask(number: int) -> None:
        while target.left:
            with suppress(OSError):
                await _post(target, f"!{answers[number % len(answers)]}", number)
            await asyncio.sleep(0.2)

    with suppress(TimeoutError):
        async with asyncio.timeout(target.left):
            await asyncio.gather(*map(ask, range(TURNS)))


async def answers_that_inflate(target: Target) -> None:
    """Gigabytes of comments, or of an error body, in a few kilobytes."""
    await _asked(target, "bomb", "bomb-error")


async def answers_that_say_nothing(target: Target) -> None:
    """Comments, line ends, empty events and chunks without content, without end."""
    await _asked(target, *hostile.SAY_NOTHING)


async def answers_that_are_dear_to_read(target: Target) -> None:
    """Lines and values of megabytes, JSON for the slow decoder, texts that are dear to search."""
    await _asked(target, "line", "odd", "quotes", "brackets", "digits")


async def responses_that_never_begin(target: Target) -> None:
    """Headers and interim responses without end, and HTTP's own chunks of one byte each."""
    await _asked(target, "interim", "headers", "header", "small-chunks")


async def a_list_of_models_without_end(target: Target) -> None:
    """Have the models listed."""
    reader, writer = await target.connect()
    writer.write(b"GET /providers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    with suppress(TimeoutError):
        async with asyncio.timeout(target.left):
            await reader.read()
            await asyncio.sleep(target.left)
    writer.close()


ATTACKS: tuple[Attack, ...] = (
    answers_that_inflate,
    answers_that_say_nothing,
    answers_that_are_dear_to_read,
    responses_that_never_begin,
    a_list_of_models_without_end,
)
LISTS: tuple[Attack, ...] = (a_list_of_models_without_end,)
