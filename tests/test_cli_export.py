"""What the command writes out of a data folder, also beside a running server."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from chatstream.cli.export import export
from chatstream.errors import InvalidRequest, NotFound, StorageFailed
from chatstream.events import Address
from chatstream.log.files.paths import Folder
from chatstream.providers.adapters.scripted import Scripted
from tests.running import EVENT_STREAM, Gate, Running

CHATSTREAM = str(Path(sys.executable).parent / "chatstream")


def say(server: Running, message: str, conversation: str = "default") -> str:
    body = {"user_id": "alice", "conversation_id": conversation, "message": message}
    answer = server.http.post("/chat", json=body)
    assert answer.is_success
    return str(answer.json()["turn_id"])


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CHATSTREAM_")}
    return subprocess.run(
        [CHATSTREAM, "export", "--data-dir", str(data), *arguments],
        env=clean,
        capture_output=True,
        text=True,
    )


def test_everything_of_a_user_is_written_as_clients_got_it(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("Hello")) as server:
        first = say(server, "Hi")
        say(server, "Again", "second/..")
        server.http.post("/feedback", json={"user_id": "alice", "rating": 4, "comments": "so so"})
        done = command(tmp_path, "alice")
        address = {"user_id": "alice", "after": "0"}
        frames = server.events(f"/turns/{first}/events", params=address)
        sent = [f.data for f in frames if f.type in ("turn.started", "turn.completed")]

    assert (done.returncode, done.stderr) == (0, "")
    lines = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [line["type"] for line in lines] == [
        *("log", "turn.started", "turn.completed"),
        *("log", "turn.started", "turn.completed"),
        *("feedback_log", "feedback"),
    ]
    assert lines[1:3] == sent
    assert lines[3]["conversation_id"] == "second/.."
    assert lines[-1]["comments"] == "so so"


def test_one_conversation_is_written_alone(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        say(server, "Hi")
        say(server, "Again", "second")
        server.http.post("/feedback", json={"user_id": "alice", "rating": 4})

    parts = b"".join(export(tmp_path, "alice", "second", "jsonl")).splitlines()

    events = [orjson.loads(line) for line in parts]
    assert {event["conversation_id"] for event in events} == {"second"}
    assert len(events) == 3


def test_markdown_shows_the_messages_in_view_under_the_title(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("*Hello*")) as server:
        turn_id = say(server, "Hi")
        body = {"user_id": "alice", "message": "Hi there", "replaces": turn_id}
        replaced = server.http.post("/turns", json=body).json()
        server.events(replaced["events"])
        server.http.patch(
            "/conversations",
            params={"user_id": "alice", "conversation_id": "default"},
            json={"title": "A talk"},
        )

    text = b"".join(export(tmp_path, "alice", None, "markdown")).decode()

    headings = [line.split(" (")[0] for line in text.splitlines() if line.startswith("#")]
    assert headings == ["# A talk", "## User", "## Assistant"]
    assert "\n\n> Hi there\n\n" in text
    assert "\n\n> *Hello*\n\n" in text


def test_no_markdown_in_a_message_reaches_out_of_it(tmp_path: Path) -> None:
    message = "```\r## Assistant (x)\r\n<!--\n\n# T\u2028  "
    with Running(tmp_path, Scripted("~~~\n\n## User (y)")) as server:
        say(server, message)

    text = b"".join(export(tmp_path, "alice", None, "markdown")).decode()

    lines = [line for line in text.split("\n") if line and not line.startswith("## ")]
    assert lines[1:] == [
        *("> ```", "> ## Assistant (x)", "> <!--", ">", "> # T\u2028  "),
        *("> ~~~", ">", "> ## User (y)"),
    ]
    assert text.count("\n## ") == 2


def test_what_cannot_be_read_is_named_and_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        say(server, "Hi")
    folder = tmp_path / "users" / "alice"
    whole = b"".join(export(tmp_path, "alice", None, "jsonl"))
    (folder / "folder.jsonl").mkdir()
    (folder / "link.jsonl").symlink_to("default.jsonl")
    os.mkfifo(folder / "pipe.jsonl")

    assert b"".join(export(tmp_path, "alice", None, "jsonl")) == whole
    for name in ("folder", "link"):
        with pytest.raises(StorageFailed, match=rf"{name}\.jsonl cannot be read"):
            list(export(tmp_path, "alice", name, "jsonl"))
    with pytest.raises(StorageFailed, match="Not a directory"):
        export(folder / "default.jsonl", "alice", None, "jsonl")


def test_a_running_turn_has_its_message_and_says_so(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("Be", gate, "gun")) as server:
        body = {"user_id": "alice", "message": "Hi"}
        with server.stream("POST", "/chat", json=body, headers=EVENT_STREAM) as stream:
            stream.until("delta")
            text = b"".join(export(tmp_path, "alice", None, "markdown")).decode()
            gate.open()

    assert ", running)\n\n> Hi\n" in text
    assert "Be" not in text


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        say(server, "Hi")
    path = Folder(tmp_path).conversation(Address("alice", "default"))
    with path.open("ab") as file:
        file.write(b'{"type":"turn.started","id":"9')

    assert len(b"".join(export(tmp_path, "alice", None, "jsonl")).splitlines()) == 3
    assert b"## Assistant" in b"".join(export(tmp_path, "alice", None, "markdown"))


def test_what_is_cleared_while_it_is_written_out_does_no_harm(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        say(server, "Hi")
        say(server, "Bye", "second")
        parts = export(tmp_path, "alice", None, "jsonl")
        assert orjson.loads(next(parts))["type"] == "log"
        server.http.delete("/users", params={"user_id": "alice"})
        rest = [orjson.loads(line)["type"] for line in b"".join(parts).splitlines()]

    assert rest == ["turn.started", "turn.completed"]


def test_who_is_not_there_is_told_so(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        say(server, "Hi")
    with pytest.raises(NotFound):
        export(tmp_path, "alice", "other", "jsonl")
    with pytest.raises(InvalidRequest):
        export(tmp_path, "..", None, "jsonl")

    done = command(tmp_path, "nobody", "--format", "markdown")

    assert done.returncode == 2
    assert done.stderr == "chatstream: There is no such user or conversation.\n"
