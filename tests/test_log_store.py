"""The data folder as a whole: who owns it, and how little of it is in memory."""

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from chatstream.errors import DataFolderError, StorageFailed
from chatstream.events import Address
from chatstream.log.files import store
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.disk import MAX_OPEN_FILES
from chatstream.log.files.store import EMPTY_CONVERSATIONS, QUIET_CONVERSATIONS, open_log
from tests.log_steps import ADDRESS, everything, kinds, start

pytestmark = pytest.mark.anyio


async def test_ten_thousand_conversations_opened_once_leave_few_in_memory(tmp_path: Path) -> None:
    async with open_log(tmp_path, "never") as log:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(10_000):
            conversation = await log.conversation(Address("u", str(number)))
            if number < 1000:
                turn = await start(log, address=conversation.address)
                await turn.end("turn.completed", {})
        del conversation, turn
        gc.collect()
        alive = sum(isinstance(thing, Conversation) for thing in gc.get_objects())
        assert alive <= QUIET_CONVERSATIONS + MAX_OPEN_FILES
        assert len(os.listdir("/proc/self/fd")) - before <= MAX_OPEN_FILES


async def test_fewer_than_the_bound_are_all_kept(tmp_path: Path) -> None:
    async with open_log(tmp_path, "never") as log:
        turn = await start(log, address=Address("u", "0"))
        await turn.end("turn.completed", {})
        first = id(await log.conversation(Address("u", "0")))
        del turn
        for number in range(QUIET_CONVERSATIONS - 1):
            address = Address("u", f"other {number}")
            await (await start(log, address=address)).end("turn.completed", {})
            await log.conversation(address)
        gc.collect()
        assert id(await log.conversation(Address("u", "0"))) == first


async def test_names_without_any_event_are_not_kept_for_long(tmp_path: Path) -> None:
    async with open_log(tmp_path, "never") as log:
        turn = await start(log, address=Address("u", "said"))
        await turn.end("turn.completed", {})
        said = id(await log.conversation(Address("u", "said")))
        never = weakref.ref(await log.conversation(Address("u", "never")))
        del turn
        for number in range(EMPTY_CONVERSATIONS):
            await log.conversation(Address("u", str(number)))
        assert never() is None
        assert id(await log.conversation(Address("u", "said"))) == said


async def test_one_that_is_in_use_is_found_again_after_it_was_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "QUIET_CONVERSATIONS", 1)
    async with open_log(tmp_path, "terminal") as log:
        held = await log.conversation(ADDRESS)
        for number in range(5):
            await log.conversation(Address("u", str(number)))
        turn = await start(log)
        assert turn.conversation is held
        for number in range(5):
            await log.conversation(Address("u", str(number)))
        await turn.end("turn.completed", {})
        await held.start(turn.turn_id, "body", dict)

        assert kinds(await everything(held)) == ["turn.started", "turn.completed"]


async def test_one_opening_serves_all_who_ask_at_once_even_if_one_leaves(tmp_path: Path) -> None:
    async with open_log(tmp_path, "terminal") as log:
        asked = [asyncio.ensure_future(log.conversation(ADDRESS)) for _ in range(5)]
        await asyncio.sleep(0)
        asked[0].cancel()
        found = await asyncio.gather(*asked[1:])
        assert len({id(conversation) for conversation in found}) == 1


def test_a_second_process_is_told_whose_the_folder_is(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from chatstream.log.files.store import open_log\n"
        "async def main():\n"
        "    async with open_log(Path(sys.argv[1]), 'terminal'):\n"
        "        print('mine', flush=True); input()\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "mine\n"
        second = subprocess.run(command, capture_output=True, text=True, stdin=-3)
        first.communicate("\n")
    assert second.returncode == 1
    assert f"in use by the process {first.pid}" in second.stderr


async def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(DataFolderError):
        async with open_log(tmp_path / "data", "terminal"):
            pass


async def test_an_error_of_the_application_is_not_taken_for_one_of_the_folder(
    tmp_path: Path,
) -> None:
    with pytest.raises(OSError, match="address in use"):
        async with open_log(tmp_path, "terminal"):
            raise OSError("address in use")


async def test_one_unreadable_conversation_does_not_keep_the_others_from_starting(
    tmp_path: Path,
) -> None:
    async with open_log(tmp_path, "terminal") as log:
        await start(log, address=Address("u", "bad"))
        await start(log, address=Address("u", "good"))
    bad = tmp_path / "users" / "u" / "bad.jsonl"
    bad.unlink()
    bad.mkdir()

    async with open_log(tmp_path, "terminal") as log:
        good = await log.conversation(Address("u", "good"))
        assert kinds(await everything(good)) == ["turn.started", "turn.interrupted"]
        with pytest.raises(StorageFailed):
            await log.conversation(Address("u", "bad"))


async def test_files_and_folders_are_their_owners_alone(tmp_path: Path) -> None:
    root = tmp_path / "data"
    async with open_log(root, "terminal") as log:
        turn = await start(log)
        turn.write("x")
        await asyncio.sleep(0)
        await log.feedback.add("u", {"rating": 1})
        for path in (root, *root.rglob("*")):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
