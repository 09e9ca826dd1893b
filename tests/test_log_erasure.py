"""Cleared is erased: whoever else writes, whoever leaves, and whatever the disk does."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chatstream.errors import StorageFailed
from chatstream.events import Address, place
from chatstream.log.files import erasure
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog, open_log
from tests.log_steps import (
    ADDRESS,
    HeldSync,
    contents,
    everything,
    fail,
    home,
    kinds,
    say,
    start,
    until,
)

pytestmark = pytest.mark.anyio
SECRET = "correct horse battery staple"


BREAKS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "clear": ("replace", lambda path: str(path).endswith(".aside")),
    "conversation": ("unlink", lambda path: str(path).endswith(".jsonl")),
    "user": ("replace", lambda path: Path(str(path)).is_dir()),
}
"""What refuses the first change that an erasure makes once its intent is durable."""


def act(log: JsonlLog, what: str, conversation: Conversation) -> Awaitable[object]:
    """Begin an erasure."""
    if what == "user":
        return log.erase_user(conversation.address.user_id)
    return log.clear(conversation) if what == "clear" else log.erase(conversation)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def test_an_end_that_fails_while_a_clear_begins_does_not_bring_the_text_back(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    await say(turn, SECRET)
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(errno.EIO, "broken")
        ending = asyncio.ensure_future(turn.end("turn.completed", {}))
        await until(lambda: bool(turn.ended))
        clearing = asyncio.ensure_future(log.clear(home(turn)))
        await until(lambda: turn.conversation.gate is not None)
        held.go.set()
        with pytest.raises(StorageFailed):
            await ending
    await clearing

    assert turn.ended and not home(turn).running
    assert SECRET.encode() not in contents(tmp_path)


async def test_a_clear_goes_on_when_its_caller_leaves(log: JsonlLog, tmp_path: Path) -> None:
    turn = await start(log, content=SECRET)
    clearing = asyncio.ensure_future(log.clear(home(turn)))
    await until(lambda: turn.conversation.gate is not None)
    clearing.cancel()
    await turn.conversation.settled()

    assert SECRET.encode() not in contents(tmp_path)
    assert isinstance(await start(log, "turn-0002"), LiveTurn)


async def test_closing_the_log_waits_for_a_clear_whose_caller_left(tmp_path: Path) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log, content=SECRET)
        clearing = asyncio.ensure_future(log.clear(home(turn)))
        await until(lambda: turn.conversation.gate is not None)
        clearing.cancel()

    assert SECRET.encode() not in contents(tmp_path)


async def test_everything_at_once_leaves_one_consistent_log(log: JsonlLog, tmp_path: Path) -> None:
    turn = await start(log, content=SECRET)
    conversation = home(turn)
    await asyncio.gather(
        log.clear(conversation),
        turn.end("turn.completed", {}),
        conversation.rename(SECRET),
        start(log, "turn-0002"),
        log.erase_user("u"),
        log.clear(conversation),
        log.erase(conversation),
        start(log, "turn-0003"),
        return_exceptions=True,
    )
    await log.settle()
    await conversation.settled()

    assert conversation.gate is None
    assert await log.conversation(ADDRESS) is conversation
    if conversation.created is None:
        assert not conversation.path.exists()
    else:
        assert conversation.path.stat().st_size == conversation.file.end.size
    assert isinstance(await start(log, "turn-0009"), LiveTurn)


async def test_a_slow_reader_of_an_erased_conversation_is_told_of_it_from_the_past(
    log: JsonlLog,
) -> None:
    turn = await start(log)
    conversation = home(turn)
    seen = place(conversation.last_id)
    conversation.watch(lambda: None)
    await log.erase(conversation)
    for number in range(2, 5):
        new = await start(log, f"turn-000{number}", "x" * 30_000)
        await new.end("turn.completed", {})

    assert conversation.tail.after > seen
    found = kinds(await everything(conversation, seen))
    assert found[:3] == ["turn.cancelled", "history.cleared", "turn.started"]
    events = await everything(conversation, seen)
    for index, event in enumerate(events):
        assert await everything(conversation, place(event.id)) == events[index + 1 :]


async def test_a_clear_that_fails_cancels_what_ran_and_loses_nothing_else(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    await say(turn, "text")
    with monkeypatch.context() as patch:
        fail(patch, "replace", errno.EIO, lambda path: True)
        with pytest.raises(StorageFailed):
            await log.clear(home(turn))
    late = await start(log, "turn-0002")
    await late.end("turn.completed", {})
    assert not list((tmp_path / "intents").glob("*.json"))

    events = await everything(turn.conversation)
    assert kinds(events) == ["turn.started", "turn.cancelled", "turn.started", "turn.completed"]
    assert b'"text"' in events[1].json


async def test_a_clear_that_fails_after_the_new_file_is_there_goes_on_with_that_file(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log, content=SECRET)
    with monkeypatch.context() as patch:

        def broken(path: Path) -> None:
            raise OSError(errno.EIO, "broken")

        patch.setattr(erasure, "remove_beside", broken)
        with pytest.raises(StorageFailed):
            await log.clear(home(turn))
    await start(log, "turn-0002")

    assert SECRET.encode() not in turn.conversation.path.read_bytes()
    assert turn.conversation.path.read_bytes().count(b"turn-0002") == 1


@pytest.mark.parametrize("what", BREAKS)
async def test_a_file_that_was_put_aside_goes_too_although_there_is_no_other(
    tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "users" / "u"
    async with open_log(tmp_path, "terminal"):
        folder.mkdir()
        (folder / "c.jsonl").write_bytes(SECRET.encode() * 1000)
    async with open_log(tmp_path, "terminal") as log:
        conversation = await log.conversation(ADDRESS)
        assert conversation.created is None and SECRET.encode() in contents(tmp_path)
        await act(log, what, conversation)

        assert SECRET.encode() not in contents(tmp_path)
        assert isinstance(await start(log), LiveTurn)


async def test_a_full_disk_can_be_cleared(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log, content=SECRET)
    fail(monkeypatch, "fsync", errno.ENOSPC, lambda fd: (tmp_path / "reserve").exists())

    await log.clear(home(turn))

    assert SECRET.encode() not in contents(tmp_path)


@pytest.mark.parametrize("what", BREAKS)
async def test_an_erasure_that_failed_is_not_made_good_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What was written after it was told that it failed would go with it."""
    async with open_log(tmp_path, "terminal") as log:
        await (await start(log)).end("turn.completed", {})
        running = await start(log, "turn-0002")
        await say(running, "text")
        with monkeypatch.context() as patch:
            name, only = BREAKS[what]
            fail(patch, name, errno.EIO, only)
            with pytest.raises(StorageFailed):
                await act(log, what, home(running))
        await (await start(log, "turn-0003")).end("turn.completed", {})
        assert not list((tmp_path / "intents").iterdir())

    async with open_log(tmp_path, "terminal") as log:
        events = await everything(await log.conversation(ADDRESS))
    turns = ["turn-0001", "turn-0001", "turn-0002", "turn-0002", "turn-0003", "turn-0003"]
    assert [event.turn_id for event in events] == turns
    assert events[3].type == "turn.cancelled" and b'"text"' in events[3].json


