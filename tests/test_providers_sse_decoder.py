import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatstream.errors import ProviderError
from chatstream.providers.http.sse_decoder import EventDecoder, Failure

CHUNK = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
RAW_ERROR = b'{\n  "error": {\n    "code": 503,\n    "message": "over { loaded"\n  }\n}\n'

Seen = list[tuple[bool, bytes]]


def decode(*chunks: bytes, limit: int = 1000) -> tuple[Seen, bool]:
    """Return what comes out, each with whether it is a failure, and whether a limit was hit."""
    decoder = EventDecoder(limit)
    seen: Seen = []
    try:
        for chunk in chunks:
            seen += [(type(p) is Failure, bytes(p)) for p in decoder.feed(chunk)]
        seen += [(type(p) is Failure, bytes(p)) for p in decoder.close()]
    except ProviderError as error:
        assert str(limit) in error.message
        return seen, True
    return seen, False


def payloads(*chunks: bytes) -> list[bytes]:
    """Decode a stream that is no failure."""
    seen, over = decode(*chunks)
    assert not over
    assert not any(failure for failure, _ in seen)
    return [payload for _, payload in seen]


def by_the_standard(stream: bytes) -> list[bytes]:
    """Decode a whole stream as the EventSource standard tells it, step by step."""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))[:-1]
    events, data = [], b""
    for line in lines:
        name, _, value = line.partition(b":")
        if line == b"":
            if data:
                events.append(data[:-1])
            data = b""
        elif name == b"data":
            data += value.removeprefix(b" ") + b"\n"
    return [event for event in events if event]


def cuts(stream: bytes, places: list[int]) -> list[bytes]:
    """Cut a stream at some places."""
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
fields = st.one_of(
    st.binary(max_size=8).map(lambda b: b"data: " + re.sub(rb"[\r\n]", b"", b)),
    st.text(max_size=8).map(lambda t: b"data:" + re.sub(r"[\r\n]", "", t).encode()),
    st.sampled_from(
        [b"", b"", b"data", b"data:", b"data: ", b": note", b":", b"id: 7", b"retry: 5"]
        + [b"event: ping", b"event", b"id", b"later: field", 'data: "\u2028\u2029"'.encode()]
    ),
)
streams = st.builds(
    lambda bom, lines, tail: (b"\xef\xbb\xbf" if bom else b"") + b"".join(lines) + tail,
    st.booleans(),
    st.lists(st.builds(lambda field, end: field + end, fields, ends), max_size=20),
    st.sampled_from([b"", b"dat", b"data: cut", b": cut"]),
)
places = st.lists(st.integers(0, 10_000), max_size=30)


@given(streams, places)
def test_every_chunking_gives_what_the_standard_says(stream: bytes, at: list[int]) -> None:
    assert payloads(*cuts(stream, at)) == by_the_standard(stream)


@given(
    st.lists(
        st.one_of(
            fields,
            st.binary(max_size=12),
            st.sampled_from(
                [b"event: error", b"error: x", b"{", b"}", b'{"a":"}"}', b"  ", b"x y"]
            ),
        ),
        max_size=20,
    ),
    ends,
    places,
    st.integers(4, 60),
)
@example([b"data: " + b"x" * 10] * 3, b"\n", list(range(60)), 20)
def test_no_chunking_changes_what_comes_out(
    lines: list[bytes], end: bytes, at: list[int], limit: int
) -> None:
    stream = end.join(lines) + end

    whole = decode(stream, limit=limit)

    assert decode(*cuts(stream, at), limit=limit) == whole
    assert decode(*(stream[i : i + 1] for i in range(len(stream))), limit=limit) == whole


def test_whole_events_in_one_chunk_come_out_at_once() -> None:
    decoder = EventDecoder()

    assert [decoder.feed(CHUNK) for _ in range(3)] == [[CHUNK[6:-2]]] * 3
    assert decoder.feed(CHUNK * 3) == [CHUNK[6:-2]] * 3


