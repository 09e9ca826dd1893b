"""
The promises hold when everything breaks, and the run that shows it can fail.

    pytest -m chaos             # this file
    pytest -m "not chaos"       # the others
    python -m tests.chaos --seed 7 --seconds 600
"""

import asyncio
import os
import random
from pathlib import Path

import orjson
import pytest
import uvloop

from tests.chaos.faults import FAULTS
from tests.chaos.ledger import Json, Ledger, Turn
from tests.chaos.power import Power
from tests.chaos.proxy import plan
from tests.chaos.report import Report
from tests.chaos.run import run
from tests.chaos.view import View

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

SHORT_SECONDS = 20
AT_ONCE = 4
"""Runs at the same time: each waits more than it computes."""
LEAST = {
    **{"restarts": 2, "connections broken": 50, "turn.completed": 20, "turn.interrupted": 3},
    **dict.fromkeys(("clears", "new beginnings", "users erased", "feedback", "renamings"), 1),
    **{f"turns done again: {kind}": 1 for kind in ("regenerate", "continue", "edit")},
    **{f"over a socket: {k}": 1 for k in ("send", "cancel", "clear", "feedback", "history")},
    **dict.fromkeys(("histories compared", "turns joined", "versions looked at"), 1),
}
"""What a run without a fault has done at the least."""
SEED = int(os.environ.get("CHAOS_SEED", "20251124"))


@pytest.fixture(scope="module")
def reports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Report]:
    """Run without a fault, and with each that a test of this session asks for."""
    own = [item for item in request.session.items if item.path == request.path]
    calls = [getattr(item, "callspec", None) for item in own]
    wanted = {call.params["fault"] for call in calls if call and "fault" in call.params}
    found: dict[str, Report] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(fault: str) -> None:
        folder = tmp_path_factory.mktemp("chaos")
        async with gate:
            if fault:
                found[fault] = await run(1, FAULTS[fault].seconds, folder, fault, "terminal")
            else:
                found[""] = await run(SEED, SHORT_SECONDS, folder, None, "terminal", LEAST)

    async def every() -> None:
        longest_first = sorted(wanted, key=lambda fault: FAULTS[fault].seconds)
        await asyncio.gather(*map(one, ["", *longest_first]))

    uvloop.run(every())
    return found


def test_no_promise_is_broken_while_connections_and_servers_die(
    reports: dict[str, Report],
) -> None:
    report = reports[""]

    assert not report.violations, str(report)
    lacking = {name for name, count in LEAST.items() if report.figures.get(name, 0) < count}
    assert not lacking, str(report)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_is_found(fault: str, reports: dict[str, Report]) -> None:
    report = reports[fault]

    told = f"promise {FAULTS[fault].promise}:"
    assert any(violation.startswith(told) for violation in report.violations), str(report)
    assert f"--seed {report.seed}" in str(report)


def test_every_promise_has_a_fault_that_breaks_it() -> None:
    assert {fault.promise for fault in FAULTS.values()} == set(range(1, 10))


def test_a_seed_repeats_what_befalls_a_client() -> None:
    first, again, other = (random.Random(f"{seed}/reader") for seed in (7, 7, 8))

    plans = [[plan(rng) for _ in range(50)] for rng in (first, again, other)]
    assert plans[0] == plans[1] != plans[2]


def test_a_power_cut_takes_what_was_not_synced_and_notices_what_was_shown(tmp_path: Path) -> None:
    ledger = Ledger()
    records = [event("turn.started", number) for number in (1, 2, 3)]
    lines = [orjson.dumps(record) + b"\n" for record in records]
    log = tmp_path / "data" / "users" / "u" / "c.jsonl"
    log.parent.mkdir(parents=True)
    log.write_bytes(lines[0])
    power = Power(tmp_path, ledger, 1, "terminal")
    lengths = set()
    for _ in range(50):
        power.on()
        log.write_bytes(b"".join(lines))
        synced = len(lines[0] + lines[1])
        power.notes.write_text(f"{log.stat().st_ino} {synced}\n")
        power.off(torn=True)
        left = log.read_bytes()
        assert left.startswith(lines[0] + lines[1])
        lengths.add(len(left))
        log.write_bytes(lines[0])
    assert len(lengths) > 10
    assert not ledger.violations, "nobody saw what was lost"

    ledger.stands_for(records[2]["id"], ("c", "t", "turn.started"))
    power.on()
    log.write_bytes(b"".join(lines))
    while not ledger.violations and ledger.figures["torn logs"] < 200:
        power.off(torn=True)
        log.write_bytes(b"".join(lines))
    assert ledger.violations[0].startswith("promise 2:")


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
