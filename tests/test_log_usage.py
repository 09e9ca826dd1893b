"""What a user's turns took, counted from the files: incrementally, and never what is gone."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chatstream.events import Address
from chatstream.log.files import usage, usage_file
from chatstream.log.files.store import JsonlLog, open_log
from chatstream.log.files.usage_file import Count, Counts, Kind
from tests.log_steps import ADDRESS, HeldSync, start, until

pytestmark = pytest.mark.anyio
DAY = "2026-03-01"
KIND = Kind(DAY, "p", "m")
TOLD = {"input_tokens": 3, "output_tokens": 2}


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


def ended(told: Any = TOLD, day: str = DAY, model: str | None = "m", **more: Any) -> dict[str, Any]:
    fields = {"usage": told, "provider": "p", "model": model, "ended_at": f"{day}T23:59:59.999Z"}
    return fields | more


async def turn(log: JsonlLog, number: int, address: Address = ADDRESS, **fields: Any) -> None:
    """Run a turn to its end."""
    running = await start(log, f"turn-{number:04d}", address=address)
    await running.end("turn.completed", fields or ended())


async def everything(log: JsonlLog, user_id: str = "u") -> Counts:
    return await log.usage(user_id, "0001-01-01", "9999-12-31")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each look into a file counts."""
    found: list[int] = []
    real = usage_file.UsageFile.read_on

    def read_on(file: usage_file.UsageFile, path: str, state: usage_file.State) -> int:
        found.append(real(file, path, state))
        return found[-1]

    monkeypatch.setattr(usage_file.UsageFile, "read_on", read_on)
    return found


# ---- what is counted


async def test_turns_are_counted_by_day_provider_and_model_over_conversations(
    log: JsonlLog,
) -> None:
    await turn(log, 1)
    await turn(log, 2, Address("u", "other"))
    await turn(log, 3, **ended(model="n"))
    await turn(log, 4, **ended(day="2026-03-02"))
    await turn(log, 5, Address("v", "c"))

    assert await everything(log) == {
        KIND: Count(2, 6, 4),
        KIND._replace(model="n"): Count(1, 3, 2),
        KIND._replace(day="2026-03-02"): Count(1, 3, 2),
    }
    assert await everything(log, "nobody") == {}


async def test_both_ends_of_the_days_are_included_and_nothing_beyond(log: JsonlLog) -> None:
    days = [f"2026-03-0{number}" for number in range(1, 6)]
    for number, day in enumerate(days):
        await turn(log, number, **ended(day=day))

    found = await log.usage("u", days[1], days[3])
    assert sorted(kind.day for kind in found) == days[1:4]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        (ended(None), Count(1, unknown=1)),
        (ended({"input_tokens": 3, "output_tokens": None}), Count(1, unknown=1)),
        (ended({"input_tokens": True, "output_tokens": 1}), Count(1, unknown=1)),
        (ended({"input_tokens": -3, "output_tokens": 1}), Count(1, unknown=1)),
        (ended("many"), Count(1, unknown=1)),
        (ended(TOLD | {"output_tokens": 0}), Count(1, 3, 0)),
        (ended(cached=True), Count(1, cached=1)),
        (ended(cached=False), Count(1, 3, 2)),
    ],
)
async def test_a_turn_without_known_tokens_is_a_turn_and_adds_none(
    log: JsonlLog, fields: dict[str, Any], count: Count
) -> None:
    await turn(log, 1, **fields)

    assert await everything(log) == {KIND: count}


async def test_every_end_counts_and_a_running_turn_does_not(log: JsonlLog) -> None:
    for number, kind in enumerate(("completed", "failed", "cancelled", "interrupted")):
        running = await start(log, f"turn-{number:04d}")
        await running.end(f"turn.{kind}", ended())  # type: ignore[arg-type]
    await start(log, "turn-0009")

    assert await everything(log) == {KIND: Count(4, 12, 8)}


async def test_a_text_that_looks_like_usage_is_not_taken_for_it(log: JsonlLog) -> None:
    forged = '","usage":{"input_tokens":999,"output_tokens":999},"ended_at":"2001-01-01T"}'
    for number, model in ((1, "m"), (2, forged)):
        running = await start(log, f"turn-{number:04d}", content=forged)
        running.write(forged)
        await running.end("turn.completed", ended(model=model))

    assert await everything(log) == {KIND: Count(1, 3, 2), Kind(DAY, "p", forged): Count(1, 3, 2)}


async def test_an_end_without_its_time_counts_on_the_day_of_its_id(log: JsonlLog) -> None:
    running = await start(log)
    event = await running.end("turn.completed", {"usage": TOLD, "provider": None})
    today = log.last_id[:13]

    ((kind, count),) = (await everything(log)).items()
    assert (kind.provider, kind.model, count) == (None, None, Count(1, 3, 2))
    assert event.id[:13] <= today and len(kind.day) == 10


async def test_a_bad_line_is_reported_and_the_others_count(
    log: JsonlLog, caplog: pytest.LogCaptureFixture
) -> None:
    await turn(log, 1)
    path = (await log.conversation(ADDRESS)).path
    good = path.read_bytes()
    *before, last = good.splitlines(keepends=True)
    path.write_bytes(b"".join([*before, last[:-30] + b"\n", b"\0" * 40 + b"\n", last]))

    counts = await usage.Usage(log._disk).read("u", dict, DAY, DAY)
    assert counts == {KIND: Count(1, 3, 2)}
    assert [record.message for record in caplog.records] == ["bad line"]


