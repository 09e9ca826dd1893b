"""`GET /usage` over real sockets: rows, totals, days, costs, and whose they are."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chatstream.errors import ProviderError
from chatstream.log.files.usage_file import Count, Kind
from chatstream.providers import Usage
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.views.prices import Price, Prices
from chatstream.views.usage import MAX_ROWS, report
from tests.running import Gate, Running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    silent = Scripted("A", name="silent")
    given = Providers({"told": Scripted("A", Usage(5, 7), name="told"), "silent": silent}, "told")
    with Running(tmp_path_factory.mktemp("data"), given) as server:
        yield server


def usage(server: Running, **query: str) -> dict[str, Any]:
    answer = server.http.get("/usage", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def say(server: Running, user_id: str, **body: str) -> None:
    answer = server.http.post("/chat", json={"message": "q", "user_id": user_id, **body})
    assert answer.status_code == 200, answer.text


def today(days: int = 0) -> str:
    return (datetime.now(UTC) + timedelta(days)).date().isoformat()


def test_a_user_sees_rows_by_model_and_their_total(server: Running) -> None:
    for body in ({}, {}, {"model": "big"}, {"provider": "silent", "conversation_id": "c"}):
        say(server, "ann", **body)
    say(server, "bob")

    told = usage(server, user_id="ann")
    numbers = ("turns", "input_tokens", "output_tokens", "unknown", "cached")
    rows = [
        ("silent", "scripted", 1, 0, 0, 1, 0),
        ("told", "big", 1, 5, 7, 0, 0),
        ("told", "scripted", 2, 10, 14, 0, 0),
    ]
    assert told == {
        "user_id": "ann",
        "from": today(-29),
        "to": today(),
        "usage": [
            {"day": today(), "provider": provider, "model": model}
            | dict(zip(numbers, values, strict=True))
            for provider, model, *values in rows
        ],
        "total": dict(zip(numbers, (4, 15, 21, 1, 0), strict=True)),
    }


def test_what_runs_is_not_counted_and_what_failed_is(tmp_path: Path) -> None:
    gate = Gate()
    broken = Scripted("A", Usage(2, 1), ProviderError("it broke")).then(gate, "B", Usage(1, 1))
    with Running(tmp_path, broken) as server:
        assert server.http.post("/chat", json={"message": "q"}).status_code == 502
        server.http.post("/turns", json={"message": "q"})
        gate.reached()
        during = usage(server)["total"]
        gate.open()

    assert (during["turns"], during["input_tokens"], during["output_tokens"]) == (1, 2, 1)


def test_nobody_is_told_of_anothers_or_of_what_was_cleared(server: Running) -> None:
    say(server, "eve")
    assert usage(server, user_id="Eve")["usage"] == []
    assert usage(server, user_id="eve")["total"]["turns"] == 1

    server.http.post("/history/clear", json={"user_id": "eve"})
    assert usage(server, user_id="eve")["usage"] == []
    assert server.http.get("/usage", params={"user_id": "eve"}).headers["cache-control"] == (
        "private, no-cache"
    )


def test_days_bound_what_is_told(server: Running) -> None:
    say(server, "dan")
    for query, turns in (
        ({"from": today(-1), "to": today(1)}, 1),
        ({"to": today(-1)}, 0),
        ({"from": "0001-01-01"}, 1),
        ({"from": today(), "to": "9999-12-31"}, 1),
    ):
        assert usage(server, user_id="dan", **query)["total"]["turns"] == turns
    assert usage(server, to="2026-03-01")["from"] == "2026-01-31"
    assert usage(server, to="0001-01-05")["from"] == "0001-01-01"


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ("from=yesterday", "from", "YYYY-MM-DD (got 9 characters: 'yesterday')"),
        ("to=2026-02-29", "to", "a day that exists, as YYYY-MM-DD (got 10 characters: '2026-02-"),
        ("to=20260228", "to", "YYYY-MM-DD"),
        ("to=2026-W09-6", "to", "YYYY-MM-DD"),
        ("from=", "from", "YYYY-MM-DD"),
        ("from=1764000000", "from", "YYYY-MM-DD"),
        ("from=2026-03-02&to=2026-03-01", "from", "after `to`, 2026-03-01 (got 2026-03-02)"),
        ("from=2026-03-01&from=2026-03-02", "from", "once"),
        ("user_id=..", "user_id", "'..'"),
    ],
)
def test_wrong_days_are_named_with_their_limit_and_value(
    server: Running, query: str, field: str, said: str
) -> None:
    answer = server.http.get(f"/usage?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert said in error["message"]


def test_costs_are_told_where_there_are_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text('{"scripted/scripted": {"input": 1, "output": 10}, "currency": "EUR"}')
    script = Scripted("A", Usage(1_000_000, 200_000))
    with Running(tmp_path / "data", script, prices=path) as server:
        server.http.post("/chat", json={"message": "q"})
        server.http.post("/chat", json={"message": "q", "model": "other"})
        told = usage(server)

    assert told["currency"] == "EUR"
    costs = {row["model"]: row["cost"] for row in told["usage"]}
    assert costs == {"other": None, "scripted": 3}
    assert (told["total"]["cost"], told["total"]["unpriced"]) == (3, 1)


def test_a_total_is_not_off_by_binary_fractions() -> None:
    prices = Prices("USD", {"p/a": Price(0.1, 0), "p/b": Price(0.2, 0)})
    million = Count(1, 1_000_000, 0)
    told = report({Kind("2026-03-01", "p", model): million for model in "ab"}, prices)

    assert told["total"]["cost"] == 0.3


def test_more_rows_than_one_answer_takes_are_refused(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        counts = {Kind("2026-03-01", "p", f"m{i}"): Count(1) for i in range(MAX_ROWS + 1)}

        async def many(*_: str) -> object:
            return counts

        server.app.services.log.usage = many  # type: ignore[method-assign, assignment]
        refused = server.http.get("/usage")
        counts.popitem()
        taken = server.http.get("/usage")

    assert refused.status_code == 422
    assert f"{MAX_ROWS} rows in one answer, and these days have {MAX_ROWS + 1}" in refused.text
    assert (taken.status_code, taken.json()["total"]["turns"]) == (200, MAX_ROWS)
