"""Copies that sync clients, editors and people leave beside a conversation's file."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatstream.cli import fsck
from chatstream.cli.export import export
from chatstream.errors import NotFound
from chatstream.log.files.copies import is_copy, remove_copies
from chatstream.providers.adapters.scripted import Scripted
from tests.log_steps import contents
from tests.running import Gate, Running
from tests.test_full_disk import texts

NAMES = [
    "trip 2.jsonl",
    "trip (conflicted copy 2026-11-27).jsonl",
    "trip.sync-conflict-20261127-101010-ABCDEFG.jsonl",
    "Copy of trip.jsonl",
    "trip (1).jsonl",
    "trip-LAPTOP.jsonl",
    "trip-2.jsonl",  # what the id trip-2 encodes to
    "Trip.jsonl",
    "~trip.jsonl",
]
OTHERS = [
    "trip.jsonl~",
    "trip.jsonl.bak",
    "#trip.jsonl#",
    ".trip.jsonl.swp",
    "trip 2.corrupt",
    "trip.1764000000000-0000 2.live",
    "trip.1764000000000-0000.sync-conflict-20261127-101010-ABCDEFG.live",
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path, Scripted("secret answer")) as server:
        for conversation in ("trip", "trip", "work"):
            say(server, conversation)
        yield server


def say(server: Running, conversation: str, message: str = "secret") -> None:
    body = {"message": message, "conversation_id": conversation}
    assert server.http.post("/chat", json=body).status_code == 200


def folder(root: Path) -> Path:
    return root / "users" / "default"


def copy(root: Path, *names: str) -> None:
    for name in names:
        (folder(root) / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder(root) / "trip.jsonl", folder(root) / name)


def listed(server: Running) -> dict[str, int]:
    found = server.http.get("/conversations").json()["conversations"]
    assert len({entry["conversation_id"] for entry in found}) == len(found)
    return {entry["conversation_id"]: entry["turns"] for entry in found}


def told(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [vars(r) for r in caplog.records if r.message == "copies of conversations, not shown"]


@pytest.mark.parametrize("names", [[name] for name in NAMES] + [NAMES], ids=lambda n: n[0] * 9)
def test_a_copy_is_not_listed_nor_counted_nor_exported_and_is_told_once(
    tmp_path: Path, server: Running, caplog: pytest.LogCaptureFixture, names: list[str]
) -> None:
    copy(tmp_path, *names)
    for _ in range(2):
        assert listed(server) == {"trip": 2, "work": 1}
        assert server.http.get("/usage").json()["total"]["turns"] == 3
    (line,) = told(caplog)
    assert line["count"] == len(names) and set(line["files"]) <= set(names)
    exported = b"".join(export(tmp_path, "default", None, "jsonl"))
    assert exported.count(b'"type":"turn.started"') == 3
    markdown = b"".join(export(tmp_path, "default", None, "markdown"))
    assert markdown.count(b"secret answer") == 3
    problems = [str(problem) for problem in fsck.check(tmp_path)]
    assert {problem.split("/")[2].partition(".jsonl:")[0] + ".jsonl" for problem in problems} == (
        set(names)
    )
    assert all("of another user or conversation" in problem for problem in problems)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("erase", ["clear", "conversation", "user"])
def test_what_is_erased_is_in_no_copy_either(
    tmp_path: Path, server: Running, erase: str, restarts: bool
) -> None:
    copy(tmp_path, *NAMES, *OTHERS, "backup/trip.jsonl", "backup/anything")
    (folder(tmp_path) / ".trip.jsonl.swp").write_bytes(b"b0VIM 9.1\0secret\0")
    (folder(tmp_path) / "trip 2.corrupt").write_bytes(b"secret half a line\n")
    (folder(tmp_path) / "trip-2.corrupt").write_bytes(b"secret half a line\n")
    if restarts:
        server.stop()
        server.start()
    if erase == "user":
        assert server.http.delete("/users").status_code == 200
        assert b"secret" not in contents(tmp_path)
        return
    if erase == "clear":
        done = server.http.post("/history/clear", json={"conversation_id": "trip"})
    else:
        done = server.http.delete("/conversations?conversation_id=trip")
    assert done.status_code == 200
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "reserve"]
    assert [p.name for p in left if b"secret" in p.read_bytes()] == ["work.jsonl"]
    assert texts(server, conversation_id="work") == ["secret", "secret answer"]


def test_an_erasure_that_died_takes_the_copies_with_it_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(tmp_path, Scripted("secret answer")) as server:
        say(server, "trip")
        copy(tmp_path, *NAMES)
        with monkeypatch.context() as patch:
            patch.setattr("chatstream.log.files.erasure.remove_beside", lambda path: None)
            patch.setattr("chatstream.log.files.erasure.finish_intent", lambda folder, intent: None)
            done = server.http.post("/history/clear", json={"conversation_id": "trip"})
            assert done.status_code == 200
        assert b"secret" in contents(tmp_path)
    with Running(tmp_path):
        assert b"secret" not in contents(tmp_path)


def test_a_copy_under_another_conversations_name_is_not_that_conversation(
    tmp_path: Path, server: Running
) -> None:
    copy(tmp_path, "plan.jsonl", "+feedback 2.jsonl")
    assert texts(server, conversation_id="plan") == []
    with pytest.raises(NotFound):
        export(tmp_path, "default", "plan", "jsonl")
    assert server.http.delete("/conversations?conversation_id=plan").status_code == 404

    say(server, "plan", "mine")
    assert texts(server, conversation_id="plan") == ["mine", "secret answer"]
    assert listed(server) == {"plan": 1, "trip": 2, "work": 1}
    server.stop()
    server.start()
    assert texts(server, conversation_id="plan") == ["mine", "secret answer"]
    assert server.http.delete("/conversations?conversation_id=trip").status_code == 200
    kept = {path.name for path in folder(tmp_path).iterdir()}
    assert kept == {"plan.jsonl", "work.jsonl"}


def test_a_copy_of_anothers_conversation_is_not_shown(tmp_path: Path, server: Running) -> None:
    users = tmp_path / "users"
    (users / "mallory").mkdir()
    shutil.copy(users / "default" / "trip.jsonl", users / "mallory" / "trip.jsonl")
    mallory = {"user_id": "mallory"}
    assert texts(server, conversation_id="trip", **mallory) == []
    assert server.http.get("/conversations", params=mallory).json()["conversations"] == []
    assert server.http.get("/usage", params=mallory).json()["total"]["turns"] == 0


def test_a_copy_whose_first_line_is_damaged_is_told_by_its_records(
    tmp_path: Path, server: Running
) -> None:
    copy(tmp_path, "trip 2.jsonl")
    path = folder(tmp_path) / "trip 2.jsonl"
    path.write_bytes(b"x" + path.read_bytes())
    assert listed(server) == {"trip": 2, "work": 1}


def test_a_damaged_conversation_is_no_copy(tmp_path: Path, server: Running) -> None:
    path = folder(tmp_path) / "trip.jsonl"
    path.write_bytes(b"x" + path.read_bytes())
    assert listed(server) == {"trip": 2, "work": 1}


def test_a_copy_of_a_running_turns_text_is_not_taken_for_it(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("the whole", gate)) as server:
        body = {"message": "q", "conversation_id": "trip"}
        path = server.http.post("/turns", json=body).json()["events"]
        gate.reached()
        with server.stream("GET", path) as stream:
            stream.until("delta")
        (live,) = folder(tmp_path).glob("*.live")
        frozen = tmp_path.with_name("frozen")
        shutil.copytree(tmp_path, frozen)
    for number in range(3):
        name = f"{live.name.removesuffix('.live')}.sync-conflict-2026112{number}-1-A.live"
        conflict = folder(frozen) / name
        conflict.write_bytes((folder(frozen) / live.name).read_bytes().replace(b"whole", b"wrong"))
    with Running(frozen) as server:
        assert texts(server, conversation_id="trip") == ["q", "the whole"]


def test_on_a_case_blind_file_system_a_renamed_file_is_the_conversation(
    tmp_path: Path, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path)
    (path / "trip.jsonl").rename(path / "Trip.jsonl")
    assert is_copy(path / "Trip.jsonl")
    real = os.lstat

    def blind(name: Any, **given: Any) -> os.stat_result:
        given_path = Path(name)
        return real(given_path.with_name(given_path.name.replace("trip.j", "Trip.j")), **given)

    monkeypatch.setattr(os, "lstat", blind)
    assert not is_copy(path / "Trip.jsonl")
    assert listed(server) == {"trip": 2, "work": 1}


def test_another_conversations_files_are_nobodys_copies(tmp_path: Path, server: Running) -> None:
    for conversation in ("trip-2", "trip2", "tri", "Trip", "trip.jsonl", "~trip"):
        say(server, conversation)
    before = sorted(path.name for path in folder(tmp_path).iterdir())
    remove_copies(folder(tmp_path) / "trip.jsonl")
    assert sorted(path.name for path in folder(tmp_path).iterdir()) == before
