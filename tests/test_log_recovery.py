"""What a start makes of the files that a death, or a bad disk, left."""

import asyncio
import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from chatstream.errors import DataFolderError, StorageFailed, StorageFull
from chatstream.events import Address, event_id, place
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.disk import Disk
from chatstream.log.files.leftovers import end_orphans
from chatstream.log.files.store import open_log
from tests.log_steps import ADDRESS, everything, fail, home, kinds, say, start

pytestmark = pytest.mark.anyio

CHILD = """
import asyncio, sys
from pathlib import Path
from chatstream.log.files.disk import Disk
from chatstream.log.files.store import open_log
from chatstream.log.files.leftovers import end_orphans
from tests.log_steps import say, start

async def main():
    async with open_log(Path(sys.argv[1]), "terminal") as log:
        await (await start(log, "turn-0001")).end("turn.completed", {})
        turn = await start(log, "turn-0002")
        await say(turn, "all ", "of ", "it")
        print(log.last_id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def killed(root: Path) -> str:
    """Kill a process with a running turn; returns the last id that it gave."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        last = child.stdout.readline().strip()
        child.send_signal(signal.SIGKILL)
    assert last
    return last


def file(root: Path) -> Path:
    return root / "users" / "u" / "c.jsonl"


async def events(root: Path) -> list[dict[str, Any]]:
    async with open_log(root, "terminal") as log:
        found = await everything(await log.conversation(ADDRESS))
    return [orjson.loads(event.json) for event in found]


async def test_no_id_is_given_again_after_the_tail_and_the_clock_were_lost(tmp_path: Path) -> None:
    last = killed(tmp_path)
    data = file(tmp_path).read_bytes()
    file(tmp_path).write_bytes(data[: data.rindex(b"\n", 0, -1) + 1])

    async with open_log(tmp_path, "terminal") as log:
        assert (await start(log, "turn-0003")).started_id > last


async def test_no_id_is_given_again_after_the_clock_and_what_was_erased_are_gone(
    tmp_path: Path,
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log, address=Address("u", "other"))
        given = event_id(place(turn.started_id) + 10**12)
    erased = {"id": given, "scope": "conversation", "user_id": "u", "conversation_id": "c"}
    (tmp_path / "intents" / f"{given}.json").write_bytes(orjson.dumps(erased))
    (tmp_path / "clock").unlink()

    async with open_log(tmp_path, "terminal") as log:
        assert (await start(log)).started_id > given


async def test_no_id_is_given_again_after_the_clock_is_gone(tmp_path: Path) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log)
        log._disk.clock.raise_to(place(turn.started_id) + 10**12)
        last = (await turn.end("turn.completed", {})).id
    (tmp_path / "clock").unlink()

    async with open_log(tmp_path, "terminal") as log:
        assert log.last_id >= last
        assert (await start(log, "turn-0002", address=Address("v", "c"))).started_id > last


async def test_a_file_that_is_put_there_while_the_server_runs_is_heeded_by_its_clock(
    tmp_path: Path,
) -> None:
    async with open_log(tmp_path / "other", "terminal") as other:
        turn = await start(other)
        other._disk.clock.raise_to(place(turn.started_id) + 10**12)
        last = (await turn.end("turn.completed", {})).id
    async with open_log(tmp_path / "data", "terminal") as log:
        (tmp_path / "data" / "users" / "u").mkdir()
        file(tmp_path / "other").rename(file(tmp_path / "data"))
        assert (await start(log, "turn-0002")).started_id > last


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), StorageFailed("unreadable")])
async def test_what_is_unforeseen_in_one_conversation_keeps_no_other_from_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        for name in ("bad", "good"):
            await start(log, address=Address("u", name))

    async def unforeseen(conversation: Conversation) -> None:
        if conversation.address.conversation_id == "bad":
            raise error
        await end_orphans(conversation)

    with monkeypatch.context() as patch:
        patch.setattr("chatstream.log.files.store.end_orphans", unforeseen)
        async with open_log(tmp_path, "terminal") as log:
            good = await log.conversation(Address("u", "good"))
            assert kinds(await everything(good)) == ["turn.started", "turn.interrupted"]
            for _ in range(2):
                with pytest.raises(type(error)):
                    await log.conversation(Address("u", "bad"))
            patch.undo()
            bad = await log.conversation(Address("u", "bad"))
            assert kinds(await everything(bad)) == ["turn.started", "turn.interrupted"]


