"""Which target is asked next, and when: the plan alone, without a provider."""

import pytest

from chatstream.providers.route.plan import SHORT_WAIT, AttemptPlan, Step
from chatstream.providers.route.retry import BUDGET_MOST, Budget


def plan(targets: int, retries: int = 2, budget: Budget | None = None) -> AttemptPlan:
    return AttemptPlan(targets, retries, budget or Budget(lambda: 0.0), lambda: 0.0)


def spent() -> Budget:
    budget = Budget(lambda: 0.0)
    for _ in range(int(BUDGET_MOST)):
        assert budget.book(0.0) is not None
    return budget


def test_the_one_asked_last_is_asked_again_if_that_can_be_soon() -> None:
    attempts = plan(2)
    attempts.asked(0)

    assert attempts.next(0, [0.0, 0.0], 10.0, None) == Step(0, 0.0)
    assert attempts.next(0, [0.0, 0.0], 10.0, SHORT_WAIT / 2) == Step(0, SHORT_WAIT / 2)


@pytest.mark.parametrize(("pause", "after"), [(SHORT_WAIT, None), (0.0, SHORT_WAIT)])
def test_the_next_is_asked_where_the_last_one_wants_a_pause(
    pause: float, after: float | None
) -> None:
    attempts = plan(3)
    attempts.asked(0)

    assert attempts.next(0, [pause, 0.0, 0.0], 10.0, after) == Step(1, 0.0)
    assert attempts.next(0, [pause, SHORT_WAIT, 0.0], 10.0, after) == Step(2, 0.0)


def test_the_next_is_asked_where_all_turns_together_have_no_retry_to_spare() -> None:
    attempts = plan(2, budget=spent())
    attempts.asked(0)

    assert attempts.next(0, [0.0, 0.0], 10.0, None) == Step(1, 0.0)


def test_the_one_that_can_be_asked_soonest_is_waited_for() -> None:
    attempts = plan(3)
    attempts.asked(0)

    assert attempts.next(0, [9.0, 5.0, 7.0], 10.0, None) == Step(1, 5.0)
    assert attempts.next(0, [9.0, 5.0, 7.0], 5.0, None) is None


def test_a_retry_waits_until_all_turns_together_have_one() -> None:
    attempts = plan(1, budget=spent())
    attempts.asked(0)
    step = attempts.next(0, [0.0], 10.0, None)

    assert step is not None and step.wait > 0
    assert attempts.next(0, [0.0], step.wait, None) is None


def test_nobody_is_asked_more_often_than_planned() -> None:
    attempts = plan(2, retries=1)
    attempts.asked(0)
    attempts.give_up(1)
    assert attempts.next(0, [0.0, 0.0], 10.0, None) == Step(0, 0.0)
    attempts.asked(0)

    assert attempts.next(0, [0.0, 0.0], 10.0, None) is None
