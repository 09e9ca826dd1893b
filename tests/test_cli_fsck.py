"""What a check finds in a data folder, and what a repair does about it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatstream.cli.fsck import Problem, check, repair
from chatstream.errors import DataFolderError
from chatstream.events import Address
from chatstream.log.files.paths import Folder
from chatstream.providers.adapters.scripted import Scripted
from tests.running import EVENT_STREAM, Gate, Running

CHATSTREAM = str(Path(sys.executable).parent / "chatstream")
FILE = "users/alice/default.jsonl"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two turns, a rating and nothing wrong."""
    with Running(tmp_path) as server:
        for message in ("Hi", "Bye"):
            server.http.post("/chat", json={"user_id": "alice", "message": message})
        server.http.post("/feedback", json={"user_id": "alice", "rating": 4})
    return tmp_path


@pytest.fixture(autouse=True)
def no_server_writes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatstream.cli.fsck.SETTLE_SECONDS", 0)


def conversation(data: Path) -> Path:
    return Folder(data).conversation(Address("alice", "default"))


def change(path: Path, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))


def told(problems: list[Problem]) -> list[str]:
    return [str(problem) for problem in problems]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CHATSTREAM_")}
    return subprocess.run(
        [CHATSTREAM, "fsck", *arguments], env=clean, capture_output=True, text=True
    )


def test_a_good_folder_is_clean_and_is_not_changed(data: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in data.rglob("*")}

    done = command(str(data))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in data.rglob("*")} == before


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda x: [*x[:2], b"{]\n", *x[2:]], [f"{FILE}:3: bad line"]),
        (lambda x: [*x[:2], x[0], *x[2:]], [f"{FILE}:3: bad line"]),
        (lambda x: [*x, b'{"type'], [f"{FILE}:6: torn line: it was never acknowledged"]),
        (
            lambda x: [x[0], x[3], x[4], x[1], x[2]],
            [f"{FILE}:4: id out of order"],
        ),
        (
            lambda x: [*x, x[4].replace(b'"id":"1', b'"id":"2', 1)],
            [f"{FILE}:6: duplicated terminal event"],
        ),
        (lambda x: [x[0], *x[2:]], [f"{FILE}:2: terminal event without turn.started"]),
        (lambda x: x[1:], [f"{FILE}:1: the first line is not of type log"]),
        (
            lambda x: [x[0].replace(b'"version":1', b'"version":9'), *x[1:]],
            [f"{FILE}:1: version 9: this release knows 1"],
        ),
        (
            lambda x: [x[0].replace(b"alice", b"malice"), *x[1:]],
            [f"{FILE}:1: of another user or conversation than its name says"],
        ),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(
    data: Path, edit: Callable[[list[bytes]], list[bytes]], found: list[str]
) -> None:
    change(conversation(data), edit)

    assert told(check(data)) == found


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("notes.txt", "unknown file"),
        ("users/notes.txt", "unknown file"),
        ("users/alice/notes.txt", "unknown file"),
        ("users/alice/other.1764000000000-0000.live", "unknown file"),
        ("users/alice/default.1764000000000-0000.live", "live file without a turn"),
        ("users/alice/default.aside", "left by a rewrite that was cut off"),
        ("intents/1764000000000-0000.json", "stale intent: the next start finishes it"),
    ],
)
def test_what_should_not_be_there_is_told(data: Path, name: str, what: str) -> None:
    (data / name).write_text("{}")

    assert told(check(data)) == [f"{name}: {what}"]


def test_what_is_no_file_is_told_and_keeps_nothing_else_from_being_checked(data: Path) -> None:
    folder = data / "users" / "alice"
    (folder / "folder.jsonl").mkdir()
    (folder / "link.jsonl").symlink_to("default.jsonl")
    os.mkfifo(folder / "pipe.jsonl")
    change(conversation(data), lambda x: [*x, b'{"type'])
    other = [f"users/alice/{name}.jsonl: no regular file" for name in ("folder", "link", "pipe")]
    torn = f"{FILE}:6: torn line: it was never acknowledged"

    assert told(check(data)) == [*other, torn]
    repair(data)
    assert told(check(data)) == other