@pytest.mark.parametrize("what", BREAKS)
async def test_an_intent_that_cannot_be_taken_back_erases_what_came_before_it_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The end of a turn that ran then came after the intent, and has the text all the same."""
    async with open_log(tmp_path, "terminal") as log:
        running = await start(log, "turn-0001", SECRET)
        await say(running, SECRET)
        with monkeypatch.context() as patch:
            name, only = BREAKS[what]
            fail(patch, name, errno.EIO, only)
            if name != "unlink":
                fail(patch, "unlink", errno.EIO, lambda path: str(path).endswith(".json"))
            else:
                fail(
                    patch, "unlink", errno.EIO, lambda path: str(path).endswith((".json", ".jsonl"))
                )
            with pytest.raises(StorageFailed):
                await act(log, what, home(running))
        assert SECRET.encode() in contents(tmp_path)
        if what == "clear":
            await (await start(log, "turn-0002")).end("turn.completed", {})

    async with open_log(tmp_path, "terminal") as log:
        events = await everything(await log.conversation(ADDRESS))
    assert SECRET.encode() not in contents(tmp_path)
    told = ["history.cleared", "turn.started", "turn.completed"]
    assert kinds(events) == (told if what == "clear" else [])
    assert not list((tmp_path / "intents").iterdir())


async def test_what_began_after_an_erasure_of_the_user_failed_outlives_its_intent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is no longer the one that was meant, whatever else lies in it."""
    other = Address("u", "other")
    async with open_log(tmp_path, "terminal") as log:
        await (await start(log)).end("turn.completed", {})
        with monkeypatch.context() as patch:
            fail(patch, "replace", errno.EIO, lambda path: Path(str(path)).is_dir())
            fail(patch, "unlink", errno.EIO, lambda path: str(path).endswith(".json"))
            with pytest.raises(StorageFailed):
                await log.erase_user("u")
        await (await start(log, "turn-0002", address=other)).end("turn.completed", {})

    async with open_log(tmp_path, "terminal") as log:
        events = await everything(await log.conversation(other))
    assert kinds(events) == ["turn.started", "turn.completed"]
    assert not list((tmp_path / "intents").iterdir())


