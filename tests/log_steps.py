"""What the tests of the log do again and again."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatstream.errors import StorageFailed
from chatstream.events import Address, TurnId, place
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.journal import Journal
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.records import Encoded
from chatstream.log.files.store import JsonlLog

ADDRESS = Address("u", "c")
FIELDS: dict[str, Any] = {"request": {}, "created_at": "x"}


async def start(
    log: JsonlLog, turn_id: str = "turn-0001", content: str = "hi", address: Address = ADDRESS
) -> LiveTurn:
    """Start a turn that is new."""
    conversation = await log.conversation(address)

    def begin() -> dict[str, Any]:
        log.admit()
        return {"message": {"role": "user", "content": content}, **FIELDS}

    turn = await conversation.start(TurnId(turn_id), "body", begin)
    assert isinstance(turn, LiveTurn)
    return turn


def home(turn: LiveTurn) -> Conversation:
    """Return the conversation that a turn runs in: of it, a turn knows no more than the journal."""
    assert isinstance(turn.conversation, Conversation)
    return turn.conversation


async def say(turn: LiveTurn, *texts: str) -> None:
    """Write each text as a delta of its own."""
    for text in texts:
        turn.write(text)
        await asyncio.sleep(0)


async def everything(conversation: Journal, after: int = 0) -> list[Encoded]:
    """Read as a subscriber does."""
    found: list[Encoded] = []
    while True:
        events = conversation.read(after)
        if events is None:
            events, after = await conversation.read_file(after)
        elif not events:
            return found
        else:
            after = place(events[-1].id)
        found += events


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so, or fail."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def kinds(events: list[Encoded]) -> list[str]:
    """Return the types of events."""
    return [event.type for event in events]


def contents(root: Path) -> bytes:
    """Return all bytes of a data folder."""
    return b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != "reserve")


class HeldSync:
    """Holds every `fdatasync` back until `go` is set; then fails it, where `error` is set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.error: OSError | None = None
        self._real = os.fdatasync
        patch.setattr(os, "fdatasync", self._sync)

    def _sync(self, fd: int) -> None:
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        self._real(fd)


def unreadable(patch: pytest.MonkeyPatch, conversation_id: str) -> None:
    """Have a conversation's file be one that cannot be read."""
    real = Conversation.read_file

    async def read_file(conversation: Conversation, *given: Any) -> Any:
        if conversation.address.conversation_id == conversation_id:
            raise StorageFailed("The file cannot be read.")
        return await real(conversation, *given)

    patch.setattr(Conversation, "read_file", read_file)


def fail(patch: pytest.MonkeyPatch, name: str, number: int, only: Callable[[Any], bool]) -> None:
    """Have a call of `os` fail for what `only` picks by its first argument."""
    real = getattr(os, name)

    def call(first: Any, *rest: Any, **named: Any) -> Any:
        if only(first):
            raise OSError(number, os.strerror(number))
        return real(first, *rest, **named)

    patch.setattr(os, name, call)
