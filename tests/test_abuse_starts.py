"""Starts without end slow no running turn (`python -m tests.abuse.starts`, a short run of it)."""

import pytest
import uvloop

from chatstream.bench.script import Script
from tests.abuse.starts import FLOODS, MOST_RATIO, measure

SECONDS = 2.0
TRIES = 3
"""What else the machine does can spoil a run, hardly three."""


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.timeout(120)
def test_a_flood_of_starts_slows_no_running_turn(flood: Script) -> None:
    found = []
    for _ in range(TRIES):
        found.append(measured := uvloop.run(measure(flood, SECONDS)))
        if measured.ratio < 2 * MOST_RATIO:
            return
    raise AssertionError(found)
