"""A user's conversations as a list."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatstream.events import Address
from chatstream.log.files import listing
from chatstream.log.files.store import JsonlLog, open_log
from tests.log_steps import ADDRESS, HeldSync, home, start, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def test_the_newest_comes_first_with_its_beginning_as_title(log: JsonlLog) -> None:
    await start(log, content="first  " + "long " * 20, address=Address("u", "a"))
    await start(log, content="second", address=Address("u", "feedback"))
    await start(log, content="other", address=Address("v", "a"))

    entries = await log.list("u")
    assert [(e.conversation_id, e.turns) for e in entries] == [("feedback", 1), ("a", 1)]
    assert entries[1].title.startswith("first long") and len(entries[1].title) <= 60
    assert await log.list("nobody") == []


async def test_what_is_not_durable_is_not_listed(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await start(log)).end("turn.completed", {})
    conversation = await log.conversation(ADDRESS)
    held = HeldSync(monkeypatch)
    second = asyncio.ensure_future(start(log, "turn-0002"))
    await until(lambda: bool(conversation.running))

    assert [entry.turns for entry in await log.list("u")] == [1]
    held.go.set()
    await second
    assert [entry.turns for entry in await log.list("u")] == [2]


async def test_no_list_is_older_than_a_clear_that_was_answered(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log, content="secret")
    reading = asyncio.Event()
    real, loop = listing.read_entry, asyncio.get_running_loop()
    cleared: list[bool] = []

    def slow(path: Path, upto: int | None = None) -> listing.Entry | None:
        entry = real(path, upto)
        if not cleared:
            loop.call_soon_threadsafe(reading.set)
            asyncio.run_coroutine_threadsafe(log.clear(home(turn)), loop).result(10)
            cleared.append(True)
        return entry

    monkeypatch.setattr(listing, "read_entry", slow)
    assert [entry.title for entry in await log.list("u")] == [""]


async def test_only_what_changed_is_read_again(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        await (await start(log, address=Address("u", name))).end("turn.completed", {})
    await log.list("u")
    read: list[str] = []
    real = listing.read_entry

    def counted(path: Path, upto: int | None = None) -> listing.Entry | None:
        read.append(path.stem)
        return real(path, upto)

    monkeypatch.setattr(listing, "read_entry", counted)
    await start(log, "turn-0002", address=Address("u", "b"))
    entries = await log.list("u")

    assert read == ["b"]
    assert [entry.turns for entry in entries] == [2, 1, 1]