async def test_orphans_that_a_clear_ends_first_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        await start(log)

    def full(*_: object, **__: object) -> None:
        raise StorageFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", full)
        async with open_log(tmp_path, "terminal") as log:
            conversation = await log.conversation(ADDRESS)
            patch.undo()
            clearing = asyncio.ensure_future(log.clear(conversation))
            await asyncio.sleep(0)  # it is about to begin
            assert await log.conversation(ADDRESS) is conversation
            await clearing
            assert kinds(await everything(conversation)) == ["turn.cancelled", "history.cleared"]
            assert not conversation.running


async def test_an_erasure_that_a_start_cannot_finish_is_finished_by_the_next_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turn = await start(log, address=Address("u", "erased"))
        await (await start(log)).end("turn.completed", {})
        with monkeypatch.context() as patch:
            fail(patch, "unlink", errno.EIO, lambda path: str(path).endswith((".json", ".jsonl")))
            with pytest.raises(StorageFailed):
                await log.erase(home(turn))

    with monkeypatch.context() as patch:
        fail(patch, "unlink", errno.EIO, lambda path: str(path).endswith("erased.jsonl"))
        async with open_log(tmp_path, "terminal") as log:
            found = await everything(await log.conversation(ADDRESS))
            assert kinds(found) == ["turn.started", "turn.completed"]
    assert len(list((tmp_path / "intents").iterdir())) == 1
    async with open_log(tmp_path, "terminal"):
        assert not turn.conversation.path.exists()
    assert not list((tmp_path / "intents").iterdir())


@pytest.mark.parametrize("what", ["clear", "conversation", "user"])
async def test_an_erasure_that_finds_nothing_any_more_is_done(tmp_path: Path, what: str) -> None:
    intents = tmp_path / "intents"
    async with open_log(tmp_path, "terminal") as log:
        last = log._disk.next_id()
        intent = {"id": last, "scope": what, "user_id": "u", "conversation_id": "c"}
        (intents / f"{last}.json").write_bytes(orjson.dumps(intent))
        (intents / f"{last}.new").write_bytes(b"{")  # one that was never durable

    async with open_log(tmp_path, "terminal"):
        assert not list(intents.iterdir())


async def test_one_users_folder_that_cannot_be_read_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        for user in ("bad", "good"):
            await start(log, address=Address(user, "c"))
    fail(monkeypatch, "scandir", errno.EIO, lambda path: str(path).endswith("bad"))

    async with open_log(tmp_path, "terminal") as log:
        found = await everything(await log.conversation(Address("good", "c")))
    assert kinds(found) == ["turn.started", "turn.interrupted"]


async def test_a_start_ends_what_ran_and_removes_what_is_ended_before_anybody_asks(
    tmp_path: Path,
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        await start(log)  # without text, so without a live file
        other = await start(log, "turn-0002", address=Address("u", "other"))
        await say(other, "text")
        text = other.live_file.path.read_bytes()
        await other.end("turn.completed", {})
    other.live_file.path.write_bytes(text)  # its removal did not reach the disk

    async with open_log(tmp_path, "terminal"):
        assert b'{"type":"turn.interrupted"' in file(tmp_path).read_bytes()
        assert not list(tmp_path.rglob("*.live"))
    assert other.conversation.path.read_bytes().count(b"turn-0002") == 2


async def test_a_torn_last_line_is_cut_off_at_every_byte(tmp_path: Path) -> None:
    async with open_log(tmp_path, "never") as log:
        await (await start(log)).end("turn.completed", {})
        (await start(log, "turn-0002")).close(None)
    whole = file(tmp_path).read_bytes()
    begin = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(begin, len(whole)):
        file(tmp_path).write_bytes(whole[:cut])
        found = await events(tmp_path)
        assert [event["type"] for event in found] == ["turn.started", "turn.completed"]
        assert file(tmp_path).read_bytes() == whole[:begin]


async def test_a_torn_live_file_keeps_its_whole_lines_at_every_byte(tmp_path: Path) -> None:
    killed(tmp_path)
    (live,) = tmp_path.rglob("*.live")
    log_file, deltas = file(tmp_path).read_bytes(), live.read_bytes()
    texts = ["", "all ", "all of ", "all of it"]
    for cut in range(0, len(deltas) + 1, 7):
        file(tmp_path).write_bytes(log_file)
        live.write_bytes(deltas[:cut])
        found = await events(tmp_path)
        assert found[-1]["type"] == "turn.interrupted"
        assert found[-1]["text"] == texts[deltas[:cut].count(b"\n")]
        assert not live.exists()


async def test_a_hole_in_a_live_file_ends_the_text_before_it(tmp_path: Path) -> None:
    killed(tmp_path)
    (live,) = tmp_path.rglob("*.live")
    lines = live.read_bytes().splitlines(keepends=True)
    live.write_bytes(lines[0] + b"\0" * (len(lines[1]) - 1) + b"\n" + lines[2])

    assert (await events(tmp_path))[-1]["text"] == "all "


def _nul(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], b"\0" * (len(lines[at]) - 1) + b"\n", *lines[at + 1 :]]


