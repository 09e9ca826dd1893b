"""Jobs on threads: every end is told, whatever a job does, and whenever it comes."""

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

import pytest

from chatstream.log.files.syncer import THREADS, Syncer

pytestmark = pytest.mark.anyio


class Ends:
    """What was told of jobs, by their names."""

    def __init__(self) -> None:
        self.told: dict[str, OSError | None] = {}
        self._changed = asyncio.Event()

    def of(self, name: str) -> Callable[[OSError | None], None]:
        def done(error: OSError | None) -> None:
            self.told[name] = error
            self._changed.set()

        return done

    async def all(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.told) < count:
                self._changed.clear()
                await self._changed.wait()


def nothing() -> None:
    return


async def test_a_job_that_fails_oddly_is_told_as_an_error_of_the_disk() -> None:
    syncer, ends = Syncer(), Ends()

    def odd() -> None:
        raise RuntimeError("odd")

    def refused() -> None:
        raise OSError(errno.ENOSPC, "full")

    for number in range(2 * THREADS):  # more than there are threads to lose
        syncer.submit(odd, ends.of(f"odd {number}"))
    syncer.submit(refused, ends.of("refused"))
    syncer.submit(nothing, ends.of("good"))
    await ends.all(2 * THREADS + 2)
    syncer.close()

    found = {name: error and error.errno for name, error in ends.told.items()}
    assert (found.pop("refused"), found.pop("good")) == (errno.ENOSPC, None)
    assert set(found.values()) == {errno.EIO}


async def test_one_that_cannot_take_its_end_keeps_no_other_waiting() -> None:
    syncer, ends = Syncer(), Ends()
    both = threading.Barrier(2)

    def meet() -> None:
        both.wait(10)

    def trouble(error: OSError | None) -> None:
        raise RuntimeError("trouble")

    syncer.submit(meet, trouble)
    syncer.submit(meet, ends.of("other"))
    await ends.all(1)
    syncer.submit(nothing, ends.of("later"))
    await ends.all(2)
    syncer.close()


def all_threads_busy_until_they_end(syncer: Syncer, patch: pytest.MonkeyPatch) -> None:
    """Have every thread do a job, and go; the loop has not heard of it yet."""
    works: list[Future[None]] = []
    submit = syncer.executor.submit

    def submitted(job: Callable[[], None]) -> Future[None]:
        works.append(submit(job))
        return works[-1]

    patch.setattr(syncer.executor, "submit", submitted)
    for _ in range(THREADS):
        syncer.submit(nothing, lambda error: None)
    wait(works)


async def test_a_job_that_comes_just_as_the_threads_go_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    syncer, ends = Syncer(), Ends()
    all_threads_busy_until_they_end(syncer, monkeypatch)
    syncer.submit(nothing, ends.of("late"))
    await ends.all(1)
    syncer.close()


async def test_closing_does_what_waits_and_what_comes_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    syncer, ends = Syncer(), Ends()
    all_threads_busy_until_they_end(syncer, monkeypatch)

    def once_more(error: OSError | None) -> None:
        ends.told["waited"] = error
        syncer.submit(nothing, ends.of("asked for by its end"))

    syncer.submit(nothing, once_more)
    syncer.close()
    assert list(ends.told) == ["waited", "asked for by its end"]

    syncer.submit(nothing, ends.of("after closing"))
    assert len(ends.told) == 3
