"""The server about itself: alive, ready, its counts, its providers, its description."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import Response

from chatstream.errors import ProviderError
from chatstream.http.openapi import document
from chatstream.http.requests import count, json
from chatstream.services import Services, services_of

logger = logging.getLogger(__name__)

MODELS_SECONDS = 5.0
"""A provider that does not name its models in that time is shown with the one that is set."""


async def healthz(request: Request) -> Response:
    """`GET /healthz`: the process answers."""
    return json({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: it takes turns; 503 while it does not."""
    headers = {"Cache-Control": "no-store"}
    if services_of(request).runner.draining:
        return json({"status": "draining"}, 503, headers | {"Retry-After": "2"})
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
    await count(request)
    services = services_of(request)
    names = list(services.providers.by_name)
    models = await asyncio.gather(*(_models(services, name) for name in names))
    return json(
        {
            "providers": [
                {
                    "name": name,
                    "models": listed,
                    "default": name == services.providers.default,
                    "state": services.providers.state(name),
                }
                for name, listed in zip(names, models, strict=True)
            ]
        }
    )


async def _models(services: Services, name: str) -> list[str]:
    try:
        async with asyncio.timeout(MODELS_SECONDS):
            return await services.providers.list_models(name)
    except (ProviderError, TimeoutError) as error:
        logger.warning("models not listed", extra={"provider": name, "error": type(error).__name__})
        return [services.providers.by_name[name].model]


async def openapi(request: Request) -> Response:
    """`GET /openapi.json`: OpenAPI 3.1, from the models that validate."""
    return json(document(request.scope.get("root_path", "")))