def test_a_file_that_cannot_be_read_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Iterator[bytes]:
        raise OSError(5, "the disk says no")
        yield b""

    monkeypatch.setattr("chatstream.cli.fsck_checks.read_lines", refuse)

    names = ("+feedback.jsonl", "default.jsonl")
    assert told(check(data)) == [
        f"users/alice/{name}: cannot be read: the disk says no" for name in names
    ]


def test_a_repair_moves_bad_lines_aside_and_nothing_else(data: Path) -> None:
    path = conversation(data)
    good = path.read_bytes()
    change(path, lambda x: [*x[:2], b"secret\n", *x[2:4], b"\0\0\n", *x[4:], b'{"torn'])

    done = command(str(data), "--repair")

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{FILE}:3: bad line",
        f"{FILE}:6: bad line",
        f"{FILE}:8: torn line: it was never acknowledged",
    ]
    assert path.read_bytes() == good
    corrupt = path.with_suffix(".corrupt")
    assert corrupt.read_bytes() == b'secret\n\0\0\n{"torn\n'
    assert corrupt.stat().st_mode & 0o777 == path.stat().st_mode & 0o777 == 0o600
    assert check(data) == []


@pytest.mark.parametrize("erase", ["clear", "conversation", "user"])
def test_what_a_repair_moved_is_erased_with_the_rest(data: Path, erase: str) -> None:
    change(conversation(data), lambda x: [*x[:2], b"secret\n", *x[2:]])
    repair(data)
    corrupt = conversation(data).with_suffix(".corrupt")
    assert b"secret" in corrupt.read_bytes()

    with Running(data) as server:
        if erase == "clear":
            server.http.post("/history/clear", json={"user_id": "alice"})
        else:
            path = "/users" if erase == "user" else "/conversations"
            server.http.delete(path, params={"user_id": "alice"})

    assert not corrupt.exists()


@pytest.mark.parametrize("name", ["default.jsonl", "+feedback.jsonl"])
def test_a_lost_first_line_is_written_anew(data: Path, name: str) -> None:
    path = data / "users" / "alice" / name
    change(path, lambda x: [b"damaged\n", *x[1:]])

    assert told(repair(data)) == [f"users/alice/{name}:1: bad line"]

    assert check(data) == []
    with Running(data) as server:
        history = server.http.get("/history", params={"user_id": "alice"}).json()["history"]
        assert [message["message"] for message in history] == ["Hi", "Hello", "Bye", "Hello"]
        listed = server.http.get("/conversations", params={"user_id": "alice"}).json()
        assert [entry["turns"] for entry in listed["conversations"]] == [2]


def test_a_running_server_is_no_problem_but_a_repair_is_refused(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("Be", gate, "gun")) as server:
        body = {"user_id": "alice", "message": "Hi"}
        with server.stream("POST", "/chat", json=body, headers=EVENT_STREAM) as stream:
            stream.until("delta")
            assert list(tmp_path.rglob("*.live"))
            assert check(tmp_path) == []
            with pytest.raises(DataFolderError, match=f"in use by the process {os.getpid()}"):
                repair(tmp_path)
            gate.open()


def test_a_change_under_way_is_no_problem(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intent = data / "intents" / "1764000000000-0000.json"
    intent.write_text("{}")
    monkeypatch.setattr("chatstream.cli.fsck.time.sleep", lambda _: intent.unlink())

    assert check(data) == []


def test_what_is_no_data_folder_is_not_made_one(tmp_path: Path) -> None:
    for arguments in ([str(tmp_path)], [str(tmp_path), "--repair"]):
        done = command(*arguments)
        assert done.returncode == 2
        assert "is no data folder" in done.stderr
    assert not list(tmp_path.iterdir())
