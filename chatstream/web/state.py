"""What one application is made of; the edge finds it under `app.state.services`."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from chatstream.log.files.store import JsonlLog
from chatstream.metrics import Metrics
from chatstream.providers.registry import Providers
from chatstream.providers.route.cache import Answers
from chatstream.settings import Settings
from chatstream.turns.lag import Turns
from chatstream.turns.runner import TurnRunner
from chatstream.views.prices import Prices
from chatstream.web.heartbeats import Pulse
from chatstream.web.rate_limits import Limits

SHARE = 16
"""Conversations of one connection that are seen to before everybody else has a round."""
SHARES_A_ROUND = 8


@dataclass(frozen=True, slots=True)
class Services:
    """
    The parts of one running application.

    Attributes:
        shares: What connections with many conversations wait for, before each `SHARE` of them.
    """

    settings: Settings
    log: JsonlLog
    runner: TurnRunner
    providers: Providers
    metrics: Metrics
    pulse: Pulse
    limits: Limits
    prices: Prices | None = None
    answers: Answers | None = None
    shares: Turns = field(default_factory=lambda: Turns(SHARES_A_ROUND))


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
