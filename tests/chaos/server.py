"""The server's process: started, killed and stopped on one data folder, and what a crash leaves."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from pathlib import Path

import orjson

from tests.chaos.ledger import TERMINAL, Json, Ledger

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 20.0
HOUR_NS = 3600 * 10**9


def quiet_port(rng: random.Random) -> int:
    """Return a free port outside the range of which the system gives clients theirs."""
    while True:
        port = rng.randrange(20000, 32000)
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
        # Of its own for each purpose, since how much is drawn for the files is left to the time.
        self._rng = random.Random(f"{seed}/starts")
        self._power = random.Random(f"{seed}/power cuts")
        self.port = quiet_port(random.Random(f"{seed}/port"))
        self._back_ns = 0
        self._fsync = fsync
        self._folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CHATSTREAM_", "OPENAI"))}
        self._environment = kept | {
            "PYTHONPATH": str(ROOT),
            "OPENAI_BASE_URL": upstream,
            "OPENAI_API_KEY": "k",
            "OPENAI_MODEL": "m",
            "CHATSTREAM_HEARTBEAT": "1",
            "CHATSTREAM_CONTEXT_MESSAGES": "4",
            "CHATSTREAM_LOG_LEVEL": "WARNING",
            "CHATSTREAM_FSYNC": fsync,
            "CHAOS_FAULT": fault or "",
        }
        self._process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start it, some starts in the past; returns once it answers."""
        if self._rng.random() < 0.3:
            self._back_ns += self._rng.choice((self._rng.randrange(10**10), HOUR_NS))
            self._ledger.figures["clock set back"] += 1
        environment = self._environment | {
            "CHAOS_CLOCK_BACK_NS": str(self._back_ns),
            "CHATSTREAM_DRAIN_TIMEOUT": str(self._rng.choice((0, 0.3))),
        }
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
        if self._process.returncode != -how:
            self._ledger.violate(0, f"the server ended as {self._process.returncode}")

    def _stopping(self) -> None:
        for turn in self._ledger.turns.values():
            if turn.terminal is None:
                turn.stopped = True

    def lose_power(self, *, torn: bool) -> None:
        """
        Make of a killed server's files what a power cut leaves, if `torn`: live files cut anywhere
        (unless `always` has synced them), and half a record behind a log. Note what is left.
        """
        may_cut = torn and self._fsync != "always"
        for log in sorted(self.data.glob("users/*/*.jsonl")):
            if log.name.startswith("+"):
                continue
            whole = log.read_bytes().rpartition(b"\n")[0]
            ended = {r["turn_id"] for r in _records(whole) if r["type"] in TERMINAL}
            for live in sorted(log.parent.glob(f"{log.stem}.*.live")):
                self._leave(live, ended, cut=may_cut and self._power.random() < 0.4)
            if torn and self._power.random() < 0.4:
                last = whole.splitlines()[-1]
                with log.open("ab") as file:
                    file.write(last[: self._power.randrange(1, len(last))])
                self._ledger.figures["torn logs"] += 1

    def _leave(self, live: Path, ended: set[str], *, cut: bool) -> None:
        data = live.read_bytes()
        first = next(iter(_records(data.rpartition(b"\n")[0])), None)
        if first is None:
            return
        turn = self._ledger.turns[first["turn_id"]]
        if cut:
            data = data[: self._power.randrange(len(data))]
            os.truncate(live, len(data))
            turn.torn = True
            self._ledger.figures["torn live files"] += 1
        if turn.turn_id not in ended:
            found = _records(data.rpartition(b"\n")[0])
            texts = [r["text"] for r in found if r["type"] == "delta" and "kind" not in r]
            turn.left = "".join(texts)


def _records(data: bytes) -> list[Json]:
    return [orjson.loads(line) for line in data.splitlines()]


def has_failed(log: Path) -> str | None:
    """Return the first stack in a server's log: a defect, whatever clients saw of it."""
    text = log.read_text()
    at = text.find("Traceback")
    return text[at : at + 3000] if at >= 0 else None
