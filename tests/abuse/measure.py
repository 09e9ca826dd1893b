"""One attack on one server, and what it does to everybody else."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from tests.abuse.target import Attack, Group, Target

WARM_UP_SECONDS = 0.5
REST_SECONDS = 3.0
"""What the server has to give memory back."""
MIB = 1 << 20


@dataclass(frozen=True)
class Figures:
    """
    What an attack did.

    Attributes:
        worst: The slowest `/healthz` of another client meanwhile, in milliseconds.
        refused: How many of them had no answer.
        growth: By how much the server grew at most, in MiB.
        after: How much of that was left once the attack was over, in MiB.
    """

    worst: float
    refused: int
    growth: float
    after: float


def measure(group: Group, attack: Attack, seconds: float, rest: float = REST_SECONDS) -> Figures:
    """Attack a new server for so long, then let it rest."""
    with tempfile.TemporaryDirectory(prefix="abuse-") as folder, group.world() as environment:
        with _server(Path(folder), environment) as (port, process), _probe(port, process) as probe:
            time.sleep(WARM_UP_SECONDS)
            _ask(probe)
            uvloop.run(_within(attack, Target(port, time.monotonic() + seconds)))
            during = _ask(probe)
            time.sleep(rest)
            after = _ask(probe)
    before = during["first"]
    return Figures(
        worst=during["worst"] * 1000,
        refused=int(during["refused"]),
        growth=max(0.0, during["most"] - before) / MIB,
        after=max(0.0, after["last"] - before) / MIB,
    )


async def _within(attack: Attack, target: Target) -> None:
    await attack(target)
    await asyncio.sleep(0.05)  # what was aborted is closed once the loop comes round


@contextmanager
def _server(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Serve from a folder; yields the port and the process id."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CHATSTREAM_", "OPENAI_"))}
    clean |= {"CHATSTREAM_DATA_DIR": str(folder / "data"), "CHATSTREAM_PORT": "0", **environment}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "chatstream", "serve"],
            env=clean,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = (line for line in process.stdout if "open http://" in line)
            yield int(next(lines).split()[2].rstrip("/").rpartition(":")[2]), process.pid
        finally:
            process.kill()
            process.communicate()


@contextmanager
def _probe(port: int, server: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.abuse.probe", str(port), str(server)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ask(probe: subprocess.Popen[str]) -> dict[str, float]:
    """Return what the probe has seen since it was last asked."""
    assert probe.stdin is not None and probe.stdout is not None
    probe.stdin.write("\n")
    probe.stdin.flush()
    found: dict[str, float] = json.loads(probe.stdout.readline())
    return found
