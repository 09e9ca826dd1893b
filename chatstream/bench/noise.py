"""What else the machine did while it was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MOST_FOREIGN = 0.1
"""Cores that others may have used before the figures are called doubtful."""
MOST_SPREAD = 1.5
"""So many times its least may a subject's dearest round cost."""


class Noise:
    """Adds up the CPU time of the whole machine, and that of the processes that belong here."""

    def __init__(self, own: Callable[[], float]) -> None:
        self._own = own
        self._seconds = self._foreign = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Look at the machine for as long as this lasts."""
        began, busy, own = time.monotonic(), _busy(), self._own()
        yield
        self._seconds += time.monotonic() - began
        self._foreign += max(0.0, (_busy() - busy) - (self._own() - own))

    def warnings(self, spreads: Sequence[tuple[str, float]]) -> list[str]:
        """Say what makes the figures doubtful; a spread is a dearest round by a cheapest."""
        said = []
        cores = self._foreign / self._seconds if self._seconds else 0.0
        if cores > MOST_FOREIGN:
            said.append(f"other processes used {cores:.2f} cores meanwhile")
        for name, spread in spreads:
            if spread > MOST_SPREAD:
                said.append(f"{name}: the rounds differ by {spread:.1f} times")
        return said


def _busy() -> float:
    # user, nice, system, idle, iowait, irq, softirq, steal: what is neither idle nor iowait
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
