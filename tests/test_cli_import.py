"""The old application's files, taken over by the command, and what a server then says of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from chatstream.cli.aichatbot_files import MAX_TEXT_BYTES, read_feedback, read_history
from chatstream.cli.fsck import check
from chatstream.cli.import_aichatbot import NO_MESSAGE, import_files
from chatstream.errors import ChatstreamError, Conflict, InvalidRequest, StorageFailed, StorageFull
from chatstream.log.files.paths import Folder
from chatstream.log.files.recovery import survey
from chatstream.providers.adapters.scripted import Scripted
from tests.running import Running, fold

CHATSTREAM = str(Path(sys.executable).parent / "chatstream")
HISTORY = {
    "alice": [
        {"role": "user", "message": "Hi"},
        {"role": "assistant", "message": "Hello"},
        {"role": "user", "message": "Who are you?"},
        {"role": "assistant", "message": "A program"},
    ],
    "Bob/..": [{"role": "user", "message": "Anyone?"}],
    "quiet": [],
}
FEEDBACK = [
    {
        "user_id": "alice",
        "rating": 5,
        "comments": "fine",
        "timestamp": "2024-05-01T12:00:00.123456",
    },
    {"user_id": "carol", "rating": 1, "comments": None, "timestamp": "2024-05-01T12:00:00"},
]


class Old:
    """The old files in a folder, and the data folder that they go to."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.history = folder / "chat_history.json"
        self.feedback = folder / "feedback.json"
        self.write(HISTORY, FEEDBACK)

    def write(self, history: Any, feedback: Any = ()) -> None:
        self.history.write_bytes(orjson.dumps(history))
        self.feedback.write_bytes(orjson.dumps(feedback))

    def run(self, skipped: Path | None = None) -> str:
        return str(import_files(self.data, self.history, self.feedback, skipped))

    def command(self, *more: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CHATSTREAM_")}
        return subprocess.run(
            [
                *(CHATSTREAM, "import", str(self.history), "--feedback", str(self.feedback)),
                *("--data-dir", str(self.data), *more),
            ],
            env=clean,
            capture_output=True,
            text=True,
        )

    def files(self) -> dict[str, bytes]:
        """What lies in the data folder besides the clock and the lock."""
        return {
            str(path.relative_to(self.data)): path.read_bytes()
            for path in sorted(self.data.rglob("*"))
            if path.is_file() and path.name not in ("clock", "lock", "reserve")
        }


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path)


