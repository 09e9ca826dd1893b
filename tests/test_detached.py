from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from chatstream.detached import Detached

pytestmark = pytest.mark.anyio


async def test_work_goes_on_where_its_caller_leaves() -> None:
    detached, go, done = Detached(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.set()

    caller = asyncio.ensure_future(detached.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await detached.settle()

    assert done.is_set()


async def test_a_caller_that_stays_has_what_comes_of_it() -> None:
    detached = Detached()

    async def work(found: int | Exception) -> int:
        await asyncio.sleep(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert await detached.run(work(7)) == 7
    with pytest.raises(ValueError):
        await detached.run(work(ValueError()))


async def test_a_failure_that_nobody_waits_for_is_no_error_of_the_loop() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    detached = Detached()

    async def work() -> None:
        raise ValueError

    detached.begin(work())
    await detached.settle()
    gc.collect()

    assert told == []