@pytest.mark.parametrize("damage", [b"\0\0\n", b"\n", b"not json\n", b'{"type":"x"}\n', b"\xff\n"])
async def test_a_bad_line_before_the_start_of_a_running_turn_does_not_hide_it(
    tmp_path: Path, damage: bytes
) -> None:
    killed(tmp_path)
    lines = file(tmp_path).read_bytes().splitlines(keepends=True)
    file(tmp_path).write_bytes(b"".join([*lines[:-1], damage, lines[-1]]))

    found = await events(tmp_path)
    assert [event["type"] for event in found][2:] == ["turn.started", "turn.interrupted"]
    assert found[-1]["text"] == "all of it"


async def test_the_text_of_a_turn_whose_terminal_line_is_bad_is_kept_while_it_is_there(
    tmp_path: Path,
) -> None:
    killed(tmp_path)
    (live,) = tmp_path.rglob("*.live")
    deltas = live.read_bytes()
    await events(tmp_path)
    live.write_bytes(deltas)
    async with open_log(tmp_path, "terminal") as log:
        await (await start(log, "turn-0003")).end("turn.completed", {})
    lines = file(tmp_path).read_bytes().splitlines(keepends=True)
    live.write_bytes(deltas)
    file(tmp_path).write_bytes(b"".join(_nul(lines, 4)))

    found = await events(tmp_path)
    (end,) = [event for event in found if event["type"] == "turn.interrupted"]
    assert (end["turn_id"], end["text"]) == ("turn-0002", "all of it")


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: b"",
        lambda data: b"\0" * 100,
        lambda data: data[:40],
        lambda data: _no_newline(data),
    ],
    ids=["empty", "zeros", "torn header", "no newline"],
)
async def test_a_file_without_a_record_is_a_conversation_without_events(
    tmp_path: Path, edit: Callable[[bytes], bytes]
) -> None:
    killed(tmp_path)
    file(tmp_path).write_bytes(edit(file(tmp_path).read_bytes()))

    assert await events(tmp_path) == []
    async with open_log(tmp_path, "terminal") as log:
        await start(log)


def _no_newline(data: bytes) -> bytes:
    return data.replace(b"\n", b" ")


async def test_a_large_file_that_is_not_ours_is_put_aside_and_not_thrown_away(
    tmp_path: Path,
) -> None:
    killed(tmp_path)
    file(tmp_path).write_bytes(b"x" * 100_000)

    assert await events(tmp_path) == []
    assert file(tmp_path).with_suffix(".corrupt").read_bytes() == b"x" * 100_000


async def test_a_bad_first_line_hides_no_event(tmp_path: Path) -> None:
    killed(tmp_path)
    before = await events(tmp_path)
    lines = file(tmp_path).read_bytes().splitlines(keepends=True)
    file(tmp_path).write_bytes(b"".join(_nul(lines, 0)))

    assert await events(tmp_path) == before
    async with open_log(tmp_path, "terminal") as log:
        assert [entry.conversation_id for entry in await log.list("u")] == ["c"]


