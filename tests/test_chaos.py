"""
The promises hold when everything breaks, and the run that shows it can fail.

    pytest -m chaos             # this file
    pytest -m "not chaos"       # the others
    python -m tests.chaos --seed 7 --seconds 600
"""

import os
import random
from pathlib import Path

import pytest
import uvloop

from tests.chaos.faults import FAULTS
from tests.chaos.ledger import Json, Ledger, Turn
from tests.chaos.proxy import plan
from tests.chaos.run import run
from tests.chaos.view import View

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(150)]

SHORT_SECONDS = 20
FAULT_SECONDS = 20
SEED = int(os.environ.get("CHAOS_SEED", "20251124"))


def test_no_promise_is_broken_while_connections_and_servers_die(tmp_path: Path) -> None:
    report = uvloop.run(run(SEED, SHORT_SECONDS, tmp_path))

    assert not report.violations, str(report)
    figures = report.figures
    assert figures["kill -9"] + figures["SIGTERM"] >= 2, str(report)
    assert figures["connections broken"] >= 50, str(report)
    assert figures["turn.completed"] >= 20, str(report)
    assert figures["turn.interrupted"] >= 3, str(report)
    assert figures["clears"] >= 2, str(report)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_is_found(fault: str, tmp_path: Path) -> None:
    # The reader that blocks a turn comes after the storm.
    seconds = 1 if fault == "wait-for-readers" else FAULT_SECONDS
    report = uvloop.run(run(1, seconds, tmp_path, fault))

    told = f"promise {FAULTS[fault].promise}:"
    assert any(violation.startswith(told) for violation in report.violations), str(report)


def test_every_promise_has_a_fault_that_breaks_it() -> None:
    assert {fault.promise for fault in FAULTS.values()} == set(range(1, 10))


def test_a_seed_repeats_what_befalls_a_client() -> None:
    first, again, other = (random.Random(f"{seed}/reader") for seed in (7, 7, 8))

    plans = [[plan(rng) for _ in range(50)] for rng in (first, again, other)]
    assert plans[0] == plans[1] != plans[2]


def event(kind: str, place: int, **fields: str) -> Json:
    return {"type": kind, "id": f"1-{place:04}", "conversation_id": "c", "turn_id": "t", **fields}


READY = {"type": "ready", "id": "0", "conversation_id": "c", "last_id": "0"}
STARTED = event("turn.started", 1) | {"message": {"role": "user", "content": "m"}}
DELTA = event("delta", 2, text="t0 ")


@pytest.mark.parametrize(
    ("events", "promise"),
    [
        ([READY, STARTED, DELTA, event("delta", 3, text="t1 ")], None),
        ([READY, STARTED, DELTA, event("turn.completed", 4, text="t0 t1 ")], None),
        ([READY, STARTED, DELTA, DELTA], 1),
        ([READY, STARTED, DELTA, event("delta", 3, text="t0 ")], 1),
        ([READY, STARTED, event("delta", 3, text="t1 ")], 1),
        ([READY, DELTA], 1),
        ([READY, STARTED, DELTA, event("turn.completed", 4, text="t0 ")], 1),
        ([READY, STARTED, DELTA, event("turn.interrupted", 4, text="")], 2),
        ([READY, STARTED, DELTA, event("turn.interrupted", 4, text="t0 ")], 5),
        ([READY, STARTED, DELTA, event("turn.cancelled", 4, text="t0 ", reason="user")], 5),
        ([READY, STARTED, event("turn.completed", 4, text="t0 t1 "), DELTA], 1),
        ([READY, STARTED, DELTA, READY | {"id": "1-0001"}], 1),
        ([READY, STARTED | {"conversation_id": "d"}], 8),
    ],
)
def test_a_reader_notices(events: list[Json], promise: int | None) -> None:
    ledger = Ledger()
    ledger.turns["t"] = Turn("u", "c", "t", "", "m", "t0 t1 ")
    view = View(ledger, "reader", "c")

    for each in events:
        view.take(each)

    promises = [violation.split()[1] for violation in ledger.violations]
    assert (f"{promise}:" in promises) if promise else not promises


def test_an_id_that_stands_for_two_events_is_noticed() -> None:
    ledger = Ledger()

    ledger.stands_for("1-0001", ("c", "t", "turn.started"))
    ledger.stands_for("1-0001", ("c", "t", "turn.started"))
    assert not ledger.violations
    ledger.stands_for("1-0001", ("d", "t", "turn.started"))
    assert ledger.violations
