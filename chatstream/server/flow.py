"""Whether a connection may go on: asked of what comes, told by what is read and written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Says when to go on, instead of reading on by itself."""

    def __init__(self, transport: asyncio.Transport, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self.go_on = go_on

    def pause_reading(self) -> None:
        """Take no more than has come: it is read, but not parsed."""
        self.read_paused = True

    def resume_reading(self) -> None:
        """Take more."""
        if self.read_paused:
            self.read_paused = False
            self.go_on()

    def resume_writing(self) -> None:
        """Write, and take more."""
        super().resume_writing()
        self.go_on()


def nothing() -> None:
    """Go nowhere: the connection is over."""
    return
