"""The promises of `protocol.md`, section 2, as far as the log alone can keep or break them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from chatstream.errors import StorageFailed, StorageFull, TurnEnded
from chatstream.events import Address, TurnId, place
from chatstream.log.files import store
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.records import Encoded
from chatstream.log.files.store import JsonlLog, open_log
from tests.log_steps import ADDRESS, HeldSync, contents, everything, home, say, start

pytestmark = pytest.mark.anyio
SECRET = "correct horse battery staple"


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def test_a_delta_waits_for_the_sync_of_an_older_start(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await start(log)
    conversation = home(first)
    conversation.watch(lambda: None)
    held = HeldSync(monkeypatch)
    second = asyncio.ensure_future(start(log, "turn-0002"))
    while len(conversation.running) < 2:
        await asyncio.sleep(0)
    seen = place(conversation.last_id)
    await say(first, "later")

    assert conversation.read(seen) == []
    assert "later" not in first.text("text", conversation.visible).decode()

    held.go.set()
    await second
    assert [e.type for e in conversation.read(seen) or ()] == ["turn.started", "delta"]


async def test_an_event_is_in_its_file_before_a_reader_is_woken(log: JsonlLog) -> None:
    turn = await start(log)
    found: list[bool] = []
    turn.conversation.watch(lambda: found.append(b"token" in turn.live_file.path.read_bytes()))

    await say(turn, "token")

    assert found == [True]


async def test_of_racing_ends_the_first_is_what_happened(log: JsonlLog) -> None:
    turn = await start(log)
    ends = [turn.end("turn.completed", {}), turn.end("turn.cancelled", {"reason": "user"})]
    first, second = await asyncio.gather(*ends, return_exceptions=True)

    assert isinstance(first, Encoded) and first.type == "turn.completed"
    assert isinstance(second, TurnEnded)
    with pytest.raises(TurnEnded):
        turn.write("more")
    kinds = [e.type for e in await everything(turn.conversation)]
    assert kinds == ["turn.started", "turn.completed"]


async def test_a_start_whose_sync_fails_leaves_nothing_and_the_next_goes_on(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await (await start(log)).end("turn.completed", {})
    with monkeypatch.context() as patch:
        held = HeldSync(patch)
        held.error = OSError(5, "broken")
        held.go.set()
        with pytest.raises(StorageFailed):
            await start(log, "turn-0002", SECRET)
        assert SECRET.encode() not in contents(tmp_path)  # a death now must not bring it back

    after = await start(log, "turn-0002", "again")

    events = await everything(after.conversation)
    assert [e.id for e in events][1:] == [before.id, after.started_id]
    assert SECRET not in after.conversation.path.read_text()


async def test_a_full_disk_lets_running_turns_end_and_starts_none(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = await start(log)
    await say(turn, "be", "fore")
    real, room = os.pwrite, [7]

    def full(fd: int, data: bytes, offset: int) -> int:
        if not room[0]:
            raise OSError(28, "full")
        written = real(fd, bytes(data)[: room[0]], offset)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageFull):
        await start(log, "turn-0002")
    await say(turn, " and while")
    room[0] = 10**9

    end = await turn.end("turn.completed", {})

    assert orjson.loads(end.json)["text"] == "before and while"
    lines = turn.conversation.path.read_bytes().split(b"\n")
    assert [orjson.loads(line)["type"] for line in lines[:-1]] == [
        "log",
        "turn.started",
        "turn.completed",
    ]


async def test_one_id_starts_one_turn_also_after_it_was_forgotten_from_memory(
    log: JsonlLog, tmp_path: Path
) -> None:
    both = await asyncio.gather(start(log), start(log))
    assert both[0] is both[1]
    await both[0].end("turn.completed", {})

    conversation = home(both[0])
    assert await conversation.start(TurnId("turn-0001"), "b", dict) == (both[0].started_id)
    assert conversation.turns == 1


async def test_a_conversation_that_somebody_holds_is_never_opened_twice(
    log: JsonlLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "QUIET_CONVERSATIONS", 1)
    held = await log.conversation(ADDRESS)
    for name in "defgh":
        await log.conversation(Address("u", name))

    assert await log.conversation(ADDRESS) is held


async def test_what_is_cleared_is_in_no_file_and_its_streams_are_told(
    log: JsonlLog, tmp_path: Path
) -> None:
    await (await start(log, "turn-0001", SECRET)).end("turn.completed", {})
    running = await start(log, "turn-0002", SECRET)
    await say(running, SECRET)
    stopped: list[bool] = []
    running.on_clear = lambda: stopped.append(True)
    conversation = home(running)
    seen = place(conversation.last_id)
    conversation.watch(lambda: None)
    assert SECRET.encode() in contents(tmp_path)

    waiting = asyncio.ensure_future(log.clear(conversation))
    await asyncio.sleep(0)
    following = asyncio.ensure_future(start(log, "turn-0003"))
    await waiting

    assert SECRET.encode() not in contents(tmp_path)
    assert stopped == [True]
    told = [e.type for e in await everything(conversation, seen)][:2]
    assert told == ["turn.cancelled", "history.cleared"]
    assert (await running.done) is not None
    assert isinstance(await following, LiveTurn)
    assert await conversation.find("turn-0002") == []
    assert len(await conversation.find("turn-0003")) == 1


@pytest.mark.parametrize("step", range(8))
async def test_a_clear_that_dies_at_any_step_is_finished_by_the_next_start(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        await (await start(log, "turn-0001", SECRET)).end("turn.completed", {})
        conversation = await log.conversation(ADDRESS)
        done = _die_after(monkeypatch, step)
        try:
            await log.clear(conversation)
        except StorageFailed:
            pass
        monkeypatch.undo()
    promised = any(tmp_path.glob("intents/*.json")) or not done

    async with open_log(tmp_path, "terminal") as log:
        left = await everything(await log.conversation(ADDRESS))

    if promised or step > 4:
        assert SECRET.encode() not in contents(tmp_path)
        assert [e.type for e in left] == ["history.cleared"]
    else:
        assert [e.type for e in left] == ["turn.started", "turn.completed"]
    assert not any(tmp_path.glob("intents/*"))


def _die_after(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Fail everything that changes names on the disk from the given call on, as a death does."""
    calls = 0
    died: list[str] = []

    def dying(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > step:
                died.append(name)
                raise OSError(5, "the process is dead")
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace", "unlink"):
        dying(name)
    return died


async def test_an_erased_conversation_begins_anew_with_a_later_creation(
    log: JsonlLog, tmp_path: Path
) -> None:
    await (await start(log, "turn-0001", SECRET)).end("turn.completed", {})
    conversation = await log.conversation(ADDRESS)
    before = conversation.created
    await log.erase(conversation)
    assert not conversation.path.exists()

    turn = await start(log)

    assert before is not None and conversation.created is not None
    assert conversation.created > before
    assert (await everything(conversation, place(conversation.created)))[0].id == turn.started_id


async def test_an_erased_user_leaves_no_trace(log: JsonlLog, tmp_path: Path) -> None:
    turn = await start(log, "turn-0001", SECRET)
    await say(turn, SECRET)
    await log.feedback.add("u", {"rating": 1, "comments": SECRET, "turn_id": "turn-0001"})
    assert (await log.feedback.ratings("u")).by_turn

    await log.erase_user("u")

    assert SECRET.encode() not in contents(tmp_path)
    assert list((tmp_path / "users").iterdir()) == []
    assert not (await log.feedback.ratings("u")).by_turn
    assert (await turn.done) is not None
    assert (await start(log)).conversation.turns == 1


CHILD = """
import asyncio, sys
from pathlib import Path
from chatstream.log.files.store import open_log
from tests.log_steps import say, start

async def main():
    async with open_log(Path(sys.argv[1]), "terminal") as log:
        await (await start(log, "turn-0001")).end("turn.completed", {})
        turn = await start(log, "turn-0002")
        turn.mark({"provider": "p", "model": "m", "attempt": 1})
        await say(turn, "all ", "that ", "was shown")
        print("shown", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def killed(root: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "shown\n"
        child.send_signal(signal.SIGKILL)


async def interrupted(root: Path) -> dict[str, Any]:
    async with open_log(root, "terminal") as log:
        conversation = await log.conversation(ADDRESS)
        events = [orjson.loads(e.json) for e in await everything(conversation)]
    assert [e["type"] for e in events] == [
        "turn.started",
        "turn.completed",
        "turn.started",
        "turn.interrupted",
    ]
    ids = [e["id"] for e in events]
    assert ids == sorted(set(ids))
    assert not list(root.rglob("*.live"))
    end: dict[str, Any] = events[-1]
    return end


async def test_a_killed_process_leaves_all_that_was_shown(tmp_path: Path) -> None:
    killed(tmp_path)

    end = await interrupted(tmp_path)

    assert end["text"] == "all that was shown"
    assert (end["provider"], end["model"], end["usage"]) == ("p", "m", None)


async def test_torn_ends_are_cut_off_wherever_they_are_torn(tmp_path: Path) -> None:
    killed(tmp_path)
    (live,) = tmp_path.rglob("*.live")
    log_file = tmp_path / "users" / "u" / "c.jsonl"
    whole, deltas = log_file.read_bytes(), live.read_bytes()
    half = b'{"type":"turn.completed","id":"9999999999999-0000","turn_id":"turn-0002","text":"x"}'
    last = deltas.rindex(b"\n", 0, -1) + 1
    for cut in range(0, len(half), 13):
        log_file.write_bytes(whole + half[:cut])
        torn = last + cut % (len(deltas) - last)
        live.write_bytes(deltas[:torn])

        assert (await interrupted(tmp_path))["text"] == "all that "


async def test_a_second_process_is_refused_and_told_whose_the_folder_is(
    log: JsonlLog, tmp_path: Path
) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from chatstream.log.files.store import open_log\n"
        "async def main():\n"
        "    async with open_log(Path(sys.argv[1]), 'terminal'): pass\n"
        "asyncio.run(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )

    assert done.returncode == 1
    assert f"in use by the process {os.getpid()}" in done.stderr
