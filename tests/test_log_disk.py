"""A disk that is full, or refuses: what runs may end, nothing new begins, nothing is half there."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest

from chatstream.errors import StorageFailed, StorageFull
from chatstream.events import Address, place
from chatstream.log.files import disk as disk_module
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog, open_log
from tests.log_steps import everything, fail, home, kinds, say, start, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


class SmallDisk:
    """A disk with so much room besides the reserve: writes beyond it are cut, then refused."""

    def __init__(self, patch: pytest.MonkeyPatch, reserve: Path, room: int) -> None:
        self.room = room
        self._reserve = reserve
        self._held = True
        self._write, self._allocate = os.pwrite, os.posix_fallocate
        patch.setattr(os, "pwrite", self.pwrite)
        patch.setattr(os, "posix_fallocate", self.allocate)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if self._held and not self._reserve.exists():
            self.room += 1_000_000
            self._held = False
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "full")
        written = self._write(fd, bytes(data)[: self.room], offset)
        self.room -= written
        return written

    def allocate(self, fd: int, offset: int, size: int) -> None:
        if self.room < size:
            raise OSError(errno.ENOSPC, "full")
        self._allocate(fd, offset, size)
        self._held = True


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    yield SmallDisk(monkeypatch, tmp_path / "reserve", 10**9)


@pytest.mark.parametrize("room", [0, 1, 50])
async def test_a_reserve_lets_running_turns_end_while_new_ones_are_refused(
    log: JsonlLog, disk: SmallDisk, room: int
) -> None:
    turns = [await start(log, f"turn-000{n}", address=Address("u", str(n))) for n in range(3)]
    disk.room = room
    with pytest.raises(StorageFull):
        await start(log, "turn-0009", address=Address("u", "1"))
    for turn in turns:
        await say(turn, "while ", "it is full")
    with pytest.raises(StorageFull):
        await start(log, "turn-0009", address=Address("u", "new"))
    ends = [await turn.end("turn.completed", {}) for turn in turns]

    assert {orjson.loads(end.json)["text"] for end in ends} == {"while it is full"}
    for turn, end in zip(turns, ends, strict=True):
        events = await everything(turn.conversation)
        assert events[-1] == end and kinds(events) == ["turn.started", "turn.completed"]
    disk.room = 10**9
    await start(log, "turn-0009", address=Address("u", "1"))


async def test_a_partial_append_is_cut_back_and_nothing_before_it_is_lost(
    log: JsonlLog, disk: SmallDisk
) -> None:
    turn = await start(log)
    await turn.end("turn.completed", {})
    before = turn.conversation.path.read_bytes()
    for room in range(1, 60, 7):
        disk.room = room
        with pytest.raises(StorageFull):
            await start(log, "turn-0002")
        assert turn.conversation.path.read_bytes() == before
    disk.room = 10**9

    await start(log, "turn-0002")
    assert turn.conversation.path.read_bytes().startswith(before)


async def test_a_clock_that_cannot_be_moved_refuses_a_start_and_loses_no_text(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    clock = log._disk.clock
    with monkeypatch.context() as patch:
        fail(patch, "fdatasync", errno.EIO, lambda fd: fd == clock._fd)
        clock.raise_to(clock._ceiling_ms * 10_000)
        with pytest.raises(StorageFailed):
            await start(log, "turn-0002")
        turn.write("kept")
        with pytest.raises(StorageFailed):
            await turn.end("turn.completed", {})
        with pytest.raises(StorageFailed):
            turn.mark({})

    assert orjson.loads((await turn.end("turn.completed", {})).json)["text"] == "kept"


async def test_what_the_log_hands_out_is_never_a_bare_error_of_the_system(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    fail(monkeypatch, "open", errno.EMFILE, lambda path: True)
    turn.conversation.file.close_file()
    with pytest.raises(StorageFailed):
        turn.mark({})
    with pytest.raises(StorageFailed):
        await start(log, "turn-0002")
    with pytest.raises(StorageFailed):
        await home(turn).find("turn-0001")
    with pytest.raises(StorageFailed):
        await log.conversation(Address("u", "other"))
    with pytest.raises(StorageFailed):
        await log.feedback.add("u", {"rating": 1})
    monkeypatch.undo()
    assert (await log.conversation(Address("u", "other"))).created is None
    assert isinstance(await start(log, "turn-0002"), LiveTurn)


async def test_files_that_nobody_writes_are_closed_although_the_oldest_is_in_use(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "MAX_OPEN_FILES", 2)
    busy = await start(log, address=Address("u", "busy"))
    go, real = threading.Event(), os.fdatasync

    def fdatasync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(busy.conversation.path):
            assert go.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    before = len(os.listdir("/proc/self/fd"))
    renaming = asyncio.ensure_future(home(busy).rename("x"))
    await until(lambda: busy.conversation.order.busy)
    for number in range(20):
        await start(log, address=Address("u", str(number)))
    assert len(os.listdir("/proc/self/fd")) < before + 10
    go.set()
    await renaming
    await busy.end("turn.completed", {})


async def test_a_reserve_for_which_there_is_no_room_takes_none(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    log._disk.reserve.release()

    def half(fd: int, offset: int, size: int) -> None:
        os.truncate(fd, size // 2)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", half)
    with pytest.raises(StorageFull):
        await start(log, "turn-0002")
    assert not (tmp_path / "reserve").exists()  # what it had is for the turns that must end
    await turn.end("turn.completed", {})


@pytest.mark.parametrize("room", [0, 1, 50])
async def test_a_file_for_whose_beginning_there_is_no_room_is_not_there(
    log: JsonlLog, disk: SmallDisk, tmp_path: Path, room: int
) -> None:
    await start(log)
    disk.room = room
    with pytest.raises(StorageFull):
        await start(log, address=Address("u", "new"))
    assert not (tmp_path / "users" / "u" / "new.jsonl").exists()
    disk.room = 10**9

    turn = await start(log, address=Address("u", "new"))
    assert kinds(await everything(turn.conversation)) == ["turn.started"]


async def test_what_was_refused_by_half_and_cannot_be_cut_back_is_never_an_event(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await start(log)
    end = await before.end("turn.completed", {})
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data)[:-1], at) and _full())
        fail(patch, "ftruncate", errno.EIO, lambda fd: True)
        with pytest.raises(StorageFull):
            await start(log, "turn-0002", "x" * 1000)
    shutil.copytree(tmp_path, died := tmp_path.with_name(f"{tmp_path.name}-died"))
    new = await start(log, "turn-0003")

    assert (await everything(new.conversation))[-2:] == [
        end,
        (await everything(new.conversation, place(end.id)))[0],
    ]
    async with open_log(died, "terminal") as after:
        found = await everything(await after.conversation(new.conversation.address))
    assert [event.turn_id for event in found] == ["turn-0001"] * 2


def _full() -> int:
    raise OSError(errno.ENOSPC, "full")


async def test_a_disk_that_refuses_the_reserve_is_not_a_full_one(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log._disk.reserve.release()
    with monkeypatch.context() as patch:
        fail(patch, "posix_fallocate", errno.EIO, lambda fd: True)
        with pytest.raises(StorageFailed):
            await start(log)
    assert isinstance(await start(log), LiveTurn)


async def test_a_reserve_of_which_a_part_is_missing_is_none(log: JsonlLog, tmp_path: Path) -> None:
    size = (tmp_path / "reserve").stat().st_size
    os.truncate(tmp_path / "reserve", 100)
    log.admit()
    assert (tmp_path / "reserve").stat().st_size == size


async def test_a_clock_that_cannot_be_closed_costs_no_id_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        last = (await start(log)).started_id
        clock = log._disk.clock
        fail(monkeypatch, "fdatasync", errno.EIO, lambda fd: fd == clock._fd)
    monkeypatch.undo()

    async with open_log(tmp_path, "terminal") as log:
        assert (await start(log, "turn-0002")).started_id > last


async def test_what_was_said_just_before_the_end_of_the_process_is_kept(tmp_path: Path) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log)
        turn.write("last words")
    assert b"last words" in turn.live_file.path.read_bytes()  # and not only later, by this loop

    async with open_log(tmp_path, "terminal") as log:
        end = (await everything(await log.conversation(turn.conversation.address)))[-1]
    assert orjson.loads(end.json)["text"] == "last words"


@pytest.mark.parametrize("room", [0, 10])
async def test_an_end_that_finds_no_room_even_in_the_reserve_leaves_no_trace(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    turn = await start(log)
    await say(turn, "text")
    before = turn.conversation.path.read_bytes()
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset != len(before) or not room:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, bytes(data)[:room], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(StorageFull):
            await turn.end("turn.completed", {})
        assert turn.conversation.path.read_bytes() == before
    await turn.end("turn.completed", {})
    assert turn.conversation.path.read_bytes().startswith(before)
