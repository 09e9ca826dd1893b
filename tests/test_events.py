from hypothesis import given
from hypothesis import strategies as st

from chatstream.events import (
    BEGINNING,
    TERMINAL_TYPES,
    before,
    event_id,
    is_event_id,
    place,
    status_of,
    time_of,
    timestamp,
)

places = st.integers(1, 9_000_000_000_000 * 10_000 - 1)


@given(places, places)
def test_ids_compare_as_strings_in_the_order_of_their_places(a: int, b: int) -> None:
    assert (event_id(a) < event_id(b)) == (a < b)


@given(places)
def test_an_id_has_the_contracts_form_and_gives_its_place_back(number: int) -> None:
    identifier = event_id(number)

    assert is_event_id(identifier)
    assert place(identifier) == number
    assert before(identifier) < identifier


def test_the_beginning_is_below_every_id() -> None:
    assert BEGINNING < event_id(0)
    assert place(BEGINNING) == 0


def test_what_only_looks_like_an_id_is_none() -> None:
    for text in (
        "",
        "0",
        "1764000000000",
        "1764000000000-00001",
        "١٧٦٤٠٠٠٠٠٠٠٠٠-0000",
        "x-1",
        "9000000000000-0000",
    ):
        assert not is_event_id(text)


def test_a_time_is_written_in_utc_with_milliseconds() -> None:
    assert timestamp(1764000000007) == "2025-11-24T16:00:00.007Z"


def test_an_id_tells_its_time() -> None:
    assert time_of("1764000000007-0042") == timestamp(1764000000007)


def test_every_end_has_its_status_and_a_damaged_one_is_an_interruption() -> None:
    assert {status_of(kind) for kind in TERMINAL_TYPES} == {
        "completed",
        "failed",
        "cancelled",
        "interrupted",
    }
    assert status_of("turn.completed") == "completed"
    assert status_of("turn.comp1eted") == "interrupted"
