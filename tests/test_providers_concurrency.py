import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatstream.errors import ProviderError, Unavailable
from chatstream.providers import Finish, Message, ProviderRequest, Text
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.providers.route.attempts import Route
from chatstream.providers.route.concurrency import Limiter, Queue, Ticket
from chatstream.providers.route.fair_queue import LATELY
from chatstream.providers.route.window import DECREASE, TRIAL_SECONDS
from chatstream.settings import Settings

pytestmark = pytest.mark.anyio
ASKED = ProviderRequest(messages=[Message("user", "hello")], model="ignored")
TOO_OFTEN = ProviderError("busy", code="provider_rate_limited", retryable=True)
TOO_SLOW = ProviderError("slow", code="first_token_timeout", retryable=True)


class Clock:
    """Stands until it is told how much time passes; then what is due is called."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self._due.append((self.now + seconds, call))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        while due := [entry for entry in self._due if entry[0] <= self.now]:
            self._due.remove(due[0])
            due[0][1]()


def limiter(most: int = 4, size: int = 100, seconds: float = 20, clock: Any = None) -> Limiter:
    clock = clock or Clock()
    return Limiter(clock, most, Queue(size, seconds), clock.later)


async def test_there_is_room_up_to_the_limit_and_then_one_waits() -> None:
    places = limiter(2)
    first, second, third = (places.join(user) for user in "abc")

    assert first.granted and second.granted and not third.granted
    assert (places.in_use, places.queued) == (2, 1)

    first.release()
    assert third.granted
    assert (places.in_use, places.queued) == (2, 0)


async def test_one_user_alone_never_has_the_last_quarter() -> None:
    places = limiter(8)
    greedy = [places.join("greedy") for _ in range(20)]

    assert sum(ticket.granted for ticket in greedy) == 6
    assert all(places.join(user).granted for user in ("one", "two"))


async def test_no_place_is_kept_for_a_user_who_has_one_again() -> None:
    places = limiter(4)
    places.join("here").release()
    assert places.join("here").granted

    assert all(places.join("other").granted for _ in range(3))


async def test_a_kept_place_becomes_free_in_time_again_and_again() -> None:
    clock = Clock()
    places = limiter(2, clock=clock)
    places.join("first").release()
    for user in ("second", "third", "fourth"):
        own = [places.join(user) for _ in range(2)]
        assert [ticket.granted for ticket in own] == [True, False]
        clock.passes(LATELY)
        assert own[1].granted
        for ticket in own:
            ticket.release()


async def test_whoever_has_the_fewest_running_is_next() -> None:
    places = limiter(2)
    running = [places.join("greedy") for _ in range(2)]
    waiting = [places.join("greedy") for _ in range(5)]
    modest = places.join("modest")

    running[0].release()

    assert modest.granted
    assert not any(ticket.granted for ticket in waiting)


async def test_users_with_as_many_running_take_turns() -> None:
    places = limiter(1)
    held = places.join("x")
    order = []
    waiting = {(user, n): places.join(user) for n in range(2) for user in "ab"}
    while waiting:
        held.release()
        name, held = next((name, t) for name, t in waiting.items() if t.granted)
        del waiting[name]
        order.append(name)

    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


async def test_a_full_queue_refuses() -> None:
    places = limiter(1, size=2)
    tickets = [places.join("a") for _ in range(3)]

    with pytest.raises(Unavailable) as refused:
        places.join("b")

    assert refused.value.code == "overloaded"
    assert refused.value.retry_after >= 1
    assert places.queued == 2
    for ticket in tickets:
        ticket.release()
    assert (places.in_use, places.queued) == (0, 0)


async def test_one_user_alone_never_fills_the_queue() -> None:
    places = limiter(1, size=8)
    places.join("greedy")
    for _ in range(6):
        places.join("greedy")
    with pytest.raises(Unavailable):
        places.join("greedy")

    places.join("modest")


async def test_a_wait_that_would_be_too_long_is_refused_with_its_length() -> None:
    clock = Clock()
    places = limiter(1, seconds=20, clock=clock)
    for _ in range(40):  # requests take 12 s
        ticket = places.join("a")
        clock.now += 12
        ticket.release()
    places.join("a")
    places.join("b")

    with pytest.raises(Unavailable) as refused:
        places.join("c")

    assert refused.value.retry_after == 24


async def test_a_user_with_many_waiting_is_refused_before_one_with_none() -> None:
    clock = Clock()
    places = limiter(1, seconds=20, clock=clock)
    for _ in range(40):
        ticket = places.join("a")
        clock.now += 5
        ticket.release()
    for _ in range(4):
        places.join("greedy")
    with pytest.raises(Unavailable):
        for _ in range(3):
            places.join("greedy")

    places.join("modest")


@pytest.mark.parametrize("error", [TOO_OFTEN, TOO_SLOW])
async def test_a_provider_that_bears_less_is_asked_less(error: ProviderError) -> None:
    places = limiter(100)
    tickets = [places.join(str(n)) for n in range(20)]

    tickets[0].failed(error)

    assert places.limit == pytest.approx(20 * DECREASE)


async def test_what_was_sent_before_the_limit_fell_lowers_it_no_further() -> None:
    places = limiter(100)
    tickets = [places.join(str(n)) for n in range(20)]
    for ticket in tickets:
        ticket.failed(TOO_OFTEN)

    assert places.limit == pytest.approx(20 * DECREASE)


async def test_other_failures_say_nothing_of_the_pace() -> None:
    places = limiter(10)
    places.join("a").failed(ProviderError("broken", retryable=True))

    assert places.limit == 10


async def test_a_round_of_answers_earns_one_place_more_up_to_the_most() -> None:
    places = limiter(10)
    ticket = places.join("a")
    ticket.failed(TOO_OFTEN)  # alone: it is not that there were too many at once
    assert places.limit == 1
    ticket.began()
    assert places.limit == 2
    for _ in range(3):
        ticket.began()
    assert 2 < places.limit < 4
    others = [places.join(str(n)) for n in range(2)]
    for _ in range(200):
        others[0].began()
    assert places.limit <= 10


async def test_a_limit_that_nobody_needs_does_not_rise() -> None:
    places = limiter(100)
    tickets = [places.join(str(n)) for n in range(20)]
    tickets[0].failed(TOO_OFTEN)
    for ticket in tickets[1:]:
        ticket.release()
    before = places.limit
    tickets[0].began()

    assert places.limit == before


def refused_at(count: int, clock: Clock) -> tuple[Limiter, list[Ticket]]:
    """Have a provider that bore all but one of so many users' requests; all have room again."""
    places = limiter(100, clock=clock)
    tickets = [places.join(str(n)) for n in range(count)]
    refused = tickets.pop()
    refused.failed(TOO_OFTEN)
    refused.release()
    for _ in range(10 * count):
        tickets[0].began()
    return places, tickets


