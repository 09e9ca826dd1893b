import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.errors import ProviderError
from chatstream.providers.breaker import CONSECUTIVE, LONGEST_OPEN, Breaker
from chatstream.providers.retry import BUDGET_MOST, Budget, backoff

BROKEN = ProviderError("broken", retryable=True)
REFUSED = ProviderError("refused")
AUTH = ProviderError("no", code="provider_auth")


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
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock, lambda: 0.0)


def state(breaker: Breaker) -> str:
    return breaker.state


def fail(breaker: Breaker, times: int, error: ProviderError = BROKEN) -> None:
    for _ in range(times):
        assert breaker.enter()
        breaker.failed(error)


def test_five_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, CONSECUTIVE - 1)
    assert state(breaker) == "closed"
    fail(breaker, 1)

    assert state(breaker) == "open"
    assert not breaker.enter()
    assert breaker.wait() == pytest.approx(5, abs=0.1)


def test_a_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for _ in range(2):
        fail(breaker, CONSECUTIVE - 1)
        for _ in range(2 * CONSECUTIVE):
            assert breaker.enter()
            breaker.began()

    assert state(breaker) == "closed"


def test_half_of_ten_calls_within_a_minute_open_it(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        assert breaker.enter()
        breaker.began()
        fail(breaker, 1)

    assert state(breaker) == "open"


def test_failures_older_than_a_minute_are_forgotten(breaker: Breaker, clock: Clock) -> None:
    for _ in range(10):
        assert breaker.enter()
        breaker.began()
        fail(breaker, 1)
        clock.now += 15

    assert state(breaker) == "closed"


def test_half_open_only_one_may_try(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, CONSECUTIVE)
    clock.now += 5

    assert state(breaker) == "half-open"
    assert [breaker.enter() for _ in range(3)] == [True, False, False]
    breaker.began()
    assert state(breaker) == "closed"
    assert breaker.enter()


def test_a_probe_that_fails_opens_it_for_twice_as_long(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, CONSECUTIVE)
    for seconds in (10, 20, 40, 80, LONGEST_OPEN, LONGEST_OPEN):
        clock.now += breaker.wait() + 0.1
        fail(breaker, 1)
        assert breaker.wait() == pytest.approx(seconds, abs=0.1)


def test_a_probe_whose_caller_left_decides_nothing(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, CONSECUTIVE)
    clock.now += 5
    assert breaker.enter()
    breaker.left()

    assert state(breaker) == "half-open"
    assert breaker.enter()


@pytest.mark.parametrize(("retry_after", "parked"), [(30, 30), (None, 5), (0, 0)])
def test_a_limit_parks_it_as_long_as_it_was_told(
    breaker: Breaker, clock: Clock, retry_after: float | None, parked: float
) -> None:
    fail(breaker, 1, limited(retry_after))

    assert breaker.wait() == pytest.approx(parked, abs=0.1)
    clock.now += parked
    assert state(breaker) == "closed"
    assert breaker.enter()


def test_refused_credentials_open_it_for_good(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 1, AUTH)
    clock.now += 1e9

    assert state(breaker) == "open"
    assert breaker.wait() == math.inf


def test_what_is_refused_of_a_request_says_nothing_of_the_next(breaker: Breaker) -> None:
    fail(breaker, 100, REFUSED)

    assert state(breaker) == "closed"


def test_an_answer_that_breaks_off_counts_half(breaker: Breaker) -> None:
    for _ in range(9):
        assert breaker.enter()
        breaker.began()
        breaker.cut()
    assert state(breaker) == "closed"
    breaker.began()
    breaker.cut()

    assert state(breaker) == "open"


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["enter", "began", "broken", "refused", "limited", "left", "cut"]),
            st.floats(0, 200),
        ),
        max_size=80,
    ),
    st.floats(0, 1),
)
def test_whatever_happens_it_lets_somebody_try_again(
    steps: list[str | float], jitter: float
) -> None:
    clock = Clock()
    breaker = Breaker(clock, lambda: jitter)
    inside = 0
    for step in steps:
        if isinstance(step, float):
            clock.now += step
        elif step == "enter":
            was = state(breaker)
            let_in = breaker.enter()
            assert not (let_in and was == "open")
            assert let_in or breaker.wait() > 0
            if let_in and was == "half-open":
                assert not breaker.enter()
            inside += let_in
        elif step == "cut":
            breaker.cut()
        elif inside:
            inside -= 1
            if step == "began":
                breaker.began()
            elif step == "left":
                breaker.left()
            else:
                errors = {"broken": BROKEN, "refused": REFUSED, "limited": limited(7)}
                breaker.failed(errors[step])
    for _ in range(inside):
        breaker.left()
    clock.now += LONGEST_OPEN + 1

    assert breaker.wait() == 0
    assert breaker.enter()


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
