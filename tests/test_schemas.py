"""What callers may send, value by value."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.errors import BadRequest, InvalidRequest
from chatstream.schemas import (
    Addressed,
    HistoryQuery,
    ReplacingTurnRequest,
    TurnRequest,
    check_message,
    is_turn_id,
    parse,
    turn_id_of_key,
)


def wrong_fields(data: object) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        parse(TurnRequest, data)
    return [error["field"] for error in caught.value.errors]


@given(st.text(min_size=1, max_size=256))
def test_an_id_is_any_text_without_control_characters(text: str) -> None:
    controls = any(unicodedata.category(c) in ("Cc", "Cs") for c in text)
    if controls or text in (".", ".."):
        with pytest.raises(InvalidRequest):
            parse(Addressed, {"user_id": text})
    else:
        assert parse(Addressed, {"user_id": text}).user_id == text


def test_ids_are_counted_in_code_points_and_kept_byte_for_byte() -> None:
    longest = "\N{GRINNING FACE}" * 256
    assert parse(Addressed, {"user_id": longest}).user_id == longest
    with pytest.raises(InvalidRequest):
        parse(Addressed, {"user_id": longest + "x"})
    for text in ("...", "/", "%2e", " ", "A", "e\N{COMBINING ACUTE ACCENT}", "\u2028", "\u200b"):
        assert parse(Addressed, {"user_id": text}).user_id == text


def test_only_the_ids_have_defaults() -> None:
    request = parse(TurnRequest, {"message": "q"})
    assert request.address == ("default", "default")
    assert request.model_dump(exclude_unset=True) == {"message": "q"}


def test_a_fingerprint_is_that_of_the_fields_as_given() -> None:
    def of(**fields: object) -> str:
        return parse(ReplacingTurnRequest, {"message": "q", **fields}).fingerprint()

    assert of() == of(user_id="default", conversation_id=None, turn_id="turn-0001", model=None)
    assert of() == parse(TurnRequest, {"message": "q"}).fingerprint()
    assert of(temperature=1) == of(temperature=1.0)
    others = [
        of(),
        of(message="Q"),
        of(message="q "),
        of(model="m"),
        of(system=""),
        of(temperature=0),
        of(max_tokens=1),
        of(provider="p"),
        of(replaces="turn-0001"),
    ]
    assert len(set(others)) == len(others)


def test_a_wrong_field_is_named_and_what_was_given_is_shown_short() -> None:
    assert wrong_fields({"message": "q", "temperature": float("nan")}) == ["temperature"]
    assert wrong_fields({"message": "q", "temperature": float("inf")}) == ["temperature"]
    assert wrong_fields([]) == wrong_fields(None) == wrong_fields("x") == ["body"]
    with pytest.raises(InvalidRequest) as caught:
        parse(TurnRequest, {"message": "q", "turn_id": "x" * 1000})
    assert len(caught.value.errors[0]["message"]) < 200


def test_queries_are_text_and_bodies_are_not() -> None:
    assert parse(HistoryQuery, {"limit": "5"}, strict=False).limit == 5
    with pytest.raises(InvalidRequest):
        parse(HistoryQuery, {"limit": "5"})


@pytest.mark.parametrize("text", ["abcd1234", "A-_z0000", "x" * 64])
def test_a_turn_id_is_8_to_64_plain_characters(text: str) -> None:
    assert is_turn_id(text)
    assert turn_id_of_key(text) == text


@pytest.mark.parametrize("text", ["", "abcd123", "x" * 65, "abcd1234\n", "abcd 123", "äbcd1234"])
def test_anything_else_is_none(text: str) -> None:
    assert not is_turn_id(text)


@given(st.text(min_size=1, max_size=255).filter(str.isprintable))
def test_every_printable_key_becomes_a_turn_id_always_the_same(key: str) -> None:
    turn_id = turn_id_of_key(key)
    assert is_turn_id(turn_id)
    assert turn_id_of_key(key) == turn_id


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "a\x00"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(InvalidRequest):
        turn_id_of_key(key)


def test_a_message_is_checked_for_what_it_is() -> None:
    check_message("<b>x" + "\N{GRINNING FACE}" * 6, most=10, reject_markup=False)
    for text, code in (("\n ", "empty_message"), ("x" * 11, "message_too_long")):
        with pytest.raises(BadRequest) as caught:
            check_message(text, most=10, reject_markup=False)
        assert caught.value.code == code
    for text in ("<SCRIPT>", "</b>", "JavaScript:x", "<iframe>"):
        with pytest.raises(BadRequest, match="potentially unsafe"):
            check_message(text, most=100, reject_markup=True)
