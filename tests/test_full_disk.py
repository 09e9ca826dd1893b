"""A disk that is full: what runs may end, nothing new begins, and nothing acknowledged is lost."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatstream.cli import fsck
from chatstream.log.files.disk_reserve import RESERVE_BYTES
from chatstream.providers.adapters.scripted import Scripted
from tests.log_steps import fail
from tests.running import Gate, Running
from tests.test_server import Program
from tests.upstream import Upstream, text_of

PAGE = os.sysconf("SC_PAGE_SIZE")
Answer = tuple[int, str]


class SmallDisk:
    """A file system of its own: 4 MiB beside the reserve's room."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self._ballast = root / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Leave so many pages."""
        with self._ballast.open("wb", buffering=0) as file:
            with pytest.raises(OSError, match="No space"):
                while True:
                    file.write(b"\1" * PAGE)
            assert file.truncate(file.tell() - leave * PAGE) >= 0

    def empty(self) -> None:
        """Make room again."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    root = tmp_path / "disk"
    root.mkdir()
    size = RESERVE_BYTES + 4 * 1024 * 1024
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs root and the right to mount: {done.stderr.strip()}")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def status(answer: httpx.Response) -> Answer:
    return answer.status_code, answer.json().get("code", "")


def texts(server: Running | Program, **query: str) -> list[str]:
    answer = server.http.get("/history", params=query)
    assert answer.status_code == 200, answer.text
    return [item["message"] for item in answer.json()["history"]]


FULL = (507, "storage_full")


def test_a_full_disk_refuses_what_is_new_and_ends_what_runs(disk: SmallDisk) -> None:
    gate = Gate()
    long = "x" * 100_000
    provider = Scripted("Hello").then("Be", gate, "gun ", long).then("Fine")
    with Running(disk.data, provider) as server:
        assert server.http.post("/chat", json={"message": "one"}).status_code == 200
        path = server.http.post("/turns", json={"message": "two"}).json()["events"]
        gate.reached()
        disk.fill()
        with server.stream("GET", path) as stream:
            stream.until("delta")
            gate.open()
            end = stream.until("turn.completed")[-1].data
        assert end["text"] == "Begun " + long

        for _ in range(2):
            new = {"message": "three", "turn_id": "turn-0003"}
            assert status(server.http.post("/chat", json=new)) == FULL
            assert status(server.http.post("/turns", json={**new, "user_id": "new"})) == FULL
            assert status(server.http.post("/feedback", json={"rating": 5})) == FULL
            title = {"title": "Another"}
            where = "/conversations?conversation_id=default"
            assert status(server.http.patch(where, json=title)) == FULL
            left = ["one", "Hello", "two", "Begun " + long]
            assert texts(server) == left
            assert texts(server, user_id="new") == []
            with server.stream("GET", "/events?after=0") as stream:
                assert stream.until("caught_up")
        assert server.http.get("/readyz").status_code == 200

        disk.empty()
        assert server.http.post("/chat", json=new).json()["reply"] == "Fine"
        assert server.http.post("/feedback", json={"rating": 5}).status_code == 200
        left += ["three", "Fine"]
        assert texts(server) == left
    with Running(disk.data) as server:
        assert texts(server) == left
    assert fsck.check(disk.data) == []


@pytest.mark.parametrize("leave", range(1, 5))
def test_an_append_that_the_disk_breaks_off_leaves_no_trace(disk: SmallDisk, leave: int) -> None:
    with Running(disk.data, Scripted("Hello")) as server:
        assert server.http.post("/chat", json={"message": "one"}).status_code == 200
        disk.fill(leave=leave)
        (file,) = disk.data.rglob("default.jsonl")
        before = file.read_bytes()
        new = {"message": "y" * 30_000, "turn_id": "turn-0002"}
        assert status(server.http.post("/chat", json=new)) == FULL
        assert file.read_bytes() == before
        assert status(server.http.get("/turns/turn-0002")) == (404, "not_found")
        disk.empty()
        assert server.http.post("/chat", json=new).status_code == 200
        left = ["one", "Hello", "y" * 30_000, "Hello"]
        assert texts(server) == left
    with Running(disk.data) as server:
        assert texts(server) == left
    assert fsck.check(disk.data) == []


def test_feedback_that_the_disk_breaks_off_leaves_no_trace(disk: SmallDisk) -> None:
    with Running(disk.data, Scripted("Hello")) as server:
        turn = server.http.post("/chat", json={"message": "one"}).json()["turn_id"]
        rating = {"turn_id": turn, "rating": 4}
        assert server.http.post("/feedback", json=rating).status_code == 200
        disk.fill(leave=1)
        (file,) = disk.data.rglob("+feedback.jsonl")
        before = file.read_bytes()
        more = {**rating, "rating": 1, "comments": "z" * 9_999}
        assert status(server.http.post("/feedback", json=more)) == FULL
        assert file.read_bytes() == before
        disk.empty()
        reply = server.http.get("/history").json()["history"][1]
        assert reply["feedback"] == {"rating": 4, "comments": None}
        assert server.http.post("/feedback", json=more).status_code == 200
    assert fsck.check(disk.data) == []


@pytest.mark.parametrize("erase", ["clear", "conversation", "user"])
def test_a_full_disk_can_be_cleared_and_then_takes_turns_again(disk: SmallDisk, erase: str) -> None:
    gate = Gate()
    with Running(disk.data, Scripted("secret " * 20_000).then("more secret", gate)) as server:
        assert server.http.post("/chat", json={"message": "secret"}).status_code == 200
        path = server.http.post("/turns", json={"message": "secret"}).json()["events"]
        gate.reached()
        disk.fill()
        with server.stream("GET", path) as stream:
            stream.until("delta")
            if erase == "clear":
                done = server.http.post("/history/clear", json={})
            else:
                done = server.http.delete("/users" if erase == "user" else "/conversations")
            assert done.status_code == 200, done.text
            assert [frame.type for frame in stream][-1] == "history.cleared"
        assert texts(server) == []
        files = [p for p in disk.data.rglob("*") if p.is_file() and p.name != "reserve"]
        assert not [p for p in files if b"secret" in p.read_bytes()]
        gate.open()
        disk.empty()
        assert server.http.post("/chat", json={"message": "on"}).status_code == 200
    assert fsck.check(disk.data) == []


@pytest.mark.parametrize("reserve", [True, False], ids=["with reserve", "without"])
def test_a_server_that_dies_on_a_full_disk_starts_on_it_and_shows_everything(
    disk: SmallDisk, reserve: bool
) -> None:
    with Upstream() as upstream:
        with Program(disk.data, upstream) as program:
            assert program.http.post("/chat", json={"message": "!tokens=3"}).status_code == 200
            answer = program.begin("!tokens=3000 hang", 3000)
            disk.fill()
            program.process.kill()
            answer.close()
        if not reserve:
            (disk.data / "reserve").unlink()
            disk.fill()
        left = ["!tokens=3", text_of(3), "!tokens=3000 hang"]
        long = {"message": "y" * 30_000}
        with Program(disk.data, upstream) as program:
            assert program.http.get("/readyz").status_code == 200
            shown = texts(program)
            assert shown == ([*left, text_of(3000)] if reserve else left)
            assert status(program.http.get(answer.path.replace("/events", "")))[0] == 200
            if reserve:
                # The text's end is written, and its live file gives its room back, in its own time.
                while list(disk.data.rglob("*.live")):
                    time.sleep(0.01)
                disk.fill()
            assert status(program.http.post("/chat", json=long)) == FULL
            disk.empty()
            assert texts(program) == [*left, text_of(3000)]
            assert program.http.post("/chat", json=long).status_code == 200
        with Program(disk.data, upstream) as program:
            assert texts(program)[:5] == [*left, text_of(3000), long["message"]]
            turn = program.http.get(answer.path.replace("/events", "")).json()
            program.signal()
            program.end()
    assert (turn["status"], turn["text"]) == ("interrupted", text_of(3000))
    assert fsck.check(disk.data) == []


def test_a_full_disk_is_no_place_to_begin_and_says_so(disk: SmallDisk) -> None:
    disk.fill()
    with Program(disk.data) as program:
        assert program.http.get("/readyz").status_code == 200
        assert status(program.http.post("/chat", json={"message": "one"})) == FULL
        disk.empty()
        assert program.http.post("/chat", json={"message": "one"}).status_code == 200


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_sync_that_the_disk_refuses_starts_nothing_and_the_next_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def of_a_conversation(fd: Any) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}").endswith(".jsonl")

    with Running(tmp_path, Scripted("Hello")) as server:
        assert server.http.post("/chat", json={"message": "one"}).status_code == 200
        with monkeypatch.context() as patch:
            fail(patch, "fdatasync", number, of_a_conversation)
            refused = server.http.post("/chat", json={"message": "two", "turn_id": "turn-0002"})
            unkept = server.http.post("/feedback", json={"rating": 3})
        expected = (503, "storage_failed") if number == errno.EIO else FULL
        assert status(refused) == status(unkept) == expected
        assert texts(server) == ["one", "Hello"]
        again = server.http.post("/chat", json={"message": "two", "turn_id": "turn-0002"})
        assert again.status_code == 200
    with Running(tmp_path) as server:
        assert texts(server) == ["one", "Hello", "two", "Hello"]
    assert fsck.check(tmp_path) == []


def test_text_that_the_disk_refuses_to_sync_is_in_the_end_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_a_live_file(fd: Any) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}").endswith(".live")

    gate = Gate()
    with Running(tmp_path, Scripted("Be", gate, "gun"), fsync="always") as server:
        path = server.http.post("/turns", json={"message": "one"}).json()["events"]
        gate.reached()
        with monkeypatch.context() as patch:
            fail(patch, "fdatasync", errno.ENOSPC, of_a_live_file)
            gate.open()
            end = server.events(path)[-1]
    assert (end.type, end.data["text"]) == ("turn.completed", "Begun")
