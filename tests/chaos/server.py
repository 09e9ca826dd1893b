"""The server's process: started, killed and stopped on one data folder."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.ledger import Ledger
from tests.chaos.power import Power
from tests.chaos.world import GOING_ON

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 20.0
HOUR_NS = 3600 * 10**9


def quiet_port() -> int:
    """Return a free port outside the range of which the system gives clients theirs."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class ServerProcess:
    """One server after the other, on one port and one data folder."""

    def __init__(
        self, folder: Path, ledger: Ledger, seed: int, upstream: str, fault: str | None, fsync: str
    ) -> None:
        self.data = folder / "data"
        self.log = folder / "server.log"
        self._ledger = ledger
        self._rng = random.Random(f"{seed}/starts")
        self._power = Power(folder, ledger, seed, fsync)
        self.port = quiet_port()
        self._back_ns = 0
        self._fault = fault
        self._sync_seconds: tuple[float, ...] = (0.0, 0.05, 0.2)
        if fault:
            self._sync_seconds = (0.2,) if FAULTS[fault].slow_sync else (0.0,)
        self._folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CHATSTREAM_", "OPENAI"))}
        self._environment = kept | {
            "PYTHONPATH": str(ROOT),
            "OPENAI_BASE_URL": upstream,
            "OPENAI_API_KEY": "k",
            "OPENAI_MODEL": f"m!{GOING_ON}",
            "CHATSTREAM_HEARTBEAT": "1",
            "CHATSTREAM_CONTEXT_MESSAGES": "4",
            "CHATSTREAM_LOG_LEVEL": "WARNING",
            "CHATSTREAM_FSYNC": fsync,
            "CHAOS_FAULT": fault or "",
            "CHAOS_SYNCS": str(self._power.notes),
        }
        self._process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start it, some starts in the past; returns once it answers."""
        if self._fault or self._rng.random() < 0.3:
            self._back_ns += self._rng.choice((self._rng.randrange(10**10), HOUR_NS))
            self._ledger.figures["clock set back"] += 1
        environment = self._environment | {
            "CHAOS_CLOCK_BACK_NS": str(self._back_ns),
            "CHATSTREAM_DRAIN_TIMEOUT": str(self._rng.choice((0, 0.3))),
            "CHAOS_SLOW_SYNC": str(self._rng.choice(self._sync_seconds)),
        }
        self._power.on()
        command = [sys.executable, "-m", "tests.chaos.serve", "serve", "--provider", "openai"]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *("--port", str(self.port), "--data-dir", str(self.data)),
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START_SECONDS):
            while not await self._answers():
                if self._process.returncode is not None:
                    raise RuntimeError(f"no start: {self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def stop(self, how: signal.Signals) -> None:
        """Send it a signal, and wait for its end."""
        if self._process.returncode is not None:
            self._ledger.violate(0, f"the server ended by itself: {self._process.returncode}")
            return
        self._stopping()
        self._process.send_signal(how)
        await self._process.wait()
        self._stopping()  # what started while it drained
        if self._process.returncode != (0 if how is signal.SIGTERM else -how):
            self._ledger.violate(0, f"the server ended as {self._process.returncode}")

    def lose_power(self, *, torn: bool) -> None:
        """Leave of a killed server's files what a power cut does, if `torn`; note what is left."""
        self._power.off(torn=torn)

    def _stopping(self) -> None:
        for turn in self._ledger.turns.values():
            if turn.terminal is None:
                turn.stopped = True


def has_failed(log: Path) -> str | None:
    """Return the first stack in a server's log: a defect, whatever clients saw of it."""
    text = log.read_text()
    at = text.find("Traceback")
    return text[at : at + 3000] if at >= 0 else None
