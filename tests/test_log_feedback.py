"""Feedback is kept before the answer, once, and goes with its user."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatstream.errors import StorageFailed, StorageFull
from chatstream.log.files import feedback
from chatstream.log.files.store import JsonlLog, open_log
from tests.log_steps import HeldSync, until

pytestmark = pytest.mark.anyio
GOOD = {"rating": 5, "turn_id": "turn-0001", "conversation_id": "c"}


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def rating(log: JsonlLog) -> int | None:
    found = (await log.feedback.ratings("u")).by_turn.get(("c", "turn-0001"))
    return found and found.rating


async def test_the_later_one_on_a_turn_stands_over_a_restart(tmp_path: Path) -> None:
    async with open_log(tmp_path, "terminal") as log:
        await log.feedback.add("u", GOOD)
        await log.feedback.add("u", GOOD | {"rating": 2})
        assert await rating(log) == 2
    async with open_log(tmp_path, "terminal") as log:
        assert await rating(log) == 2


async def test_what_is_added_while_the_file_is_read_is_not_forgotten(log: JsonlLog) -> None:
    await log.feedback.add("u", GOOD)
    reading = asyncio.ensure_future(log.feedback.ratings("u"))
    await asyncio.sleep(0)
    await log.feedback.add("u", GOOD | {"rating": 1})
    await reading

    assert await rating(log) == 1


async def test_what_could_not_be_synced_is_not_in_the_file(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.feedback.add("u", GOOD)
    path = tmp_path / "users" / "u" / "+feedback.jsonl"
    before = path.read_bytes()
    assert await rating(log) == 5  # from here on it is in memory
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(errno.EIO, "broken")
        held.go.set()
        with pytest.raises(StorageFailed):
            await log.feedback.add("u", GOOD | {"rating": 1})

    assert path.read_bytes() == before
    assert await rating(log) == 5


async def test_a_caller_that_leaves_does_not_stop_it(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.feedback.add("v", GOOD)  # the clock has synced its first ceiling
    held = HeldSync(monkeypatch)
    adding = asyncio.ensure_future(log.feedback.add("u", GOOD))
    await until(lambda: bool(log.feedback.held("u").locked()))
    adding.cancel()
    held.go.set()

    assert await rating(log) == 5


async def test_a_torn_line_is_cut_off_and_a_damaged_one_hides_only_itself(
    log: JsonlLog, tmp_path: Path
) -> None:
    await log.feedback.add("u", GOOD)
    path = tmp_path / "users" / "u" / "+feedback.jsonl"
    path.write_bytes(path.read_bytes() + b'\0\0\n{"type":"feedback","rat')
    await log.feedback.add("u", GOOD | {"rating": 3})

    assert await rating(log) == 3
    assert path.read_bytes().count(b'"rat') == 2


async def test_a_first_one_that_could_not_be_kept_leaves_no_file(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.feedback.add("v", GOOD)  # the clock has synced its first ceiling
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(errno.ENOSPC, "full")
        held.go.set()
        with pytest.raises(StorageFull):
            await log.feedback.add("u", GOOD)
    assert not (tmp_path / "users" / "u" / "+feedback.jsonl").exists()
    assert await rating(log) is None

    await log.feedback.add("u", GOOD)
    assert await rating(log) == 5


async def test_one_for_which_there_is_room_by_half_leaves_no_trace(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.feedback.add("u", GOOD)
    path = tmp_path / "users" / "u" / "+feedback.jsonl"
    before = path.read_bytes()
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data)[:20], at))
        with pytest.raises(StorageFull):
            await log.feedback.add("u", GOOD | {"rating": 1})
    assert path.read_bytes() == before


async def test_one_that_is_not_durable_is_not_shown(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.feedback.add("u", GOOD)
    shown = await log.feedback.ratings("u")
    held = HeldSync(monkeypatch)
    adding = asyncio.ensure_future(log.feedback.add("u", GOOD | {"rating": 1}))
    await until(lambda: bool(log.feedback.held("u").locked()))
    before = shown.by_turn["c", "turn-0001"].rating
    held.go.set()
    await adding

    assert (before, await rating(log)) == (5, 1)


async def test_a_disk_that_is_full_takes_none(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> bool:
        return False

    monkeypatch.setattr(log._disk.reserve, "hold", full)
    with pytest.raises(StorageFull):
        await log.feedback.add("u", GOOD)


async def test_a_file_that_cannot_be_read_is_said_so_and_read_again(
    log: JsonlLog, tmp_path: Path
) -> None:
    await log.feedback.add("u", GOOD)
    path = tmp_path / "users" / "u" / "+feedback.jsonl"
    path.rename(aside := path.with_suffix(".aside"))
    path.mkdir()
    with pytest.raises(StorageFailed) as caught:
        await rating(log)
    assert str(tmp_path) not in caught.value.message
    path.rmdir()
    aside.rename(path)

    assert await rating(log) == 5


async def test_users_whose_history_is_read_are_in_memory_in_a_bounded_number(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "USERS_IN_MEMORY", 2)
    for user in "abc":
        await log.feedback.add(user, GOOD)
    first = await log.feedback.ratings("a")
    await log.feedback.ratings("b")
    assert await log.feedback.ratings("a") is first
    await log.feedback.ratings("c")  # "b" goes: it was read longest ago

    assert await log.feedback.ratings("a") is first
    await log.feedback.add("b", GOOD | {"rating": 2})
    again = await log.feedback.ratings("b")
    assert [found.rating for found in again.by_turn.values()] == [2]