async def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    killed(tmp_path)
    old = file(tmp_path).read_bytes()
    data = old.replace(b'"version":1', b'"version":2') + b"half"
    file(tmp_path).write_bytes(data)
    with pytest.raises(DataFolderError, match=r"users/u/c\.jsonl is of version 2"):
        async with open_log(tmp_path, "terminal"):
            pass
    assert file(tmp_path).read_bytes() == data

    file(tmp_path).unlink()
    async with open_log(tmp_path, "terminal") as log:
        file(tmp_path).write_bytes(data)  # put there while the server runs
        with pytest.raises(StorageFailed) as caught:
            await log.conversation(ADDRESS)
    assert caught.value.code == "newer_version"
    assert file(tmp_path).read_bytes() == data


async def test_a_symbolic_link_is_no_conversation(tmp_path: Path) -> None:
    killed(tmp_path)
    moved = file(tmp_path).rename(tmp_path / "elsewhere")
    file(tmp_path).symlink_to(moved)

    async with open_log(tmp_path, "terminal") as log:
        with pytest.raises(StorageFailed):
            await log.conversation(ADDRESS)


async def test_a_live_file_without_its_conversation_is_removed(tmp_path: Path) -> None:
    killed(tmp_path)
    file(tmp_path).unlink()

    async with open_log(tmp_path, "terminal"):
        assert not list(tmp_path.rglob("*.live"))


async def test_many_orphans_of_one_conversation_all_end(tmp_path: Path) -> None:
    async with open_log(tmp_path, "terminal") as log:
        turns = await asyncio.gather(*(start(log, f"turn-{n:04}") for n in range(50)))
        for turn in turns:
            await say(turn, turn.turn_id)
        data = {path: path.read_bytes() for path in tmp_path.rglob("*.live")}
    assert len(data) == 50

    async with open_log(tmp_path, "terminal") as log:
        found = await everything(await log.conversation(ADDRESS))
    ended = [orjson.loads(e.json) for e in found if e.type == "turn.interrupted"]
    assert sorted(e["text"] for e in ended) == sorted(turn.turn_id for turn in turns)
    assert len(kinds(found)) == 100
    assert [place(e.id) for e in found] == sorted({place(e.id) for e in found})


async def test_a_bad_line_in_the_middle_is_passed_over_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(tmp_path)
    await events(tmp_path)
    lines = file(tmp_path).read_bytes().splitlines(keepends=True)
    file(tmp_path).write_bytes(b"".join(_nul(lines, 2)))
    caplog.clear()

    for _ in range(3):
        found = await events(tmp_path)
        assert [event["type"] for event in found] == [
            "turn.started",
            "turn.started",
            "turn.interrupted",
        ]
    reported = [record for record in caplog.records if record.message == "bad line"]
    assert [vars(record)["offset"] for record in reported] == [len(b"".join(lines[:2]))]


async def test_an_end_that_the_disk_refuses_is_written_once_it_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        await start(log, "turn-0001")  # it dies without text, so without a live file
    write = Disk.write

    def refuse_ends(
        disk: Disk, fd: int, data: bytes, offset: int, *, may_use_reserve: bool
    ) -> None:
        if may_use_reserve:
            raise StorageFull("full")
        write(disk, fd, data, offset, may_use_reserve=may_use_reserve)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", refuse_ends)
        async with open_log(tmp_path, "terminal") as log:
            assert kinds(await everything(await log.conversation(ADDRESS))) == ["turn.started"]
            await start(log, "turn-0002")  # a record after it still names it as running
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", refuse_ends)
        async with open_log(tmp_path, "terminal") as log:
            patch.undo()
            found = await everything(await log.conversation(ADDRESS))

    ends = [orjson.loads(event.json) for event in found if event.type == "turn.interrupted"]
    assert sorted(end["turn_id"] for end in ends) == ["turn-0001", "turn-0002"]
    assert await events(tmp_path) == [orjson.loads(event.json) for event in found]


@pytest.mark.parametrize("steps", range(8))
async def test_an_orphan_that_the_disk_refused_does_not_come_back_after_a_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    killed(tmp_path)  # it had said "all of it"

    def full(*_: object, **__: object) -> None:
        raise StorageFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", full)
        async with open_log(tmp_path, "terminal") as log:
            conversation = await log.conversation(ADDRESS)
            patch.undo()
            clearing = asyncio.ensure_future(log.clear(conversation))
            for _ in range(steps):
                await asyncio.sleep(0)
            await log.conversation(ADDRESS)
            await clearing
            assert b"all of it" not in file(tmp_path).read_bytes()
            assert [e.type for e in await everything(conversation)][-1] == "history.cleared"
