"""The data folder, or a file in it, changed under a running server: told, and nothing is lost."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatstream.cli import fsck
from chatstream.log.files.trouble import Changed, Trouble
from chatstream.providers.adapters.scripted import Scripted
from tests.log_steps import fail
from tests.running import Gate, Running
from tests.test_full_disk import SmallDisk, disk, status, texts
from tests.test_server import Program, refused
from tests.upstream import Upstream, text_of

__all__ = ["disk"]  # a fixture

FAILED = (503, "storage_failed")


def say(server: Running | Program, message: str, **more: Any) -> httpx.Response:
    return server.http.post("/chat", json={"message": message, **more})


def calls(server: Running | Program) -> dict[str, httpx.Response]:
    """Make every call that needs the disk."""
    http = server.http
    of_it = {"conversation_id": "default"}
    return {
        "chat": say(server, "q"),
        "turns": http.post("/turns", json={"message": "q"}),
        "new user": say(server, "q", user_id="new"),
        "turn": http.get("/turns/turn-0001"),
        "cancel": http.post("/turns/turn-0001/cancel", json={}),
        "versions": http.get("/turns/turn-0001/versions"),
        "history": http.get("/history"),
        "nothing yet": http.get("/history?conversation_id=none"),
        "conversations": http.get("/conversations"),
        "usage": http.get("/usage"),
        "feedback": http.post("/feedback", json={"rating": 1}),
        "clear": http.post("/history/clear", json={}),
        "rename": http.patch("/conversations", params=of_it, json={"title": "t"}),
        "erase": http.delete("/conversations", params=of_it),
        "erase user": http.delete("/users"),
    }


def storage_lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [vars(r) for r in caplog.records if r.message in ("storage failed", "storage full")]


def is_refused(server: Running | Program) -> None:
    found = {name: status(answer) for name, answer in calls(server).items()}
    assert found == dict.fromkeys(found, FAILED)
    ready = server.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == FAILED
    assert ready.json()["reason"]
    assert server.http.get("/healthz").status_code == 200


# ---- the folder


def moved(data: Path) -> Callable[[], None]:
    away = data.with_name("away")
    data.rename(away)

    def restore() -> None:
        away.rename(data)

    return restore


def a_file_in_its_place(data: Path) -> Callable[[], None]:
    back = moved(data)
    data.write_text("no folder")

    def restore() -> None:
        data.unlink()
        back()

    return restore


def made_anew(data: Path) -> Callable[[], None]:
    back = moved(data)
    data.mkdir()
    (data / "users" / "default").mkdir(parents=True)

    def restore() -> None:
        assert [path.name for path in data.rglob("*")] == ["users", "default"]
        shutil.rmtree(data)
        back()

    return restore


def only_the_users_moved(data: Path) -> Callable[[], None]:
    return moved(data / "users")


@pytest.mark.parametrize("take_away", [moved, a_file_in_its_place, made_anew, only_the_users_moved])
def test_a_folder_that_is_gone_is_told_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, take_away: Callable[..., Any]
) -> None:
    data = tmp_path / "data"
    with Running(data, Scripted("Hello")) as server:
        assert say(server, "one", turn_id="turn-0001").status_code == 200
        assert server.http.post("/feedback", json={"rating": 5}).status_code == 200
        give_back = take_away(data)
        caplog.clear()
        is_refused(server)
        is_refused(server)
        lines = storage_lines(caplog)
        give_back()
        assert server.http.get("/readyz").status_code == 200
        assert texts(server) == ["one", "Hello"]
        assert say(server, "two").status_code == 200
        assert say(server, "two", conversation_id="none").status_code == 200
        assert server.http.post("/feedback", json={"rating": 4}).status_code == 200
        assert server.http.get("/usage").json()["total"]["turns"] == 3
    assert 1 <= len(lines) <= 3
    assert all(str(data) in line["path"] and line["cause"] for line in lines)
    assert fsck.check(data) == []


def test_a_turn_that_runs_while_the_folder_is_away_ends_when_it_is_back(tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    before, after = Gate(), Gate()
    with Running(data, Scripted("Be", before, "gun", after)) as server:
        path = server.http.post("/turns", json={"message": "one"}).json()["events"]
        before.reached()
        with server.stream("GET", path) as stream:
            stream.until("delta")
            data.rename(away)
            before.open()
            assert stream.until("delta")[-1].data["text"] == "gun"
            after.open()
            while server.http.get("/readyz").status_code == 200:
                pass
            away.rename(data)
            assert stream.until("turn.completed")[-1].data["text"] == "Begun"
    with Running(data) as server:
        assert texts(server) == ["one", "Begun"]
    assert fsck.check(data) == []


def test_a_turn_that_is_stopped_while_the_folder_is_away_is_503_and_ends_when_it_is_back(
    tmp_path: Path,
) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    gate = Gate()
    with Running(data, Scripted("Be", gate, "gun")) as server:
        new = {"message": "one", "turn_id": "turn-0001"}
        path = server.http.post("/turns", json=new).json()["events"]
        gate.reached()
        with server.stream("GET", path) as stream:
            stream.until("delta")
            data.rename(away)
            stop = server.http.post("/turns/turn-0001/cancel", json={})
            assert status(stop) == FAILED
            away.rename(data)
            assert stream.until("turn.cancelled")[-1].data["text"] == "Be"
        stop = server.http.post("/turns/turn-0001/cancel", json={})
        assert stop.json()["status"] == "cancelled"


def test_a_folder_that_cannot_be_read_any_more_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(tmp_path, Scripted("Hello")) as server:
        assert say(server, "one", turn_id="turn-0001").status_code == 200
        with monkeypatch.context() as patch:
            for name in ("lstat", "stat", "scandir", "open"):
                fail(patch, name, 5, lambda path: str(tmp_path) in str(path))
            is_refused(server)
        assert server.http.get("/readyz").status_code == 200
        assert texts(server) == ["one", "Hello"]


def test_a_disk_that_takes_no_sync_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(tmp_path, Scripted("Hello")) as server:
        assert say(server, "one").status_code == 200
        with monkeypatch.context() as patch:
            fail(patch, "fdatasync", 5, lambda fd: True)
            assert status(say(server, "two")) == FAILED
            assert server.http.get("/readyz").status_code == 503
            assert texts(server) == ["one", "Hello"]
        assert server.http.get("/readyz").status_code == 200
        assert say(server, "two").status_code == 200


# ---- who owns it


def test_a_second_server_is_refused_although_the_lock_file_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Program(data) as program:
        for _ in range(2):
            (data / "lock").unlink(missing_ok=True)
            assert f"in use by the process {program.process.pid};" in refused(Program(data))
        assert say(program, "one").status_code == 200
        program.process.kill()
        program.process.wait()
    with Program(data) as program:
        assert texts(program)[0] == "one"
        program.signal()
        program.end()


def test_a_folder_made_anew_belongs_to_the_second_server_and_the_first_writes_nothing_there(
    tmp_path: Path,
) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    with Upstream() as upstream, Program(data, upstream) as first:
        assert say(first, "!tokens=3").status_code == 200
        answer = first.begin("!tokens=20 hang", 20)
        data.rename(away)
        with Program(data, upstream) as second:
            assert texts(second) == []
            assert status(say(first, "!tokens=3")) == FAILED
            assert status(first.http.delete("/users")) == FAILED
            assert first.http.get("/readyz").status_code == 503
            assert say(second, "!tokens=2").status_code == 200
            second.signal()
            second.end()
        before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
        time.sleep(0.7)  # longer than deltas and ends wait before they are tried again
        assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
        shutil.rmtree(data)
        away.rename(data)
        assert texts(first)[:2] == ["!tokens=3", text_of(3)]
        assert first.http.get("/readyz").status_code == 200
        answer.close()


# ---- what runs, and what is told


def test_a_turn_that_fails_on_storage_is_told_as_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_the_file(path: Any) -> bool:
        return str(path).endswith("default.jsonl")

    with Running(tmp_path, Scripted("Hello")) as server:
        assert say(server, "one").status_code == 200
        with monkeypatch.context() as patch:
            fail(patch, "open", 5, is_the_file)  # its context cannot be read
            answer = say(server, "two", turn_id="turn-0002")
            path = "/turns/turn-0003/events"
            server.http.post("/turns", json={"message": "three", "turn_id": "turn-0003"})
            end = server.http.get("/turns/turn-0003")
            while end.json().get("status") == "running":
                end = server.http.get("/turns/turn-0003")
        assert status(answer) == FAILED
        assert answer.json()["title"] == "Storage failed"
        assert answer.json()["turn_id"] == "turn-0002"
        assert answer.headers["x-should-retry"] == "false"
        assert "Retry-After" not in answer.headers
        failed = server.events(path)[-1]
        assert (failed.type, failed.data["error"]["code"]) == ("turn.failed", "storage_failed")
        again = say(server, "two", turn_id="turn-0002")
        assert status(again) == FAILED
        assert server.http.get("/providers").json()["providers"][0]["state"] == "closed"
        assert say(server, "four").status_code == 200


@pytest.mark.parametrize(
    ("number", "expected"), [(5, FAILED), (28, (507, "storage_full"))], ids=["EIO", "ENOSPC"]
)
def test_a_turn_whose_end_cannot_be_written_is_told_as_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: tuple[int, str]
) -> None:
    gate = Gate()
    server = Running(tmp_path, Scripted("Hello", gate))
    with ThreadPoolExecutor() as threads, httpx.Client(timeout=20, trust_env=False) as client:
        with server:
            url = f"{server.base_url}/chat"
            waiting = threads.submit(client.post, url, json={"message": "one"})
            gate.reached()
            monkeypatch.setattr(os, "fdatasync", os.fdatasync)
            fail(monkeypatch, "fdatasync", number, lambda fd: True)
        assert status(waiting.result()) == expected


@pytest.mark.parametrize(
    "erasing",
    [
        ("POST", "/history/clear"),
        ("DELETE", "/conversations?conversation_id=default"),
        ("DELETE", "/users"),
    ],
    ids=lambda erasing: erasing[1],
)
def test_erasing_that_the_disk_refuses_is_told_as_storage(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, erasing: tuple[str, str]
) -> None:
    body: dict[str, str] | None = {} if erasing[0] == "POST" else None
    with Running(disk.data, Scripted("Hello")) as server:
        assert say(server, "one").status_code == 200
        (disk.data / "reserve").unlink()
        disk.fill()
        assert status(server.http.request(*erasing, json=body)) == (507, "storage_full")
        assert status(say(server, "two")) == (507, "storage_full")
        assert texts(server) == ["one", "Hello"]
        disk.empty()
        with monkeypatch.context() as patch:
            fail(patch, "fsync", 5, lambda fd: True)
            assert status(server.http.request(*erasing, json=body)) == FAILED
        assert server.http.request(*erasing, json=body).status_code == 200
        assert texts(server) == []


def test_a_full_disk_is_told_once_a_minute_with_its_path(
    disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    with Running(disk.data, Scripted("Hello")) as server:
        (disk.data / "reserve").unlink()
        disk.fill()
        for _ in range(3):
            assert say(server, "one").status_code == 507
            assert server.http.post("/feedback", json={"rating": 1}).status_code == 507
    (line,) = storage_lines(caplog)
    assert line["path"] == str(disk.data / "reserve")
    assert line["cause"] == "No space left on device"


def test_each_cause_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    times = [0.0, 1.0, 59.0, 60.0, 61.0, 200.0]
    trouble = Trouble(lambda: times[0])
    while times:
        for path in ("one", "two"):
            trouble.note(OSError(5, "broken"), path)
            trouble.note(OSError(28, "full"), path)
            trouble.note(Changed("gone", Path(path)))
        del times[0]
    told = [(line["path"], line["errno"]) for line in storage_lines(caplog)]
    assert told == 3 * [("one", 5), ("one", 28), ("one", 116), ("two", 116)]
    assert trouble.open


# ---- a conversation's file


def shorter(file: Path) -> list[str]:
    lines = file.read_bytes().splitlines(keepends=True)
    os.truncate(file, sum(map(len, lines[:3])))
    return ["one", "Hello"]


def cut_in_a_line(file: Path) -> list[str]:
    os.truncate(file, file.stat().st_size - 5)
    return ["one", "Hello", "two"]


def emptied(file: Path) -> list[str]:
    os.truncate(file, 0)
    return []


def unlinked(file: Path) -> list[str]:
    file.unlink()
    return []


def replaced(file: Path) -> list[str]:
    shutil.copy(file, file.with_name("new"))
    os.replace(file.with_name("new"), file)
    return ["one", "Hello", "two", "Hello"]


def replaced_by_an_older_one(file: Path) -> list[str]:
    lines = file.read_bytes().splitlines(keepends=True)
    file.with_name("new").write_bytes(b"".join(lines[:3]))
    os.replace(file.with_name("new"), file)
    return ["one", "Hello"]


def moved_away(file: Path) -> list[str]:
    file.rename(file.parents[2] / "elsewhere")
    return []


def grown_by_half_a_line(file: Path) -> list[str]:
    with file.open("ab") as out:
        out.write(b'{"type":"turn.st')
    return ["one", "Hello", "two", "Hello"]


def grown_by_a_line(file: Path) -> list[str]:
    with file.open("ab") as out:
        out.write(b"what an editor leaves\n")
    return ["one", "Hello", "two", "Hello"]


CHANGES = [
    shorter,
    cut_in_a_line,
    emptied,
    unlinked,
    replaced,
    replaced_by_an_older_one,
    moved_away,
    grown_by_half_a_line,
    grown_by_a_line,
]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Running]:
    """A server with two turns in a conversation."""
    with Running(tmp_path / "data", Scripted("Hello")) as server:
        assert say(server, "one", turn_id="turn-0001").status_code == 200
        assert say(server, "two", turn_id="turn-0002").status_code == 200
        yield server


def the_file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "users" / "default" / "default.jsonl"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rested", [False, True], ids=["open", "closed"])
def test_a_file_that_was_changed_from_outside_refuses_one_start_and_goes_on_with_what_is_there(
    tmp_path: Path,
    two: Running,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Path], list[str]],
    rested: bool,
) -> None:
    file = the_file(tmp_path)
    last = two.http.get("/history").json()["history"][-1]["id"]
    if rested:

        async def close() -> None:
            for conversation in two.app.services.log._known.values():
                assert conversation.file.close_file()

        two.call(close())
    left = change(file)
    assert status(say(two, "three", turn_id="turn-0003")) == FAILED
    (line,) = storage_lines(caplog)
    assert line["path"] == str(file) and line["cause"]

    assert say(two, "three", turn_id="turn-0003").status_code == 200
    assert texts(two) == [*left, "three", "Hello"]
    assert two.http.get("/history").json()["history"][-2]["id"] > last
    assert two.http.get("/readyz").status_code == 200
    two.stop()
    assert b"\0" not in file.read_bytes()
    two.start()
    assert texts(two) == [*left, "three", "Hello"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_changed_from_outside_is_read_as_it_is(
    tmp_path: Path, two: Running, change: Callable[[Path], list[str]]
) -> None:
    left = change(the_file(tmp_path))
    two.http.get("/history")
    assert texts(two) == left
    found = two.http.get("/turns/turn-0001").status_code
    assert found == (200 if left else 404)


@pytest.mark.parametrize("change", CHANGES)
def test_a_turn_that_runs_in_a_file_that_is_changed_keeps_its_message_and_its_answer(
    tmp_path: Path, change: Callable[[Path], list[str]]
) -> None:
    data = tmp_path / "data"
    gate = Gate()
    provider = Scripted("Hello").then("Hello").then("Be", gate, "gun")
    with Running(data, provider) as server:
        for message in ("one", "two"):
            assert say(server, message).status_code == 200
        new = {"message": "three", "turn_id": "turn-0003"}
        path = server.http.post("/turns", json=new).json()["events"]
        gate.reached()
        with server.stream("GET", path) as stream:
            stream.until("delta")
            file = the_file(tmp_path)
            lines = file.read_bytes().splitlines(keepends=True)
            left = change(file)
            gate.open()
            assert stream.until("turn.completed")[-1].data["text"] == "Begun"
        if change is cut_in_a_line:  # what it has cut is the running turn's own line
            left = ["one", "Hello", "two", "Hello"]
        if change in (replaced, grown_by_half_a_line, grown_by_a_line):
            left = ["one", "Hello", "two", "Hello"]
        assert lines
        assert texts(server) == [*left, "three", "Begun"]
        again = server.http.post("/chat", json=new).json()
        assert again["reply"] == "Begun"
    with Running(data) as server:
        assert texts(server) == [*left, "three", "Begun"]
        assert not list(data.rglob("*.live"))


def test_a_users_folder_that_was_away_is_read_again_when_it_is_back(
    tmp_path: Path, two: Running
) -> None:
    folder = the_file(tmp_path).parent
    folder.rename(tmp_path / "away")
    assert status(two.http.get("/history")) == FAILED
    assert texts(two) == []
    (tmp_path / "away").rename(folder)
    assert texts(two) == ["one", "Hello", "two", "Hello"]
    assert say(two, "three").status_code == 200


@pytest.mark.parametrize("fsync", ["always", "never"])
@pytest.mark.parametrize("change", [shorter, unlinked, grown_by_a_line])
def test_however_it_is_synced_a_changed_file_loses_no_running_turn(
    tmp_path: Path, change: Callable[[Path], list[str]], fsync: str
) -> None:
    data = tmp_path / "data"
    gate = Gate()
    provider = Scripted("Hello").then("Hello").then("Be", gate, "gun")
    with Running(data, provider, fsync=fsync) as server:
        for message in ("one", "two"):
            assert say(server, message).status_code == 200
        path = server.http.post("/turns", json={"message": "three"}).json()["events"]
        gate.reached()
        change(the_file(tmp_path))
        gate.open()
        assert server.events(path)[-1].data["text"] == "Begun"
        shown = texts(server)
    assert shown[-2:] == ["three", "Begun"]
    with Running(data) as server:
        assert texts(server) == shown


def test_what_was_shown_survives_a_kill_after_its_files_were_taken_away(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Upstream() as upstream:
        with Program(data, upstream) as program:
            assert say(program, "!tokens=3").status_code == 200
            answer = program.begin("!tokens=20 hang", 20)
            shutil.rmtree(data / "users" / "default")
            assert status(say(program, "!tokens=3")) == FAILED
            assert texts(program) == ["!tokens=20 hang"]
            program.process.kill()
            answer.close()
        with Program(data, upstream) as program:
            assert texts(program) == ["!tokens=20 hang", text_of(20)]
            assert say(program, "!tokens=3").status_code == 200
    assert fsck.check(data) == []


def test_a_clock_that_was_removed_is_made_again(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("Hello")) as server:
        assert say(server, "one").status_code == 200
        (tmp_path / "clock").unlink()
        last = server.http.get("/history").json()["history"][-1]["id"]
    assert (tmp_path / "clock").stat().st_size == 14
    with Running(tmp_path, Scripted("Hello")) as server:
        assert server.http.delete("/users").status_code == 200
        assert say(server, "two").status_code == 200
        assert server.http.get("/history").json()["history"][0]["id"] > last
