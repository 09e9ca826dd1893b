"""Damaged files: the server starts, answers, and has all that is not in the damage itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from chatstream.cli import fsck
from chatstream.cli.fsck_checks import TORN
from tests.damage import (
    BAD,
    FEEDBACK,
    LIVE,
    LOG,
    TURNS,
    Damage,
    Edit,
    damaged,
    history,
    killed_user,
    lines_of,
    replaced,
    spoilt,
    survives,
    whole,
    with_line,
)
from tests.running import Running


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder as `kill -9` leaves it."""
    return killed_user(tmp_path_factory.mktemp("running"), tmp_path_factory.mktemp("k") / "user")


@pytest.fixture(autouse=True)
def no_server_writes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsck, "SETTLE_SECONDS", 0)


# ---- a conversation's file


def test_a_bad_line_is_passed_over_and_hides_nothing_else(killed: Path, tmp_path: Path) -> None:
    damages = {
        f"{name} at {at}": Damage(LOG, with_line(bad, at), [f"{LOG}:{at + 1}: bad line"])
        for name, bad in BAD.items()
        for at in (2, 5)
    }
    survives(killed, tmp_path, damages)


def test_a_torn_end_is_cut_off_and_nothing_before_it(killed: Path, tmp_path: Path) -> None:
    damages = {
        name: Damage(LOG, lambda lines, bad=bad: [*lines, bad], [f"{LOG}:7: {TORN}"])  # type: ignore[misc]
        for name, bad in BAD.items()
        if bad
    }
    survives(killed, tmp_path, damages)


def test_a_damaged_record_takes_only_what_it_said(killed: Path, tmp_path: Path) -> None:
    (live,) = killed.glob(LIVE)
    left = {
        1: (TURNS[2:], [f"{LOG}:3: terminal event without turn.started"]),
        2: (["one", *TURNS[2:]], []),
        4: ([*TURNS[:3], *TURNS[4:]], []),
        5: (TURNS[:4], [f"{live.name}: live file without a turn"]),
    }
    damages = {
        f"{byte!r} at {at}": Damage(
            LOG, spoilt(at, byte), [f"{LOG}:{at + 1}: bad line", *more], turns
        )
        for at, (turns, more) in left.items()
        for byte in (b"\0", b"\xff")
    }
    # Good JSON that says what it cannot.
    for at, pattern, new in [
        (5, rb'"id":"\d{13}', b'"id":"9999999999999'),
        (4, rb'"text":"\w+"', b'"text":5'),
        (4, rb'"turns":\d+', b'"turns":null'),
        (4, rb'"running":\[\]', b'"running":5'),
        (5, rb'"running":\[.*?\]', b'"running":[5]'),
        (5, rb'"request":\{', b'"replaced_id":"1","request":{'),
        (5, rb'"request":\{', b'"replaces":[],"request":{'),
        (5, rb'"request":\{', b'"request":5,"was":{'),
    ]:
        turns, more = left[at]
        told = [f"{LOG}:{at + 1}: bad line", *more]
        damages[f"{new!r} at {at}"] = Damage(LOG, replaced(at, pattern, new), told, turns)
    survives(killed, tmp_path, damages)


def test_a_turn_whose_end_is_damaged_reads_as_interrupted(killed: Path, tmp_path: Path) -> None:
    damaged(killed, tmp_path, {"": Damage(LOG, spoilt(2, b"\0"), [])})
    with Running(tmp_path) as server:
        statuses = {item["turn_id"]: item["status"] for item in history(server, "u0")}
        turn = server.http.get("/turns/turn-0000?user_id=u0").json()
        events = server.events("/turns/turn-0000/events?user_id=u0")

    assert statuses["turn-0000"] == turn["status"] == "interrupted"
    assert statuses["turn-0001"] == "completed"
    assert [frame.type for frame in events] == ["ready", "turn.started", "turn.interrupted"]


def test_a_bad_first_line_hides_no_record(killed: Path, tmp_path: Path) -> None:
    firsts: dict[str, Callable[[bytes], bytes]] = {
        "a BOM": lambda line: b"\xef\xbb\xbf" + line,
        "torn": lambda line: line[:30] + b"\n",
        "NULs": lambda line: b"\0" * (len(line) - 1) + b"\n",
        "blank": lambda line: b"\n",
    }

    def edit(first: Callable[[bytes], bytes]) -> Edit:
        return lambda lines: [first(lines[0]), *lines[1:]]

    bad = [f"{LOG}:1: bad line"]
    survives(
        killed, tmp_path, {name: Damage(LOG, edit(first), bad) for name, first in firsts.items()}
    )


def test_a_file_without_any_record_is_a_conversation_that_begins_anew(
    killed: Path, tmp_path: Path
) -> None:
    (live,) = killed.glob(LIVE)
    stray = f"{live.name}: live file without a turn"
    files = {
        b"": ["{LOG}: empty file"],
        b"\n": ["{LOG}:1: bad line"],
        b'{"type":"log","vers': ["{LOG}:1: {TORN}"],
        b"\0" * 4096: ["{LOG}:1: {TORN}"],
        b"x" * 10_000_000: ["{LOG}:1: {TORN}"],
        b"\xef\xbb\xbf\n\xff\n": ["{LOG}:1: bad line", "{LOG}:2: bad line"],
    }
    damages = {
        str(data[:20]): Damage(
            LOG, whole(data), [t.format(LOG=LOG, TORN=TORN) for t in lines] + [stray], []
        )
        for data, lines in files.items()
    }
    survives(killed, tmp_path, damages)


