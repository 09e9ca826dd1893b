"""A long run by hand: prints its figures, and how to repeat it where a promise was broken."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.chaos.faults import FAULTS
from tests.chaos.run import FSYNC, run


def main() -> int:
    """Run as the options say; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's plan")
    parser.add_argument("--seconds", type=float, default=60, help="how long the storm lasts")
    parser.add_argument("--fault", choices=sorted(FAULTS), help="plant a fault, to see it found")
    parser.add_argument("--fsync", choices=FSYNC, help="else the seed chooses")
    parser.add_argument("--keep", type=Path, help="an empty folder for the data and the log")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = uvloop.run(run(seed, given.seconds, folder, given.fault, given.fsync))
    sys.stdout.write(f"{report}\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
