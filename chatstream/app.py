"""
The application: every part is built in one lifespan, and closed in reverse.

`create_app` returns plain ASGI without global state. Mounted in another application, its lifespan
is entered by that application's own::

    chat = create_app(settings)
    app = Starlette(routes=[Mount("/chat", chat)], lifespan=chat.lifespan)

The server of that needs a limit on how long a stop waits (`--timeout-graceful-shutdown` of
uvicorn): streams end when the lifespan does, and uvicorn waits for streams first.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from chatstream.errors import ChatstreamError
from chatstream.log.files.store import open_log
from chatstream.metrics import Metrics
from chatstream.providers import Provider
from chatstream.providers.registry import Providers, build, lent
from chatstream.providers.route.cache import Answers
from chatstream.settings import Settings
from chatstream.turns.runner import TurnRunner
from chatstream.views.prices import load_prices
from chatstream.web.heartbeats import Pulse
from chatstream.web.middleware import Edge, Guard, nothing_here
from chatstream.web.origins import Origins
from chatstream.web.problems import on_error
from chatstream.web.rate_limits import Limits
from chatstream.web.routes import routes
from chatstream.web.state import Services


class Chatstream(Starlette):
    """One chat server. Two in one process share nothing but their code."""

    def __init__(self, settings: Settings, providers: Providers | None = None) -> None:
        self.settings = settings
        self._given = providers
        self._prices = load_prices(settings.prices) if settings.prices else None
        self._metrics = Metrics()
        self.origins = Origins(settings)
        super().__init__(
            routes=routes(),
            middleware=[
                Middleware(Edge, metrics=self._metrics, origins=self.origins),
                Middleware(Guard, origins=self.origins),
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
        Run the parts. `app` is the application that enters it; one may enter it again after it
        is left.

        On leaving, running turns end as interrupted, durably, then streams are closed, then the
        providers that were built here.

        Raises:
            DataFolderError, SettingsError: It cannot start.
        """
        settings = self.settings
        async with AsyncExitStack() as opened:
            providers = self._given or build(settings)
            opened.push_async_callback(providers.aclose)
            log = await opened.enter_async_context(open_log(settings.data_dir, settings.fsync))
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


def create_app(
    settings: Settings | None = None, *, providers: Sequence[Provider] | Providers | None = None
) -> Chatstream:
    """
    Make an application; without `settings`, from the environment and `.env`.

    Args:
        providers: Stand in for those that the settings would have built. The first answers,
            unless `settings.provider` names another. They are their owner's to close.

    Raises:
        SettingsError: A setting is wrong, or a provider cannot be used.
    """
    settings = settings or Settings.from_environment()
    if providers is not None and not isinstance(providers, Providers):
        providers = lent(providers, settings)
    return Chatstream(settings, providers)


def _answers(settings: Settings) -> Answers | None:
    if not settings.cache_ttl:
        return None
    return Answers(
        settings.cache_ttl,
        settings.cache_bytes,
        per_user=settings.cache_scope == "user",
        clock=time.monotonic,
    )