@pytest.mark.parametrize("what", ["conversation", "user"])
async def test_an_erasure_that_fails_halfway_shows_nothing_and_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        await (await start(log, "turn-0001", SECRET)).end("turn.completed", {})
        running = await start(log, "turn-0002", SECRET)
        await say(running, SECRET)
        conversation = home(running)
        seen = place(conversation.last_id)
        conversation.watch(lambda: None)
        with monkeypatch.context() as patch:
            fail(patch, "unlink", errno.EIO, lambda path: str(path).endswith(".live"))
            with pytest.raises(StorageFailed):
                await act(log, what, conversation)

        assert kinds(await everything(conversation, seen)) == ["turn.cancelled", "history.cleared"]
        assert (await running.done) is not None and not conversation.running
        assert await conversation.find("turn-0001") == []
        assert conversation.created is None
        assert SECRET.encode() in contents(tmp_path)

    async with open_log(tmp_path, "terminal"):
        assert SECRET.encode() not in contents(tmp_path)
        assert not list((tmp_path / "intents").iterdir())


@pytest.mark.parametrize("what", BREAKS)
async def test_an_intent_that_stays_after_its_erasure_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        conversation = home(await start(log, "turn-0001", SECRET))
        with monkeypatch.context() as patch:
            fail(patch, "unlink", errno.EIO, lambda path: str(path).endswith(".json"))
            await act(log, what, conversation)
        assert len(list((tmp_path / "intents").iterdir())) == 1
        await (await start(log, "turn-0002")).end("turn.completed", {})

    async with open_log(tmp_path, "terminal") as log:
        events = await everything(await log.conversation(ADDRESS))
    told = ["history.cleared"] if what == "clear" else []
    assert kinds(events) == [*told, "turn.started", "turn.completed"]
    assert not list((tmp_path / "intents").iterdir())


async def test_a_turn_that_neither_a_clear_nor_its_own_end_can_end_is_let_go_and_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log)
        await say(turn, "text")
        with monkeypatch.context() as patch:
            fail(patch, "pwrite", errno.EIO, lambda fd: True)
            with pytest.raises(StorageFailed):
                await log.clear(home(turn))
        assert await turn.done is None
        assert not home(turn).running
        await (await start(log, "turn-0002")).end("turn.completed", {})

    async with open_log(tmp_path, "terminal") as log:
        events = await everything(await log.conversation(ADDRESS))
    (end,) = [event for event in events if event.type == "turn.interrupted"]
    assert end.turn_id == "turn-0001" and b'"text":"text"' in end.json


