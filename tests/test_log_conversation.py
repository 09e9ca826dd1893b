"""Order of sight, failing syncs, and callers that leave, in one conversation."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from chatstream.errors import NotFound, StorageFailed, StorageFull
from chatstream.events import Address, TurnId, place
from chatstream.log.files.conversation import RECENT_TURNS
from chatstream.log.files.disk import Fsync
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog, open_log
from tests.log_steps import ADDRESS, HeldSync, everything, fail, home, kinds, say, start, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def test_an_event_that_is_not_durable_is_not_passed_over_when_the_last_reader_leaves(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await start(log)
    conversation = home(first)
    await first.end("turn.completed", {})
    seen = place(conversation.last_id)
    conversation.watch(wake := lambda: None)
    held = HeldSync(monkeypatch)
    second = asyncio.ensure_future(start(log, "turn-0002"))
    await until(lambda: bool(conversation.running))
    conversation.unwatch(wake)

    assert await everything(conversation, seen) == []
    held.go.set()
    await second
    assert kinds(await everything(conversation, seen)) == ["turn.started"]


async def test_a_late_reader_of_a_running_turn_gets_who_answers(log: JsonlLog) -> None:
    turn = await start(log)
    turn.mark({"provider": "p", "model": "m", "attempt": 1})
    await say(turn, "a")
    await start(log, "turn-0002")

    assert kinds(await everything(turn.conversation)) == [
        "turn.started",
        "turn.answering",
        "delta",
        "turn.started",
    ]


@pytest.mark.parametrize("fsync", ["always", "terminal", "never"])
async def test_every_kind_of_durability_shows_the_same(tmp_path: Path, fsync: Fsync) -> None:
    async with open_log(tmp_path, fsync) as log:
        turn = await start(log)
        woken = asyncio.Event()
        turn.conversation.watch(woken.set)
        seen = place(turn.started_id)
        for text in ("a", "b"):
            await say(turn, text)
            while not (found := turn.conversation.read(seen)):
                woken.clear()
                await woken.wait()
            assert orjson.loads(found[0].json)["text"] == text
            seen = place(found[0].id)
        end = await turn.end("turn.completed", {})

        assert orjson.loads(end.json)["text"] == "ab"
        assert await everything(turn.conversation, seen) == [end]


async def test_a_delta_whose_sync_fails_is_never_shown_but_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "always") as log:
        turn = await start(log)
        with monkeypatch.context() as patch:
            held = HeldSync(patch)
            held.error = OSError(errno.EIO, "broken")
            await say(turn, "lost")
            held.go.set()
            await turn.conversation.order.drained()
        await say(turn, " and after")
        await turn.conversation.order.drained()
        assert kinds(await everything(turn.conversation)) == ["turn.started"]

        end = await turn.end("turn.completed", {})
        assert orjson.loads(end.json)["text"] == "lost and after"


async def test_a_failed_sync_takes_back_the_title_and_the_count(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    conversation = home(turn)
    await conversation.rename("kept")
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(errno.ENOSPC, "full")
        tried = [
            asyncio.ensure_future(conversation.rename("lost")),
            asyncio.ensure_future(conversation.rename("lost too")),
            asyncio.ensure_future(start(log, "turn-0002")),
        ]
        await until(lambda: len(conversation.running) == 2)
        held.go.set()
        results = await asyncio.gather(*tried, return_exceptions=True)
    assert [type(result) for result in results] == [StorageFull] * 3
    await turn.end("turn.completed", {})

    (entry,) = await log.list("u")
    assert (entry.title, entry.turns) == ("kept", 1)


async def test_a_record_right_after_a_rename_knows_the_new_title(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = home(await start(log))
    held = HeldSync(monkeypatch)
    renaming = asyncio.ensure_future(conversation.rename("new"))
    starting = asyncio.ensure_future(start(log, "turn-0002"))
    await until(lambda: len(conversation.running) == 2)
    renaming.cancel()  # its caller leaves; the title stands all the same
    held.go.set()
    await starting

    assert [entry.title for entry in await log.list("u")] == ["new"]


async def test_a_conversation_without_a_file_has_no_title_to_change(log: JsonlLog) -> None:
    conversation = await log.conversation(ADDRESS)
    with pytest.raises(NotFound):
        await conversation.rename("x")
    assert not conversation.path.exists()


async def test_a_caller_that_leaves_while_the_file_is_made_harms_nothing(log: JsonlLog) -> None:
    for _ in range(3):
        leaving = asyncio.ensure_future(start(log))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])

    turn = await start(log)
    assert turn.conversation.turns == 1


async def test_a_file_that_cannot_be_made_is_made_by_the_next_start(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail(patch, "fsync", errno.ENOSPC, lambda fd: True)
        with pytest.raises(StorageFull):
            await start(log)
    assert await log.list("u") == []

    assert isinstance(await start(log), LiveTurn)


async def test_a_file_whose_name_cannot_be_synced_is_made_by_the_next_start(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(log, address=Address("u", "other"))  # the user's folder is there
    with monkeypatch.context() as patch:
        fail(patch, "fsync", errno.EIO, lambda fd: True)
        with pytest.raises(StorageFailed):
            await start(log)

    assert isinstance(await start(log), LiveTurn)


async def test_the_last_thousand_ids_are_known_over_a_restart(tmp_path: Path) -> None:
    async with open_log(tmp_path, "never") as log:
        for number in range(RECENT_TURNS + 1):
            await (await start(log, f"turn-{number:04}")).end("turn.completed", {})
        conversation = await log.conversation(ADDRESS)
        known = await conversation.load_recent()
        assert (len(known), "turn-0001" in known) == (RECENT_TURNS, True)

    async with open_log(tmp_path, "never") as log:
        conversation = await log.conversation(ADDRESS)
        known = await conversation.load_recent()
        assert len(known) == RECENT_TURNS
        again = await conversation.start(TurnId("turn-0001"), "body", dict)
        assert again == known["turn-0001"]
        assert conversation.turns == RECENT_TURNS + 1


async def test_a_file_that_cannot_be_read_is_said_so_without_its_path(
    log: JsonlLog, tmp_path: Path
) -> None:
    conversation = home(await start(log))
    conversation.path.rename(tmp_path / "aside")
    with pytest.raises(StorageFailed) as caught:
        await conversation.find("turn-0001")
    assert str(tmp_path) not in caught.value.message


async def test_a_file_that_lost_what_was_acknowledged_is_not_written(log: JsonlLog) -> None:
    turn = await start(log)
    turn.conversation.file.close_file()
    data = turn.conversation.path.read_bytes()
    turn.conversation.path.write_bytes(data[:-1] + b"\0")

    with pytest.raises(StorageFailed):
        await start(log, "turn-0002")
    assert turn.conversation.path.read_bytes() == data[:-1] + b"\0"


async def test_what_the_disk_refused_is_never_shown_to_who_reads_on(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    conversation = home(turn)
    woken: list[list[str]] = []
    seen = place(turn.started_id)
    conversation.watch(lambda: woken.append(kinds(conversation.read(seen) or [])))
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(errno.ENOSPC, "full")
        held.go.set()
        with pytest.raises(StorageFull):
            await conversation.rename("lost")
        with pytest.raises(StorageFull):
            await start(log, "turn-0002")
        with pytest.raises(StorageFull):
            await turn.end("turn.completed", {})

    assert woken and not any(woken)
    # So that there is room for what runs, as where an append finds the disk full.
    assert not (tmp_path / "reserve").exists()
    end = await turn.end("turn.failed", {})
    assert await everything(conversation, seen) == [end]


async def test_who_leaves_while_a_start_is_written_takes_nobody_along(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = home(await start(log, "turn-0000"))
    held = HeldSync(monkeypatch)
    first, *others = (asyncio.ensure_future(start(log)) for _ in range(4))
    await until(lambda: len(conversation.running) == 2)
    await asyncio.sleep(0)
    others[0].cancel()
    first.cancel()
    await asyncio.wait([first, others[0]])
    held.go.set()

    one, other = await asyncio.gather(*others[1:])
    assert one is other
    assert kinds(await everything(conversation)) == ["turn.started"] * 2


async def test_a_start_that_was_refused_is_begun_by_the_next_who_waited_for_it(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = home(await start(log, "turn-0000"))
    held = HeldSync(monkeypatch)
    held.error = OSError(errno.EIO, "broken")
    first, second = (asyncio.ensure_future(start(log)) for _ in range(2))
    await until(lambda: len(conversation.running) == 2)
    await asyncio.sleep(0)

    held.go.set()
    with pytest.raises(StorageFailed):
        await first
    held.error = None
    turn = (await asyncio.gather(second, return_exceptions=True))[0]
    if isinstance(turn, StorageFailed):  # its own write came before the disk was mended
        turn = await start(log)
    assert isinstance(turn, LiveTurn) and conversation.turns == 2


async def test_an_end_whose_caller_leaves_stands_and_what_waits_behind_it_goes_on(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, other = await start(log), await start(log, "turn-0002")
    held = HeldSync(monkeypatch)
    ending = asyncio.ensure_future(turn.end("turn.completed", {}))
    await until(lambda: turn.ended)
    following = asyncio.ensure_future(other.end("turn.completed", {}))
    await until(lambda: other.ended)
    ending.cancel()
    await asyncio.wait([ending])
    held.go.set()

    end = await asyncio.wait_for(following, 5)
    assert await everything(turn.conversation, place(other.started_id)) == [await turn.done, end]
    assert not turn.conversation.order.busy


async def test_a_rename_whose_caller_leaves_stands_and_nothing_waits_for_it(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    held = HeldSync(monkeypatch)
    renaming = asyncio.ensure_future(home(turn).rename("new"))
    await until(lambda: turn.conversation.order.busy)
    renaming.cancel()
    await asyncio.wait([renaming])
    held.go.set()
    await turn.end("turn.completed", {})

    (entry,) = await log.list("u")
    assert entry.title == "new"


async def test_a_clear_that_is_given_up_while_it_waits_lets_writes_go_on(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    held = HeldSync(monkeypatch)
    renaming = asyncio.ensure_future(home(turn).rename("new"))
    await until(lambda: turn.conversation.order.busy)
    shutting = asyncio.ensure_future(home(turn).shut())
    await until(lambda: turn.conversation.gate is not None)
    shutting.cancel()
    await asyncio.wait([shutting])
    held.go.set()
    await renaming

    assert turn.conversation.gate is None
    assert isinstance(await start(log, "turn-0002"), LiveTurn)


async def test_a_clear_waits_for_a_file_that_is_being_made(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(log, address=Address("u", "other"))  # the user's folder is there
    conversation = await log.conversation(ADDRESS)
    go, making = threading.Event(), threading.Event()
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(conversation.path.parent):
            making.set()
            assert go.wait(10)
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        starting = asyncio.ensure_future(start(log))
        await until(making.is_set)
        erasing = asyncio.ensure_future(log.erase_user("u"))
        await until(lambda: conversation.gate is not None)
        for _ in range(100):
            await asyncio.sleep(0)
        assert conversation.path.exists() and not list((tmp_path / "intents").iterdir())
        go.set()
        await erasing
    turn = await starting

    assert isinstance(turn, LiveTurn)
    assert kinds(await everything(conversation))[-1:] == ["turn.started"]
    assert turn.turn_id.encode() in conversation.path.read_bytes()


async def test_a_read_that_a_clear_has_overtaken_is_done_again(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log, content="secret")
    await turn.end("turn.completed", {})
    conversation = home(turn)
    go, opened = threading.Event(), threading.Event()
    real = os.open

    def open_slowly(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        fd = real(path, flags, *rest, **named)
        if str(path) == str(conversation.path) and not opened.is_set():
            opened.set()
            assert go.wait(10)
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_slowly)
        finding = asyncio.ensure_future(conversation.find("turn-0001"))
        await until(opened.is_set)
        await log.clear(conversation)
        go.set()
        assert await finding == []
