"""The breaker, told step by step and as a state machine; backoffs and the budget of retries."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatstream.errors import ProviderError
from chatstream.providers.route.breaker import (
    CONSECUTIVE,
    LONGEST_OPEN,
    SLACK,
    Breaker,
    Change,
    Entry,
)
from chatstream.providers.route.retry import BUDGET_MOST, Budget, backoff

BROKEN = ProviderError("broken", retryable=True)
REFUSED = ProviderError("refused")
AUTH = ProviderError("no", code="provider_auth")
CUT = ProviderError("cut", code="provider_cut", retryable=True)


def limited(seconds: float | None) -> ProviderError:
    return ProviderError("busy", code="provider_rate_limited", retryable=True, retry_after=seconds)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def changes() -> list[Change]:
    return []


@pytest.fixture
def breaker(clock: Clock, changes: list[Change]) -> Breaker:
    return Breaker(clock, lambda: 0.0, changes.append)


def state(breaker: Breaker) -> str:
    return breaker.state


def enter(breaker: Breaker) -> Entry:
    entry = breaker.enter()
    assert entry is not None
    return entry


def fail(breaker: Breaker, times: int, error: ProviderError = BROKEN) -> None:
    for _ in range(times):
        breaker.failed(enter(breaker), error)


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=0.1)


def work(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.began(enter(breaker))


def test_five_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, CONSECUTIVE - 1)
    assert state(breaker) == "closed"
    fail(breaker, 1)

    assert state(breaker) == "open"
    assert breaker.enter() is None
    assert breaker.wait() == pytest.approx(5, abs=0.1)


def test_a_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for _ in range(2):
        fail(breaker, CONSECUTIVE - 1)
        work(breaker, 2 * CONSECUTIVE)

    assert state(breaker) == "closed"


def test_half_of_ten_calls_within_a_minute_open_it(breaker: Breaker) -> None:
    for _ in range(5):
        work(breaker)
        fail(breaker, 1)

    assert state(breaker) == "open"


def test_failures_older_than_a_minute_are_forgotten(breaker: Breaker, clock: Clock) -> None:
    for _ in range(10):
        work(breaker)
        fail(breaker, 1)
        clock.now += 15

    assert state(breaker) == "closed"


def test_half_open_only_one_may_try(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, CONSECUTIVE)
    clock.now += 5

    assert state(breaker) == "half-open"
    probe = enter(breaker)
    assert [breaker.enter() for _ in range(2)] == [None, None]
    breaker.began(probe)
    assert state(breaker) == "closed"
    enter(breaker)


def test_a_probe_that_fails_opens_it_for_twice_as_long(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, CONSECUTIVE)
    for seconds in (10, 20, 40, 80, LONGEST_OPEN, LONGEST_OPEN):
        clock.now += breaker.wait() + 0.1
        fail(breaker, 1)
        assert breaker.wait() == pytest.approx(seconds, abs=0.1)


def test_one_that_has_recovered_is_as_good_as_new(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, CONSECUTIVE)
    clock.now += 5.1
    fail(breaker, 1)
    clock.now += 10.1
    work(breaker)

    fail(breaker, CONSECUTIVE - 1)  # as many again would be half of all that were made
    assert state(breaker) == "closed"
    fail(breaker, 1)
    assert breaker.wait() == about(5)


def test_those_who_were_let_in_before_it_opened_do_not_make_it_longer(
    breaker: Breaker, clock: Clock
) -> None:
    late = [enter(breaker) for _ in range(2 * CONSECUTIVE)]
    fail(breaker, CONSECUTIVE)
    clock.now += 1
    for entry in late:
        breaker.failed(entry, BROKEN)
    assert breaker.wait() == about(4)


def test_a_late_failure_does_not_take_back_that_credentials_were_refused(
    breaker: Breaker, clock: Clock
) -> None:
    late = [enter(breaker) for _ in range(2 * CONSECUTIVE)]
    fail(breaker, 1, AUTH)
    for entry in late:
        breaker.failed(entry, BROKEN)
    clock.now += 2 * LONGEST_OPEN
    assert breaker.enter() is None


def test_of_two_pauses_that_are_asked_for_the_longer_one_counts(breaker: Breaker) -> None:
    late = enter(breaker)
    fail(breaker, 1, limited(30))
    breaker.failed(late, limited(1))
    assert breaker.wait() == about(30)
    assert state(breaker) == "open"


def test_a_probe_whose_caller_left_decides_nothing(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, CONSECUTIVE)
    clock.now += 5
    breaker.left(enter(breaker))

    assert state(breaker) == "half-open"
    assert enter(breaker).probe


@pytest.mark.parametrize(
    "end",
    [
        Breaker.left,
        Breaker.began,
        lambda breaker, entry: breaker.failed(entry, BROKEN),
        lambda breaker, entry: breaker.failed(entry, REFUSED),
    ],
)
def test_who_was_let_in_before_it_opened_is_not_taken_for_the_probe(
    breaker: Breaker, clock: Clock, end: Callable[[Breaker, Entry], None]
) -> None:
    late = enter(breaker)
    fail(breaker, CONSECUTIVE)
    clock.now += 5
    probe = enter(breaker)
    end(breaker, late)

    assert state(breaker) == "half-open"
    assert breaker.enter() is None
    breaker.began(probe)
    assert state(breaker) == "closed"


@pytest.mark.parametrize(("retry_after", "parked"), [(30, 30), (None, 5), (0, 0)])
def test_a_limit_parks_it_as_long_as_it_was_told(
    breaker: Breaker, clock: Clock, retry_after: float | None, parked: float
) -> None:
    fail(breaker, 1, limited(retry_after))

    assert breaker.wait() == pytest.approx(parked, abs=0.1)
    clock.now += parked
    assert state(breaker) == "closed"
    enter(breaker)


def test_refused_credentials_open_it_for_good(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 1, AUTH)
    clock.now += 1e9

    assert state(breaker) == "open"
    assert breaker.wait() == math.inf


def test_a_probe_that_fails_does_not_take_back_that_credentials_were_refused(
    breaker: Breaker, clock: Clock
) -> None:
    late = enter(breaker)
    fail(breaker, CONSECUTIVE)
    clock.now += 5
    probe = enter(breaker)
    breaker.failed(late, AUTH)
    breaker.failed(probe, BROKEN)

    assert breaker.wait() == math.inf


def test_what_is_refused_of_a_request_says_nothing_of_the_next(breaker: Breaker) -> None:
    fail(breaker, 100, REFUSED)

    assert state(breaker) == "closed"


def test_an_answer_that_breaks_off_counts_half(breaker: Breaker) -> None:
    for _ in range(9):
        work(breaker)
        breaker.cut(CUT)
    assert state(breaker) == "closed"
    work(breaker)
    breaker.cut(CUT)

    assert state(breaker) == "open"


# ---- what it tells


def test_each_change_is_told_once_with_why_and_for_how_long(
    breaker: Breaker, clock: Clock, changes: list[Change]
) -> None:
    work(breaker, 3)
    fail(breaker, CONSECUTIVE)
    assert [breaker.enter() for _ in range(3)] == [None] * 3
    clock.now += 5
    fail(breaker, 1)
    clock.now += 10
    breaker.left(enter(breaker))
    work(breaker, 3)

    assert changes == [
        Change("open", "provider_error", about(5)),
        Change("half-open", "probe", 0),
        Change("open", "provider_error", about(10)),
        Change("half-open", "probe", 0),
        Change("closed", "first_content", 0),
    ]


def test_a_pause_is_told_once_however_many_were_asked_for(
    breaker: Breaker, clock: Clock, changes: list[Change]
) -> None:
    entries = [enter(breaker) for _ in range(3)]
    for entry in entries:
        breaker.failed(entry, limited(30))
    clock.now += 30
    work(breaker, 2)

    assert changes == [
        Change("open", "provider_rate_limited", about(30)),
        Change("closed", "pause_over", 0),
    ]


def test_no_pause_at_all_is_no_change(breaker: Breaker, changes: list[Change]) -> None:
    fail(breaker, 1, limited(0))
    work(breaker)

    assert changes == []


def test_refused_credentials_are_told_once_and_of_one_that_is_open_too(
    breaker: Breaker, changes: list[Change]
) -> None:
    entries = [enter(breaker) for _ in range(3)]
    fail(breaker, CONSECUTIVE)
    for entry in entries:
        breaker.failed(entry, AUTH)

    assert [change.why for change in changes] == ["provider_error", "provider_auth"]
    assert changes[-1] == Change("open", "provider_auth", math.inf)


def test_answers_that_break_off_are_told_as_the_reason(
    breaker: Breaker, changes: list[Change]
) -> None:
    for _ in range(10):
        work(breaker)
        breaker.cut(CUT)

    assert [(change.state, change.why) for change in changes] == [("open", "provider_cut")]


class Watched(RuleBasedStateMachine):
    """Many callers and a clock, against what must hold of any breaker."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.changes: list[Change] = []
        self.breaker = Breaker(self.clock, lambda: 0.5, self.changes.append)
        self.inside: list[Entry] = []
        self.in_a_row = 0
        self.refused = False

    def leave(self, number: int) -> Entry:
        return self.inside.pop(number % len(self.inside))

    def probes(self) -> int:
        return sum(entry.probe for entry in self.inside)

    @rule()
    def one_more_comes(self) -> None:
        was, wait, probes = self.breaker.state, self.breaker.wait(), self.probes()
        entry = self.breaker.enter()
        if entry is None:
            assert wait > 0
            assert was == "open" or probes == 1
            return
        assert wait == 0
        assert entry.probe == (was == "half-open")
        self.inside.append(entry)
        assert self.changes[-1:] == [] or self.changes[-1].state == was

    @rule(seconds=st.floats(0, 200))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.inside)
    @rule(number=st.integers(0, 9))
    def content_comes(self, number: int) -> None:
        entry, was = self.leave(number), self.breaker.state
        self.breaker.began(entry)
        self.in_a_row = 0
        if entry.probe:
            self.refused = False
            assert was == "open" or self.breaker.state == "closed"
        else:
            assert self.breaker.state == was

    @precondition(lambda self: self.inside)
    @rule(number=st.integers(0, 9))
    def it_fails(self, number: int) -> None:
        entry, was = self.leave(number), self.breaker.state
        self.breaker.failed(entry, BROKEN)
        self.in_a_row += 1
        if entry.probe or (was == "closed" and self.in_a_row >= CONSECUTIVE):
            assert self.breaker.state == "open"
        if self.breaker.state != was:
            self.in_a_row = 0

    @precondition(lambda self: self.inside)
    @rule(number=st.integers(0, 9), seconds=st.none() | st.floats(0.1, 120))
    def it_is_asked_too_often(self, number: int, seconds: float | None) -> None:
        self.breaker.failed(self.leave(number), limited(seconds))
        assert self.breaker.state == "open"
        assert self.breaker.wait() >= (5 if seconds is None else seconds) - 2 * SLACK

    @precondition(lambda self: self.inside)
    @rule(number=st.integers(0, 9))
    def the_key_is_refused(self, number: int) -> None:
        self.breaker.failed(self.leave(number), AUTH)
        self.refused = True

    @precondition(lambda self: self.inside)
    @rule(number=st.integers(0, 9), refused=st.booleans())
    def nothing_is_decided(self, number: int, refused: bool) -> None:
        entry, was = self.leave(number), self.breaker.state
        if refused:
            self.breaker.failed(entry, REFUSED)
        else:
            self.breaker.left(entry)
        assert self.breaker.state == was

    @rule()
    def an_answer_breaks_off(self) -> None:
        self.breaker.cut(CUT)

    @invariant()
    def one_probes_at_most(self) -> None:
        assert self.probes() <= 1

    @invariant()
    def no_state_is_told_twice_but_open(self) -> None:
        told = [change.state for change in self.changes]
        for before, after in zip(["closed", *told], told, strict=False):
            assert before != after or after == "open"
        for change in self.changes:
            assert (change.seconds > 0) == (change.state == "open")

    @invariant()
    def what_is_open_was_told(self) -> None:
        if self.breaker.state == "open":
            assert self.changes[-1].state == "open"

    def teardown(self) -> None:
        """Whatever happened, somebody may try again: unless the key was refused."""
        for entry in self.inside:
            self.breaker.left(entry)
        self.clock.now += LONGEST_OPEN + 1
        if self.refused:
            assert self.breaker.wait() == math.inf
        else:
            assert self.breaker.enter() is not None


