"""
Damages to files, and what must come through them; see `test_bad_files`.

Each damage is done to a user of its own, whose folder is as `kill -9` leaves it: two turns that
ended, one that ran, two ratings. All users of a test are served by one server.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from chatstream.cli import fsck
from chatstream.providers.adapters.scripted import Scripted
from tests.running import Gate, Running, fold

Edit = Callable[[list[bytes]], list[bytes]]
LOG, FEEDBACK, LIVE = "default.jsonl", "+feedback.jsonl", "*.live"
BAD: dict[str, bytes] = {
    "NUL": b"\0",
    "NULs": b"\0" * 4096,
    "not JSON": b'{"type":"turn.started"',
    "no object": b"[1, 2]",
    "of no type": b'{"id":"1764000000000-0000"}',
    "without its message": b'{"type":"turn.started","id":"1764000000000-0000"}',
    "without its turn": b'{"type":"turn.completed","id":"1764000000000-0000","text":"x"}',
    "without its text": b'{"type":"delta","id":"1764000000000-0000","turn_id":"turn-0002"}',
    "without its rating": b'{"type":"feedback","id":"1764000000000-0000"}',
    "invalid UTF-8": b'{"type":"delta","text":"\xff\xfe\xc3("}',
    "a BOM": b"\xef\xbb\xbf",
    "blank": b"",
    "10 MB": b"x" * 10_000_000,
}
TURNS = ["one", "Hello", "two", "Hello", "three", "all of it"]


class Damage(NamedTuple):
    """What is done to a file, what of the turns and the ratings is left, and what fsck says."""

    file: str
    edit: Edit
    told: list[str]
    turns: list[str] = TURNS
    ratings: list[int | None] = [4, 5]


def killed_user(root: Path, copy: Path) -> Path:
    """Copy a user's folder under a running server: what is there if it dies just then."""
    gate = Gate()
    with Running(root, Scripted("Hello").then("Hello").then("all ", "of ", "it", gate)) as server:
        for number, message in enumerate(("one", "two")):
            body = {"user_id": "killed", "turn_id": f"turn-000{number}", "message": message}
            assert server.http.post("/chat", json=body).status_code == 200
            rating = {"user_id": "killed", "turn_id": f"turn-000{number}", "rating": number + 4}
            assert server.http.post("/feedback", json=rating).status_code == 200
        body = {"user_id": "killed", "turn_id": "turn-0002", "message": "three"}
        path = server.http.post("/turns", json=body).json()["events"]
        with server.stream("GET", path) as stream:
            text = ""
            while text != "all of it":
                text += next(stream).data.get("text", "")
        shutil.copytree(root / "users" / "killed", copy)
        gate.open()
    return copy


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def damaged(killed: Path, root: Path, damages: dict[str, Damage]) -> dict[str, Damage]:
    """Make a folder with a user for each damage; return them by user."""
    users = {f"u{number}": damage for number, damage in enumerate(damages.values())}
    for user, damage in users.items():
        folder = root / "users" / user
        shutil.copytree(killed, folder)
        for file in folder.iterdir():
            file.write_bytes(file.read_bytes().replace(b'"killed"', b'"%b"' % user.encode()))
        (file,) = folder.glob(damage.file)
        file.write_bytes(b"".join(damage.edit(lines_of(file))))
    return users


def history(server: Running, user: str) -> list[dict[str, Any]]:
    answer = server.http.get("/history", params={"user_id": user})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["history"]
    return found


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [item["message"] for item in found]


def rated(found: list[dict[str, Any]]) -> list[int | None]:
    return [r["feedback"] and r["feedback"]["rating"] for r in found if r["role"] == "assistant"]


def go_on(server: Running, user: str) -> None:
    """See that a user's streams and lists say what the history says, and that turns go on."""
    query = {"user_id": user}
    before = history(server, user)
    with server.stream("GET", "/events", params={**query, "after": "0"}) as stream:
        shown = fold(stream.until("caught_up"))
    replies = [item["message"] for item in before if item["role"] == "assistant"]
    assert [turn["text"] for turn in shown.values() if turn["text"]] == replies
    assert server.http.get("/conversations", params=query).status_code == 200
    body = {"user_id": user, "message": "and on", "turn_id": "turn-0009"}
    assert server.http.post("/chat", json=body).json()["reply"] == "Fine"
    rating = {"user_id": user, "turn_id": "turn-0009", "rating": 1}
    assert server.http.post("/feedback", json=rating).status_code == 200


def served(root: Path, users: dict[str, Damage]) -> None:
    """See what a server makes of it, and that what it takes then outlives it."""
    with Running(root, Scripted("Fine")) as server:
        assert server.http.get("/readyz").status_code == 200
        found = {user: history(server, user) for user in users}
        assert {u: texts(h) for u, h in found.items()} == {u: d.turns for u, d in users.items()}
        for user, damage in users.items():
            if damage.turns[:4] == TURNS[:4]:
                assert rated(found[user])[:2] == damage.ratings, user
            go_on(server, user)
    with Running(root) as server:
        for user, damage in users.items():
            again = history(server, user)
            assert texts(again) == [*damage.turns, "and on", "Fine"]
            assert again[-1]["feedback"] == {"rating": 1, "comments": None}


def told(problems: list[fsck.Problem]) -> dict[str, list[str]]:
    """Sort what is told by the user whom it is about, without his name."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        _, user, file = str(problem).split("/", 2)
        found.setdefault(user, []).append(file)
    return found


def survives(killed: Path, root: Path, damages: dict[str, Damage]) -> None:
    """See that a server makes the same of damages as they are, and repaired."""
    users = damaged(killed, root / "data", damages)
    twin = Path(shutil.copytree(root / "data", root / "twin"))
    served(root / "data", users)
    assert told(fsck.check(twin)) == {user: d.told for user, d in users.items() if d.told}
    fsck.repair(twin)
    assert not [problem for problem in fsck.check(twin) if problem.bad]
    served(twin, users)


def with_line(bad: bytes, at: int) -> Edit:
    return lambda lines: [*lines[:at], bad + b"\n", *lines[at:]]


def spoilt(at: int, byte: bytes) -> Edit:
    def edit(lines: list[bytes]) -> list[bytes]:
        return [*lines[:at], lines[at][:50] + byte + lines[at][51:], *lines[at + 1 :]]

    return edit


def replaced(at: int, pattern: bytes, new: bytes) -> Edit:
    def edit(lines: list[bytes]) -> list[bytes]:
        line, count = re.subn(pattern, new, lines[at])
        assert count == 1
        return [*lines[:at], line, *lines[at + 1 :]]

    return edit


def whole(data: bytes) -> Edit:
    return lambda lines: [data]
