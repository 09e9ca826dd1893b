"""What one application is made of; the edge finds it under `app.state.services`."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from chatstream.limits import Limits
from chatstream.log.jsonl import JsonlLog
from chatstream.metrics import Metrics
from chatstream.prices import Prices
from chatstream.providers.answers import Answers
from chatstream.providers.routing import Providers
from chatstream.pulse import Pulse
from chatstream.settings import Settings
from chatstream.turns import TurnRunner


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one running application."""

    settings: Settings
    log: JsonlLog
    runner: TurnRunner
    providers: Providers
    metrics: Metrics
    pulse: Pulse
    limits: Limits
    prices: Prices | None = None
    answers: Answers | None = None


def services_of(connection: HTTPConnection) -> Services:
    """
    Return the parts of the application that a request is for.

    Raises:
        RuntimeError: Nobody has entered its lifespan.
    """
    services = getattr(connection.app.state, "services", None)
    if not isinstance(services, Services):
        raise RuntimeError("chatstream's lifespan was not entered: see chatstream.app")
    return services