TestBreaker = Watched.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 50), st.floats(0, 1), st.none() | st.floats(0, 120))
def test_a_backoff_is_below_its_greatest_and_never_before_its_time(
    retry: int, chance: float, after: float | None
) -> None:
    wait = backoff(retry, lambda: chance, after)

    assert wait >= (after or 0)
    assert wait <= max(4.0, after or 0)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=300))
def test_retries_are_a_fifth_of_the_requests_and_three_a_second(
    steps: list[tuple[float, bool]],
) -> None:
    clock = Clock()
    budget = Budget(clock)
    asked = spent = 0
    for seconds, ask in steps:
        clock.now += seconds
        if ask:
            asked += 1
            budget.asked()
        spent += budget.spend()

    assert spent <= BUDGET_MOST + 0.2 * asked + 3 * (clock.now - 1000) + 1e-6


def test_the_budget_runs_out_and_comes_back() -> None:
    clock = Clock()
    budget = Budget(clock)
    while budget.spend():
        pass
    clock.now += 1

    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


def test_who_has_somebody_else_to_ask_leaves_the_last_retries_to_those_who_have_not() -> None:
    clock = Clock()
    budget = Budget(clock)
    while budget.spend():
        pass

    waits = [budget.book(1.0) for _ in range(10)]
    assert waits[:5] == [0.0] * 5
    assert waits[5:8] == [pytest.approx(n / 3) for n in (1, 2, 3)]
    assert waits[8:] == [None, None]
