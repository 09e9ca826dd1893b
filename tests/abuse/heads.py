"""Heads, addresses and trailers without end."""

from __future__ import annotations

from tests.abuse.target import Attack, Target

BEGUN = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST /feedback HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


async def _poured(target: Target, first: bytes, rest: bytes) -> None:
    """Begin anew whenever the server has hung up."""
    while target.left:
        _, writer = await target.connect()
        writer.write(first)
        await target.pour(writer, rest)
        writer.transport.abort()


async def headers_without_end(target: Target) -> None:
    """Send short headers."""
    await _poured(target, BEGUN, b"a: b\r\n" * 10_000)


async def a_header_without_end(target: Target) -> None:
    """Send one value."""
    await _poured(target, BEGUN + b"a: ", b"b" * 65_536)


async def a_header_name_without_end(target: Target) -> None:
    """Send one name."""
    await _poured(target, BEGUN, b"a" * 65_536)


async def an_address_without_end(target: Target) -> None:
    """Send a path."""
    await _poured(target, b"GET /", b"a" * 65_536)


async def trailers_without_end(target: Target) -> None:
    """Send a body's last chunk, and headers behind it."""
    await _poured(target, CHUNKED + b"2\r\n{}\r\n0\r\n", b"a: b\r\n" * 10_000)


async def chunk_extensions_without_end(target: Target) -> None:
    """Send what may follow a chunk's size."""
    await _poured(target, CHUNKED + b"2;", b"a" * 65_536)


async def chunks_of_one_byte(target: Target) -> None:
    """Send a body in the smallest pieces."""
    await _poured(target, CHUNKED, b"1\r\n \r\n" * 10_000)


async def blank_lines_without_end(target: Target) -> None:
    """Send what may stand before a request."""
    await _poured(target, b"\r\n", b"\r\n" * 30_000)


ATTACKS: tuple[Attack, ...] = (
    headers_without_end,
    a_header_without_end,
    a_header_name_without_end,
    an_address_without_end,
    trailers_without_end,
    chunk_extensions_without_end,
    chunks_of_one_byte,
    blank_lines_without_end,
)
