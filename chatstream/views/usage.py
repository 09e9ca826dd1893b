"""
What a user has used: tokens and turns by day and model, with their cost where prices are set.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, Field

from chatstream.errors import InvalidRequest
from chatstream.events import Json
from chatstream.log.files.usage_file import Count, Counts, Kind
from chatstream.schemas import UserQuery
from chatstream.views.prices import Prices, rounded

DAYS = 30
"""The days of an answer where the query names none."""
MAX_ROWS = 5000
"""The rows of one answer at most; a query of more is refused."""


def _check_day(value: str) -> str:
    try:
        if date.fromisoformat(value).isoformat() == value:
            return value
    except ValueError:
        pass
    raise ValueError("must be a day that exists, as YYYY-MM-DD")


Day = Annotated[str, AfterValidator(_check_day), Field(json_schema_extra={"format": "date"})]


class UsageQuery(UserQuery):
    """The query of `GET /usage`: days in UTC, both included; without any, the last 30."""

    from_: Day | None = Field(None, alias="from", description="the first day, UTC")
    to: Day | None = Field(None, description="the last day, itself included; unset: today")

    def span(self) -> tuple[str, str]:
        """
        Return the first and the last day.

        Raises:
            InvalidRequest: The first is after the last.
        """
        last = self.to or datetime.now(UTC).date().isoformat()
        first = self.from_ or _days_before(last, DAYS - 1)
        if first > last:
            raise InvalidRequest(("from", f"must not be after `to`, {last} (got {first})"))
        return first, last


def _days_before(day: str, days: int) -> str:
    start = date.fromisoformat(day)
    return (start - min(timedelta(days), start - date.min)).isoformat()


def report(counts: Counts, prices: Prices | None) -> Json:
    """
    Return the rows, by day, provider and model, and their total.

    With prices, each row has its `cost`, null where its model has no price. The total has the sum
    of the known costs, and as `unpriced` the number of turns that are not in that sum.

    Raises:
        InvalidRequest: There are more rows than one answer takes.
    """
    if len(counts) > MAX_ROWS:
        raise InvalidRequest(
            ("from", f"at most {MAX_ROWS} rows in one answer, and these days have {len(counts)}")
        )
    total = Count()
    rows = []
    for kind, count in sorted(counts.items(), key=_order):
        total.add(count)
        rows.append({**kind._asdict(), **_numbers(count)})
    summed = _numbers(total)
    if prices is None:
        return {"usage": rows, "total": summed}
    for row in rows:
        tokens = row["input_tokens"], row["output_tokens"]
        row["cost"] = prices.cost(row["provider"], row["model"], *tokens)
    known = [row["cost"] for row in rows if row["cost"] is not None]
    summed["cost"] = rounded(sum(known))
    summed["unpriced"] = sum(row["turns"] for row in rows if row["cost"] is None)
    return {"currency": prices.currency, "usage": rows, "total": summed}


def _order(item: tuple[Kind, Count]) -> tuple[str, str, str]:
    kind, _ = item
    return kind.day, kind.provider or "", kind.model or ""


def _numbers(count: Count) -> Json:
    return {name: getattr(count, name) for name in count.__slots__}
