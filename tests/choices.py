"""The choices of one schedule: what `interleaving` searches, depth first."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial


class Broken(AssertionError):
    """A schedule in which something went wrong; the message has the choices that repeat it."""

    def __init__(self, choices: Choices, error: BaseException) -> None:
        steps = "\n".join(f"  {step}" for step in choices.steps)
        again = f"Choices.again({choices.numbers}, {choices.bound})"
        super().__init__(f"{type(error).__name__}: {error}\n{again}\n{steps}")
        self.again = partial(Choices.again, choices.numbers, choices.bound)


@dataclass(slots=True)
class Choices:
    """What one schedule chose, and out of how many; it begins with what it is given."""

    prefix: list[tuple[int, int]]
    bound: int | None
    taken: list[tuple[int, int]] = field(default_factory=list)
    overtakings: int = 0
    steps: list[str] = field(default_factory=list)

    @classmethod
    def again(cls, numbers: list[int], bound: int | None) -> Choices:
        """Return what repeats the schedule of a `Broken`."""
        return cls([(number, number + 1) for number in numbers], bound)

    @property
    def numbers(self) -> list[int]:
        """The choices alone."""
        return [number for number, _ in self.taken]

    def pick(self, count: int) -> int:
        """Choose one of so many: what the prefix says, then the first."""
        if count == 1:
            return 0
        place = len(self.taken)
        number, count = self.prefix[place] if place < len(self.prefix) else (0, count)
        self.taken.append((number, count))
        return number

    def only(self, count: int) -> None:
        """Say of the last choice that only its first so many need be tried."""
        if len(self.taken) > len(self.prefix):
            self.taken[-1] = (0, count)

    def following(self) -> list[tuple[int, int]] | None:
        """Return the beginning of the next schedule; None after the last."""
        taken = list(self.taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return None
        number, count = taken.pop()
        return [*taken, (number + 1, count)]
