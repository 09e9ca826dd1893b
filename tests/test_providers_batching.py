"""Reads wait for a common beat while very many tokens come, and never otherwise."""

import asyncio
from time import perf_counter

import pytest

from chatstream.providers.http.batching import (
    BEAT_SECONDS,
    BUSY_TOKENS,
    FEW_IDLE,
    IDLE_BURST,
    IDLE_SECONDS,
    IDLE_SHARE,
    LOOK_SECONDS,
    Pace,
    Reads,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def took(reads: Reads, tokens: int = 1) -> asyncio.Future[None] | None:
    return reads.took(tokens, 300 * tokens, perf_counter())


def took_idle(reads: Reads, seconds: float = 0.0) -> asyncio.Future[None] | None:
    return reads.took(0, 8192, perf_counter() - seconds)


async def busy() -> tuple[Pace, Reads]:
    pace = Pace()
    reads = pace.join()
    took(reads)  # the first look
    await asyncio.sleep(LOOK_SECONDS * 1.1)
    assert took(reads, 10 * int(BUSY_TOKENS * LOOK_SECONDS)) is not None
    return pace, reads


async def test_few_tokens_wait_for_nothing() -> None:
    reads = Pace().join()

    assert took(reads) is None
    await asyncio.sleep(LOOK_SECONDS * 1.1)
    assert [took(reads) for _ in range(100)] == [None] * 100


async def test_many_tokens_wait_for_one_beat_together() -> None:
    _, reads = await busy()
    began = asyncio.get_running_loop().time()
    beats = [took(reads) for _ in range(10)]

    await asyncio.gather(*(beat for beat in beats if beat is not None))

    assert None not in beats
    assert asyncio.get_running_loop().time() - began >= BEAT_SECONDS * 0.5


async def test_who_is_cancelled_keeps_nobody_else_waiting() -> None:
    _, reads = await busy()
    gone, stays = took(reads), took(reads)
    assert gone is not None and stays is not None

    gone.cancel()

    await stays


async def test_calm_comes_back() -> None:
    _, reads = await busy()
    await asyncio.sleep(LOOK_SECONDS * 2)

    took(reads)

    assert took(reads) is None


async def test_a_stream_with_nothing_to_share_waits_for_nothing_however_busy_others_are() -> None:
    pace, reads = await busy()

    assert [took(pace.join()) for _ in range(10)] == [None] * 10
    assert took(reads) is not None


async def test_a_stream_that_slows_down_waits_no_more_although_others_are_busy() -> None:
    pace, reads = await busy()
    other = pace.join()
    await asyncio.sleep(LOOK_SECONDS * 1.1)
    assert took(other, 10 * int(BUSY_TOKENS * LOOK_SECONDS)) is not None

    assert took(reads) is None


async def test_streams_that_have_left_count_for_what_they_brought() -> None:
    pace = Pace()
    stays = pace.join()
    took(stays)  # the first look
    took(stays, 10)
    gone = pace.join()
    took(gone, 10 * int(BUSY_TOKENS * LOOK_SECONDS))
    gone.leave()
    gone.leave()
    await asyncio.sleep(LOOK_SECONDS * 1.1)

    assert took(stays) is not None


async def test_what_any_answer_has_besides_content_waits_for_nothing() -> None:
    reads = Pace().join()

    assert [took_idle(reads) for _ in range(FEW_IDLE)] == [None] * FEW_IDLE


async def test_reads_without_content_have_a_share_of_the_time() -> None:
    reads, seconds = Pace().join(), 0.01
    began, used = perf_counter(), 0.0
    while perf_counter() - began < 0.5:
        used += seconds
        turn = took_idle(reads, seconds)
        if turn is not None:
            await turn

    assert used < IDLE_BURST + (perf_counter() - began) * IDLE_SHARE + 2 * seconds


async def test_many_reads_without_content_cost_something_however_quick_they_are() -> None:
    reads = Pace().join()

    turns = [took_idle(reads) for _ in range(FEW_IDLE + int(IDLE_BURST / IDLE_SECONDS) + 10)]

    assert any(turn is not None for turn in turns)


async def test_reads_without_content_are_let_in_one_after_the_other() -> None:
    pace = Pace()
    turns = [took_idle(pace.join(), IDLE_BURST) for _ in range(3)]
    first, second, third = (turn for turn in turns if turn is not None)
    second.cancel()

    await first
    assert not third.done()
    await third


async def test_content_waits_for_no_read_without_content() -> None:
    pace = Pace()
    assert took_idle(pace.join(), 1) is not None

    assert took(pace.join()) is None