def shown(server: Running, user_id: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    asked = {"user_id": user_id}
    while True:
        page = server.http.get("/history", params=asked).json()
        found[:0] = [(m["role"], m["message"], m["status"]) for m in page["history"]]
        if not page["has_more"]:
            return found
        asked["before"] = page["before"]


def imported(old: Old, messages: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    old.write({"alice": [{"role": role, "message": text} for role, text in messages]})
    old.run()
    with Running(old.data) as server:
        return shown(server, "alice")


def test_the_command_says_what_it_did_and_a_server_shows_it(old: Old) -> None:
    done = old.command()

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "chatstream: imported 5 messages of 2 users as 3 turns in their conversations 'default', "
        "and 2 ratings; 1 users had no messages\n"
    )
    with Running(old.data) as server:
        assert shown(server, "alice") == [
            ("user", "Hi", "completed"),
            ("assistant", "Hello", "completed"),
            ("user", "Who are you?", "completed"),
            ("assistant", "A program", "completed"),
        ]
        assert shown(server, "Bob/..") == [("user", "Anyone?", "interrupted")]
        assert shown(server, "quiet") == []
        listed = server.http.get("/conversations", params={"user_id": "alice"}).json()
        assert [(c["title"], c["turns"]) for c in listed["conversations"]] == [("Hi", 2)]


def test_the_folder_is_in_order_and_for_its_owner_only(old: Old) -> None:
    old.run()

    assert check(old.data) == []
    for path in old.data.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_imported_turns_are_the_context_of_the_next_and_can_be_read_from_any_place(
    old: Old,
) -> None:
    old.run()
    provider = Scripted("Again")
    with Running(old.data, provider) as server:
        history = server.http.get("/history", params={"user_id": "alice"}).json()["history"]
        first, third = history[0], history[2]
        address = {"user_id": "alice", "after": "0"}
        whole = fold(server.events(f"/turns/{first['turn_id']}/events", params=address))
        later = fold(
            server.events(
                f"/turns/{third['turn_id']}/events",
                params={"user_id": "alice", "after": history[1]["id"]},
            )
        )
        assert whole[first["turn_id"]]["text"] == "Hello"
        assert later[third["turn_id"]]["text"] == "A program"
        answer = server.http.post("/chat", json={"user_id": "alice", "message": "Go on"}).json()
        assert answer["reply"] == "Again"
        again = server.http.post(f"/turns/{third['turn_id']}/regenerate", json={"user_id": "alice"})
        assert again.status_code == 202
    contents = [message.content for message in provider.requests[0].messages]
    assert contents == ["Hi", "Hello", "Who are you?", "A program", "Go on"]


def test_several_answers_in_a_row_are_one_text(old: Old) -> None:
    found = imported(old, [("user", "Hi"), ("assistant", "One"), ("assistant", "Two")])

    assert found[1:] == [("assistant", "One\n\nTwo", "completed")]


def test_an_answer_that_nobody_asked_for_answers_a_message_that_is_not_empty(old: Old) -> None:
    found = imported(old, [("assistant", "Welcome"), ("user", "  "), ("assistant", "Yes?")])

    assert [text for _, text, _ in found] == [NO_MESSAGE, "Welcome", NO_MESSAGE, "Yes?"]


def test_answers_that_are_too_long_for_one_text_are_several(old: Old) -> None:
    long = "x" * (MAX_TEXT_BYTES // 2)
    found = imported(old, [("user", "Hi"), *[("assistant", long)] * 3])

    assert [text for _, text, _ in found] == ["Hi", long, NO_MESSAGE, long, NO_MESSAGE, long]


def test_a_message_without_answer_between_others_stays_in_its_place(old: Old) -> None:
    found = imported(old, [("user", "1"), ("user", "2"), ("assistant", "a")])

    assert found == [
        ("user", "1", "interrupted"),
        ("user", "2", "completed"),
        ("assistant", "a", "completed"),
    ]


def test_ratings_keep_their_time_and_follow_those_that_are_there(old: Old) -> None:
    with Running(old.data) as server:
        server.http.post("/feedback", json={"user_id": "carol", "rating": 3})
    old.run()

    def ratings(user_id: str) -> list[tuple[str, int, str | None]]:
        lines = Folder(old.data).feedback(user_id).read_bytes().splitlines()
        entries = [orjson.loads(line) for line in lines]
        assert [e["type"] for e in entries] == ["feedback_log"] + ["feedback"] * (len(lines) - 1)
        assert [e["id"] for e in entries] == sorted(e["id"] for e in entries)
        return [(e["timestamp"], e["rating"], e.get("comments")) for e in entries[1:]]

    assert ratings("alice") == [("2024-05-01T12:00:00.123Z", 5, "fine")]
    assert ratings("carol")[1:] == [("2024-05-01T12:00:00.000Z", 1, None)]
    with Running(old.data) as server:
        assert server.http.post("/feedback", json={"user_id": "carol", "rating": 2}).is_success
    assert [rating for _, rating, _ in ratings("carol")] == [3, 1, 2]


USER = {"role": "user", "message": "Hi"}
WRONG: list[tuple[Any, str]] = [
    ([], "chat_history.json: must be an object of users, got []"),
    ({"": [USER]}, 'chat_history.json[""].user_id: String should have at least 1 character'),
    ({"a\nb": [USER]}, "user_id: must not contain control characters"),
    ({"x" * 257: [USER]}, ".user_id: String should have at most 256 characters (got 257"),
    ({"..": [USER]}, "user_id: must not be '.' or '..'"),
    ({"alice": {"0": USER}}, "'alice': must be an array"),
    ({"alice": [USER, "Hi"]}, "'alice'[1]: must be an object, got \"Hi\""),
    ({"alice": [{"role": "system", "message": ""}]}, "'alice'[0].role: must be user or assistant"),
    ({"alice": [USER, {"role": "user", "message": None}]}, "'alice'[1].message: must be a string"),
    ({"alice": [{"role": "user"}]}, "'alice'[0].message: must be a string, got null"),
    (
        {"alice": [{"role": "user", "message": "x" * MAX_TEXT_BYTES}]},
        "'alice'[0].message: must be at most 524288 bytes of JSON, got 524290",
    ),
    ({"alice": [USER | {"timestamp": "soon"}]}, "'alice'[0].timestamp: must be an ISO 8601 time"),
]


@pytest.mark.parametrize(("history", "told"), WRONG, ids=[told[:40] for _, told in WRONG])
def test_a_history_of_another_form_is_refused_by_its_place(
    old: Old, history: Any, told: str
) -> None:
    old.write({"good": [USER]} | history if isinstance(history, dict) else history)

    with pytest.raises(InvalidRequest) as refused:
        old.run()

    assert told in refused.value.message
    assert not old.data.exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rating": 6}, "[1].rating: Input should be less than or equal to 5 (got 6)"),
        ({"rating": "5"}, "[1].rating"),
        ({"rating": None}, "[1].rating: is required"),
        ({"user_id": "\0"}, "[1].user_id: must not contain control characters"),
        ({"comments": 7}, "[1].comments"),
        ({"timestamp": None}, "[1].timestamp: must be an ISO 8601 time"),
        ({"timestamp": "1969-01-01T00:00:00"}, "[1].timestamp"),
    ],
    ids=str,
)
def test_feedback_of_another_form_is_refused_by_its_place(
    old: Old, changed: dict[str, Any], told: str
) -> None:
    old.write(HISTORY, [FEEDBACK[0], FEEDBACK[1] | changed])

    with pytest.raises(InvalidRequest) as refused:
        old.run()

    assert f"feedback.json{told}" in refused.value.message
    assert not old.data.exists()