async def test_after_a_refusal_no_more_are_asked_at_once_than_were_borne() -> None:
    clock = Clock()
    places, tickets = refused_at(9, clock)
    assert places.limit == 8

    clock.now += TRIAL_SECONDS
    for ticket in 2 * tickets:
        ticket.began()
    assert places.limit > 9


async def test_a_trial_that_succeeds_is_followed_by_the_next() -> None:
    clock = Clock()
    places, tickets = refused_at(9, clock)
    clock.now += TRIAL_SECONDS
    for count in (9, 10, 11):
        while places.limit < count:
            tickets[0].began()
        tickets.append(places.join(str(count)))
        tickets[-1].began()
        assert places.in_use == count
    while places.limit < 12:
        tickets[0].began()

    places.join("one too many").failed(TOO_OFTEN)

    assert places.limit == 11


async def test_a_trial_is_made_by_whoever_has_most_and_costs_nobody_else() -> None:
    clock = Clock()
    places, tickets = refused_at(9, clock)
    for ticket in tickets[:2]:
        ticket.release()
    clock.now += LATELY
    for _ in range(2):
        assert places.join("7").granted
    while places.limit < 9:
        tickets[7].began()

    modest = [places.join("new"), places.join("6")]
    trial = places.join("7")
    assert [ticket.granted for ticket in (*modest, trial)] == [False, False, True]
    trial.failed(TOO_OFTEN)
    trial.release()

    assert places.limit == 8
    tickets[7].release()
    assert modest[0].granted


