"""Links, pipes and open folders in a data folder: nothing is followed, nothing blocks."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatstream.cli import fsck
from chatstream.cli.export import export
from chatstream.errors import DataFolderError, StorageFailed
from chatstream.log.files.disk_reserve import RESERVE_BYTES
from chatstream.providers.adapters.scripted import Scripted
from tests.running import Gate, Running
from tests.test_full_disk import status, texts
from tests.test_server import Program, refused
from tests.test_storage_trouble import FAILED, say, storage_lines

PRECIOUS = b"precious"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one turn and one rating."""
    root = tmp_path / "data"
    with Running(root, Scripted("Hello")) as server:
        assert say(server, "one", turn_id="turn-0001").status_code == 200
        assert server.http.post("/feedback", json={"rating": 3}).status_code == 200
    return root


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """What a link leads to; it must stay as it is."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_bytes(PRECIOUS)
    yield folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"file": PRECIOUS}


def plant(path: Path, target: Path) -> None:
    """Put a link in the place of something."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("name", ["clock", "lock"])
def test_a_link_in_place_of_a_file_of_ours_refuses_the_start(
    data: Path, precious: Path, name: str
) -> None:
    plant(data / name, precious / "file")
    line = refused(Program(data))
    assert str(data / name) in line and "symbolic link" in line


@pytest.mark.parametrize("name", ["users", "intents"])
def test_a_link_in_place_of_a_folder_of_ours_refuses_the_start(
    data: Path, precious: Path, name: str
) -> None:
    plant(data / name, precious)
    line = refused(Program(data))
    assert str(data / name) in line and "symbolic link" in line
    told = [str(problem) for problem in fsck.check(data)]
    assert f"{name}: symbolic link: it is not followed" in told


@pytest.mark.parametrize("name", ["clock", "lock", "reserve"])
def test_a_link_to_nowhere_makes_no_file_there(data: Path, tmp_path: Path, name: str) -> None:
    plant(data / name, tmp_path / "nowhere")
    if name == "reserve":
        with Running(data) as server:
            assert say(server, "two").status_code == 200
    else:
        refused(Program(data))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["clock", "lock"])
def test_a_pipe_in_place_of_a_file_of_ours_refuses_the_start_at_once(data: Path, name: str) -> None:
    (data / name).unlink()
    os.mkfifo(data / name)
    assert str(data / name) in refused(Program(data))


@pytest.mark.parametrize("hard", [False, True])
def test_a_link_in_place_of_the_reserve_is_removed_and_told(
    data: Path, precious: Path, caplog: pytest.LogCaptureFixture, hard: bool
) -> None:
    (data / "reserve").unlink()
    if hard:
        os.link(precious / "file", data / "reserve")
    else:
        (data / "reserve").symlink_to(precious / "file")
    with Running(data) as server:
        assert say(server, "two").status_code == 200
    assert (data / "reserve").stat().st_size == RESERVE_BYTES
    assert hard or str(data / "reserve") in warnings(caplog)


