"""All attacks, or some: a table of what each does to somebody else's `/healthz` and to memory."""

from __future__ import annotations

import argparse
import sys

from tests.abuse.groups import GROUPS
from tests.abuse.measure import Figures, measure

WORST_MS, GROWTH_MIB = 250.0, 120.0
"""The goal for each attack."""


def main() -> int:
    """Attack as the options say; 1 where an attack is over the goal."""
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("names", nargs="*", help="groups or attacks [default: all]")
    parser.add_argument("--seconds", type=float, default=6, help="how long each attack lasts")
    given = parser.parse_args()
    over = 0
    _say(f"{'attack':58} {'healthz ms':>10} {'refused':>8} {'MiB more':>9} {'MiB after':>9}")
    for group in GROUPS:
        for attack in group.attacks:
            name = attack.__name__
            if not given.names or {group.name, name} & set(given.names):
                figures = measure(group, attack, given.seconds)
                over += not within(figures, 1)
                _say(
                    f"{group.name + ': ' + name.replace('_', ' '):58} {figures.worst:10.0f} "
                    f"{figures.refused:8} {figures.growth:9.0f} {figures.after:9.0f}"
                )
    return 1 if over else 0


def within(figures: Figures, times: float) -> bool:
    """Say whether figures stay within so many times the goal."""
    return (
        figures.refused == 0
        and figures.worst < times * WORST_MS
        and figures.growth < times * GROWTH_MIB
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
