"""How events leave."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.events import EventId
from chatstream.web import wire

ID = EventId("1764000000000-0007")


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_whatever_the_text_an_event_is_one_id_line_and_one_data_line(text: str) -> None:
    json = orjson.dumps({"text": text})
    frame = wire.sse(ID, json)

    assert frame.count(b"\n") == 3
    # Older readers, and whoever reads with `splitlines`, end a line at more than the standard does.
    identifier, data, end = frame.decode().splitlines()
    assert (identifier, end) == (f"id: {ID}", "")
    assert orjson.loads(data.removeprefix("data: "))["text"] == text
    assert wire.sse_all([(ID, json), (ID, json)]) == frame + frame
    assert wire.sse_control(json) == frame.partition(b"\n")[2]


@pytest.mark.parametrize("character", ["\u0085", "\u2028", "\u2029"])
def test_only_what_some_take_for_a_line_end_is_escaped(character: str) -> None:
    json = orjson.dumps({"text": f"é{character}\u0084\u2027\u202a🙂"})

    escaped = f"\\u{ord(character):04x}".encode()
    assert wire.sse_control(json) == b"data: " + json.replace(character.encode(), escaped) + b"\n\n"


def test_several_events_leave_in_one_piece() -> None:
    assert wire.sse_all([("1", b"{}"), ("2", b"[]")]) == wire.sse("1", b"{}") + wire.sse("2", b"[]")
    assert wire.sse_all([]) == b""


def test_control_events_have_no_id_line_and_ready_has_one_in_its_json() -> None:
    assert wire.sse_control(wire.HEARTBEAT) == b'data: {"type":"heartbeat"}\n\n'
    assert orjson.loads(wire.ready("c", ID)) == {
        "type": "ready", "id": ID, "conversation_id": "c", "last_id": ID,
    }  # fmt: skip
    assert orjson.loads(wire.caught_up("c", ID)) == {
        "type": "caught_up", "conversation_id": "c", "last_id": ID,
    }  # fmt: skip
    assert orjson.loads(wire.ready("c", ID, reset=True)) == {
        "type": "ready", "conversation_id": "c", "last_id": ID,
    }  # fmt: skip
    assert orjson.loads(wire.reset("c")) == {"type": "reset", "conversation_id": "c"}


@pytest.mark.parametrize("_", range(20))
def test_clients_are_called_back_at_different_times(_: int) -> None:
    assert wire.sse_retry().startswith(b"retry: ")
    delay = int(wire.sse_retry().split(b": ")[1])
    assert wire.RETRY_MS <= delay <= 3 * wire.RETRY_MS
    assert len({wire.sse_retry() for _ in range(50)}) > 1
