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
from chatstream.log.jsonl import JsonlLog, open_log
from chatstream.log.live_turn import LiveTurn
from chatstream.providers import Finish, Reasoning, Usage
from chatstream.providers.scripted import Scripted
from chatstream.reply import fit, json_size
from tests.log_steps import HeldSync, until
from tests.logged import asked, finish, run_with, say


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