def test_broken_json_is_told_with_its_place_and_status_2(old: Old) -> None:
    old.history.write_text('{"alice": [}')

    done = old.command()

    assert done.returncode == 2
    assert done.stderr.startswith("chatstream: chat_history.json: is not JSON: ")
    assert "column 12" in done.stderr
    assert not old.data.exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_files_of_windows_editors_are_read(old: Old, encoding: str) -> None:
    text = '{"alice": [{"role": "user", "message": "Grüße"}]}'
    old.history.write_bytes(text.encode(encoding))
    old.feedback.write_bytes(orjson.dumps(FEEDBACK).decode().encode(encoding))

    assert old.run().startswith("imported 1 messages of 1 users as 1 turns")


def test_a_file_of_another_encoding_is_told_as_that(old: Old) -> None:
    old.history.write_bytes('{"é": []}'.encode("latin-1"))

    with pytest.raises(InvalidRequest, match="is not UTF-8 at byte 2: save it as UTF-8"):
        old.run()


def test_half_a_surrogate_pair_and_a_nan_that_nobody_reads_fail_nothing(old: Old) -> None:
    old.history.write_text(
        r"""{"alice": [{"role": "user", "message": "a\ud83d b\ude42 c\ud83d\ude42", "score": NaN},
        {"role": "assistant", "message": "\ud83d", "cost": [Infinity, -Infinity]}]}"""
    )
    old.feedback.write_text(
        r"""[{"user_id": "alice", "rating": 5, "comments": "\ude42", "x": NaN,
        "timestamp": "2024-05-01T12:00:00"}]"""
    )
    old.run()

    with Running(old.data) as server:
        found = [text for _, text, _ in shown(server, "alice")]
    assert found == ["a\ufffd b\ufffd c\U0001f642", "\ufffd"]
    assert check(old.data) == []


def test_json_that_is_nested_too_deep_is_told(old: Old) -> None:
    old.history.write_text("[" * 100_000)

    with pytest.raises(InvalidRequest, match=r"chat_history\.json: .*nested too deep"):
        old.run()


def test_a_reply_without_text_completes_its_turn_in_its_place(old: Old) -> None:
    def entry(role: str, text: str | None) -> dict[str, str | None]:
        return {"role": role, "message": text}

    nothing = entry("assistant", None)
    old.write(
        {
            "alice": [
                *(nothing, entry("user", "1"), nothing, entry("user", "2"), nothing),
                *(entry("assistant", "b"), nothing, entry("assistant", "c"), entry("user", "3")),
            ],
            "bob": [nothing],
        }
    )
    old.run()

    with Running(old.data) as server:
        assert shown(server, "alice") == [
            ("user", "1", "completed"),
            ("user", "2", "completed"),
            ("assistant", "b\n\nc", "completed"),
            ("user", "3", "interrupted"),
        ]
        assert shown(server, "bob") == []


