"""Servers as processes of their own: started, measured from outside, stopped. Linux only."""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from chatstream.errors import ChatstreamError

START_SECONDS = 20.0
STOP_SECONDS = 10.0


class BenchFailed(ChatstreamError):
    """The benchmark cannot be run here, or a server did not do what it must."""


class Server:
    """A running server process on a port of 127.0.0.1."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        self.name = name
        self.port = port
        self._process = process

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it has used, all threads, those that have ended included."""
        # The kernel's clock of another process (CPUCLOCK_SCHED), exact to the nanosecond.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    @property
    def memory(self) -> int:
        """Bytes of memory that are resident."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def writes(self) -> int:
        """How many times it has called `write`, on sockets and on files."""
        told = Path(f"/proc/{self._process.pid}/io").read_text().split("\n")
        return next(int(line.split()[1]) for line in told if line.startswith("syscw:"))

    async def ready(self, log: Path) -> None:
        """Wait until it takes connections. Raises BenchFailed."""
        for _ in range(int(START_SECONDS / 0.05)):
            if self._process.poll() is not None:
                break
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
        raise BenchFailed(f"the server {self.name!r} did not start: {_end_of(log)}")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def started(
    name: str, arguments: Sequence[str], port: int, folder: Path, more: Mapping[str, str]
) -> AsyncIterator[Server]:
    """Run `python ARGUMENTS` in a folder, with none of the caller's settings but `more`."""
    ours = ("CHATSTREAM_", "OPENAI_", "GEMINI_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    log = folder / f"{name}.log"
    server = Server(name, _spawn(arguments, folder, {**environment, **more}, log), port)
    try:
        await server.ready(log)
        yield server
    finally:
        server.stop()


def _spawn(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-500:]


@asynccontextmanager
async def upstream(folder: Path, most: float = math.inf) -> AsyncIterator[Server]:
    """Run the provider, which bears so many answers at once."""
    port = free_port()
    arguments = ["-m", "chatstream.bench.upstream", str(port), str(most)]
    async with started("upstream", arguments, port, folder, {}) as server:
        yield server


@asynccontextmanager
async def baseline(name: str, folder: Path, provider: Server) -> AsyncIterator[Server]:
    """Run `bare` or `relay`."""
    port = free_port()
    arguments = ["-m", "chatstream.bench.baselines", name, str(port), url(provider)]
    async with started(name, arguments, port, folder, {}) as server:
        yield server


@asynccontextmanager
async def chatstream(folder: Path, provider: Server | None, chats: int) -> AsyncIterator[Server]:
    """
    Run `chatstream serve` as it is by default: everything is written to disk.

    Without a `provider` it has one that cannot be reached: for what asks nobody.
    """
    port = free_port()
    arguments = [
        "-c",
        "from chatstream.cli.commands import main; main()",
        "serve",
        "--port",
        str(port),
    ]
    settings = {
        "OPENAI_BASE_URL": url(provider) if provider else "http://127.0.0.1:9/v1",
        "OPENAI_API_KEY": "bench",
        "CHATSTREAM_PROVIDER": "openai",
        "CHATSTREAM_DATA_DIR": str(folder / "data"),
        "CHATSTREAM_DRAIN_TIMEOUT": "0",
        "CHATSTREAM_MAX_TURNS": str(max(500, chats)),
    }
    async with started("chatstream", arguments, port, folder, settings) as server:
        yield server


def url(provider: Server) -> str:
    """Return the provider's base URL."""
    return f"http://127.0.0.1:{provider.port}/v1"


def free_port() -> int:
    """Return a port that nobody uses now, below those that outgoing connections are given."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
