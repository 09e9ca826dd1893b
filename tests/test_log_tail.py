import orjson
from hypothesis import given
from hypothesis import strategies as st

from chatstream.events import DeltaKind, TurnId, event_id, place
from chatstream.log.files.records import Encoded
from chatstream.log.files.tail import PIECE, Tail

FOREVER = 10**18
T1, T2 = TurnId("turn-one"), TurnId("turn-two")


def escaped(text: str) -> bytes:
    return orjson.dumps(text)[1:-1]


def permanent(number: int, turn: TurnId | None = None, kind: str = "turn.started") -> Encoded:
    identifier = event_id(number)
    event = {"type": kind, "id": identifier, "turn_id": turn}
    return Encoded(identifier, turn, kind, orjson.dumps(event))


def add(tail: Tail, number: int, turn: TurnId, kind: DeltaKind, text: str) -> None:
    run = tail.run(turn, kind)
    data = escaped(text)
    tail.extend(run, event_id(number), data, run.encode(event_id(number), data))


def fold(events: list[Encoded]) -> dict[TurnId | None, str]:
    texts: dict[TurnId | None, str] = {}
    for event in events:
        if event.type == "delta":
            data = orjson.loads(event.json)
            assert data["id"] == event.id
            texts[event.turn_id] = texts.get(event.turn_id, "") + data["text"]
    return texts


operations = st.lists(
    st.tuples(
        st.sampled_from([T1, T2]),
        st.sampled_from(["text", "reasoning", "permanent"]),
        st.text(min_size=1, max_size=20),
    ),
    min_size=1,
    max_size=40,
)


@given(operations, st.lists(st.integers(0, 60), max_size=6), st.integers(1, 300))
def test_any_cuts_give_the_same_text_once_and_in_order(
    steps: list[tuple[TurnId, str, str]], cuts: list[int], limit: int
) -> None:
    tail = Tail("c", 0)
    expected: dict[tuple[TurnId, str], str] = {}
    for number, (turn, kind, text) in enumerate(steps, start=1):
        if kind == "permanent":
            tail.add(permanent(number, turn))
        else:
            as_kind: DeltaKind = "reasoning" if kind == "reasoning" else "text"
            add(tail, number, turn, as_kind, text)
            expected[turn, kind] = expected.get((turn, kind), "") + text

    got: dict[tuple[TurnId, str], str] = {}
    after = 0
    for upto in [*sorted(cuts), FOREVER]:
        while found := tail.read(after, upto, limit):
            for event in found:
                assert after < place(event.id) <= upto
                after = place(event.id)
                if event.type == "delta":
                    data = orjson.loads(event.json)
                    key = (TurnId(data["turn_id"]), data.get("kind", "text"))
                    got[key] = got.get(key, "") + data["text"]

    assert got == expected


def test_neighbours_are_joined_and_a_permanent_event_parts_them() -> None:
    tail = Tail("c", 0)
    for number, text in enumerate(["a", "b"], start=1):
        add(tail, number, T1, "text", text)
    tail.add(permanent(3, T2))
    add(tail, 4, T1, "text", "c")

    assert [(e.type, e.id) for e in tail.read(0, FOREVER, PIECE)] == [
        ("delta", event_id(2)),
        ("turn.started", event_id(3)),
        ("delta", event_id(4)),
    ]


def test_a_long_backlog_leaves_in_pieces() -> None:
    tail = Tail("c", 0)
    for number in range(1, 301):
        add(tail, number, T1, "text", "x" * 1000)

    found = tail.read(0, FOREVER, 10**9)

    assert max(len(e.json) for e in found) <= PIECE + 200
    assert fold(found) == {T1: "x" * 300_000}


def test_an_ended_turn_leaves_its_start_and_its_end() -> None:
    tail = Tail("c", 0)
    tail.add(permanent(1, T1))
    tail.add(permanent(2, T1, "turn.answering"))
    add(tail, 3, T1, "text", "x")
    add(tail, 4, T2, "text", "y")
    tail.drop(T1)
    tail.add(permanent(5, T1, "turn.completed"))

    assert [e.type for e in tail.read(0, FOREVER, PIECE)] == [
        "turn.started",
        "delta",
        "turn.completed",
    ]


def test_trimming_keeps_what_running_turns_and_near_readers_need() -> None:
    tail = Tail("c", 0)
    for number in range(1, 101):
        tail.add(permanent(number, T1))
    size = len(permanent(1, T1).json)

    tail.trim(keep_from=50, keep_bytes=0)
    assert tail.after == place(event_id(49))

    tail.trim(keep_from=FOREVER, keep_bytes=10 * size)
    assert len(tail.read(tail.after, FOREVER, 10**9)) == 10


def test_what_is_not_yet_visible_is_not_read() -> None:
    tail = Tail("c", 0)
    for number in range(1, 4):
        add(tail, number, T1, "text", "x")

    assert fold(tail.read(0, 2, PIECE)) == {T1: "xx"}