async def test_a_place_is_kept_for_each_user_who_was_here_lately() -> None:
    clock = Clock()
    places = limiter(8, clock=clock)
    for user in "abc":
        places.join(user).release()
    greedy = [places.join("greedy") for _ in range(8)]
    assert sum(ticket.granted for ticket in greedy) == 5
    again = [places.join(user) for user in "abc"]
    assert all(ticket.granted for ticket in again)
    for ticket in again:
        ticket.release()
    assert places.in_use == 5

    clock.passes(LATELY)

    assert places.in_use == places.share
    assert greedy[5].granted


async def test_places_that_are_kept_become_free_one_by_one_as_time_passes() -> None:
    clock = Clock()
    places = limiter(8, clock=clock)
    for user in "abc":
        places.join(user).release()
        clock.passes(1)
    greedy = [places.join("greedy") for _ in range(6)]
    assert [ticket.granted for ticket in greedy] == [True] * 5 + [False]

    clock.passes(LATELY - 3)
    assert greedy[5].granted


async def test_a_place_that_is_kept_later_becomes_free_too() -> None:
    clock = Clock()
    places = limiter(2, clock=clock)
    other = places.join("other")
    running, waiting = (places.join("greedy") for _ in range(2))
    other.release()
    assert (running.granted, waiting.granted) == (True, False)

    clock.passes(LATELY)

    assert waiting.granted


async def test_nobody_overtakes_his_own_who_wait() -> None:
    clock = Clock()
    places = limiter(2, clock=clock)
    places.join("other").release()
    places.join("greedy")
    waiting = places.join("greedy")
    clock.now += LATELY  # what is due has not been called yet

    last = places.join("greedy")

    assert (waiting.granted, last.granted) == (True, False)


async def test_a_trial_that_succeeds_makes_room_for_whoever_was_spared_it() -> None:
    clock = Clock()
    places = limiter(8, clock=clock)
    first, second, refused = (places.join("greedy") for _ in range(3))
    refused.failed(TOO_OFTEN)
    refused.release()
    clock.passes(TRIAL_SECONDS)
    while 2 * places.in_use >= places.limit:
        first.began()
    trial = places.join("greedy")
    modest = places.join("modest")
    second.release()
    assert (trial.granted, modest.granted, places.in_use) == (True, False, 2)

    trial.began()

    assert modest.granted


async def test_whoever_was_here_long_ago_is_forgotten() -> None:
    clock = Clock()
    places = limiter(8, clock=clock)
    for number in range(100):
        places.join(str(number)).release()
        clock.now += 1

    assert len(places._users._idle) <= LATELY + 1


async def test_users_who_were_here_lately_keep_no_more_than_half_of_the_places() -> None:
    places = limiter(8)
    for number in range(20):
        places.join(str(number)).release()

    greedy = [places.join("greedy") for _ in range(8)]

    assert sum(ticket.granted for ticket in greedy) == 4


async def test_a_ticket_that_waits_too_long_says_so() -> None:
    places = limiter(1)
    places.join("a")
    waiting = places.join("b")

    assert not await waiting.admitted(0.01)
    waiting.release()
    assert places.queued == 0


