"""
The application: every part is built in one lifespan, and closed in reverse.

`create_app` returns plain ASGI without global state. Mounted in another application, its lifespan
is entered by that application's own::

    chat = chatstream.create_app(settings)
    app = Starlette(routes=[Mount("/chat", chat)], lifespan=chat.lifespan)

The server of that application needs a limit on how long a stop waits (uvicorn's
`--timeout-graceful-shutdown`): streams end with the lifespan, and uvicorn waits for them first.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route, WebSocketRoute

from chatstream.errors import ChatstreamError
from chatstream.log.files.store import open_log
from chatstream.metrics import Metrics
from chatstream.providers.registry import Providers, build
from chatstream.providers.route.cache import Answers
from chatstream.settings import Settings, load
from chatstream.turns.runner import TurnRunner
from chatstream.views.prices import load_prices
from chatstream.web import (
    conversations,
    docs,
    events,
    page,
    status,
    turns,
    usage,
    versions,
    websocket,
)
from chatstream.web.heartbeats import Pulse
from chatstream.web.middleware import Edge, Guard, nothing_here
from chatstream.web.origins import Origins
from chatstream.web.problems import on_error
from chatstream.web.rate_limits import Limits
from chatstream.web.state import Services


class Chatstream(Starlette):
    """One chat server. Two in one process share nothing but their code."""

    def __init__(self, settings: Settings, providers: Providers | None = None) -> None:
        self.settings = settings
        self._given = providers
        self._prices = load_prices(settings.prices) if settings.prices else None
        self._metrics = Metrics()
        origins = Origins(settings)
        super().__init__(
            routes=_routes(),
            middleware=[
                Middleware(Edge, metrics=self._metrics, origins=origins),
                Middleware(Guard, origins=origins),
            ],
            exception_handlers={ChatstreamError: on_error, HTTPException: on_error},
            lifespan=self.lifespan,
        )
        # A slash too much leads nowhere: the address of a redirect would be made of the Host.
        self.router.redirect_slashes = False
        self.router.default = nothing_here

    @property
    def services(self) -> Services:
        """The running parts, inside the lifespan."""
        services = self.state.services
        assert isinstance(services, Services)
        return services

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """
        Run the parts. `app` is whichever application enters it.

        On leaving, running turns end as interrupted, durably, then streams are closed.

        Raises:
            DataFolderError, SettingsError: It cannot start.
        """
        settings = self.settings
        providers = self._given or build(settings)
        async with open_log(settings.data_dir, settings.fsync) as log:
            answers = _answers(settings)
            if answers is not None:
                log.on_erased = answers.forget
            runner = TurnRunner(log, providers, settings, self._metrics, answers)
            pulse = Pulse(settings.heartbeat)
            self.state.services = Services(
                settings,
                log,
                runner,
                providers,
                self._metrics,
                pulse,
                Limits(settings),
                self._prices,
                answers,
            )
            providers.warm_up()
            try:
                yield
            finally:
                await runner.interrupt()
                pulse.close()
                if answers is not None:
                    await answers.aclose()
                await providers.aclose()


def create_app(
    settings: Settings | None = None, *, providers: Providers | None = None
) -> Chatstream:
    """
    Make an application; without `settings`, from the environment.

    `providers` stand in for those that the settings name: an own adapter, or a scripted one.

    Raises:
        SettingsError: A setting is wrong.
    """
    return Chatstream(settings or load(), providers)


def _answers(settings: Settings) -> Answers | None:
    if not settings.cache_ttl:
        return None
    return Answers(
        settings.cache_ttl,
        settings.cache_bytes,
        per_user=settings.cache_scope == "user",
        clock=time.monotonic,
    )


def _routes() -> list[Route | Mount | WebSocketRoute]:
    return [
        Route("/", page.index),
        Route("/chat", turns.chat, methods=["POST"]),
        Route("/turns", turns.start, methods=["POST"]),
        Route("/turns/{turn_id}", turns.get),
        Route("/turns/{turn_id}/events", turns.events),
        Route("/turns/{turn_id}/cancel", turns.cancel, methods=["POST"]),
        Route("/turns/{turn_id}/regenerate", versions.regenerate, methods=["POST"]),
        Route("/turns/{turn_id}/continue", versions.go_on, methods=["POST"]),
        Route("/turns/{turn_id}/versions", versions.listed),
        Route("/events", events.follow),
        Route("/history", conversations.history),
        Route("/history/clear", conversations.clear, methods=["POST"]),
        Route("/feedback", conversations.feedback, methods=["POST"]),
        Route("/conversations", conversations.conversations, methods=conversations.METHODS),
        Route("/users", conversations.erase_user, methods=["DELETE"]),
        Route("/usage", usage.usage),
        Route("/providers", status.providers),
        Route("/healthz", status.healthz),
        Route("/readyz", status.readyz),
        Route("/metrics", status.metrics),
        Route("/openapi.json", status.openapi),
        Route("/docs", docs.docs),
        WebSocketRoute("/ws", websocket.Sockets()),
        Mount("/static", page.assets),
    ]