async def test_what_is_not_durable_does_not_count(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await turn(log, 1)
    second = await start(log, "turn-0002")
    held = HeldSync(monkeypatch)
    ending = asyncio.ensure_future(second.end("turn.completed", ended()))
    await until(lambda: second.ended)

    assert await everything(log) == {KIND: Count(1, 3, 2)}
    held.go.set()
    await ending
    assert await everything(log) == {KIND: Count(2, 6, 4)}


# ---- what is read


async def test_only_what_was_appended_is_read_again(log: JsonlLog, reads: list[int]) -> None:
    for number in range(20):
        await turn(log, number)
    await turn(log, 20, Address("u", "quiet"))
    await everything(log)
    size = (await log.conversation(ADDRESS)).path.stat().st_size
    reads.clear()

    assert await everything(log) == {KIND: Count(21, 63, 42)}
    assert reads == []
    await turn(log, 21)
    assert await everything(log) == {KIND: Count(22, 66, 44)}
    assert reads == [(await log.conversation(ADDRESS)).path.stat().st_size - size]


@pytest.mark.parametrize("size", [1, 100, 1000, 5000])
async def test_slices_and_blocks_of_any_size_count_the_same(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for number in range(6):
        await turn(log, number, Address("u", f"c{number % 2}"))
    monkeypatch.setattr(usage_file, "BLOCK", max(1, size // 3))
    monkeypatch.setattr(usage_file, "SLICE", size)
    monkeypatch.setattr(usage, "SLICE", size)

    assert await everything(log) == {KIND: Count(6, 18, 12)}


async def test_who_leaves_while_a_thread_counts_leaves_the_lock_to_it(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await turn(log, 1)
    real = usage_file.UsageFile.read_on
    entered, another = threading.Event(), threading.Event()

    def slow(file: usage_file.UsageFile, path: str, state: usage_file.State) -> int:
        if entered.is_set():
            another.set()
        else:
            entered.set()
            met.append(another.wait(0.3))
        return real(file, path, state)

    met: list[bool] = []
    monkeypatch.setattr(usage_file.UsageFile, "read_on", slow)
    left = asyncio.ensure_future(everything(log))
    await until(entered.is_set)
    left.cancel()
    await asyncio.wait([left])

    for counts in await asyncio.gather(everything(log), everything(log)):
        assert counts == {KIND: Count(1, 3, 2)}
    assert met == [False]


async def test_users_beyond_the_bound_are_forgotten_and_read_anew(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    monkeypatch.setattr(usage, "CELLS_IN_MEMORY", 4)
    for user in "abc":
        await turn(log, 1, Address(user, "c"))
    for user in "abc":
        await everything(log, user)
    reads.clear()

    await everything(log, "c")
    await everything(log, "b")
    assert reads == []
    assert await everything(log, "a") == {KIND: Count(1, 3, 2)}
    assert len(reads) == 1


async def test_a_user_beyond_the_bound_alone_is_counted_all_the_same(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "CELLS_IN_MEMORY", 1)
    monkeypatch.setattr(usage, "SLICE", 1)
    for number in range(4):
        await turn(log, number, Address("u", f"c{number}"))

    assert await everything(log) == {KIND: Count(4, 12, 8)}


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_kept_gives_the_same_sum_as_counting_anew(log: JsonlLog, seed: int) -> None:
    random = Random(seed)
    for number in range(60):
        address = Address("u", random.choice("abc"))
        step = random.random()
        if step < 0.6:
            told = random.choice((TOLD, None))
            await turn(log, number, address, **ended(told, model=random.choice("mn")))
        elif step < 0.9:
            anew = await usage.Usage(log._disk).read("u", dict, "0001-01-01", "9999-12-31")
            assert await everything(log) == anew
        elif step < 0.95:
            await log.clear(await log.conversation(address))
        else:
            await log.erase(await log.conversation(address))


# ---- what is gone


async def test_what_was_cleared_counts_no_more(log: JsonlLog) -> None:
    for number in range(5):
        await turn(log, number)
    await turn(log, 5, Address("u", "other"))
    await everything(log)

    conversation = await log.conversation(ADDRESS)
    await log.clear(conversation)
    assert await everything(log) == {KIND: Count(1, 3, 2)}
    for number in range(10, 18):
        await turn(log, number)
    assert await everything(log) == {KIND: Count(9, 27, 18)}
    await log.erase(conversation)
    assert await everything(log) == {KIND: Count(1, 3, 2)}
    await log.erase_user("u")
    assert "u" not in log._usage._known
    assert await everything(log) == {}


async def test_a_clear_whose_file_looks_the_same_is_not_taken_for_the_old_one(
    log: JsonlLog,
) -> None:
    """A file system may give a new file the number of the old one; it may be longer, too."""
    await turn(log, 1)
    conversation = await log.conversation(ADDRESS)
    file = usage_file.UsageFile()
    file.read_on(str(conversation.path), (1, 1, conversation.path.stat().st_size))
    assert file.counts == {KIND: Count(1, 3, 2)}

    await log.clear(conversation)
    for number in range(2, 5):
        await turn(log, number, **ended(model="new"))
    file.read_on(str(conversation.path), (1, 2, conversation.path.stat().st_size))
    assert file.counts == {KIND._replace(model="new"): Count(3, 9, 6)}


async def test_no_usage_is_older_than_a_clear_that_was_answered(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await turn(log, 1)
    conversation = await log.conversation(ADDRESS)
    loop = asyncio.get_running_loop()
    real = usage_file.UsageFile.read_on
    cleared: list[bool] = []

    def slow(file: usage_file.UsageFile, path: str, state: usage_file.State) -> int:
        count = real(file, path, state)
        if not cleared:
            cleared.append(True)
            asyncio.run_coroutine_threadsafe(log.clear(conversation), loop).result(10)
        return count

    monkeypatch.setattr(usage_file.UsageFile, "read_on", slow)
    assert await everything(log) == {}
