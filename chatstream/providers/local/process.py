"""
The server's end of the `local` provider's worker process: its life, its lines, its turns' events.

`local_worker` says what the lines hold. All of this runs on the event loop, by callbacks: no task
and no timer waits for a token.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from typing import Any, Self, cast

import orjson

from chatstream.errors import ProviderError
from chatstream.providers.local.worker import Config

# A worker that was told to end is killed after this long: it may be loading its model.
END_SECONDS = 3.0
# A cancelled turn that is still computed after this long says that native code hangs. One batch of
# a large model on a slow machine takes some seconds.
HUNG_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Inbox:
    """The events of one turn that nobody has taken yet; text that waits together is joined."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []
        self._waiter: asyncio.Future[None] | None = None
        self.complete = False

    def put(self, kind: str, value: Any) -> None:
        """Add an event; nothing counts after a `finish` or an `error`."""
        if self.complete:
            return
        self.complete = kind in ("finish", "error")
        if self._events and kind in ("text", "reasoning") and self._events[-1][0] == kind:
            self._events[-1] = kind, self._events[-1][1] + value
        else:
            self._events.append((kind, value))
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[tuple[str, Any]]:
        """Wait for at least one event and take all."""
        if not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        events, self._events = self._events, []
        return events


class WorkerProcess(asyncio.SubprocessProtocol):
    """
    One worker process, from its start to its end; it is never started again.

    Attributes:
        alive: Whether it can still answer. Once False, every turn has got its `error`.
    """

    def __init__(self) -> None:
        self.alive = True
        self._gone = asyncio.get_running_loop().create_future()
        self._ready = False
        self._last_turn = 0
        self._turns: dict[int, Inbox] = {}
        self._rest = b""
        self._failure: dict[str, Any] | None = None

    @classmethod
    async def start(cls, config: Config) -> Self:
        """
        Start the process; it loads the model while commands wait in its input.

        Raises:
            OSError: The system cannot start one.
        """
        _, process = await asyncio.get_running_loop().subprocess_exec(
            cls,
            # -P: what lies in the folder that the server was started in is none of its modules.
            *(sys.executable, "-P", "-m", "chatstream.providers.local.worker", json.dumps(config)),
            # Ctrl-C reaches the server, which lets running turns end first.
            start_new_session=True,
        )
        return process

    @property
    def pid(self) -> int:
        """The process id, also after its end."""
        return self._transport.get_pid()

    def begin(self, request: dict[str, Any]) -> tuple[int, Inbox]:
        """Have a turn answered; its inbox ends with one `finish` or `error`."""
        self._last_turn += 1
        inbox = self._turns[self._last_turn] = Inbox()
        if self.alive:
            self._send({"turn": self._last_turn, "request": request})
        else:
            self._fail_turns()
        return self._last_turn, inbox

    def cancel(self, turn: int) -> None:
        """Stop computing a turn, unless it has ended. Does not wait."""
        inbox = self._turns.get(turn)
        if inbox and not inbox.complete:
            self._send({"cancel": turn})
            asyncio.get_running_loop().call_later(HUNG_SECONDS, self._kill_if_computing, turn)

    async def end(self) -> None:
        """End the process; running turns get an error. Safe to call twice."""
        if self.alive:
            self._failure = error("local_model_stopped", "the server is stopping")
            self._input.close()
            await asyncio.wait([self._gone], timeout=END_SECONDS)
            if self.alive:
                self._transport.kill()
                await asyncio.shield(self._gone)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs (asyncio calls this)."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._input = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Events came, or the engine's own chatter (asyncio calls this)."""
        if fd != 1:
            logger.debug("local model: %s", data.decode(errors="replace").rstrip())
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            for turn, kind, value in orjson.loads(line):
                self._take(turn, kind, value)

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended and all it said was read (asyncio calls this)."""
        self.alive = False
        if self._failure is None:
            how = ending(self._transport.get_returncode())
            doing = "answered" if self._ready else "was loading"
            logger.warning("the local model's process ended while it %s: %s", doing, how)
            self._failure = error(
                "local_model_crashed", f"the local model crashed while it {doing} ({how})", True
            )
        self._transport.close()
        self._fail_turns()
        if not self._gone.done():
            self._gone.set_result(None)

    def _take(self, turn: int, kind: str, value: Any) -> None:
        if turn == 0:
            self._ready = kind == "ready"
            if kind == "error":
                self._failure = value
                logger.warning("%s", value["message"])
        elif kind == "end":
            self._turns.pop(turn, None)
        else:
            self._turns[turn].put(kind, value)

    def _send(self, command: dict[str, Any]) -> None:
        if not self._input.is_closing():
            self._input.write(orjson.dumps(command) + b"\n")

    def _fail_turns(self) -> None:
        turns, self._turns = self._turns, {}
        for inbox in turns.values():
            inbox.put("error", self._failure)

    def _kill_if_computing(self, turn: int) -> None:
        if self.alive and turn in self._turns:
            logger.warning("the local model does not obey: its process is killed")
            self._transport.kill()


def error(code: str, message: str, retryable: bool = False) -> dict[str, Any]:
    """Return the value of an `error` event."""
    return {"code": code, "message": message, "retryable": retryable}


def provider_error(value: dict[str, Any]) -> ProviderError:
    """Return an `error` event's value as what a provider raises."""
    return ProviderError(value["message"], code=value["code"], retryable=value["retryable"])


def ending(returncode: int | None) -> str:
    """Say how a process ended: the signal's name, or the exit status."""
    if returncode is not None and returncode < 0:
        try:
            return signal.Signals(-returncode).name
        except ValueError:
            return f"signal {-returncode}"
    return f"exit status {returncode}"
