"""
Starts without end: 32 connections post turns as fast as they can, while 50 turns run.

`python -m tests.abuse.starts` measures the time between two tokens of the running turns, at first
alone and then under the flood, and how long a start takes to be taken or refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import uvloop

from chatstream.bench import processes
from chatstream.bench.calls import p95
from chatstream.bench.clients import Client, post
from chatstream.bench.processes import Server
from chatstream.bench.script import Script

TURNS, CONNECTIONS = 50, 32
RATE = 20.0
WARM_UP_SECONDS = 1.0
MOST_RATIO, MOST_WAIT_MS = 1.5, 50.0
"""The goal."""
FLOODS = {"long answers": Script(1000, RATE), "short answers": Script(5, 200)}
"""What the flood asks for: turns that go on running, or that end at once."""


@dataclass(frozen=True)
class Figures:
    """
    What the flood did.

    Attributes:
        quiet: 95th percentile of the gap between two tokens without it, in seconds.
        flooded: The same under it.
        taken, refused: 95th percentile of the time until a start was taken, or refused, in seconds;
            0 where none was.
        statuses: How many starts were answered how.
    """

    quiet: float
    flooded: float
    taken: float
    refused: float
    statuses: dict[str, int]

    @property
    def ratio(self) -> float:
        """By how much the gap grew."""
        return self.flooded / self.quiet

    def within(self, times: float) -> bool:
        """Say whether they stay within so many times the goal."""
        return self.ratio < times * MOST_RATIO and self.refused * 1000 < times * MOST_WAIT_MS


async def measure(flood: Script, seconds: float) -> Figures:
    """Run the turns on a new server, alone and then under the flood, for so long each."""
    with tempfile.TemporaryDirectory(prefix="abuse-") as name:
        folder = Path(name)
        async with (
            processes.upstream(folder) as provider,
            processes.chatstream(folder, provider, 0) as server,
        ):
            clients = [await _reader(server) for _ in range(TURNS)]
            await asyncio.sleep(WARM_UP_SECONDS)
            quiet = await _gaps(clients, seconds)
            attack = await _flood(server.port, flood, seconds)
            flooded = await _gaps(clients, seconds)
            told = json.loads((await attack.communicate())[0])
            for client in clients:
                client.done.cancel()
                client.transport.abort()
    taken, refused = (p95(told["waits"].get(status) or [0.0]) for status in ("202", "503"))
    statuses = {status: len(waits) for status, waits in told["waits"].items()}
    return Figures(p95(quiet), p95(flooded), taken, refused, statuses)


async def _gaps(clients: list[Client], seconds: float) -> list[float]:
    """Return the gaps between what comes for so long."""
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    gaps: list[float] = []
    for client in clients:
        times = [at for at, _ in client.arrivals if at >= began]
        gaps += [later - earlier for earlier, later in pairwise(times)]
    return gaps


async def _reader(server: Server) -> Client:
    script = Script(100_000, RATE)
    client = Client({"message": "m", "model": script.model}, lambda: None)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: client, "127.0.0.1", server.port)
    return client


async def _flood(port: int, flood: Script, seconds: float) -> asyncio.subprocess.Process:
    """Start the flood in a process of its own: it must not slow what measures it."""
    arguments = ["-m", "tests.abuse.starts", "--port", str(port), "--model", flood.model]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments, "--seconds", str(seconds)), stdout=asyncio.subprocess.PIPE
    )


async def pour(port: int, model: str, seconds: float) -> dict[str, Any]:
    """Post turns from all connections; return how long each answer took, by its status."""
    until = time.monotonic() + seconds
    waits: defaultdict[str, list[float]] = defaultdict(list)

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = {"message": "m", "model": model, "conversation_id": f"flood-{number}"}
        request = post("/turns", body)
        while time.monotonic() < until:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            waits[head[9:12].decode()].append(time.perf_counter() - began)
            size = re.search(rb"content-length: (\d+)", head.lower())
            assert size is not None
            await reader.readexactly(int(size[1]))
        writer.close()

    await asyncio.gather(*map(connection, range(CONNECTIONS)))
    return {"waits": waits}


def main() -> int:
    """Measure, or be the flood; 1 where it is over the goal."""
    parser = argparse.ArgumentParser(prog="python -m tests.abuse.starts", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="how long each part lasts")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.port is not None:
        found = uvloop.run(pour(given.port, given.model, given.seconds))
        sys.stdout.write(json.dumps(found))
        return 0
    over = 0
    for name, flood in FLOODS.items():
        figures = uvloop.run(measure(flood, given.seconds))
        over += not figures.within(1)
        sys.stdout.write(
            f"{name}: gap p95 {figures.quiet * 1e3:.1f} -> {figures.flooded * 1e3:.1f} ms "
            f"({figures.ratio:.2f} times), a start is taken within {figures.taken * 1e3:.0f} ms "
            f"or refused within {figures.refused * 1e3:.0f} ms (p95): {figures.statuses}\n"
        )
        sys.stdout.flush()
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
