"""How late the loop is, and turns in its rounds."""

import asyncio
import time

import pytest

from chatstream.turns.admission import MOST_LAG
from chatstream.turns.lag import TICK_SECONDS, Lag, Turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_loop_that_is_kept_busy_is_seen_to_be_late_and_calm_comes_back() -> None:
    lag = Lag(lambda: True)
    lag.start()
    while lag.smoothed < 0.02:
        work(0.06)
        await lag.tick()
    assert lag.recent > lag.smoothed

    while lag.smoothed > 0.01:
        await lag.tick()


async def test_what_other_programs_take_counts_less() -> None:
    lags = [Lag(lambda: True), Lag(lambda: True)]
    for lag, busy in zip(lags, (work, time.sleep), strict=True):
        lag.start()
        for _ in range(5):
            busy(0.06)
            await lag.tick()
        lag._busy = lambda: False
        await lag.tick()

    assert lags[1].smoothed < 0.6 * lags[0].smoothed


def work(seconds: float) -> None:
    """Compute for so long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def test_one_long_halt_is_no_load() -> None:
    lag = Lag(lambda: True)
    lag.start()
    await lag.tick()
    time.sleep(1.5)  # noqa: ASYNC251 - as a machine that was asleep
    await lag.tick()

    assert lag.smoothed < MOST_LAG


async def test_while_nothing_could_be_late_there_is_no_timer_and_nobody_waits() -> None:
    busy = True
    lag = Lag(lambda: busy)
    await lag.tick()
    lag.start()
    busy = False
    await lag.tick()  # the last look
    await lag.tick()

    busy = True
    lag.start()
    began = time.monotonic()
    await lag.tick()
    assert time.monotonic() - began > TICK_SECONDS / 2


async def test_who_stops_waiting_for_a_tick_keeps_nobody_else_waiting() -> None:
    lag = Lag(lambda: True)
    lag.start()
    gone, stays = asyncio.ensure_future(lag.tick()), asyncio.ensure_future(lag.tick())
    await asyncio.sleep(0)
    gone.cancel()

    await stays


async def test_each_round_lets_so_many_go_on_in_their_order() -> None:
    turns = Turns(3)
    rounds: list[list[int]] = [[]]
    over = False

    def count() -> None:
        rounds.append([])
        if not over:
            asyncio.get_running_loop().call_soon(count)

    async def one(number: int) -> None:
        await turns.turn()
        rounds[-1].append(number)

    asyncio.get_running_loop().call_soon(count)
    await asyncio.gather(*map(one, range(20)))
    over = True

    assert [number for one_round in rounds for number in one_round] == list(range(20))
    assert max(map(len, rounds)) <= 3


async def test_one_alone_waits_for_nobody() -> None:
    turns = Turns(1)
    coroutine = turns.turn()

    with pytest.raises(StopIteration):
        coroutine.send(None)


async def test_who_leaves_the_queue_takes_nobodys_turn() -> None:
    turns = Turns(1)
    tasks = [asyncio.ensure_future(turns.turn()) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()

    await asyncio.gather(tasks[0], tasks[2], tasks[3])
