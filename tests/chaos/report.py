"""What a run tells: its figures, the promises that were broken, and how to repeat it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos.ledger import Ledger
from tests.chaos.proxy import BREAKS


@dataclass(frozen=True)
class Report:
    """How a run went."""

    seed: int
    seconds: float
    fsync: str
    took: float
    figures: dict[str, int]
    violations: list[str]

    def __str__(self) -> str:
        took = f"{self.seconds:.0f} s of storm, {self.took:.0f} s in all"
        lines = [f"seed {self.seed}, fsync {self.fsync}, {took}"]
        lines += [f"{count:>9} {name}" for name, count in sorted(self.figures.items())]
        lines += [f"{len(self.violations):>9} violations", *self.violations[:20]]
        if self.violations:
            lines.append(
                f"again: python -m tests.chaos --seed {self.seed} --seconds {self.seconds:.0f}"
                f" --fsync {self.fsync}"
            )
        return "\n".join(lines)


def figures_of(ledger: Ledger) -> dict[str, int]:
    """Return what was done so far, and how the turns ended."""
    figures = {"cut": 0, **ledger.figures}
    for turn in ledger.turns.values():
        kind = turn.terminal["type"] if turn.terminal else "turn cleared, its end not seen"
        figures[kind] = figures.get(kind, 0) + 1
    figures["connections broken"] = sum(figures.get(name, 0) for name in BREAKS[1:])
    return figures
