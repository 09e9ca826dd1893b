import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.events import Address, EventId, event_id
from chatstream.log.files import lookup, records
from chatstream.log.files.line_io import committed_size, lines_back

ADDRESS = Address("u", "c")


def write(path: Path, lines: list[bytes]) -> int:
    path.write_bytes(b"".join(lines))
    return os.open(path, os.O_RDONLY)


def started(number: int, content: str = "hi", turn: str | None = None) -> bytes:
    event = {
        "type": "turn.started",
        "id": event_id(number),
        "conversation_id": "c",
        "turn_id": turn or f"turn-{number}",
        "message": {"role": "user", "content": content},
        "created_at": "now",
    }
    return records.line(event, {"turns": 1, "running": []})[1]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, int, list[bytes]]]:
    lines = [records.header(ADDRESS, event_id(1), "now")]
    lines += [started(number, "x" * (number % 997)) for number in range(10, 4000, 7)]
    fd = write(tmp_path / "log", lines)
    yield fd, sum(map(len, lines)), lines
    os.close(fd)


@given(
    texts=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"x")), max_size=30),
    block=st.integers(1, 64),
)
def test_lines_come_back_from_the_end_whatever_the_blocks(texts: list[bytes], block: int) -> None:
    data = b"".join(text + b"\n" for text in texts)
    fd = os.memfd_create("log")
    os.write(fd, data)

    found = list(lines_back(fd, len(data), block))

    os.close(fd)
    assert [text for _, text in reversed(found)] == [text for text in texts if text]
    assert all(data[offset : offset + len(text)] == text for offset, text in found)


def test_the_place_after_an_id_is_found_by_halving(file: tuple[int, int, list[bytes]]) -> None:
    fd, size, _ = file
    for number in (0, 1, 9, 10, 11, 17, 2000, 3991, 3996, 5000):
        offset = lookup.offset_after(fd, size, event_id(number))
        rest = os.pread(fd, 200, offset).split(b"\n")[0]
        before = os.pread(fd, offset, 0).split(b"\n")[-2:-1]

        assert not rest or orjson.loads(os.pread(fd, size, offset).split(b"\n")[0])["id"] > (
            event_id(number)
        )
        assert not before or orjson.loads(before[0])["id"] <= event_id(number)


def test_a_damaged_line_does_not_hide_its_neighbours(tmp_path: Path) -> None:
    lines = [records.header(ADDRESS, event_id(1), "now")]
    lines += [started(n) if n % 3 else b"\0\0{broken" + b"y" * 900 + b"\n" for n in range(2, 200)]
    fd = write(tmp_path / "log", lines)
    size = sum(map(len, lines))
    for number in range(2, 200):
        found, _ = lookup.slice_after(fd, size, event_id(number), event_id(300), None, limit=1)
        following = next((n for n in range(number + 1, 200) if n % 3), None)
        assert [event.id for event in found] == ([event_id(following)] if following else [])
    os.close(fd)


def test_a_reader_far_behind_gets_everything_once_in_slices(
    file: tuple[int, int, list[bytes]],
) -> None:
    fd, size, lines = file
    got: list[EventId] = []
    offset: int | None = None
    after: EventId = event_id(0)
    while True:
        found, offset = lookup.slice_after(fd, size, after, event_id(3000), offset, limit=5000)
        if not found:
            break
        got += [event.id for event in found]
        after = got[-1]

    assert got == [event_id(number) for number in range(10, 3001, 7)]


def test_bookkeeping_is_not_shown_to_clients() -> None:
    forged = 'she said ,"turns":9, and {"turns":1}'
    data = started(5, forged).rstrip(b"\n")

    event = records.encoded(data)

    assert event is not None
    assert orjson.loads(event.json)["message"]["content"] == forged
    assert not {"turns", "running"} & set(orjson.loads(event.json))


def test_a_turn_is_found_by_its_own_lines_only(tmp_path: Path) -> None:
    fake = '"turn_id":"wanted-1"'
    lines = [started(2, "real", "wanted-1"), started(3, fake, "other-turn"), started(4, fake)]
    fd = write(tmp_path / "log", lines)
    size = sum(map(len, lines))

    assert [r.data["id"] for r in lookup.find_turn(fd, size, "wanted-1")] == [event_id(2)]
    assert lookup.find_turn(fd, size, "wanted-2") == []
    os.close(fd)


@pytest.mark.parametrize("torn", [b"", b"{", b'{"type":"x"}', b"\0" * 70_000])
def test_only_a_newline_commits(tmp_path: Path, torn: bytes) -> None:
    fd = write(tmp_path / "log", [started(2), torn])

    assert committed_size(fd) == len(started(2))
    os.close(fd)
