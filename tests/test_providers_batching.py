"""Reads wait for a common beat while very many tokens come, and never otherwise."""

import asyncio
from time import perf_counter

import pytest

from chatstream.providers.http.batching import (
    BEAT_SECONDS,
    BUSY_TOKENS,
    FEW_IDLE,
    IDLE_BURST,
    IDLE_SHARE,
    LOOK_SECONDS,
    Pace,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def busy() -> Pace:
    pace = Pace()
    pace.took(1)  # the first look
    await asyncio.sleep(LOOK_SECONDS * 1.1)
    assert pace.took(10 * int(BUSY_TOKENS * LOOK_SECONDS)) is not None
    return pace


async def test_few_tokens_wait_for_nothing() -> None:
    pace = Pace()

    assert pace.took(1) is None
    await asyncio.sleep(LOOK_SECONDS * 1.1)
    assert [pace.took(1) for _ in range(100)] == [None] * 100


async def test_many_tokens_wait_for_one_beat_together() -> None:
    pace = await busy()
    began = asyncio.get_running_loop().time()
    beats = [pace.took(1) for _ in range(10)]

    await asyncio.gather(*(beat for beat in beats if beat is not None))

    assert None not in beats
    assert asyncio.get_running_loop().time() - began >= BEAT_SECONDS * 0.5


async def test_who_is_cancelled_keeps_nobody_else_waiting() -> None:
    pace = await busy()
    gone, stays = pace.took(1), pace.took(1)
    assert gone is not None and stays is not None

    gone.cancel()

    await stays


async def test_calm_comes_back() -> None:
    pace = await busy()
    await asyncio.sleep(LOOK_SECONDS * 2)

    pace.took(1)

    assert pace.took(1) is None


async def test_a_stream_with_nothing_to_share_waits_for_nothing_however_busy_others_are() -> None:
    pace = await busy()

    async def slow() -> bool:
        return pace.took(1) is None

    assert all([await asyncio.create_task(slow()) for _ in range(10)])
    assert pace.took(1) is not None


async def test_what_any_answer_has_besides_content_waits_for_nothing() -> None:
    pace = Pace()

    assert [pace.took(0, 300, perf_counter(), n) for n in range(FEW_IDLE)] == [None] * FEW_IDLE


async def test_reads_without_content_have_a_share_of_the_time() -> None:
    pace, seconds = Pace(), 0.01
    began, used = perf_counter(), 0.0
    while perf_counter() - began < 0.5:
        used += seconds
        turn = pace.took(0, 8192, perf_counter() - seconds, 9)
        if turn is not None:
            await turn

    assert used < IDLE_BURST + (perf_counter() - began) * IDLE_SHARE + 2 * seconds


async def test_reads_without_content_are_let_in_one_after_the_other() -> None:
    pace = Pace()
    turns = [pace.took(0, 8192, perf_counter() - IDLE_BURST, 9) for _ in range(3)]
    first, second, third = (turn for turn in turns if turn is not None)
    second.cancel()

    await first
    assert not third.done()
    await third


async def test_content_waits_for_no_read_without_content() -> None:
    pace = Pace()
    assert pace.took(0, 8192, perf_counter() - 1, 9) is not None

    assert pace.took(1, 300, perf_counter(), 0) is None
