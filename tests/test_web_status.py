"""The server about itself, over real sockets; and its description against its routes."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from chatstream.errors import ProviderError
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from tests.asking import FORMS, make
from tests.running import Gate, Running
from tests.upstream import MODELS, Upstream

HTTP_METHODS = {"get", "post", "patch", "delete"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("data"), Scripted("Hello")) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Running) -> dict[str, Any]:
    answer = server.http.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def test_it_is_alive_and_ready(server: Running) -> None:
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = server.http.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": status})
        assert answer.headers["cache-control"] == "no-store"


def test_providers_are_listed_with_models_default_and_state(tmp_path: Path) -> None:
    given = Providers({"a": Scripted(name="a", model="m"), "b": Scripted(name="b")}, "b")
    with Running(tmp_path, given) as server:
        listed = server.http.get("/providers").json()

    assert listed == {
        "providers": [
            {"name": "a", "models": ["m"], "default": False, "state": "closed"},
            {"name": "b", "models": ["scripted"], "default": True, "state": "closed"},
        ]
    }


def test_the_lists_of_models_are_asked_for_once(tmp_path: Path, upstream: Upstream) -> None:
    given = Providers({form: make(form, upstream.url) for form in FORMS}, FORMS[0])
    with Running(tmp_path, given) as server:
        shown = [server.http.get("/providers").json()["providers"] for _ in range(3)]

    assert shown == [shown[0]] * 3
    assert {tuple(provider["models"]) for provider in shown[0]} == {("m", *MODELS)}
    assert len(upstream.asked) == len(FORMS)


def test_a_provider_that_does_not_list_its_models_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.model_list.WAIT_SECONDS", 0.05)

    class Hangs(Scripted):
        async def models(self) -> list[str]:
            await asyncio.Event().wait()
            return []

    class Fails(Scripted):
        async def models(self) -> list[str]:
            raise ProviderError("no")

    given = {"a": Hangs(name="a"), "b": Fails(name="b"), "c": Scripted(name="c")}
    with Running(tmp_path, Providers(dict(given), "a")) as server:
        shown = [server.http.get("/providers").json()["providers"] for _ in range(2)]

    assert shown == [shown[0]] * 2
    assert [provider["models"] for provider in shown[0]] == [["scripted"]] * 3


def test_a_turn_is_answered_by_the_provider_that_it_names(tmp_path: Path) -> None:
    given = Providers({"a": Scripted("A", name="a"), "b": Scripted("B", name="b")}, "b")
    with Running(tmp_path, given) as server:
        for provider in ("a", "b"):
            answer = server.http.post("/chat", json={"message": "q", "provider": provider}).json()
            assert (answer["reply"], answer["provider"]) == (provider.upper(), provider)


def test_metrics_count_turns_and_readers(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("a", gate, "b")) as server:
        server.http.post("/turns", json={"message": "q", "turn_id": "turn-0001"})
        with server.stream("GET", "/turns/turn-0001/events") as stream:
            stream.until("delta")
            during = server.http.get("/metrics")
            gate.open()
            list(stream)
        # A turn is counted once its task is over, which its last event does not wait for.
        server.call(server.app.services.runner.drain(5))
        after = server.http.get("/metrics").text

    assert during.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert value(during.text, 'chatstream_turns_running{provider="scripted"}') == 1
    assert value(during.text, 'chatstream_streams_open{transport="sse"}') == 1
    assert value(after, 'chatstream_turns_running{provider="scripted"}') == 0
    name = 'chatstream_turns_total{provider="scripted",status="completed"}'
    assert value(after, name) == 1
    assert value(after, 'chatstream_deltas_total{provider="scripted"}') == 2


def value(text: str, name: str) -> float:
    """Return one sample of Prometheus' text."""
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return float(line.split()[-1])


# ---- the description


def test_every_call_is_described_and_nothing_else(
    server: Running, document: dict[str, Any]
) -> None:
    served = {
        (route.path, method.lower())
        for route in server.app.routes
        if isinstance(route, Route) and route.path != "/"
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(path, method) for path, item in document["paths"].items() for method in item}

    assert described == served


def test_the_description_is_openapi_3_1_whose_references_lead_somewhere(
    document: dict[str, Any],
) -> None:
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(document["info"])
    operations = []
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert set(item) <= HTTP_METHODS
        for operation in item.values():
            operations.append(operation["operationId"])
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == set(re.findall(r"\{(\w+)\}", path))
            assert all(p["schema"] for p in operation["parameters"])
            assert operation["responses"]
            for status, answer in operation["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d", status)
                assert answer["description"]
    assert len(operations) == len(set(operations))
    references = list(references_in(document))
    assert references
    for reference in references:
        found: Any = document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def references_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references_in(inner)


def test_bodies_are_described_with_their_limits(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    fields = schemas["TurnRequest"]["properties"]

    assert schemas["TurnRequest"]["required"] == ["message"]
    assert (fields["user_id"]["minLength"], fields["user_id"]["maxLength"]) == (1, 256)
    assert fields["user_id"]["default"] == "default"
    assert "replaces" in schemas["ReplacingTurnRequest"]["properties"]
    rating = schemas["FeedbackRequest"]["properties"]["rating"]
    assert (rating["minimum"], rating["maximum"]) == (1, 5)
