"""
Who may start a turn: how many run at once, of all users and of one, and whether any may.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from chatstream.errors import TooManyRequests, Unavailable
from chatstream.settings import Settings


class Admission:
    """
    Counts the turns that start and run. For the loop's thread.

    Attributes:
        draining: No turn may start any more.
        idle: Set while nothing starts or runs.
    """

    def __init__(self, settings: Settings, room: Callable[[], None]) -> None:
        """`room` raises where the disk has none."""
        self._most = settings.max_turns
        self._per_user = (
            settings.max_turns_per_user if settings.limited("max_turns_per_user") else None
        )
        self._room = room
        self._users: Counter[str] = Counter()
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()

    def check_open(self) -> None:
        """Refuse what would start a turn while the server drains, or the disk is full."""
        if self.draining:
            raise Unavailable("The server is restarting.", code="draining", retry_after=2)
        self._room()

    def take(self, user_id: str) -> None:
        """
        Take a place for a turn, until `give_back`.

        Raises:
            Unavailable, TooManyRequests, StorageFull: There is none.
        """
        self.check_open()
        if self._users.total() >= self._most:
            raise Unavailable(
                f"{self._most} answers are being written; try again in a moment.",
                code="overloaded",
            )
        if self._per_user is not None and self._users[user_id] >= self._per_user:
            raise TooManyRequests(
                f"{self._per_user} answers of yours are being written; wait for one of them.",
                code="too_many_turns",
                headers={
                    "RateLimit-Policy": f'"turns";q={self._per_user}',
                    "RateLimit": '"turns";r=0;t=1',
                },
            )
        self._users[user_id] += 1
        self.idle.clear()

    def give_back(self, user_id: str) -> None:
        """Let go of a place that was taken."""
        self._users[user_id] -= 1
        if not self._users[user_id]:
            del self._users[user_id]
        if not self._users:
            self.idle.set()


class Slot:
    """One turn's place: taken at most once, given back at most once."""

    def __init__(self, admission: Admission, user_id: str) -> None:
        self._admission = admission
        self._user_id = user_id
        self._held = False

    def take(self) -> None:
        """Take the place, or look whether the one that is held may still be used."""
        if self._held:
            self._admission.check_open()
        else:
            self._admission.take(self._user_id)
            self._held = True

    def pass_on(self) -> Slot:
        """Return another who holds the place now, and gives it back."""
        other = Slot(self._admission, self._user_id)
        self._held, other._held = False, self._held
        return other

    def give_back(self) -> None:
        """Let go of the place, where it is held."""
        if self._held:
            self._held = False
            self._admission.give_back(self._user_id)
