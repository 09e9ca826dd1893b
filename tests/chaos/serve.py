"""
The server of a run: `chatstream serve`, with the machine's clock set back, a slow disk and a fault
planted where the environment says so; every sync is noted, so that a power cut can take exactly
what was not synced.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from chatstream.cli.commands import main
from tests.chaos.faults import FAULTS


def set_clock_back(nanoseconds: int) -> None:
    """Have this process live in the past."""
    real = time.time_ns
    time.time_ns = lambda: real() - nanoseconds


def note_syncs(path: str, slowest: float) -> None:
    """
    Have each sync note, once it is done, how much of which file was there when it began.

    It first takes up to `slowest` seconds, as a disk may: who dies meanwhile had not synced.
    """
    notes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def noted(fd: int) -> None:
            found = os.fstat(fd)
            if slowest:
                time.sleep(random.uniform(0, slowest))
            sync(fd)
            os.write(notes, b"%d %d\n" % (found.st_ino, found.st_size))

        return noted

    for name in ("fsync", "fdatasync"):
        setattr(os, name, noting(getattr(os, name)))


if __name__ == "__main__":
    if path := os.environ.get("CHAOS_SYNCS"):
        note_syncs(path, float(os.environ["CHAOS_SLOW_SYNC"]))
    if back := int(os.environ.get("CHAOS_CLOCK_BACK_NS", "0")):
        set_clock_back(back)
    if fault := os.environ.get("CHAOS_FAULT"):
        FAULTS[fault].plant()
    main()
