"""What was measured, as tables for people and as JSON for programs."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from typing import Any

from chatstream.bench.streams import Result

MICRO, MILLI, MIB = 1e6, 1e3, 1024 * 1024
HEAD = (
    "| server | CPU µs a token (min-max) | of the relay's | while streaming "
    "| first token ms p50, p99 | gap ms p50, p99 | tokens/s | memory MiB |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def machine() -> str:
    """Say where it was run."""
    return f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"


def table(results: Sequence[Result]) -> str:
    """Return the results of one pace as Markdown, each with its ratio to the relay's cost."""
    relay = _named(results, "relay").cost
    return "\n".join([HEAD, *(_row(result, relay) for result in results)])


def _row(result: Result, relay: float) -> str:
    costs = [cost * MICRO for cost in result.costs]
    first = [result.first(share) * MILLI for share in (0.5, 0.99)]
    gap = [result.gap(share) * MILLI for share in (0.5, 0.99)]
    streaming = "" if result.streaming is None else f"{result.streaming * MICRO:.1f}"
    return (
        f"| {result.name} | {result.cost * MICRO:.1f} ({min(costs):.1f}-{max(costs):.1f}) "
        f"| {over(result.cost, relay):.2f} | {streaming} | {first[0]:.0f}, {first[1]:.0f} "
        f"| {gap[0]:.0f}, {gap[1]:.0f} | {result.rate:,.0f} | {result.memory / MIB:.0f} |"
    )


def ratios(results: Sequence[Result]) -> str:
    """Return the ratios that count, while streaming where that is known."""
    sse, socket = _named(results, "chatstream SSE"), _named(results, "chatstream WebSocket")
    told = []
    for name, one, other in (
        ("chatstream SSE / relay", sse, _named(results, "relay")),
        ("chatstream SSE / bare ASGI", sse, _named(results, "bare ASGI")),
        ("chatstream WebSocket / SSE", socket, sse),
    ):
        ratio = f"{name}: {over(one.cost, other.cost):.2f}"
        if one.streaming is not None and other.streaming is not None:
            ratio += f" ({over(one.streaming, other.streaming):.2f} while streaming)"
        told.append(ratio)
    return "; ".join(told)


def spreads(results: Sequence[Result]) -> list[tuple[str, float]]:
    """Return by how much each subject's rounds differ."""
    return [(result.name, over(max(result.costs), min(result.costs))) for result in results]


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the results of one pace; times in seconds, memory in bytes."""
    return [
        {
            "name": result.name,
            "cpu_per_token": result.costs,
            "cpu_per_token_streaming": [found.streaming for found in result.rounds],
            "first_token": {"p50": result.first(0.5), "p99": result.first(0.99)},
            "gap": {"p50": result.gap(0.5), "p99": result.gap(0.99)},
            "tokens_per_second": result.rate,
            "memory": result.memory,
        }
        for result in results
    ]


def over(one: float, other: float) -> float:
    """Return a ratio; not a number where the run was too short for the clock."""
    return one / other if other else math.nan


def _named(results: Sequence[Result], name: str) -> Result:
    return next(result for result in results if result.name == name)
