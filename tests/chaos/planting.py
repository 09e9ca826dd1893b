"""How a fault is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Fault(NamedTuple):
    """
    What promise it breaks, and how.

    Attributes:
        slow_sync: It is found where syncs take their time.
        seconds: How long a storm finds it, at most; what is found after it needs a short one.
    """

    promise: int
    plant: Callable[[], None]
    seconds: float = 60
    slow_sync: bool = False


def put(owner: object, name: str, part: object) -> None:
    """Put a broken part in the place of the right one, which must be there."""
    getattr(owner, name)
    setattr(owner, name, part)
