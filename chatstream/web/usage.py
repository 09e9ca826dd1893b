"""What a user has used, by day and model."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from chatstream.views.usage import UsageQuery, report
from chatstream.web.requests import PRIVATE, json, query
from chatstream.web.state import services_of


async def usage(request: Request) -> Response:
    """`GET /usage`: tokens and turns of the caller, from the log: what was cleared is gone."""
    asked = query(request, UsageQuery)
    first, last = asked.span()
    services = services_of(request)
    counts = await services.log.usage(asked.user_id, first, last)
    told = {"user_id": asked.user_id, "from": first, "to": last, **report(counts, services.prices)}
    return json(told, headers=PRIVATE)
