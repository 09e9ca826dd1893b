"""
The server of a run: `chatstream serve`, with the machine's clock set back and a fault planted
where the environment says so. Without either it patches nothing.
"""

from __future__ import annotations

import os
import time

from chatstream.cli import main
from tests.chaos.faults import FAULTS


def set_clock_back(nanoseconds: int) -> None:
    """Have this process live in the past."""
    real = time.time_ns
    time.time_ns = lambda: real() - nanoseconds


if __name__ == "__main__":
    if back := int(os.environ.get("CHAOS_CLOCK_BACK_NS", "0")):
        set_clock_back(back)
    if fault := os.environ.get("CHAOS_FAULT"):
        FAULTS[fault].plant()
    main()