LONG = {"role": "assistant", "message": "x" * MAX_TEXT_BYTES}
BAD: dict[str, Any] = {
    "alice": [
        {"role": "system", "message": "Be kind"},
        {"role": "user", "message": "1"},
        LONG,
        {"role": "user"},
        {"role": "assistant", "message": "to nothing"},
        {"role": "assistant", "message": 5},
        {"role": "user", "message": "2", "timestamp": "soon"},
        "words",
        {"role": "user", "message": "3"},
        {"role": "system", "message": "Be brief"},
        {"role": "assistant", "message": "c"},
    ],
    "": [{"role": "user", "message": "whose?"}],
    "x" * 257: "no array",
    "lost": [{"role": 7, "message": None, "timestamp": "x"}],
    "bob": [{"role": "user", "message": "Hi"}, {"role": "assistant", "message": "Ho"}],
}
BAD_RATING = {"user_id": "alice", "rating": 9, "comments": "?", "timestamp": "never"}
TOLD = [
    ("alice", 0, ["'alice'[0].role: must be user or assistant, got \"system\""]),
    ("alice", 2, ["'alice'[2].message: must be at most 524288 bytes of JSON, got 524290"]),
    ("alice", 3, ["'alice'[3].message: must be a string, got null"]),
    ("alice", 4, ["'alice'[4]: answers 'alice'[3], which is left out"]),
    ("alice", 5, ["'alice'[5].message: must be a string, got 5"]),
    (
        *("alice", 6),
        ["'alice'[6].timestamp: must be an ISO 8601 time, as 2024-05-01T12:00:00, got \"soon\""],
    ),
    ("alice", 7, ["'alice'[7]: must be an object, got \"words\""]),
    ("alice", 9, ["'alice'[9].role: must be user or assistant, got \"system\""]),
    (
        "",
        None,
        [
            'chat_history.json[""].user_id: String should have at least 1 character '
            "(got 0 characters: '')"
        ],
    ),
    (
        *("x" * 257, None),
        [
            f'chat_history.json["{"x" * 38}…].user_id: String should have at most 256 characters '
            f"(got 257 characters: '{'x' * 39}…')",
            f"'{'x' * 257}': must be an array, got \"no array\"",
        ],
    ),
    (
        *("lost", 0),
        [
            "'lost'[0].role: must be user or assistant, got 7",
            "'lost'[0].message: must be a string, got null",
            "'lost'[0].timestamp: must be an ISO 8601 time, as 2024-05-01T12:00:00, got \"x\"",
        ],
    ),
    (
        *("alice", 1),
        [
            "feedback.json[1].rating: Input should be less than or equal to 5 (got 9)",
            "feedback.json[1].timestamp: must be an ISO 8601 time, as 2024-05-01T12:00:00, "
            'got "never"',
        ],
    ),
]


def test_all_that_is_wrong_is_named_and_nothing_taken(old: Old) -> None:
    old.write(BAD, [FEEDBACK[0], BAD_RATING])

    done = old.command()

    wrong = [line for _, index, reasons in TOLD for line in reasons if index != 4]
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["chatstream: nothing was imported:", *wrong]
    assert not old.data.exists()


def test_of_very_much_that_is_wrong_the_first_are_named_and_the_others_counted(old: Old) -> None:
    entries = [{"role": "system", "message": str(number)} for number in range(10_000)]
    old.write({"alice": [*entries, USER]})

    with pytest.raises(InvalidRequest) as refused:
        old.run()

    lines = [e["message"] for e in refused.value.errors]
    assert len(lines) == 101
    assert lines[-1] == "and 9900 more"


