import re

from hypothesis import given
from hypothesis import strategies as st

from chatstream.log.files.names import file_name

SAMPLES = [
    *("a", "A", "a/b", "a%2fb", "%2e", ".", "..", "...", "con", "CON", "Con", "c", "%63on"),
    *("feedback", "-rf", "~", "\U0001f600" * 256, "\U0001f600" * 255 + "x", "x" * 256, "a b", ""),
    *("é", "é", "ß", "SS", "nul", "com1", "lpt9", "a\\b", "C:", "\x7f", "x" * 160, "x" * 161),
]


def test_no_two_ids_meet_even_where_case_does_not_count() -> None:
    assert len({file_name(s).lower() for s in SAMPLES}) == len(set(SAMPLES))


@given(st.text(max_size=256), st.text(max_size=256))
def test_names_are_one_to_one(a: str, b: str) -> None:
    assert (file_name(a) == file_name(b)) == (a == b)


@given(st.text(min_size=1, max_size=256))
def test_a_name_is_harmless_on_every_file_system(identifier: str) -> None:
    name = file_name(identifier)

    assert re.fullmatch(r"[a-z0-9_%~][a-z0-9_%-]*", name)
    assert len(name) <= 160
    assert not re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", name)
