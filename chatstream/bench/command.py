"""What `chatstream bench` does: chooses the parts, runs them, and prints what they found."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import uvloop

from chatstream.bench import (
    behind,
    endpoints,
    flood,
    idle,
    memory,
    providers,
    recovery,
    report,
    storm,
    streams,
)
from chatstream.bench.noise import Noise
from chatstream.bench.processes import BenchFailed
from chatstream.bench.script import Script

Say = Callable[[str], None]
ALONE = {
    "endpoints": endpoints,
    "memory": memory,
    "flood": flood,
    "storm": storm,
    "idle": idle,
    "behind": behind,
    "recovery": recovery,
}
Part = Callable[[Path, "Options", Say], Coroutine[Any, Any, tuple[str, dict[str, Any]]]]


class Options(NamedTuple):
    """What is asked for."""

    chats: int
    rate: float
    tokens: int
    rounds: int
    json: bool


def run(part: str, options: Options, write: Say, note: Say) -> None:
    """
    Run a part, by its flag's name or `streams`; results go to `write`, progress to `note`.

    Raises:
        BenchFailed: It cannot be run here, or a server's answer was wrong.
    """
    if sys.platform != "linux":
        raise BenchFailed("the CPU time of other processes is read as Linux tells it: not here")
    parts: dict[str, Part] = {"streams": _streams, "providers": _providers}
    parts |= {name: partial(_alone, name, alone) for name, alone in ALONE.items()}
    with tempfile.TemporaryDirectory(prefix="chatstream-bench-") as folder:
        told, data = uvloop.run(parts[part](Path(folder), options, note))
    write(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() if options.json else told)


async def _streams(folder: Path, options: Options, note: Say) -> tuple[str, dict[str, Any]]:
    chats, tokens = options.chats, options.tokens
    told = [f"{chats} chats at once, {tokens} tokens each; {report.machine()}"]
    data: dict[str, Any] = {"chats": chats, "tokens": tokens, "machine": report.machine()}
    async with streams.subjects(folder, chats) as (subjects, servers):
        noise = Noise(lambda: time.process_time() + sum(server.cpu for server in servers))
        spreads = []
        for name, rate in (("paced", options.rate), ("burst", 0.0)):
            pace = f"{rate:g} tokens a second each" if rate else "as fast as they come"
            note(f"{name}: {pace}")
            script = Script(tokens, rate)
            results = await streams.measure(subjects, chats, script, options.rounds, noise, note)
            told += ["", f"{name.capitalize()}, {pace}:", "", report.table(results), ""]
            told.append(report.ratios(results))
            data[name] = report.as_json(results)
            spreads += [(f"{name}, {who}", spread) for who, spread in report.spreads(results)]
        data["warnings"] = noise.warnings(spreads)
        told += ["", *(f"warning: {warning}" for warning in data["warnings"])]
    return "\n".join(told).rstrip(), data


async def _providers(folder: Path, options: Options, note: Say) -> tuple[str, dict[str, Any]]:
    costs = await providers.measure(folder, options.tokens, options.rounds, note)
    return providers.table(costs), {"providers": providers.as_json(costs)}


async def _alone(
    name: str, part: Any, folder: Path, options: Options, note: Say
) -> tuple[str, dict[str, Any]]:
    """Measure a part that takes no options."""
    found = await part.measure(folder, note)
    return part.table(found), {name: part.as_json(found)}
