"""chatstream as a library: what it exports, leaves alone, and closes; mounted under others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp

import chatstream
from chatstream import Chatstream, Provider, Settings, create_app
from chatstream.errors import DataFolderError, SettingsError
from chatstream.providers.registry import Providers
from tests import typing_usage


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATSTREAM_NO_MODEL", "true")


def client(app: ASGIApp) -> TestClient:
    """Return a client that enters the application's lifespan as a block."""
    return TestClient(app, base_url="http://localhost")


def said(app: ASGIApp, path: str = "", **asked: Any) -> dict[str, Any]:
    with client(app) as http:
        answer: dict[str, Any] = http.post(f"{path}/chat", json={"message": "Hi"} | asked).json()
        return answer


# ---- what it exports


def test_every_name_is_there_and_no_other() -> None:
    assert chatstream.__all__ == sorted(chatstream.__all__)
    for name in chatstream.__all__:
        assert getattr(chatstream, name) is not None
    assert set(chatstream.__all__) < set(dir(chatstream))
    assert typing_usage.version() == version("chatstream")
    with pytest.raises(AttributeError, match="create_server"):
        typing_usage.wrong_names()


PRISTINE = """
import asyncio, gc, logging, os, signal, sys, threading, warnings
import uvicorn

def loggers():
    named = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "httpx", "asyncio")]
    return [(each.level, each.handlers[:], each.filters[:]) for each in (logging.root, *named)]

def state():
    return {
        "handle_exit": uvicorn.Server.handle_exit,
        "logging": loggers(),
        "signals": [signal.getsignal(each) for each in sorted(signal.valid_signals())],
        "gc": (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()),
        "policy": asyncio.get_event_loop_policy(),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "path": sys.path[:],
        "environment": dict(os.environ),
        "threads": threading.active_count(),
        "filters": warnings.filters[:],
    }

asyncio.get_event_loop_policy()
before = state()
from chatstream import *
app = create_app()
after = state()
for what in before:
    if before[what] != after[what]:
        print(what, before[what], after[what])
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what a process says of itself that differs once it has made an application."""
    done = subprocess.run(
        [sys.executable, "-c", PRISTINE],
        cwd=tmp_path_factory.mktemp("pristine"),
        env=os.environ | {"CHATSTREAM_NO_MODEL": "true"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_making_an_application_changes_nothing_in_the_process(changed: str) -> None:
    assert [line for line in changed.splitlines() if not line.startswith("handle_exit")] == []


def test_making_an_application_leaves_uvicorn_as_it_is(changed: str) -> None:
    assert "handle_exit" not in changed


def test_the_package_alone_imports_nothing_of_the_server() -> None:
    script = "import sys, chatstream; sys.exit('chatstream.app' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


# ---- providers that are given


def test_the_first_of_given_providers_answers_unless_another_is_named(tmp_path: Path) -> None:
    given = typing_usage.providers([])
    first = said(typing_usage.app(tmp_path, given))
    named = said(typing_usage.app(tmp_path, given), provider="fixed")
    chosen = said(create_app(Settings(data_dir=tmp_path, provider="fixed"), providers=given))

    assert [each["provider"] for each in (first, named, chosen)] == ["echo", "fixed", "fixed"]
    assert (first["reply"], named["reply"]) == ("Hi", "Hello")


def test_a_given_provider_without_a_name_has_that_of_its_class(tmp_path: Path) -> None:
    class Parrot:
        reply = typing_usage.Echo.reply

    unnamed: Any = Parrot()
    assert said(typing_usage.app(tmp_path, [unnamed]))["provider"] == "parrot"


def test_what_a_given_provider_says_and_raises_is_told(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, retries=0)
    with client(create_app(settings, providers=typing_usage.providers([]))) as http:
        refused = http.post("/chat", json={"message": "refuse"})
        late = http.post("/chat", json={"message": "wait", "model": "echo-2"})

    assert (refused.status_code, refused.json()["code"]) == (502, "provider_rate_limited")
    assert (late.status_code, late.json()["code"]) == (504, "provider_timeout")


class Deaf:
    """No provider: its `reply` is no generator."""

    name = model = "deaf"

    async def reply(self, request: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    "given, wrong",
    [
        ([], "at least one"),
        ([Deaf()], "providers: Deaf: wrong protocol"),
        ([object()], "providers: object: wrong protocol"),
        ([typing_usage.Echo], "providers: type: wrong protocol"),
        ([typing_usage.Echo(), typing_usage.Echo()], "echo is the name of another of these"),
        ([typing_usage.Fixed("", [], name="Big One")], "attribute `name` gives another"),
    ],
)
def test_what_is_no_provider_is_refused_at_once(given: Any, wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong):
        create_app(Settings(), providers=given)


def test_the_settings_name_only_what_is_given() -> None:
    given = typing_usage.providers([])
    with pytest.raises(SettingsError, match="PROVIDER: offline: takes one of echo, fixed"):
        create_app(Settings(provider="offline"), providers=given)
    with pytest.raises(SettingsError, match="FALLBACKS: offline: takes some of echo, fixed"):
        create_app(Settings(fallbacks=("offline",)), providers=given)


# ---- who opens closes


def test_given_providers_are_not_closed_and_one_app_runs_twice(tmp_path: Path) -> None:
    closed: list[str] = []
    given = typing_usage.providers(closed)
    both = {provider.name: provider for provider in given}
    for app in (
        typing_usage.app(tmp_path / "1", given),
        create_app(Settings(data_dir=tmp_path / "2"), providers=Providers(both, "fixed")),
    ):
        for count in (2, 4):
            with client(app) as http:
                assert http.post("/chat", json={"message": "Hi"}).status_code == 200
                assert len(http.get("/history").json()["history"]) == count

    assert closed == []


MODULE = """
from tests.typing_usage import Fixed
closed = []
made = []
def fixed():
    made.append(1)
    return Fixed("Hello", closed)
"""


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Any:
    """Return a module of a provider that the settings name."""
    name = f"library_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return __import__(name)


def naming(module: Any, data: Path) -> Chatstream:
    entry = f"{module.__name__}:fixed"
    return create_app(Settings(data_dir=data, providers=(entry,), provider="fixed"))


def test_built_providers_are_closed_each_time_and_built_anew(built: Any, tmp_path: Path) -> None:
    app = naming(built, tmp_path / "data")
    for _ in range(2):
        assert said(app)["reply"] == "Hello"

    assert (built.closed, built.made) == (["fixed", "fixed"], [1, 1])


async def entered(app: Chatstream) -> None:
    async with app.lifespan():
        pass


@pytest.mark.anyio
async def test_built_providers_are_closed_when_the_folder_cannot_be_had(
    built: Any, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with create_app(Settings(data_dir=data), providers=typing_usage.providers([])).lifespan():
        with pytest.raises(DataFolderError):
            await entered(naming(built, data))

    assert built.closed == ["fixed"]


# ---- mounted under others


def starlette(chat: Chatstream, told: list[str]) -> ASGIApp:
    return Starlette(routes=[Mount("/inner/chat", chat)], lifespan=own_and(chat, told))


def fastapi(chat: Chatstream, told: list[str]) -> ASGIApp:
    app = FastAPI(lifespan=own_and(chat, told))
    app.mount("/inner/chat", chat)
    return app


def own_and(chat: Chatstream, told: list[str]) -> Any:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        told.append("parent opens")
        async with chat.lifespan(app):
            yield
        told.append("parent closes")

    return lifespan


@pytest.mark.parametrize("parent", [starlette, fastapi])
def test_mounted_all_addresses_are_under_where_it_is(parent: Any, tmp_path: Path) -> None:
    told: list[str] = []
    given: list[Provider] = [typing_usage.Echo()]
    app = parent(typing_usage.app(tmp_path, given), told)
    with TestClient(app, base_url="http://localhost", root_path="/outer") as http:
        under = "/outer/inner/chat"
        page = http.get(f"{under}/")
        started = http.post(f"{under}/turns", json={"message": "Hi"})
        events = http.get(started.json()["events"])
        turn: httpx.Response = http.get(started.headers["Location"])  # type: ignore[assignment]
        described = http.get(f"{under}/openapi.json").json()
        with http.websocket_connect(f"ws://localhost{under}/ws") as socket:
            socket.send_json({"type": "ping"})
            answered = socket.receive_json()

    assert page.status_code == 200 and 'src="static/page/app.js"' in page.text
    assert started.headers["Location"].startswith(f"{under}/turns/")
    assert started.json()["events"].startswith(f"{under}/turns/")
    assert '"turn.completed"' in events.text
    assert turn.json()["text"] == "Hi"
    assert described["servers"] == [{"url": under}]
    assert answered["type"] == "pong"
    assert told == ["parent opens", "parent closes"]


def test_the_typed_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSTREAM_MAX_TURNS", "9")
    pure, read = typing_usage.settings(tmp_path)
    given = typing_usage.providers([])

    assert (pure.max_turns, read.max_turns) == (7, 9)
    assert typing_usage.of_the_environment().settings.max_turns == 9
    assert said(typing_usage.mounted(typing_usage.app(tmp_path, given)), "/chat")["reply"] == "Hi"