def test_what_was_put_aside_unread_is_erased_by_a_clear(killed: Path, tmp_path: Path) -> None:
    users = damaged(killed, tmp_path, dict.fromkeys("ab", Damage(LOG, whole(b"s" * 100_000), [])))
    with Running(tmp_path) as server:
        assert [history(server, user) for user in users] == [[], []]
        assert len(list(tmp_path.rglob("*.corrupt"))) == 2
        assert server.http.post("/history/clear", json={"user_id": "u0"}).status_code == 200
        assert server.http.delete("/conversations?user_id=u1").status_code == 404

    assert not list(tmp_path.rglob("*.corrupt"))


# ---- a live file


def text_before(killed: Path, at: int) -> list[str]:
    """Return what is left of the turns where the text of the last ends before a line."""
    (live,) = killed.glob(LIVE)
    text = "".join(orjson.loads(line).get("text", "") for line in lines_of(live)[:at])
    return [*TURNS[:5], *([text] if text else [])]


def test_a_bad_line_of_a_live_file_ends_the_text_before_it(killed: Path, tmp_path: Path) -> None:
    (live,) = killed.glob(LIVE)
    where = "{}:{}: bad line: the text ends before it"
    damages = {
        f"{name} at {at}": Damage(
            LIVE, with_line(bad, at), [where.format(live.name, at + 1)], text_before(killed, at)
        )
        for name, bad in BAD.items()
        for at in (0, 1, 2, len(lines_of(live)))
    }
    survives(killed, tmp_path, damages)


def test_a_live_file_gives_back_its_whole_lines(killed: Path, tmp_path: Path) -> None:
    (live,) = killed.glob(LIVE)
    count = len(lines_of(live))

    def torn(at: int) -> list[str]:
        return [f"{live.name}:{at}: {TORN}"]

    def bad(at: int) -> list[str]:
        return [f"{live.name}:{at}: bad line: the text ends before it"]

    none = TURNS[:5]
    damages = {
        "no newline": Damage(
            LIVE, lambda x: [*x[:-1], x[-1][:-1]], torn(count), text_before(killed, count - 1)
        ),
        "torn": Damage(LIVE, lambda x: [*x, b'{"type":"delta"'], torn(count + 1)),
        "NULs": Damage(LIVE, lambda x: [*x, b"\0" * 4096], torn(count + 1)),
        "a BOM": Damage(LIVE, lambda x: [b"\xef\xbb\xbf", *x], bad(1), none),
        "a torn first line": Damage(LIVE, lambda x: [x[0][:20]], torn(1), none),
        "a newline": Damage(LIVE, whole(b"\n"), bad(1), none),
        "empty": Damage(LIVE, whole(b""), [], none),
    }
    survives(killed, tmp_path, damages)


# ---- a user's feedback


def test_a_bad_line_of_feedback_hides_no_other(killed: Path, tmp_path: Path) -> None:
    def lines(at: int) -> Iterator[str]:
        yield f"{FEEDBACK}:{at + 1}: bad line"
        if at == 0:
            yield f"{FEEDBACK}:2: bad line"  # a first line that is not the first

    damages = {
        f"{name} at {at}": Damage(FEEDBACK, with_line(bad, at), list(lines(at)))
        for name, bad in BAD.items()
        for at in (0, 2, 3)
        if bad[:1] != b"{" or b'"id"' not in bad or "rating" in name
    }
    survives(killed, tmp_path, damages)


def test_feedback_keeps_its_whole_lines(killed: Path, tmp_path: Path) -> None:
    bad, torn = "{}:{}: bad line", f"{{}}:{{}}: {TORN}"
    none: list[int | None] = [None, None]
    damages = {
        "no newline": Damage(
            FEEDBACK,
            lambda x: [*x[:-1], x[-1][:-1]],
            [torn.format(FEEDBACK, 3)],
            ratings=[4, None],
        ),
        "NULs": Damage(FEEDBACK, lambda x: [*x, b"\0" * 4096], [torn.format(FEEDBACK, 4)]),
        "a BOM": Damage(
            FEEDBACK, lambda x: [b"\xef\xbb\xbf" + x[0], *x[1:]], [bad.format(FEEDBACK, 1)]
        ),
        "a torn first line": Damage(
            FEEDBACK, lambda x: [x[0][:20]], [torn.format(FEEDBACK, 1)], ratings=none
        ),
        "a newline": Damage(FEEDBACK, whole(b"\n"), [bad.format(FEEDBACK, 1)], ratings=none),
        "empty": Damage(FEEDBACK, whole(b""), [f"{FEEDBACK}: empty file"], ratings=none),
    }
    survives(killed, tmp_path, damages)