async def test_a_conversation_whose_file_cannot_even_be_read_after_a_clear_failed_goes_on_later(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    await turn.end("turn.completed", {})
    with monkeypatch.context() as patch:
        fail(patch, "open", errno.EMFILE, lambda path: True)
        with pytest.raises(StorageFailed):
            await log.clear(home(turn))
    await (await start(log, "turn-0002")).end("turn.completed", {})

    events = await everything(turn.conversation)
    assert [event.turn_id for event in events] == ["turn-0001"] * 2 + ["turn-0002"] * 2


async def test_whoever_keeps_something_of_a_user_hears_of_every_erasure_before_it_is_answered(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = home(await start(log))
    heard: list[str] = []
    log.on_erased = heard.append
    for what in BREAKS:
        with monkeypatch.context() as patch:
            fail(patch, "replace", errno.EIO, lambda path: True)
            with pytest.raises(StorageFailed):
                await act(log, what, conversation)
        assert heard == ["u"]
        heard.clear()
        await act(log, what, conversation)
        assert heard == ["u"]
        heard.clear()


async def test_erasures_of_one_user_at_once_and_a_start_are_one_after_the_other(
    log: JsonlLog, tmp_path: Path
) -> None:
    await start(log, content=SECRET)
    await asyncio.gather(*(log.erase_user("u") for _ in range(3)), start(log, "turn-0002"))
    await log.erase_user("u")

    assert SECRET.encode() not in contents(tmp_path)
    assert list((tmp_path / "users").iterdir()) == []
    assert isinstance(await start(log, "turn-0003"), LiveTurn)


class HeldOpen:
    """Holds the first that opens a file, with the file open, until `go` is set."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path) -> None:
        self.go, self.reached = threading.Event(), threading.Event()
        real = os.open

        def slowly(name: Any, *rest: Any, **named: Any) -> int:
            fd = real(name, *rest, **named)
            if str(name) == str(path) and not self.reached.is_set():
                self.reached.set()
                assert self.go.wait(10)
            return fd

        patch.setattr(os, "open", slowly)


async def test_an_erasure_of_a_user_waits_for_what_is_just_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        await (await start(log, content=SECRET)).end("turn.completed", {})
        path = (await log.conversation(ADDRESS)).path

    async with open_log(tmp_path, "terminal") as log:
        with monkeypatch.context() as patch:
            held = HeldOpen(patch, path)
            opening = asyncio.ensure_future(log.conversation(ADDRESS))
            await until(held.reached.is_set)
            erasing = asyncio.ensure_future(log.erase_user("u"))
            for _ in range(100):
                await asyncio.sleep(0)
            held.go.set()
            await erasing
        conversation = await opening

        assert conversation.created is None and conversation.turns == 0
        assert "turn.started" not in kinds(await everything(conversation))
        assert await conversation.find("turn-0001") == []
        assert isinstance(await start(log), LiveTurn)


async def test_nothing_of_a_user_is_opened_while_it_is_erased(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(log, content=SECRET)
    go, reached = threading.Event(), threading.Event()
    real = os.replace

    def replace(path: Any, target: Any) -> None:
        if Path(path).is_dir():
            reached.set()
            assert go.wait(10)
        real(path, target)

    monkeypatch.setattr(os, "replace", replace)
    erasing = asyncio.ensure_future(log.erase_user("u"))
    await until(reached.is_set)
    opening = asyncio.ensure_future(log.conversation(Address("u", "other")))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not opening.done()
    go.set()
    await asyncio.gather(erasing, opening)


async def test_a_list_that_a_clear_has_overtaken_does_not_show_its_title(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log, content=SECRET)
    await turn.end("turn.completed", {})
    with monkeypatch.context() as patch:
        held = HeldOpen(patch, turn.conversation.path)
        listing = asyncio.ensure_future(log.list("u"))
        await until(held.reached.is_set)
        await log.clear(home(turn))
        held.go.set()
        assert SECRET not in str(await listing)


STEPS = ["fsync", "replace", "rename", "unlink", "rmdir", "mkdir"]


@pytest.mark.parametrize("what", ["clear", "conversation", "user"])
async def test_an_erasure_that_dies_at_any_step_is_finished_or_never_began(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies the folder before each change on the disk: each copy is what a death leaves."""
    root = tmp_path / "data"
    copies: list[Path] = []
    async with open_log(root, "terminal") as log:
        await (await start(log, "turn-0001", SECRET)).end("turn.completed", {})
        running = await start(log, "turn-0002", SECRET)
        await say(running, SECRET)
        await log.feedback.add("u", {"rating": 1})
        with monkeypatch.context() as patch:
            for name in STEPS:
                _copy_before(patch, name, root, tmp_path, copies)
            await act(log, what, home(running))
        _copy(root, tmp_path, copies)

    assert len(copies) > 5
    finished = 0
    for copy in copies:
        began = any((copy / "intents").glob("*.json"))
        async with open_log(copy, "terminal") as log:
            conversation = await log.conversation(ADDRESS)
            left = kinds(await everything(conversation))
            new = await start(log, "turn-0003")
            await new.end("turn.completed", {})
        if began or copy is copies[-1]:
            finished += 1
            assert SECRET.encode() not in contents(copy), copy.name
            assert left == (["history.cleared"] if what == "clear" else [])
        elif SECRET.encode() in contents(copy):
            assert left[-1] == "turn.interrupted"
        async with open_log(copy, "terminal") as log:
            assert len(await (await log.conversation(ADDRESS)).find("turn-0003")) == 2
    assert finished > 2


def _copy(root: Path, parent: Path, copies: list[Path]) -> None:
    target = parent / f"copy-{len(copies)}"
    shutil.copytree(root, target, ignore=shutil.ignore_patterns("reserve", "lock"))
    copies.append(target)


def _copy_before(
    patch: pytest.MonkeyPatch, name: str, root: Path, parent: Path, copies: list[Path]
) -> None:
    real = getattr(os, name)
    copying = False

    def call(*arguments: object, **named: object) -> object:
        nonlocal copying
        if not copying and not any(str(a).startswith(str(parent / "copy")) for a in arguments):
            copying = True
            try:
                _copy(root, parent, copies)
            finally:
                copying = False
        return real(*arguments, **named)

    patch.setattr(os, name, call)


async def test_what_came_after_an_erasure_survives_an_intent_that_comes_back(
    tmp_path: Path,
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log, content=SECRET)
        kept: list[bytes] = []
        real = Conversation.go_on

        def go_on(self: Conversation, *arguments: object) -> None:
            kept.extend(p.read_bytes() for p in (tmp_path / "intents").glob("*.json"))
            real(self, *arguments)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Conversation, "go_on", go_on)
            await log.clear(home(turn))
        await (await start(log, "turn-0002")).end("turn.completed", {})
    (intent,) = kept
    (tmp_path / "intents" / "1.json").write_bytes(intent)

    async with open_log(tmp_path, "terminal") as log:
        events = await everything(await log.conversation(ADDRESS))
    assert kinds(events) == ["history.cleared", "turn.started", "turn.completed"]
