"""A data folder that cannot be used, or only in part: what the program says, and leaves alone."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.running import Running
from tests.test_server import CHATSTREAM, Program, refused

# Root may write anywhere, unless it gives that up.
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * (os.geteuid() == 0)


class Unprivileged(Program):
    """`chatstream serve` as a user whom permissions bind."""

    def start(self) -> "subprocess.Popen[str]":
        """Start it, and wait for nothing."""
        return subprocess.Popen(
            [*AS_OTHERS, CHATSTREAM, "serve"],
            env=self._environment,
            cwd=self.data.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder with one turn; every permission is given back in the end."""
    root = tmp_path / "data"
    with Running(root) as server:
        assert server.http.post("/chat", json={"message": "one"}).status_code == 200
    yield root
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o700)


def files(root: Path) -> dict[str, bytes]:
    """Return every file but the lock, which a server takes before it looks."""
    found = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {str(p.relative_to(root)): data for p, data in found.items() if p.name != "lock"}


def seal(root: Path) -> None:
    """Take away the permission to write, from the folder and all in it."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            os.chmod(Path(folder) / name, 0o400)
        os.chmod(folder, 0o500)


def test_a_folder_that_is_read_only_is_refused_in_one_line_and_left_alone(data: Path) -> None:
    before = files(data)
    seal(data)

    line = refused(Unprivileged(data))

    assert "CHATSTREAM_DATA_DIR" in line and "Permission denied" in line
    assert files(data) == before


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(data: Path) -> None:
    seal(data)

    assert "Permission denied" in refused(Unprivileged(data / "users" / "deeper"))


@pytest.mark.parametrize("name", ["clock", "reserve", "intents"])
def test_a_part_that_cannot_be_used_is_refused_in_one_line(data: Path, name: str) -> None:
    part = data / name
    if part.is_file():
        part.unlink()
        part.mkdir()
    else:
        part.chmod(0o000)

    assert "CHATSTREAM_DATA_DIR" in refused(Unprivileged(data))


def test_a_read_only_file_system_is_refused_in_one_line(data: Path) -> None:
    mount = ["mount", "--bind", str(data), str(data)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs root and the right to mount: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(data)], check=True)
        assert "Read-only file system" in refused(Program(data))
    finally:
        subprocess.run(["umount", str(data)], check=True)


def test_where_no_user_can_be_made_the_others_are_served(data: Path) -> None:
    (data / "users").chmod(0o500)
    with Unprivileged(data) as program:
        new = program.http.post("/chat", json={"message": "q", "user_id": "new"})
        rated = program.http.post("/feedback", json={"rating": 1, "user_id": "new"})
        old = program.http.post("/chat", json={"message": "two"})
        nobody = program.http.get("/history?user_id=new")

    for answer in (new, rated):
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
        assert str(data) not in answer.text
    assert old.status_code == 200
    assert (nobody.status_code, nobody.json()["history"]) == (200, [])


def test_a_user_whose_folder_cannot_be_read_does_not_keep_the_others_from_starting(
    data: Path,
) -> None:
    with Running(data) as server:
        body = {"message": "q", "user_id": "sealed"}
        assert server.http.post("/chat", json=body).status_code == 200
    (data / "users" / "sealed").chmod(0o000)
    with Unprivileged(data) as program:
        sealed = program.http.get("/history?user_id=sealed")
        with program.http.stream("GET", "/events?user_id=sealed") as stream:
            assert stream.status_code == 200  # cut, for EventSource to come back
        old = program.http.get("/history").json()["history"]

    assert (sealed.status_code, sealed.json()["code"]) == (503, "storage_failed")
    assert [item["message"] for item in old] == ["one", "Hello"]


@pytest.mark.parametrize("name", ["default.jsonl", "+feedback.jsonl"])
def test_a_folder_of_a_newer_version_is_refused_and_nothing_in_it_is_touched(
    data: Path, name: str
) -> None:
    with Running(data) as server:
        assert server.http.post("/feedback", json={"rating": 1}).status_code == 200
    file = data / "users" / "default" / name
    file.write_bytes(file.read_bytes().replace(b'"version":1', b'"version":2') + b"half a line")
    (data / "users" / "default" / "default.aside").write_text("left by the newer one")
    (data / "intents" / "1764000000000-0000.json").write_text("{}")
    before = files(data)

    line = refused(Program(data))
    repair = subprocess.run(
        [CHATSTREAM, "fsck", str(data), "--repair"], capture_output=True, text=True
    )

    assert f"users/default/{name} is of version 2" in line and "reads version 1" in line
    assert (repair.returncode, repair.stdout) == (2, "")
    assert "is of version 2" in repair.stderr
    assert files(data) == before


def intent(**fields: object) -> bytes:
    whole = {"id": "8000000000000-0000", "scope": "clear", "user_id": "default"}
    return orjson.dumps({**whole, "conversation_id": "default", **fields})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        intent(id="x"),
        intent(id=7),
        intent(scope="all"),
        intent(scope=None),
        intent(user_id=None),
    ],
    ids=str,
)
def test_an_intent_that_cannot_be_read_erases_nothing_and_keeps_nobody_from_starting(
    data: Path, content: bytes
) -> None:
    (data / "intents" / "1764000000000-0000.json").write_bytes(content)

    with Running(data) as server:
        shown = server.http.get("/history").json()["history"]
    assert [item["message"] for item in shown] == ["one", "Hello"]


@pytest.mark.parametrize("content", [b"", b"\0" * 14, b"\xff", b"17640000", b"x" * 10_000])
def test_a_damaged_clock_gives_no_id_again(data: Path, content: bytes) -> None:
    with Running(data) as server:
        last = server.http.get("/history").json()["history"][-1]["id"]
    (data / "clock").write_bytes(content)
    (data / "lock").write_bytes(b"\xff\0")

    with Running(data) as server:
        assert server.http.post("/chat", json={"message": "two"}).status_code == 200
        ids = [item["id"] for item in server.http.get("/history").json()["history"]]
    assert ids == sorted(set(ids)) and ids[1] == last
