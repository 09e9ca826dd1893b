import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chatstream.events import BEGINNING, EventId, place
from chatstream.log.files.clock import LEASE_MS, IdClock
from tests.log_steps import fail

NOW = 1_764_000_000_000


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def open_clock(
    path: Path, executor: ThreadPoolExecutor, now: list[int], floor: EventId = BEGINNING
) -> IdClock:
    return IdClock(path, executor, floor=floor, now_ms=lambda: now[0])


def test_ids_rise_when_the_clock_stands_still_or_goes_back(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    now = [NOW]
    clock = open_clock(tmp_path / "clock", executor, now)

    ids = [clock.next() for _ in range(20_001)]
    now[0] -= 86_400_000
    ids.append(clock.next())

    assert ids == sorted(set(ids))
    assert ids[0] == f"{NOW}-0000"
    assert ids[10_000] == f"{NOW + 1}-0000"


class AtOnce(ThreadPoolExecutor):
    """Runs what is submitted before it returns."""

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> Any:
        done = super().submit(fn, *arguments, **named)
        done.result()
        return done


class Never(ThreadPoolExecutor):
    """Runs nothing: the process died before."""

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> Any:
        return None


@pytest.mark.parametrize("kind", [AtOnce, Never])
def test_no_id_is_given_twice_when_the_process_dies_at_any_moment(
    tmp_path: Path, kind: type[ThreadPoolExecutor]
) -> None:
    now = [NOW]
    given: list[str] = []
    with kind(1) as executor:
        for step in (0, 1, LEASE_MS // 2, LEASE_MS, 10 * LEASE_MS, -50 * LEASE_MS):
            now[0] += step
            clock = open_clock(tmp_path / "clock", executor, now)
            # Not closed: this is a process that died.
            given += [clock.next() for _ in range(3)]
            now[0] += LEASE_MS // 2
            given += [clock.next() for _ in range(3)]

    assert given == sorted(set(given))


def test_the_ceiling_on_disk_is_above_every_id_given(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    now = [NOW]
    clock = open_clock(tmp_path / "clock", executor, now)
    for _ in range(200):
        now[0] += LEASE_MS // 7
        identifier = clock.next()
        assert int((tmp_path / "clock").read_bytes()) > place(identifier) // 10_000


def test_a_closed_clock_gives_no_id_again_although_the_machines_is_set_back(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    now = [NOW]
    clock = open_clock(tmp_path / "clock", executor, now)
    given = [clock.next() for _ in range(5)]
    clock.close()
    now[0] -= 1000
    clock = open_clock(tmp_path / "clock", executor, now)
    given += [clock.next() for _ in range(5)]

    assert given == sorted(set(given))


class Counting(ThreadPoolExecutor):
    """Waits for what is submitted, whatever becomes of it."""

    count = 0

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> Any:
        self.count += 1
        done = super().submit(fn, *arguments, **named)
        done.exception()
        return done


def test_a_ceiling_that_could_not_be_renewed_is_renewed_with_the_next_id(tmp_path: Path) -> None:
    now = [NOW]
    with Counting(1) as executor:
        clock = open_clock(tmp_path / "clock", executor, now)
        clock.next()
        now[0] += LEASE_MS // 2
        with pytest.MonkeyPatch.context() as patch:
            fail(patch, "fdatasync", errno.EIO, lambda fd: True)
            clock.next()  # there is time left
            assert executor.count == 1
        clock.next()
        assert executor.count == 2
        clock.next()
        assert executor.count == 2


def test_a_closed_clock_goes_on_where_it_was(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    now = [NOW]
    clock = open_clock(tmp_path / "clock", executor, now)
    last = clock.next()
    clock.close()

    following = open_clock(tmp_path / "clock", executor, now).next()

    assert following > last
    assert place(following) - place(last) <= 20_000


def test_a_lost_clock_file_starts_above_the_floor_that_the_logs_give(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    floor = EventId(f"{NOW + 5}-0003")
    (tmp_path / "clock").write_bytes(b"\0\0garbage")

    assert open_clock(tmp_path / "clock", executor, [NOW], floor).next() > floor


@pytest.mark.parametrize(
    "stored", [b"", b"\0" * 14, b"9999999999999\n", b"17640000000000\n", b"x\n"]
)
def test_a_damaged_clock_goes_on_from_the_files(
    tmp_path: Path, executor: ThreadPoolExecutor, stored: bytes
) -> None:
    (tmp_path / "clock").write_bytes(stored)
    floor = EventId(f"{NOW + 5}-0000")

    assert open_clock(tmp_path / "clock", executor, [NOW], floor).next() == f"{NOW + 5}-0001"