def test_what_is_bad_is_left_out_and_written_with_its_reasons(old: Old, tmp_path: Path) -> None:
    old.write(BAD, [FEEDBACK[0], BAD_RATING])
    skipped = tmp_path / "skipped.jsonl"

    done = old.command("--skip-bad", str(skipped))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "chatstream: imported 5 messages of 2 users as 3 turns in their conversations 'default', "
        f"and 1 ratings; 12 entries were left out: see {skipped}\n"
    )
    lines = [orjson.loads(line) for line in skipped.read_bytes().splitlines()]
    assert [(e["user_id"], e["index"], e["reasons"]) for e in lines] == TOLD
    assert [e["entry"] for e in lines[:11]] == [
        *(BAD["alice"][i] for i in (0, 2, 3, 4, 5, 6, 7, 9)),
        *(BAD[""], BAD["x" * 257], BAD["lost"][0]),
    ]
    assert (lines[11]["file"], lines[11]["entry"]) == ("feedback.json", BAD_RATING)
    assert skipped.stat().st_mode & 0o777 == 0o600
    with Running(old.data) as server:
        assert shown(server, "alice") == [
            ("user", "1", "interrupted"),
            ("user", "3", "completed"),
            ("assistant", "c", "completed"),
        ]
        assert len(shown(server, "bob")) == 2


def test_no_file_is_overwritten_with_what_is_left_out(old: Old, tmp_path: Path) -> None:
    (skipped := tmp_path / "skipped.jsonl").write_text("mine")
    old.write(BAD)

    done = old.command("--skip-bad", str(skipped))

    assert done.returncode == 2
    assert done.stderr == "chatstream: skipped.jsonl exists already; nothing was imported.\n"
    assert skipped.read_text() == "mine"
    assert not old.data.exists()


def test_where_nothing_is_left_out_there_is_no_file(old: Old, tmp_path: Path) -> None:
    old.run(tmp_path / "skipped.jsonl")

    assert not (tmp_path / "skipped.jsonl").exists()


