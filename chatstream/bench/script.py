"""What the benchmark's provider says: a text that is known, at a pace that is asked for."""

from __future__ import annotations

from typing import NamedTuple

WORDS = (" the", " sea", ",", " quiet", " and", " blue", " over", ' "there"', ".\n", " Möwen")


class Script(NamedTuple):
    """How an answer comes: so many tokens, so many a second; a rate of 0 is as fast as it goes."""

    tokens: int
    rate: float

    @property
    def model(self) -> str:
        """The model name that asks for it."""
        return f"bench-{self.tokens}-{self.rate:g}"

    @classmethod
    def of(cls, model: str) -> Script:
        """Read a model name. Raises ValueError."""
        _, tokens, rate = model.split("-")
        return cls(int(tokens), float(rate))

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(token(number) for number in range(self.tokens))


def token(number: int) -> str:
    """Return one token's text."""
    return WORDS[number % len(WORDS)]
