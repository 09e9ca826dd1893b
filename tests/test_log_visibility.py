"""The order of sight, with a disk that answers when it is told to."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from chatstream.log.files.syncer import Done, Job, Syncer
from chatstream.log.files.visibility import FOREVER, End, Order, Pending

pytestmark = pytest.mark.anyio
BROKEN = OSError(5, "broken")


class Syncs:
    """Takes jobs, and ends the oldest when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Job, Done]] = []

    def submit(self, job: Job, done: Done) -> None:
        self.waiting.append((job, done))

    def end(self, error: OSError | None = None) -> None:
        self.waiting.pop(0)[1](error)


class World:
    """An order, and what it has said, in order."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.syncs = Syncs()
        self.order = Order(cast(Syncer, self.syncs))

    def undo(self, end: End | None, error: OSError) -> None:
        self.said.append(("undo", end))

    def shown(self) -> None:
        self.said.append("shown")

    def add(
        self, place: int, size: int | None = None, then: Callable[[], None] | None = None
    ) -> None:
        """Hold an event back; one with a size is in the file."""

        def tell(error: OSError | None) -> None:
            self.said.append((place, error))
            if then is not None:
                then()

        end = None if size is None else End(size)
        self.order.add(Pending(place, end, (0,), tell), self)


async def test_a_failed_sync_is_undone_before_anybody_is_told() -> None:
    world = World()
    world.add(1)
    world.add(2, 100)
    world.add(3, 200)

    world.syncs.end(BROKEN)

    undone = ("undo", End(100))
    assert world.said == [undone, (1, BROKEN), (2, BROKEN), (3, BROKEN), "shown"]
    assert not world.order.busy


async def test_a_failed_sync_of_a_live_file_undoes_nothing_of_the_log() -> None:
    world = World()
    world.add(1)
    world.syncs.end(BROKEN)
    assert world.said[0] == ("undo", None)


async def test_what_comes_during_a_sync_waits_for_the_next_one() -> None:
    world = World()
    world.add(1, 100)
    world.add(2)
    world.add(3, 200)
    assert (len(world.syncs.waiting), world.order.next_place) == (1, 1)
    assert world.order.shown_size(300) == 100

    world.syncs.end()
    assert world.said == [(1, None), "shown"]
    assert (len(world.syncs.waiting), world.order.next_place) == (1, 2)
    assert world.order.shown_size(300) == 200

    world.syncs.end()
    assert world.said[2:] == [(2, None), (3, None), "shown"]
    assert (world.order.next_place, world.order.shown_size(300)) == (FOREVER, 300)


async def test_drained_is_when_nothing_waits_also_of_what_came_meanwhile() -> None:
    world = World()
    world.add(1)
    drained = asyncio.ensure_future(world.order.drained())
    await asyncio.sleep(0)
    world.syncs.end()
    world.add(2)  # before the one that waits has had its turn
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not drained.done()

    world.syncs.end()
    await drained


async def test_who_leaves_while_it_drains_leaves_the_others_waiting_for_it() -> None:
    world = World()
    world.add(1)
    one, other = (asyncio.ensure_future(world.order.drained()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    world.syncs.end()
    await other


async def test_what_is_told_may_add_an_event_and_it_is_synced_too() -> None:
    world = World()
    world.add(1, then=lambda: world.add(2))
    world.syncs.end()
    world.syncs.end()
    assert [said for said in world.said if said != "shown"] == [(1, None), (2, None)]
    assert not world.order.busy


async def test_a_retired_file_is_closed_once_no_sync_may_be_using_it(tmp_path: Path) -> None:
    world = World()
    fd = os.open(tmp_path, os.O_RDONLY)
    world.add(1)
    world.order.close(fd)
    os.fstat(fd)
    world.syncs.end()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_a_sync_makes_the_names_in_a_folder_durable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "fdatasync", fsync)
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    world.order.add(Pending(1, None, (fd, tmp_path), lambda error: None), world)
    job, _ = world.syncs.waiting[0]
    job()
    os.close(fd)
    assert sorted(synced) == [str(tmp_path), str(tmp_path / "file")]
