"""Plain requests over kept connections: what the other endpoints are measured with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from chatstream.bench.processes import BenchFailed, Server

CALL_SECONDS = 30.0


@dataclass
class Timing:
    """What calls of one kind took, in seconds; and how many were answered in a second."""

    name: str
    callers: int
    seconds: list[float]
    a_second: float


async def time_calls(
    server: Server, name: str, callers: int, calls: int, request: Callable[[int, int], bytes]
) -> Timing:
    """
    Make calls from many callers at once, each over its own connection, one after the other.

    `request` gives a caller's number and its call's number the bytes to send.

    Raises:
        BenchFailed: An answer was not 200.
    """
    seconds: list[float] = []

    async def caller(number: int) -> None:
        async with asyncio.timeout(CALL_SECONDS + calls):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**22)
            for call in range(calls):
                asked = perf_counter()
                writer.write(request(number, call))
                await read_answer(reader)
                seconds.append(perf_counter() - asked)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    began = perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return Timing(name, callers, seconds, callers * calls / (perf_counter() - began))


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Return an answer's body. Raises BenchFailed unless it is a 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    sizes = [line.split(b":")[1] for line in lines if line.lower().startswith(b"content-length:")]
    body = await reader.readexactly(int(sizes[0])) if sizes else b""
    if lines[0].split()[1] != b"200":
        raise BenchFailed(f"an answer was refused: {lines[0].decode()} {body[:200].decode()}")
    return body


def get(path: str) -> bytes:
    """Return a request."""
    return b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode()


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return sorted(values)[int(0.95 * len(values))]
