"""
What chatstream is measured against: the least that ASGI can do, and what most people would write.

    python -m chatstream.bench.baselines bare|relay PORT [PROVIDER_URL]
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import httpx
import orjson
import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chatstream.bench.script import Script, token
from chatstream.web import wire

ID = "1764000000000-0000"
HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Send chatstream's bytes, one send a token, from a timer: nothing is asked or kept."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    script = Script.of(orjson.loads(body)["model"])
    loop = asyncio.get_running_loop()
    due = loop.time()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    for number in range(script.tokens):
        frame = _frame("delta", token(number))
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        if script.rate:
            due += 1 / script.rate
            await asyncio.sleep(due - loop.time())
        else:
            await asyncio.sleep(0)
    frame = _frame("turn.completed", script.text)
    await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _frame(kind: str, text: str) -> bytes:
    event = {"type": kind, "id": ID, "conversation_id": "default", "turn_id": "0" * 36}
    return wire.sse(ID, orjson.dumps({**event, "text": text}))


def relay(provider_url: str) -> Starlette:
    """Pass on a provider's tokens: httpx's lines in, an sse-starlette event a token out."""
    # Without a limit, so that more than 100 chats do not wait for one another.
    client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))

    async def chat(request: Request) -> Response:
        asked = await request.json()
        return EventSourceResponse(tokens(asked["message"], asked["model"]))

    async def tokens(message: str, model: str) -> AsyncIterator[ServerSentEvent]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": message}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        url = f"{provider_url}/chat/completions"
        async with client.stream("POST", url, json=body) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if chunk["choices"] and (text := chunk["choices"][0]["delta"].get("content")):
                    yield ServerSentEvent(data=json.dumps({"type": "delta", "text": text}))
        yield ServerSentEvent(data=json.dumps({"type": "done"}))

    return Starlette(routes=[Route("/chat", chat, methods=["POST"])])


def main(name: str, port: str, provider_url: str) -> None:
    """Serve one of them, as chatstream is served."""
    app: ASGIApp = bare if name == "bare" else relay(provider_url)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
        lifespan="off",
    )


if __name__ == "__main__":
    main(*sys.argv[1:4])