class Machine(RuleBasedStateMachine):
    """Whatever happens: nobody waits who could run, nothing leaks, the limit keeps its bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.places = Limiter(self.clock, 6, Queue(5, 50), self.clock.later)
        self.tickets: list[Ticket] = []

    @rule(user=st.sampled_from("abc"))
    def join(self, user: str) -> None:
        try:
            self.tickets.append(self.places.join(user))
        except Unavailable:
            assert self.places.queued > 0

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        ticket.release()
        ticket.release()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), error=st.sampled_from([None, TOO_OFTEN, TOO_SLOW]))
    def answer(self, data: st.DataObject, error: ProviderError | None) -> None:
        ticket = data.draw(st.sampled_from(self.running()))
        if error is None:
            ticket.began()
        else:
            ticket.failed(error)

    @rule(seconds=st.floats(0, 30))
    def passes(self, seconds: float) -> None:
        self.clock.passes(seconds)

    def running(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.granted]

    @invariant()
    def holds(self) -> None:
        running = self.running()
        places = self.places
        assert 1 <= places.limit <= 6
        assert places.in_use == len(running)
        assert places.queued == len(self.tickets) - len(running) <= 5
        held = Counter(ticket.user_id for ticket in running)
        ours = [ticket for ticket in self.tickets if ticket.user_id == "a"]
        assert sorted(ours, key=lambda ticket: not ticket.granted) == ours
        if places.in_use < int(places.limit):
            waiting = {ticket.user_id for ticket in self.tickets if ticket not in running}
            # Only who has something running waits beside a free place, or where that is a trial.
            assert all(held[user] or max(held.values()) > 1 for user in waiting)


TestLimiter = Machine.TestCase
TestLimiter.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


class Bounded(Scripted):
    """A provider that answers one request at a time."""

    concurrency = 1


def routes(*providers: Scripted, **given: Any) -> Any:
    known = Providers({p.name: p for p in providers}, providers[0].name)
    names = tuple(p.name for p in providers[1:])
    settings = Settings(**({"fallbacks": names} | given))

    def route(user_id: str = "ada") -> Route:
        return known.route(None, None, settings, user_id)

    return known, route


async def read(route: Route) -> list[Any]:
    return [piece async for piece in route.reply(ASKED)]


async def full(*others: Scripted, **given: Any) -> tuple[Providers, Any, Any]:
    """Have a provider's only place taken; its reply stays open until it is closed."""
    known, route = routes(Bounded("a", asyncio.Event()), *others, **given)
    blocking = route("ada").reply(ASKED)
    await anext(blocking)
    return known, route, blocking


async def test_an_adapters_own_bound_is_kept_and_given_back() -> None:
    gate = asyncio.Event()
    provider = Bounded("a", gate, "b")
    known, route = routes(provider)
    first, second = (asyncio.ensure_future(read(route(user))) for user in ("ada", "bob"))
    while known.limiters["scripted"].queued == 0:
        await asyncio.sleep(0)
    assert provider.running == 1

    gate.set()

    assert await first == await second == [Text("a"), Text("b"), Finish("stop")]
    assert known.limiters["scripted"].in_use == 0


async def test_a_turn_that_waits_too_long_fails_as_overloaded() -> None:
    _, route, blocking = await full(queue_timeout=0.01)

    with pytest.raises(ProviderError) as failed:
        await read(route("bob"))

    assert (failed.value.code, failed.value.retryable) == ("overloaded", True)
    await blocking.aclose()
    assert await anext(route("bob").reply(ASKED)) == Text("a")


async def test_a_full_provider_leaves_the_turn_to_its_fallback() -> None:
    _, route, blocking = await full(Scripted("b", name="other"), max_queued=0)
    turn = route("bob")

    turn.admit()

    assert (await read(turn))[0] == Text("b")
    assert turn.name == "other"
    await blocking.aclose()


async def test_a_turn_is_refused_where_everyone_is_full() -> None:
    known, route, blocking = await full(max_queued=0)

    with pytest.raises(Unavailable) as refused:
        route("bob").admit()

    assert refused.value.code == "overloaded"
    await blocking.aclose()
    assert known.limiters["scripted"].in_use == 0


async def test_a_place_taken_at_admission_is_let_go_of_once() -> None:
    provider = Bounded("a")
    known, route = routes(provider)
    turn = route()
    turn.admit()
    turn.admit()
    assert known.limiters["scripted"].in_use == 1

    turn.leave()
    turn.leave()

    assert known.limiters["scripted"].in_use == 0


async def test_an_attempt_that_is_refused_for_its_pace_lowers_the_limit() -> None:
    provider = Scripted(TOO_OFTEN).then("a")
    known, route = routes(provider, retries=0)
    with pytest.raises(ProviderError):
        await read(route())

    assert known.limiters["scripted"].limit == 1
