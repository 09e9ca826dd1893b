import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from chatstream.errors import ProviderError, ProviderTimeout, Unavailable
from chatstream.providers import Finish, Message, Piece, ProviderRequest, Text, Usage
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.providers.route.attempts import Route
from chatstream.providers.route.breaker import CONSECUTIVE, WINDOW_CALLS
from chatstream.settings import Settings

pytestmark = pytest.mark.anyio
ASKED = ProviderRequest(messages=[Message("user", "hello")], model="ignored")


def broken(retry_after: float | None = None) -> ProviderError:
    return ProviderError("broken", retryable=True, retry_after=retry_after)


def limited(retry_after: float) -> ProviderError:
    return ProviderError(
        "busy", code="provider_rate_limited", retryable=True, retry_after=retry_after
    )


AUTH = ProviderError("no", code="provider_auth")
REFUSED = ProviderError("refused")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every backoff as short as the provider allows."""

    def backoff(retry: int, random: Callable[[], float], after: float | None = None) -> float:
        return after or 0.0

    monkeypatch.setattr("chatstream.providers.route.plan.backoff", backoff)


class Asking:
    def __init__(self, *providers: Scripted, **given: object) -> None:
        self.providers = Providers({p.name: p for p in providers}, providers[0].name)
        names = tuple(p.name for p in providers[1:])
        self.settings = Settings(**({"fallbacks": names} | given))

    def route(self, model: str | None = None) -> Route:
        return self.providers.route(None, model, self.settings)

    async def answer(self) -> tuple[list[Piece], Route]:
        route = self.route()
        return [piece async for piece in route.reply(ASKED)], route

    async def failure(self) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await self.answer()
        return caught.value

    def state(self, name: str = "scripted") -> str:
        return self.providers.state(name)


def who(route: Route) -> tuple[str, str, int]:
    return route.name, route.model, route.attempt


async def test_what_can_be_asked_again_is_asked_again() -> None:
    provider = Scripted(broken()).then(broken()).then("hello")
    pieces, route = await Asking(provider).answer()

    assert pieces == [Text("hello"), Finish("stop")]
    assert who(route) == ("scripted", "scripted", 3)
    assert len(provider.requests) == 3
    assert provider.running == 0


async def test_the_last_failure_is_told_when_the_retries_are_used_up() -> None:
    provider = Scripted(ProviderError("first", retryable=True)).then(
        ProviderError("later", retryable=True)
    )

    assert (await Asking(provider).failure()).message == "later"
    assert len(provider.requests) == 3


async def test_no_retries_are_none() -> None:
    provider = Scripted(broken())
    await Asking(provider, retries=0).failure()

    assert len(provider.requests) == 1


@pytest.mark.parametrize("error", [REFUSED, AUTH, ProviderError("x", code="context_too_long")])
async def test_what_is_refused_is_not_asked_again(error: ProviderError) -> None:
    provider = Scripted(error)

    assert (await Asking(provider).failure()) is error
    assert len(provider.requests) == 1


async def test_nothing_is_asked_again_after_the_first_content() -> None:
    provider, other = Scripted("hel", broken()), Scripted("no", name="other")
    asking = Asking(provider, other)
    pieces: list[Piece] = []
    with pytest.raises(ProviderError):
        async for piece in asking.route().reply(ASKED):
            pieces.append(piece)

    assert pieces == [Text("hel")]
    assert (len(provider.requests), len(other.requests)) == (1, 0)


async def test_what_came_before_a_failed_attempts_content_is_not_told() -> None:
    provider = Scripted(Usage(9, 9), broken()).then("hello")
    pieces, _ = await Asking(provider).answer()

    assert pieces == [Text("hello"), Finish("stop")]


async def test_an_answer_without_content_is_an_answer() -> None:
    pieces, route = await Asking(Scripted(Usage(1, 0), Finish("filter"))).answer()

    assert pieces == [Usage(1, 0), Finish("filter")]
    assert route.attempt == 1


async def test_fallbacks_answer_in_their_order_each_with_its_own_model() -> None:
    first = Scripted(broken())
    second = Scripted(AUTH, name="second", model="b")
    third = Scripted("hello", name="third", model="c")
    asking = Asking(first, second, third)
    route = asking.route("asked")
    pieces = [piece async for piece in route.reply(ASKED)]

    assert pieces[0] == Text("hello")
    assert who(route) == ("third", "c", 5)
    assert {asked.model for asked in first.requests} == {"asked"}
    assert [asked.model for asked in third.requests] == ["c"]


async def test_a_request_that_was_refused_is_nobodys() -> None:
    other = Scripted("hello", name="other")
    await Asking(Scripted(REFUSED), other).failure()

    assert other.requests == []


async def test_a_provider_is_not_asked_before_the_time_that_it_named() -> None:
    provider = Scripted(limited(0.1)).then("hello")
    began = asyncio.get_running_loop().time()
    _, route = await Asking(provider).answer()

    assert route.attempt == 2
    assert asyncio.get_running_loop().time() - began >= 0.09


async def test_a_fallback_answers_at_once_where_the_first_asks_for_patience() -> None:
    first, other = Scripted(limited(30)), Scripted("hello", name="other")
    asking = Asking(first, other)
    _, route = await asking.answer()
    assert who(route)[0] == "other"
    assert asking.state() == "open"

    await asking.answer()
    assert len(first.requests) == 1


async def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    error = await Asking(Scripted(limited(30)), start_timeout=10).failure()

    assert (error.code, error.retry_after) == ("provider_rate_limited", 30)


async def test_an_attempt_that_is_too_slow_is_given_up_for_the_next() -> None:
    provider = Scripted(asyncio.Event()).then("hello")
    route = Asking(provider).route()
    answering = asyncio.ensure_future(_all(route))
    while not provider.running:
        await asyncio.sleep(0)
    route.expire()

    assert await answering == [Text("hello"), Finish("stop")]
    assert route.attempt == 2
    assert provider.running == 0


async def test_who_is_too_slow_every_time_is_told_so() -> None:
    provider = Scripted(asyncio.Event())
    route = Asking(provider, retries=0).route()
    answering = asyncio.ensure_future(_all(route))
    while not provider.running:
        await asyncio.sleep(0)
    route.expire()
    with pytest.raises(ProviderTimeout) as caught:
        await answering

    assert (caught.value.code, caught.value.retryable) == ("first_token_timeout", True)


async def test_a_cancelled_turn_is_not_asked_again() -> None:
    provider = Scripted(asyncio.Event())
    asking = Asking(provider)
    answering = asyncio.ensure_future(_all(asking.route()))
    while not provider.running:
        await asyncio.sleep(0)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering

    assert (len(provider.requests), provider.running) == (1, 0)
    assert asking.state() == "closed"


async def test_who_tries_a_broken_provider_and_leaves_keeps_nobody_else_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatstream.providers.route.breaker.SHORTEST_OPEN", 0.0)
    provider = Scripted(broken())
    for _ in range(CONSECUTIVE - 1):
        provider.then(broken())
    provider.then(asyncio.Event()).then("hello")
    asking = Asking(provider, retries=0)
    for _ in range(CONSECUTIVE):
        await asking.failure()
    assert asking.state() == "half-open"
    probing = asyncio.ensure_future(_all(asking.route()))
    while not provider.running:
        await asyncio.sleep(0)
    probing.cancel()
    await asyncio.wait([probing])

    pieces, _ = await asyncio.wait_for(asking.answer(), 5)
    assert pieces == [Text("hello"), Finish("stop")]
    assert asking.state() == "closed"


async def test_what_a_provider_said_is_not_hidden_by_a_queue_that_was_too_long_then() -> None:
    gate = asyncio.Event()
    provider = Scripted(gate, broken())
    provider.concurrency = 1  # type: ignore[attr-defined]
    asking = Asking(provider, queue_timeout=0.05)
    answering = asyncio.ensure_future(asking.failure())
    while not provider.running:
        await asyncio.sleep(0)
    other = asking.route()._targets[0].limiter.join("other")
    gate.set()

    assert (await answering).message == "broken"
    assert other.granted and len(provider.requests) == 1
    other.release()


async def test_answers_that_break_off_count_against_their_provider() -> None:
    asking = Asking(Scripted("hel", broken()))
    for _ in range(WINDOW_CALLS):
        assert asking.state() == "closed"
        await asking.failure()
    assert asking.state() == "open"


async def test_a_provider_that_answers_is_asked_more_at_once_again() -> None:
    asking = Asking(Scripted("hello"))
    limiter = asking.route()._targets[0].limiter
    limiter._window.limit = 1.0
    await asking.answer()
    assert limiter.limit == 2


async def test_closing_the_reply_closes_the_providers() -> None:
    provider = Scripted("a", asyncio.Event())
    reply = Asking(provider).route().reply(ASKED)
    await anext(reply)
    assert provider.running == 1
    await reply.aclose()

    assert provider.running == 0


async def test_when_every_breaker_is_open_no_turn_is_admitted() -> None:
    asking = Asking(Scripted(AUTH), Scripted(limited(30), name="other"), start_timeout=10)
    asking.route().admit()
    await asking.failure()

    with pytest.raises(Unavailable) as caught:
        asking.route().admit()
    assert caught.value.code == "provider_unavailable"
    assert 28 <= caught.value.retry_after <= 30
    assert (asking.state(), asking.state("other")) == ("open", "open")


async def test_one_breaker_that_is_closed_is_enough_to_be_admitted() -> None:
    asking = Asking(Scripted(AUTH), Scripted("hello", name="other"))
    await asking.answer()

    asking.route().admit()


async def test_another_model_of_a_broken_one_is_asked() -> None:
    provider = Scripted(AUTH)
    asking = Asking(provider)
    await asking.failure()

    asking.route("another").admit()


async def test_a_breaker_that_opens_ends_the_retries() -> None:
    provider = Scripted(broken())
    asking = Asking(provider, retries=10, start_timeout=3)
    await asking.failure()

    assert len(provider.requests) == CONSECUTIVE
    assert asking.state() == "open"


async def test_a_turn_that_has_begun_waits_for_the_probe_where_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatstream.providers.route.breaker.SHORTEST_OPEN", 0.1)
    provider = Scripted(broken())
    for _ in range(CONSECUTIVE - 1):
        provider.then(broken())
    provider.then("hello")
    pieces, route = await Asking(provider, retries=10).answer()

    assert pieces == [Text("hello"), Finish("stop")]
    assert route.attempt == CONSECUTIVE + 1


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """Return what the log says of breakers: level and fields."""
    names = ("provider", "model", "state", "why", "seconds")
    return [
        (record.levelname, {n: vars(record)[n] for n in names if n in vars(record)})
        for record in caplog.records
        if record.getMessage() == "breaker changed"
    ]


async def test_the_log_has_a_line_for_each_change_of_a_breaker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chatstream.providers.route.breaker.SHORTEST_OPEN", 0.1)
    provider = Scripted(broken(), model="m")
    for _ in range(CONSECUTIVE - 1):
        provider.then(broken())
    asking = Asking(provider.then("hello"), retries=10)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await asking.answer()

    who = {"provider": "scripted", "model": "m"}
    assert told(caplog) == [
        ("WARNING", who | {"state": "open", "why": "provider_error", "seconds": 0.1}),
        ("INFO", who | {"state": "half-open", "why": "probe"}),
        ("INFO", who | {"state": "closed", "why": "first_content"}),
    ]


async def test_the_log_says_who_is_parked_and_whose_key_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asking = Asking(Scripted(limited(30)), Scripted(AUTH, name="other"), start_timeout=10)
    with caplog.at_level(logging.INFO):
        await asking.failure()
        for _ in range(3):
            with pytest.raises(Unavailable):
                asking.route().admit()

    ((parked, first), (refused, second)) = told(caplog)
    assert (parked, first["provider"], first["seconds"]) == ("WARNING", "scripted", 30)
    assert first["why"] == "provider_rate_limited"
    assert (refused, second["provider"], second["why"]) == ("ERROR", "other", "provider_auth")
    assert second["seconds"] == "until the settings change"


async def test_a_thousand_models_that_are_refused_are_not_all_remembered() -> None:
    asking = Asking(Scripted(AUTH))
    for number in range(1001):
        with pytest.raises(ProviderError):
            await _all(asking.route(None if number == 0 else f"model-{number}"))

    assert len(asking.providers._breakers._known) == 1000
    assert asking.state() == "open"


async def test_all_turns_together_have_one_budget_of_retries() -> None:
    asking = Asking(Scripted(broken()), retries=3, start_timeout=0.05)
    used = 0
    for number in range(30):
        route = asking.route(f"model-{number}")
        with pytest.raises(ProviderError):
            await _all(route)
        used += route.attempt - 1

    assert 10 <= used < 25


async def _all(route: Route) -> list[Piece]:
    return [piece async for piece in route.reply(ASKED)]
