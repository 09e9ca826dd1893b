"""
Who answers: the providers that the settings name, and the one that answers by default.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from chatstream.errors import BadRequest, SettingsError
from chatstream.providers import Bounded, Closes, Provider, built_in
from chatstream.providers.custom import held, registered
from chatstream.providers.local.provider import Local
from chatstream.providers.model_list import ModelList
from chatstream.providers.route.attempts import Route
from chatstream.providers.route.breaker import State
from chatstream.providers.route.breakers import Breakers
from chatstream.providers.route.concurrency import Limiter, Queue
from chatstream.providers.route.retry import Budget
from chatstream.providers.route.target import Patience, Target
from chatstream.settings import Settings


@dataclass(frozen=True)
class Providers:
    """
    The providers of one application, by name.

    Attributes:
        default: Who answers when a turn names nobody.
        reason: Why, in half a sentence for the operator.
        owned: Whether `aclose` closes them: `build` made them. Others are their owner's.
        limiters: How many requests each is asked at once; of those that were asked.
    """

    by_name: dict[str, Provider]
    default: str
    reason: str = ""
    owned: bool = False
    limiters: dict[str, Limiter] = field(default_factory=dict, init=False, repr=False)
    _models: dict[str, ModelList] = field(default_factory=dict, init=False, repr=False)
    _breakers: Breakers = field(default_factory=Breakers, init=False, repr=False)
    _budget: Budget = field(default_factory=lambda: Budget(time.monotonic), init=False, repr=False)

    def get(self, name: str | None) -> Provider:
        """
        Return a provider, or the default one.

        Raises:
            BadRequest: There is none of this name here.
        """
        provider = self.by_name.get(name or self.default)
        if provider is None:
            known = ", ".join(self.by_name)
            raise BadRequest(
                f"provider: there is no {name!r} here; it takes one of {known}",
                code="unknown_provider",
            )
        return provider

    def route(
        self, name: str | None, model: str | None, settings: Settings, user_id: str = ""
    ) -> Route:
        """
        Return the way to one turn's answer: the provider that it names, then the fallbacks.

        A fallback is asked for its own model. In a running event loop only.

        Raises:
            BadRequest: There is none of this name here.
        """
        first = self.get(name)
        others = [
            self.by_name[other]
            for other in dict.fromkeys(settings.fallbacks)
            if other in self.by_name and other != first.name
        ]
        if model not in (None, first.model):
            self._list_of(first.name).look()  # `knows` is asked when the turn has ended
        targets = [self._target(first, model or first.model, settings)]
        targets += [self._target(other, other.model, settings) for other in others]
        patience = Patience(
            settings.retries,
            settings.first_token_timeout,
            settings.start_timeout,
            settings.queue_timeout,
        )
        return Route(targets, patience, self._budget, random.random, user_id)

    def state(self, name: str) -> State:
        """Return the state of the breaker of a provider's default model."""
        return self._breakers.state(name, self.by_name[name].model)

    def _target(self, provider: Provider, model: str, settings: Settings) -> Target:
        if provider.name not in self.limiters:
            bound = provider.concurrency if isinstance(provider, Bounded) else settings.max_turns
            queue = Queue(settings.max_queued, settings.queue_timeout)
            self.limiters[provider.name] = Limiter(time.monotonic, bound, queue, _later)
        breaker = self._breakers.of(provider.name, model)
        return Target(provider, model, breaker, self.limiters[provider.name])

    async def list_models(self, name: str) -> list[str]:
        """Return a provider's models, the default one first; as `ModelList.names` promises."""
        return await self._list_of(name).names()

    def knows(self, name: str, model: str) -> bool:
        """Say whether a model is one that the settings or its provider name, as far as known."""
        provider = self.by_name.get(name)
        if provider is None or model == provider.model:
            return provider is not None
        return name in self._models and model in self._models[name]

    def _list_of(self, name: str) -> ModelList:
        if name not in self._models:
            self._models[name] = ModelList(self.by_name[name])
        return self._models[name]

    def warm_up(self) -> None:
        """Begin to load the local model, where it answers: its first answer is quick then."""
        provider = self.by_name[self.default]
        if isinstance(provider, Local):
            provider.start()

    async def aclose(self) -> None:
        """Ask nothing more, and release what those hold that are `owned`."""
        for models in self._models.values():
            await models.aclose()
        for provider in self.by_name.values():
            if self.owned and isinstance(provider, Closes):
                await provider.aclose()


def _later(seconds: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, call)


def lent(providers: Sequence[Provider], settings: Settings) -> Providers:
    """
    Return the providers that an application is given; the first is the default one.

    Raises:
        SettingsError: There is none, one of them cannot be used, or `PROVIDER` or `FALLBACKS`
            names another; says why.
    """
    found = held(providers)
    if not found:
        raise SettingsError("providers: takes at least one")
    chosen = _named(found, settings, {}) or (next(iter(found)), "it is given first")
    return Providers(found, *chosen)


def build(settings: Settings) -> Providers:
    """
    Make the providers that can be used, and choose the default one.

    Raises:
        SettingsError: `PROVIDER` or `FALLBACKS` names one that cannot be used here, or one of
            `PROVIDERS` cannot be had; says why.
    """
    own = registered(settings.providers, built_in.BUILT_IN)
    found = built_in.find(settings)
    by_name = found.by_name | own
    chosen = _named(by_name, settings, found.missing) or (found.default, found.reason)
    return Providers(by_name, *chosen, owned=True)


def _named(
    found: Mapping[str, Provider], settings: Settings, missing: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return the default one that the settings name, if any, once all that they name are found."""
    known = ", ".join(found)
    for name in settings.fallbacks:
        if name not in found:
            why = missing.get(name, f"takes some of {known}")
            raise SettingsError(f"CHATSTREAM_FALLBACKS: {name}: {why}")
    if settings.provider is None:
        return None
    if settings.provider not in found:
        why = missing.get(settings.provider, f"takes one of {known}")
        raise SettingsError(f"CHATSTREAM_PROVIDER: {settings.provider}: {why}")
    return settings.provider, "CHATSTREAM_PROVIDER says so"