def test_an_event_comes_out_with_its_last_byte_whatever_the_line_end() -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        decoder = EventDecoder()
        event = b"data: x" + end + end.rstrip(b"\n") if end == b"\r\n" else b"data: x" + end + end

        assert decoder.feed(event[:-1]) == []
        assert decoder.feed(event[-1:]) == [b"x"]


def test_lines_of_data_are_joined() -> None:
    assert payloads(b"data: a\ndata:b\ndata\ndata:  c\n\n") == [b"a\nb\n\n c"]


def test_an_incomplete_last_event_is_dropped() -> None:
    assert payloads(b"data: a\n\ndata: b\n") == [b"a"]
    assert payloads(b"data: a\n\ndata: b") == [b"a"]


def test_empty_data_is_no_event() -> None:
    assert payloads(CHUNK, b"data: \n\ndata: x\n\n", b"data: \n\n", b"data:\n\n") == [
        CHUNK[6:-2],
        b"x",
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_raw_json_comes_out_once_its_braces_balance(end: bytes) -> None:
    decoder = EventDecoder()
    stream = (CHUNK + RAW_ERROR).replace(b"\n", end)

    assert decoder.feed(stream)[-1] == RAW_ERROR.rstrip()
    assert decoder.close() == []


def test_raw_json_is_a_failure_wherever_the_stream_ends() -> None:
    for cut in range(1, len(RAW_ERROR)):
        seen, _ = decode(CHUNK, RAW_ERROR[:cut])

        assert [failure for failure, _ in seen] == [False, True]
        assert RAW_ERROR.startswith(seen[1][1])


@pytest.mark.parametrize(
    ("stream", "failures"),
    [
        (b"upstream connect error or disconnect\n", [b"upstream connect error or disconnect"]),
        (b"<html>\n", [b"<html>"]),
        (b'error: {"message": "no"}\n\n', [b'{"message": "no"}']),
        (b"Error: {\ndata: x\n\n", [b"{"]),
        (b"event: error\ndata: {}\n\n", [b"{}"]),
        (b"event: error\n\n", [b""]),
        (b"event: error\ndata: cut", [b"cut"]),
        (b"event: error\ndata: whole line\n", [b"whole line"]),
        (b"event: error\ndata: a\n\nevent: other\ndata: b\n\n", [b"a"]),
        (b"overloaded\n", [b"overloaded"]),
    ],
)
def test_what_tells_of_a_failure_is_never_dropped(stream: bytes, failures: list[bytes]) -> None:
    seen, _ = decode(stream)

    assert [text for failure, text in seen if failure] == failures


def test_a_failure_keeps_its_place_among_the_payloads() -> None:
    assert decode(b"data: a\n\n{}\ndata: b\n\n") == (
        [(False, b"a"), (True, b"{}"), (False, b"b")],
        False,
    )


def test_the_limit_is_of_one_event_not_of_the_stream() -> None:
    event = b"data: " + b"x" * 94 + b"\n\n"

    assert decode(event * 100, limit=100) == ([(False, b"x" * 94)] * 100, False)
    assert decode(event, event, b"data: " + b"x" * 95 + b"\n\n", limit=100) == (
        [(False, b"x" * 94)] * 2,
        True,
    )


def test_a_line_without_end_hits_the_limit() -> None:
    decoder = EventDecoder(100)

    with pytest.raises(ProviderError, match="100 bytes"):
        for _ in range(200):
            decoder.feed(b"x")
    with pytest.raises(ProviderError):
        decoder.close()


def test_comments_without_end_are_no_event() -> None:
    assert decode(*[b": keep-alive\n"] * 1000, CHUNK, limit=100) == ([(False, CHUNK[6:-2])], False)


def test_a_large_event_in_single_bytes_takes_linear_time() -> None:
    decoder = EventDecoder()
    decoder.feed(b"data: ")
    for _ in range(300_000):
        decoder.feed(b"x")

    assert decoder.feed(b"\n\n") == [b"x" * 300_000]
