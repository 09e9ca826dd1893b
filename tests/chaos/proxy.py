"""A TCP proxy between clients and server that breaks connections as each client's plan says."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from contextlib import suppress
from typing import Literal, NamedTuple, Self

Break = Literal["none", "cut", "reset", "stall", "trickle"]
BREAKS: tuple[Break, ...] = ("none", "cut", "reset", "stall", "trickle")
TRICKLED = 500
"""Bytes that come one by one, or nearly so; then the connection is fine again."""


class Plan(NamedTuple):
    """What befalls one connection, once so many bytes have come `after` its beginning."""

    fault: Break = "none"
    after: int = 0
    seconds: float = 0.0
    request_after: int | None = None


def plan(rng: random.Random) -> Plan:
    """Draw a plan: faults in headers, in a stream's first bytes, and far in it."""
    fault = rng.choices(BREAKS, (30, 30, 15, 12, 13))[0]
    after = rng.choice((rng.randrange(500), int(rng.expovariate(1 / 3000))))
    request_after = rng.randrange(400) if rng.random() < 0.05 else None
    return Plan(fault, after, rng.uniform(0.1, 2.0), request_after)


class Proxy:
    """
    Listens, and forwards to a port where a server may be.

    Attributes:
        port: Where clients connect; their plans are known by the port that they come from.
    """

    def __init__(self, target: int, figures: Counter[str]) -> None:
        self.target = target
        self.port = 0
        self._figures = figures
        self._plans: dict[int, Plan] = {}
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task, writer in self._tasks.items():
            task.cancel()
            writer.transport.abort()  # what a client does not take is not waited for
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def dial(self, plan: Plan, receive_buffer: int | None = None) -> socket.socket:
        """Connect through the proxy, to suffer a plan."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind(("127.0.0.1", 0))
        self._plans[sock.getsockname()[1]] = plan
        self._figures["connections"] += 1
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._forward(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)
        # Also where it is cancelled before it has begun.
        task.add_done_callback(lambda _: writer.close())

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plan = self._plans.pop(writer.get_extra_info("peername")[1], Plan())
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        up = asyncio.create_task(self._up(reader, there[1], plan))
        down = asyncio.create_task(self._down(there[0], writer, plan))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in (up, down):
                pump.cancel()
            writer.close()
            there[1].transport.abort()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, plan: Plan
    ) -> None:
        left = plan.request_after
        with suppress(OSError):
            while data := await reader.read(65536):
                if left is not None and len(data) > left:
                    writer.write(data[:left])
                    await writer.drain()
                    self._figures["requests cut"] += 1
                    return
                left = left if left is None else left - len(data)
                writer.write(data)
                await writer.drain()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, plan: Plan
    ) -> None:
        left, fault = plan.after, plan.fault
        try:
            while data := await reader.read(16384):
                if fault != "none" and len(data) > left:
                    writer.write(data[:left])
                    await writer.drain()
                    self._figures[fault] += 1
                    if fault == "cut":
                        return
                    if fault == "reset":
                        _reset(writer)
                        return
                    data = data[left:]
                    if fault == "stall":
                        await asyncio.sleep(plan.seconds)
                    else:
                        data = await _trickle(data, writer)
                    fault = "none"
                left -= len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            _reset(writer)


async def _trickle(data: bytes, writer: asyncio.StreamWriter) -> bytes:
    for start in range(0, min(TRICKLED, len(data)), 3):
        writer.write(data[start : start + 3])
        await writer.drain()
        await asyncio.sleep(0)
    return data[len(range(0, min(TRICKLED, len(data)), 3)) * 3 :]


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
