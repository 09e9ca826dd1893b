"""A running turn's text: kept in memory, written in pieces, ended once."""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from chatstream.errors import StorageFailed, TurnEnded
from chatstream.log.files import disk
from chatstream.log.files.store import JsonlLog, open_log
from tests.log_steps import ADDRESS, HeldSync, everything, fail, kinds, say, start, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def test_what_is_ready_at_once_is_one_write(log: JsonlLog) -> None:
    turn = await start(log)
    turn.write("a")
    turn.write('"b"')
    turn.write("thought", "reasoning")
    await asyncio.sleep(0)

    lines = [orjson.loads(line) for line in turn.live_file.path.read_bytes().splitlines()]
    assert [(line["text"], line.get("kind")) for line in lines] == [
        ('a"b"', None),
        ("thought", "reasoning"),
    ]
    end = orjson.loads((await turn.end("turn.completed", {})).json)
    assert (end["text"], end["reasoning"]) == ('a"b"', "thought")


async def test_deltas_that_the_disk_refuses_are_shown_once_it_takes_them(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "RETRY_SECONDS", 0.01)
    turn = await start(log)
    shown = asyncio.Event()
    turn.conversation.watch(shown.set)
    with monkeypatch.context() as patch:
        fail(patch, "pwrite", errno.EIO, lambda fd: True)
        await say(turn, "a", "b")
    assert not shown.is_set()

    await asyncio.wait_for(shown.wait(), 5)

    events = await everything(turn.conversation)
    assert orjson.loads(events[-1].json)["text"] == "ab"


async def test_what_the_disk_refuses_keeps_its_kind_and_its_order(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "RETRY_SECONDS", 0.01)
    turn = await start(log)

    async def think_aloud() -> None:
        for text in ("a", "b"):
            await say(turn, text)
            turn.write(text.upper(), "reasoning")
            await asyncio.sleep(0)

    with monkeypatch.context() as patch:
        fail(patch, "pwrite", errno.EIO, lambda fd: True)
        await think_aloud()
    assert (turn.text(), turn.text("reasoning")) == (b"ab", b"AB")
    await until(lambda: turn.text("reasoning", turn.conversation.visible) == b"AB")
    await think_aloud()

    found = [orjson.loads(event.json) for event in await everything(turn.conversation)][1:]
    assert [(e["text"], e.get("kind")) for e in found] == 2 * [
        ("a", None),
        ("A", "reasoning"),
        ("b", None),
        ("B", "reasoning"),
    ]
    end = orjson.loads((await turn.end("turn.completed", {})).json)
    assert (end["text"], end["reasoning"]) == ("abab", "ABAB")


async def test_the_live_file_goes_with_the_end(tmp_path: Path) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log)
        await say(turn, "a")
        assert turn.live_file.path.exists()
        await turn.end("turn.completed", {})

    assert not turn.live_file.path.exists()


async def test_a_live_file_that_cannot_be_removed_goes_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log)
        await say(turn, "a")
        fail(monkeypatch, "unlink", errno.EIO, lambda path: str(path).endswith(".live"))
        end = await turn.end("turn.completed", {})
    assert turn.live_file.path.exists()
    monkeypatch.undo()

    async with open_log(tmp_path, "terminal") as log:
        assert not turn.live_file.path.exists()
        events = await everything(await log.conversation(ADDRESS))
    assert events[1:] == [end]


async def test_nothing_comes_after_the_end(log: JsonlLog) -> None:
    turn = await start(log)
    await turn.end("turn.completed", {})
    with pytest.raises(TurnEnded):
        turn.write("x")
    with pytest.raises(TurnEnded):
        turn.mark({})
    with pytest.raises(TurnEnded):
        await turn.end("turn.cancelled", {})

    assert kinds(await everything(turn.conversation)) == ["turn.started", "turn.completed"]


async def test_an_end_that_fails_may_be_tried_again_and_stands_once(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    await say(turn, "text")
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(errno.EIO, "broken")
        held.go.set()
        with pytest.raises(StorageFailed):
            await turn.end("turn.completed", {})
    shutil.copytree(tmp_path, died := tmp_path.with_name(f"{tmp_path.name}-died"))
    turn.write(" more")

    await turn.end("turn.failed", {})
    async with open_log(died, "terminal") as after:
        last = (await everything(await after.conversation(ADDRESS)))[-1]
    assert (last.type, orjson.loads(last.json)["text"]) == ("turn.interrupted", "text")

    assert turn.conversation.path.read_bytes().count(b'"text more"') == 1
    events = await everything(turn.conversation)
    assert kinds(events) == ["turn.started", "turn.failed"]


async def test_a_caller_that_leaves_does_not_stop_an_end(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    held = HeldSync(monkeypatch)
    ending = asyncio.ensure_future(turn.end("turn.completed", {}))
    await until(lambda: bool(turn.ended))
    ending.cancel()
    held.go.set()

    event = await asyncio.wait_for(asyncio.shield(turn.done), 5)
    assert event is not None and event.type == "turn.completed"


async def test_a_file_is_not_closed_under_its_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "always") as log:
        turn = await start(log)
        closed: list[int] = []
        real = os.close

        def close(fd: int) -> None:
            closed.append(fd)
            real(fd)

        monkeypatch.setattr(os, "close", close)
        with monkeypatch.context() as patch:
            held = HeldSync(patch)
            await say(turn, "a")
            live = turn.live_file.fd
            turn.close(None)
            assert live not in closed
            held.go.set()
            await turn.conversation.order.drained()
        assert live in closed