def test_a_users_folder_that_is_a_link_is_passed_over_and_refused(
    data: Path, precious: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = data / "users" / "linked"
    link.symlink_to(precious)
    linked = {"user_id": "linked"}
    with Running(data) as server:
        assert str(link) in warnings(caplog)
        caplog.clear()
        assert status(say(server, "q", **linked)) == FAILED
        assert status(server.http.post("/feedback", json={"rating": 1, **linked})) == FAILED
        for path in ("/history", "/conversations", "/usage"):
            assert status(server.http.get(path, params=linked)) == FAILED
        assert status(server.http.post("/history/clear", json=linked)) == FAILED
        assert status(server.http.delete("/users", params=linked)) == FAILED
        (line,) = storage_lines(caplog)
        assert line["path"] == str(link) and "symbolic link" in line["cause"]
        assert server.http.get("/readyz").status_code == 200
        assert texts(server) == ["one", "Hello"]
    with pytest.raises(StorageFailed, match="symbolic link"):
        export(data, "linked", None, "jsonl")
    assert any("users/linked" in str(problem) for problem in fsck.check(data))


def to_a_copy(path: Path, precious: Path) -> None:
    """Have a link lead to a whole conversation, which would be shown if it were followed."""
    shutil.copy(path, precious.parent / "whole")
    plant(path, precious.parent / "whole")


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_conversation_that_is_no_file_is_not_read_and_keeps_nobody_waiting(
    data: Path, precious: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = data / "users" / "default" / "default.jsonl"
    if kind == "link":
        to_a_copy(path, precious)
    else:
        path.unlink()
        os.mkfifo(path)
    with Running(data) as server:
        assert status(server.http.get("/history")) == FAILED
        assert status(say(server, "two")) == FAILED
        assert server.http.get("/conversations").json()["conversations"] == []
        assert server.http.get("/usage").json()["total"]["turns"] == 0
        assert say(server, "two", conversation_id="other").status_code == 200
    assert str(path) in warnings(caplog)
    with pytest.raises(StorageFailed):
        list(export(data, "default", "default", "jsonl"))
    assert any(path.name in str(problem) for problem in fsck.check(data))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_feedback_that_is_no_file_is_not_read(data: Path, precious: Path, kind: str) -> None:
    path = data / "users" / "default" / "+feedback.jsonl"
    if kind == "link":
        to_a_copy(path, precious)
    else:
        path.unlink()
        os.mkfifo(path)
    with Running(data) as server:
        assert status(server.http.post("/feedback", json={"rating": 1})) == FAILED
        assert status(server.http.get("/history")) == FAILED


def planted_live(data: Path, plants: Any) -> Path:
    gate = Gate()
    with Running(data, Scripted("text", gate)) as server:
        body = {"message": "q", "conversation_id": "c"}
        path = server.http.post("/turns", json=body).json()["events"]
        gate.reached()
        with server.stream("GET", path) as stream:
            stream.until("delta")
        frozen = data.with_name("frozen")
        shutil.copytree(data, frozen)
    (live,) = frozen.rglob("*.live")
    plants(live)
    return frozen


def test_a_live_file_that_is_a_link_gives_no_text(
    data: Path, precious: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frozen = planted_live(data, lambda live: to_a_copy(live, precious))
    with Running(frozen) as server:
        assert texts(server, conversation_id="c") == ["q"]
    assert ".live" in warnings(caplog)


def test_a_live_file_that_is_a_pipe_keeps_nobody_waiting(data: Path) -> None:
    def plants(live: Path) -> None:
        live.unlink()
        os.mkfifo(live)

    with Running(planted_live(data, plants)) as server:
        assert texts(server, conversation_id="c") == ["q"]


def test_a_link_where_a_rewrite_goes_aside_is_not_followed(data: Path, precious: Path) -> None:
    with Running(data) as server:
        (data / "users" / "default" / "default.aside").symlink_to(precious / "file")
        assert server.http.post("/history/clear", json={}).status_code == 200
        assert texts(server) == []


@pytest.mark.parametrize("suffix", [".json", ".erased", ".staged", ".import", ".new"])
def test_a_link_among_the_intents_is_passed_over(
    data: Path, precious: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    link = data / "intents" / f"1764000000000-0000{suffix}"
    target = precious.parent / "intent"
    target.write_text(
        '{"id":"8000000000000-0000","scope":"clear","user_id":"default",'
        '"conversation_id":"default"}'
    )
    link.symlink_to(target if suffix == ".json" else precious)
    with Running(data) as server:
        assert texts(server) == ["one", "Hello"]
    assert str(link) in warnings(caplog)


@pytest.mark.parametrize("name", ["", "users", "intents", "users/default"])
def test_a_folder_that_others_may_write_is_told(
    data: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (data / name).chmod(0o777)
    with Running(data) as server:
        assert say(server, "two").status_code == 200
    (line,) = [r for r in caplog.records if "others may write" in r.message]
    assert vars(line)["path"] == str(data / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_a_folder_of_another_user_is_told(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.chown(data, 65534, 65534)
    with Running(data):
        pass
    (line,) = [r for r in caplog.records if "another user owns" in r.message]
    assert vars(line)["path"] == str(data)


def test_the_data_folder_itself_may_be_a_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    with Running(tmp_path / "link") as server:
        assert texts(server) == ["one", "Hello"]
        with pytest.raises(DataFolderError, match="in use"):
            fsck.repair(data)
        assert server.http.get("/readyz").status_code == 200