def test_an_import_that_fails_leaves_no_file_of_what_is_left_out(
    old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    old.write(BAD)

    def full(fd: int) -> None:
        if next(left) == 0:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    for moment in range(50):
        left = iter(range(moment, -50, -1))
        try:
            old.run(tmp_path / "skipped.jsonl")
        except StorageFull:
            assert not (tmp_path / "skipped.jsonl").exists()
            assert old.files() == {}
        except StorageFailed:
            break  # decided: from here on it stands
    assert moment > 5
    assert (tmp_path / "skipped.jsonl").exists()


def test_every_conversation_that_is_there_already_is_named(old: Old) -> None:
    old.run()

    with pytest.raises(Conflict) as refused:
        old.run()

    assert "The user 'alice' has a conversation" in refused.value.message
    assert "The user 'Bob/..' has a conversation" in refused.value.message
    assert "The user 'carol' has ratings" in refused.value.message


def test_importing_twice_changes_nothing(old: Old) -> None:
    old.run()
    before = old.files()

    done = old.command()

    assert done.returncode == 2
    assert "The user 'alice' has a conversation 'default' already" in done.stderr
    assert old.files() == before


def test_importing_the_same_ratings_twice_is_refused(old: Old) -> None:
    old.write({}, FEEDBACK)
    old.run()
    before = old.files()
    old.write({"dave": HISTORY["alice"]}, FEEDBACK)

    with pytest.raises(Conflict, match="The user 'alice' has ratings of this file already"):
        old.run()

    assert old.files() == before


def test_a_running_server_is_named_and_nothing_is_written(old: Old) -> None:
    with Running(old.data):
        before = old.files()
        done = old.command()

        assert done.returncode == 2
        assert f"is in use by the process {os.getpid()}" in done.stderr
        assert old.files() == before


def test_a_full_disk_leaves_nothing(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    calls = iter(range(9))

    def full(fd: int) -> None:
        if next(calls) == 2:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="No space left"):
        old.run()
    monkeypatch.undo()

    assert old.files() == {}
    old.run()


def test_no_server_starts_on_half_an_import(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(StorageFailed, match="the next start finishes it"):
        old.run()
    with pytest.raises(OSError, match="Input/output error"):
        survey(Folder(old.data))
    monkeypatch.undo()

    with Running(old.data) as server:
        assert len(shown(server, "alice")) == 4


def die_at(moment: int, job: Callable[[], object]) -> bool:
    """Run a job in a child that kills itself at its nth change to the disk; say whether it did."""
    child = os.fork()
    if child == 0:
        left = moment

        def deadly(name: str) -> None:
            real = getattr(os, name)

            def call(*args: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            setattr(os, name, call)

        for name in ("mkdir", "fsync", "fdatasync", "rename", "replace", "unlink", "rmdir"):
            deadly(name)
        try:
            job()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the import failed"
    return False


def test_a_kill_at_any_moment_leaves_all_or_nothing(tmp_path: Path) -> None:
    outcomes = []
    for moment in range(1, 100):
        (folder := tmp_path / str(moment)).mkdir()
        old = Old(folder)
        if not die_at(moment, old.run):
            break
        found = Folder(old.data)
        found.own()
        # Recovery may be killed, too, and the next one still finishes.
        die_at(1 + moment % 5, partial(survey, found))
        survey(found)
        found.release()
        names = list(old.files())
        outcomes.append(len(names))
        assert names in ([], EVERY_FILE), (moment, names)
        assert not list(found.intents.iterdir())
        if names:
            with pytest.raises(Conflict):
                old.run()
        else:
            old.run()
    assert set(outcomes) == {0, len(EVERY_FILE)}
    assert outcomes == sorted(outcomes)
    assert len(outcomes) > 20


EVERY_FILE = [
    "users/%42ob%2f%2e%2e/default.jsonl",
    "users/alice/+feedback.jsonl",
    "users/alice/default.jsonl",
    "users/carol/+feedback.jsonl",
]


@pytest.mark.parametrize("decided", [False, True])
def test_a_server_finishes_or_discards_what_a_kill_left(old: Old, decided: bool) -> None:
    moment = next(n for n in range(1, 100) if not die_at(n, Old(new(old, n)).run))
    last = moment - 1 if decided else 8
    assert die_at(last, old.run)

    with Running(old.data) as server:
        assert bool(shown(server, "alice")) is decided
        assert not list((old.data / "intents").iterdir())


def new(old: Old, number: int) -> Path:
    folder = old.data.parent / f"try{number}"
    folder.mkdir()
    return folder


def test_what_is_refused_names_no_path(old: Old) -> None:
    old.history.write_text("[")

    with pytest.raises(ChatstreamError) as refused:
        old.run()

    assert str(old.data.parent) not in refused.value.message


def test_a_user_who_is_there_twice_keeps_both_arrays(old: Old) -> None:
    one, two = b'[{"role":"user","message":"one"}]', b'[{"role":"user","message":"two"}]'
    old.history.write_bytes(b'{"bob":' + one + b',"bob":' + two + b"}")
    found, flaws = read_history(old.history)
    assert [message.text for message in found["bob"]] == ["one", "two"] and not flaws


@pytest.mark.parametrize(
    "data",
    [
        b'{"bob":[{"role":"user","message":"one","message":"two"}]}',
        b'{"bob":[],"bob":{"role":"user","message":"two"}}',
    ],
)
def test_a_key_that_is_there_twice_with_two_values_is_refused(old: Old, data: bytes) -> None:
    old.history.write_bytes(data)
    with pytest.raises(InvalidRequest, match=r"chat_history.json: has the key .* twice"):
        read_history(old.history)


def test_half_a_pair_in_a_user_id_becomes_a_replacement(old: Old) -> None:
    old.history.write_bytes(b'{"b\\ud800":[{"role":"user","message":"one"}]}')
    found, flaws = read_history(old.history)
    assert list(found) == ["b\ufffd"] and not flaws
    old.feedback.write_bytes(
        b'[{"user_id":"b\\ud800","rating":5,"timestamp":"2024-05-01T12:00:00"}]'
    )
    ratings, flaws = read_feedback(old.feedback)
    assert list(ratings) == ["b\ufffd"] and not flaws


def test_a_long_number_in_a_field_that_is_not_used_is_read(old: Old) -> None:
    number = b"9" * 5000
    old.history.write_bytes(b'{"bob":[{"role":"user","message":"one","n":-' + number + b"}]}")
    found, flaws = read_history(old.history)
    assert found["bob"][0].text == "one" and not flaws


def test_a_bad_user_id_is_told_with_its_file_and_place(old: Old) -> None:
    old.write({"x" * 1000: [], "": []})
    _, flaws = read_history(old.history)
    places = [where for flaw in flaws for where, _ in flaw.reasons]
    assert places == [
        f'chat_history.json["{"x" * 38}…].user_id',
        'chat_history.json[""].user_id',
    ]
