"""A compressed body that was not asked for: undone in slices, with a bound, or refused by name."""

import asyncio
import gzip
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.errors import ProviderError
from chatstream.providers import Finish, Provider
from chatstream.providers.adapters import openai
from chatstream.providers.http.inflating import (
    MAX_INFLATED_BYTES,
    SLICE_BYTES,
    Inflated,
    Unreadable,
    encoding_of,
)
from tests.abuse import hostile
from tests.asking import FORMS, answer, ask, failure, make, texts
from tests.upstream import Upstream

LONGEST_MS = 200.0
"""CPU time between two turns of the loop; what stopped it took seconds."""


class Body:
    """A body that comes in these parts."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = list(parts)

    async def read(self) -> bytes:
        return self._parts.pop(0) if self._parts else b""


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


async def inflated(encoding: str, *parts: bytes) -> bytes:
    body, whole = Inflated(Body(*parts).read, encoding), bytearray()
    while data := await body.read():
        assert len(data) <= SLICE_BYTES
        whole += data
    return bytes(whole)


def run(encoding: str, *parts: bytes) -> bytes:
    return asyncio.run(inflated(encoding, *parts))


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw),
        ("x-gzip", gzip.compress),
    ],
)
@given(data=st.binary(max_size=300), times=st.integers(1, 200), cut=st.integers(1, 50))
def test_a_body_is_what_it_was_wherever_it_is_cut(
    encoding: str, pack: object, data: bytes, times: int, cut: int
) -> None:
    assert callable(pack)
    packed = pack(data * times)
    parts = [packed[n : n + cut] for n in range(0, len(packed), cut)]

    assert run(encoding, *parts) == data * times


def test_members_follow_each_other_and_padding_says_nothing() -> None:
    assert run("gzip", gzip.compress(b"a") + gzip.compress(b"b") + b"\0\0\0\0") == b"ab"


def test_an_empty_body_is_empty() -> None:
    assert run("gzip") == b""


@pytest.mark.parametrize(
    "body",
    [b"no gzip", gzip.compress(b"x" * 99)[:-9], gzip.compress(b"x")[:5], b"\x1f"],
    ids=["other bytes", "cut at its end", "cut in its head", "one byte"],
)
def test_what_is_broken_or_cut_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        run("gzip", body)


def test_a_body_has_a_bound() -> None:
    packer = zlib.compressobj(9, wbits=31)
    body = packer.compress(bytes(MAX_INFLATED_BYTES + 1)) + packer.flush()
    with pytest.raises(Unreadable):
        run("gzip", body)


def test_several_encodings_are_no_known_one() -> None:
    assert encoding_of("gzip, br") == "gzip, br"
    for encoding in ("br", "zstd", "gzip, gzip"):
        with pytest.raises(Unreadable):
            Inflated(Body().read, encoding)


# Over a socket


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("manner", ["gzip", "deflate", "deflate=raw", "gzip split=1"])
async def test_an_answer_that_was_compressed_unasked_is_read(
    upstream: Upstream, form: str, manner: str
) -> None:
    provider = make(form, upstream.url)
    pieces = await answer(provider, f"!{manner} tokens=3")
    await provider.aclose()

    assert [*pieces[:3], pieces[-1]] == [*texts(3), Finish("stop")]
    assert upstream.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.anyio
@pytest.mark.parametrize("label", ["none", "utf-8", "UTF-8", "text/plain", "identity"])
async def test_a_label_that_compresses_nothing_says_nothing(upstream: Upstream, label: str) -> None:
    for form in FORMS:
        provider = make(form, upstream.url)
        pieces = await answer(provider, f"!encoding={label} tokens=3")
        await provider.aclose()

        assert [*pieces[:3], pieces[-1]] == [*texts(3), Finish("stop")]


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_a_text_is_told_as_soon_as_it_came(upstream: Upstream, form: str) -> None:
    provider = make(form, upstream.url)
    reply = provider.reply(ask("!gzip tokens=1 gate"))
    async with asyncio.timeout(5):
        first = await anext(reply)
    await reply.aclose()
    await provider.aclose()

    assert [first] == texts(1)


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_an_encoding_that_is_not_undone_is_named(upstream: Upstream, form: str) -> None:
    provider = make(form, upstream.url)
    _, error = await failure(provider, "!encoding=br tokens=1")
    _, broken = await failure(provider, "!encoding=gzip tokens=1")
    await provider.aclose()

    assert "br" in error.message and error.retryable
    assert "compressed" in broken.message


# What inflates, or never ends, keeps nobody waiting


async def longest_stretch(provider: Provider, *answers: str) -> float:
    """Return the longest CPU time in ms that the loop's turn took while these answers came."""
    longest = 0.0

    async def fail(answer: str) -> None:
        with pytest.raises(ProviderError):
            async for _ in provider.reply(ask(f"!{answer}")):
                pass

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    tasks = [asyncio.create_task(fail(answer)) for answer in answers]
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.5)
    for task in (*tasks, watching):
        task.cancel()
    await asyncio.gather(*tasks, watching, return_exceptions=True)
    return longest * 1000


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer", [name for name in hostile.ANSWERS if not name.startswith("names")]
)
async def test_nothing_that_a_provider_sends_stops_the_loop(answer: str) -> None:
    with hostile.provider("names") as url:
        provider = openai.provider(base_url=url, api_key="k", model="m", connect_timeout=5)
        stretch = await longest_stretch(provider, *[answer] * 3)
        await provider.aclose()

    assert stretch < LONGEST_MS
