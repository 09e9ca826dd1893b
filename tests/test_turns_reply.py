"""One turn's reply: deadlines, limits and ends, with a real log."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.errors import ProviderError, StorageFull
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog, open_log
from chatstream.providers import Finish, Reasoning, Usage
from chatstream.providers.adapters.scripted import Scripted, Step
from chatstream.turns import terminal
from chatstream.turns.reply import fit, json_size
from chatstream.turns.runner import EndedTurn, TurnRunner
from chatstream.turns.terminal import Why
from tests.log_steps import HeldSync, home, until
from tests.logged import ADDRESS, asked, finish, run_with, say


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


@given(st.text(alphabet=st.characters(codec="utf-8")), st.integers(0, 60))
def test_what_fits_is_the_longest_beginning_that_does(text: str, room: int) -> None:
    fitting = fit(text, room)

    assert text.startswith(fitting)
    assert json_size(fitting) == len(orjson.dumps(fitting)) - 2 <= room
    assert fitting == text or json_size(text[: len(fitting) + 1]) > room


@pytest.mark.anyio
async def test_text_and_reasoning_together_are_cut_at_the_limit(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted(Reasoning("r" * 1000), "t" * 20, "\n" * 10, "never")
    runner = run_with(log, provider, tmp_path, max_reply_bytes=1024)

    ended = (await say(runner, "q", "turn-0001")).terminal

    assert (ended["finish_reason"], len(ended["reasoning"])) == ("length", 1000)
    assert ended["text"] == "t" * 20 + "\n" * 2
    assert provider.running == 0


@pytest.mark.anyio
async def test_a_reply_of_just_the_limit_is_whole(log: JsonlLog, tmp_path: Path) -> None:
    runner = run_with(log, Scripted("t" * 1024), tmp_path, max_reply_bytes=1024)
    ended = (await say(runner, "q", "turn-0001")).terminal
    assert (ended["finish_reason"], len(ended["text"])) == ("stop", 1024)


@pytest.mark.anyio
async def test_no_reply_is_longer_than_the_limit_by_a_single_byte(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("\1" * 171), tmp_path, max_reply_bytes=171 * 6 - 1)
    ended = (await say(runner, "q", "turn-0001")).terminal
    assert (ended["finish_reason"], len(ended["text"])) == ("length", 170)


@pytest.mark.anyio
async def test_usage_before_a_failure_is_kept_and_without_any_it_is_null(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted(Usage(1, 0), Usage(5, 7), "a", ProviderError("x")).then(ProviderError("y"))
    runner = run_with(log, provider, tmp_path)

    first = (await say(runner, "q", "turn-0001")).terminal
    second = (await say(runner, "q", "turn-0002")).terminal

    assert first["usage"] == {"input_tokens": 5, "output_tokens": 7}
    assert first["error"] == {"code": "provider_error", "message": "x", "retryable": False}
    assert (second["usage"], second["ttft_ms"], second["text"]) == (None, None, "")
    assert isinstance(second["duration_ms"], int)


@pytest.mark.anyio
async def test_text_moves_the_deadline_and_nothing_else_does(log: JsonlLog, tmp_path: Path) -> None:
    async def short() -> None:
        await asyncio.sleep(0.15)

    text = Scripted("a", short, "b", short, "c", short, "d")
    silent = Scripted("a", short, Usage(1, 1), short, Usage(1, 2), short, Finish("stop"))
    for provider, kind, turn_id in (
        (text, "turn.completed", "turn-0001"),
        (silent, "turn.failed", "turn-0002"),
    ):
        runner = run_with(log, provider, tmp_path, token_timeout=0.3)
        assert (await say(runner, "q", turn_id)).terminal["type"] == kind


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("slow", "code"),
    [
        ({"turn_timeout": 0.4, "token_timeout": 20}, "turn_timeout"),
        ({"turn_timeout": 20, "token_timeout": 0.1}, "token_timeout"),
    ],
)
async def test_what_takes_too_long_is_told_by_its_name(
    log: JsonlLog, tmp_path: Path, slow: dict[str, float], code: str
) -> None:
    async def short() -> None:
        await asyncio.sleep(0.05)

    steps: list[Step] = ["a", short] * 100
    talks = Scripted(*steps) if code == "turn_timeout" else Scripted("a", asyncio.Event())
    runner = run_with(log, talks, tmp_path, **slow)
    ended = (await asyncio.wait_for(say(runner, "q", "turn-0001"), 4)).terminal
    assert (ended["type"], ended["error"]["code"]) == ("turn.failed", code)
    assert ended["text"].startswith("a")


@pytest.mark.anyio
async def test_the_first_text_has_a_deadline_of_its_own(log: JsonlLog, tmp_path: Path) -> None:
    async def slow() -> None:
        await asyncio.sleep(0.2)

    runner = run_with(log, Scripted(slow, "a"), tmp_path, token_timeout=0.1)
    assert (await say(runner, "q", "turn-0001")).terminal["type"] == "turn.completed"


@pytest.mark.anyio
async def test_an_end_that_the_disk_refuses_is_written_once_there_is_room(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    runner = run_with(log, Scripted("a", gate, "b"), tmp_path)
    turn = await runner.start(asked())
    refused = asyncio.Event()

    def full(*_: object, **__: object) -> None:
        refused.set()
        raise StorageFull("full")

    monkeypatch.setattr(log._disk, "write", full)
    gate.set()
    await refused.wait()
    monkeypatch.undo()

    ended = (await finish(runner, turn)).terminal
    assert (ended["type"], ended["text"]) == ("turn.completed", "ab")


@pytest.mark.anyio
async def test_a_turn_that_is_stopped_while_the_disk_refuses_its_end_ends_all_the_same(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a", gate := asyncio.Event()), tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    task = runner.running[turn].task
    assert task is not None
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(errno.EIO, "broken")
        gate.set()
        await until(lambda: bool(turn.ended))
        task.cancel()
        await asyncio.sleep(0)
        held.go.set()
        await until(lambda: not turn.ended)

    ended = (await finish(runner, turn)).terminal
    assert (ended["type"], ended["text"]) == ("turn.interrupted", "a")


@pytest.mark.anyio
async def test_a_defect_of_a_provider_is_a_failure_that_tells_nothing(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("a", KeyError("/secret")), tmp_path)
    ended = (await say(runner, "q", "turn-0001")).terminal
    assert (ended["type"], ended["text"]) == ("turn.failed", "a")
    assert "secret" not in str(ended)


class Refusing:
    """A disk that takes no more of what is written at the end of a turn, until it is `mended`."""

    def __init__(self, log: JsonlLog, patch: pytest.MonkeyPatch) -> None:
        self.tried = asyncio.Event()
        self._patch = patch

        def full(*_: object, **__: object) -> None:
            self.tried.set()
            raise StorageFull("full")

        patch.setattr(log._disk, "write", full)
        patch.setattr(terminal, "FIRST_RETRY_SECONDS", 0.01)

    def mended(self) -> None:
        self._patch.undo()


@pytest.mark.anyio
async def test_no_deadline_counts_while_the_disk_refuses_the_end(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    settings = {"token_timeout": 0.1, "turn_timeout": 10}
    runner = run_with(log, Scripted("a", gate), tmp_path, **settings)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    await until(lambda: turn.size == 1)
    disk = Refusing(log, monkeypatch)
    gate.set()
    await disk.tried.wait()
    await asyncio.sleep(0.2)  # beyond the time that may pass between tokens
    disk.mended()

    ended = (await finish(runner, turn)).terminal
    assert (ended["type"], ended["text"]) == ("turn.completed", "a")


@pytest.mark.anyio
async def test_a_cancel_while_the_disk_refuses_the_end_is_how_it_ends(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a", gate := asyncio.Event()), tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    await until(lambda: turn.size == 1)
    disk = Refusing(log, monkeypatch)
    gate.set()
    await disk.tried.wait()
    cancelling = asyncio.ensure_future(runner.cancel(ADDRESS, "turn-0001"))
    disk.tried.clear()
    await disk.tried.wait()
    disk.mended()

    ended = await cancelling
    assert isinstance(ended, EndedTurn)
    assert (ended.terminal["type"], ended.terminal["text"]) == ("turn.cancelled", "a")


@pytest.mark.anyio
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_server_that_stops_does_not_wait_for_a_disk_that_refuses_and_the_next_start_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        runner = run_with(log, Scripted("a", gate := asyncio.Event()), tmp_path)
        turn = await runner.start(asked())
        assert isinstance(turn, LiveTurn)
        await until(lambda: turn.text("text", turn.conversation.visible) == b"a")
        disk = Refusing(log, monkeypatch)
        gate.set()
        await disk.tried.wait()
        if cancelled:
            runner.running[turn].stop(Why("turn.cancelled", "user"))
            disk.tried.clear()
            await disk.tried.wait()
        await asyncio.wait_for(runner.drain(0), 5)

        assert turn.done.done() and turn.done.result() is None
        assert not runner.running
        disk.mended()

    async with open_log(tmp_path, "terminal") as log:
        found = await run_with(log, Scripted("b"), tmp_path).get(ADDRESS, "turn-0001")
    assert isinstance(found, EndedTurn)
    assert (found.terminal["type"], found.terminal["text"]) == ("turn.interrupted", "a")


@pytest.mark.anyio
async def test_a_stop_while_the_end_is_written_changes_nothing_of_it(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a", gate := asyncio.Event()), tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    await until(lambda: turn.size == 1)
    reply = runner.running[turn]
    held = HeldSync(monkeypatch)
    gate.set()
    await until(lambda: turn.ended)
    cancelling = asyncio.ensure_future(runner.cancel(ADDRESS, "turn-0001"))
    interrupting = asyncio.ensure_future(runner.interrupt())
    assert reply.task is not None
    reply.task.cancel()  # as a loop does that is being closed
    for _ in range(10):
        await asyncio.sleep(0)
    held.go.set()
    await interrupting

    ended = await cancelling
    assert isinstance(ended, EndedTurn)
    assert (ended.terminal["type"], ended.terminal["finish_reason"]) == ("turn.completed", "stop")
    assert reply.outcome().status == "completed"
    assert not runner.running


@pytest.mark.anyio
async def test_a_clear_while_the_disk_refuses_the_end_ends_it(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("a", gate := asyncio.Event()), tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    await until(lambda: turn.size == 1)
    reply = runner.running[turn]
    disk = Refusing(log, monkeypatch)
    gate.set()
    await disk.tried.wait()
    await log.clear(home(turn))
    disk.mended()

    event = await turn.done
    assert event is not None and event.type == "turn.cancelled"
    await until(lambda: not runner.running)
    assert reply.outcome().status in ("cleared", "cancelled")


@pytest.mark.anyio
async def test_a_clear_in_the_middle_of_an_answer_is_its_end_and_closes_the_provider(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("a", asyncio.Event())
    runner = run_with(log, provider, tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    await until(lambda: turn.size == 1)
    reply = runner.running[turn]
    await log.clear(home(turn))
    await until(lambda: not runner.running)

    assert provider.running == 0
    assert reply.outcome().status == "cleared"
    await asyncio.wait_for(runner.drain(1), 5)


@pytest.mark.anyio
async def test_text_that_comes_although_the_turn_was_cleared_is_for_nobody(
    log: JsonlLog, tmp_path: Path
) -> None:
    holder: list[LiveTurn] = []

    async def cleared() -> None:
        await until(lambda: bool(holder))
        holder[0].on_clear = None  # it has not reached the provider yet
        await log.clear(home(holder[0]))

    runner = run_with(log, Scripted("a", cleared, "b"), tmp_path)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    reply = runner.running[turn]
    holder.append(turn)
    await until(lambda: not runner.running)

    assert reply.outcome().status == "cleared"
    assert turn.conversation.turns == 0


@pytest.mark.anyio
async def test_who_answers_need_not_be_written_for_an_answer_to_be_whole(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise StorageFull("full")

    monkeypatch.setattr(LiveTurn, "mark", refused)
    runner = run_with(log, Scripted("a"), tmp_path)
    ended = (await say(runner, "q", "turn-0001")).terminal
    assert (ended["type"], ended["text"], ended["provider"]) == ("turn.completed", "a", "scripted")


@pytest.mark.anyio
async def test_a_turn_that_nobody_reads_is_stopped_only_after_so_long_without_any_reader(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("a", asyncio.Event()), tmp_path, orphan_timeout=0.2)
    turn = await runner.start(asked())
    assert isinstance(turn, LiveTurn)
    turn.conversation.watch(reads := lambda: None)
    await asyncio.sleep(0.5)
    assert not turn.done.done()
    turn.conversation.unwatch(reads)
    left = asyncio.get_running_loop().time()
    ended = (await finish_unread(runner, turn)).terminal

    assert (ended["type"], ended["reason"]) == ("turn.cancelled", "orphan")
    assert asyncio.get_running_loop().time() - left >= 0.14  # it was read within the last quarter


async def finish_unread(runner: TurnRunner, turn: LiveTurn) -> EndedTurn:
    """Wait for a turn's end without being a reader of it."""
    await turn.done
    return await finish(runner, turn)
