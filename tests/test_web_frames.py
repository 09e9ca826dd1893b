"""Frames as values: what is read of them, and how an error is told."""

import pytest

from chatstream.errors import BadRequest, InvalidRequest, Unavailable
from chatstream.web.frames import read_frame, read_ref
from chatstream.web.problems import event


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"x"', '{"a":NaN}', "{} {}", "[" * 5000])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_frame(text)

    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("ref", [0, 7, -1, 1.5, "", "x" * 256, None])
def test_a_ref_is_a_number_or_a_short_text(ref: object) -> None:
    data = {"type": "ping", "ref": ref}

    assert read_ref(data) == ref
    assert data == {"type": "ping"}


@pytest.mark.parametrize("ref", [{}, [], ["x"], "x" * 257])
def test_another_ref_is_refused(ref: object) -> None:
    with pytest.raises(InvalidRequest):
        read_ref({"ref": ref})


def test_an_error_says_what_helps_and_a_defect_says_nothing() -> None:
    assert event(InvalidRequest(("rating", "is required"))) == {
        "type": "error",
        "code": "invalid_request",
        "message": "rating: is required",
        "errors": [{"field": "rating", "message": "is required"}],
    }
    assert event(Unavailable("Later.", retry_after=3))["retry_after"] == 3
    defect = event(ZeroDivisionError("secret"))
    assert defect["code"] == "internal"
    assert "secret" not in str(defect)
