"""The server about itself: alive, ready, its counts, its providers."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from chatstream.web.requests import json
from chatstream.web.state import services_of


async def healthz(request: Request) -> Response:
    """`GET /healthz`: the process answers."""
    return json({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: it takes turns; 503 while it does not, with the reason."""
    headers = {"Cache-Control": "no-store"}
    services = services_of(request)
    if services.runner.draining:
        return json({"status": "draining"}, 503, headers | {"Retry-After": "2"})
    if (trouble := await services.log.trouble()) is not None:
        told = {"status": "storage_failed", "reason": trouble}
        return json(told, 503, headers | {"Retry-After": "5"})
    return json({"status": "ready"}, headers=headers)


async def metrics(request: Request) -> Response:
    """`GET /metrics`: Prometheus' text format."""
    services = services_of(request)
    providers = services.providers
    services.metrics.breakers({name: providers.state(name) for name in providers.by_name})
    for name, limiter in providers.limiters.items():
        services.metrics.concurrency(name, int(limiter.limit), limiter.in_use, limiter.queued)
    if (answers := services.answers) is not None:
        services.metrics.answers(len(answers), answers.size)
    text = services.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def providers(request: Request) -> Response:
    """`GET /providers`: who can answer, with which models."""
    providers = services_of(request).providers
    names = list(providers.by_name)
    models = await asyncio.gather(*map(providers.list_models, names))
    return json(
        {
            "providers": [
                {
                    "name": name,
                    "models": listed,
                    "default": name == providers.default,
                    "state": providers.state(name),
                }
                for name, listed in zip(names, models, strict=True)
            ]
        }
    )
