"""What unit tests of turns share: a real log, a runner with a scripted provider, and turns."""

from pathlib import Path
from typing import Any

from chatstream.events import Address
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog
from chatstream.metrics import Metrics
from chatstream.providers import Provider
from chatstream.providers.registry import Providers
from chatstream.schemas import ReplacingTurnRequest
from chatstream.settings import Settings
from chatstream.turns.runner import EndedTurn, TurnRunner

ADDRESS = Address("default", "default")


def run_with(log: JsonlLog, provider: Provider, folder: Path, **settings: Any) -> TurnRunner:
    """Return a runner whose turns all go to this provider."""
    given = Settings(data_dir=folder, **settings)
    return TurnRunner(log, Providers({"scripted": provider}, "scripted"), given, Metrics())


def asked(message: str = "q", turn_id: str = "turn-0001", **fields: Any) -> ReplacingTurnRequest:
    """Return a request as the edge makes it."""
    return ReplacingTurnRequest(message=message, turn_id=turn_id, **fields)


async def finish(runner: TurnRunner, turn: LiveTurn | EndedTurn) -> EndedTurn:
    """Wait for a turn's end."""
    if isinstance(turn, LiveTurn):
        await runner.wait(turn)
    found = await runner.get(ADDRESS, turn.turn_id)
    assert isinstance(found, EndedTurn)
    return found


async def say(runner: TurnRunner, message: str, turn_id: str, **fields: Any) -> EndedTurn:
    """Run a turn to its end."""
    return await finish(runner, await runner.start(asked(message, turn_id, **fields)))
