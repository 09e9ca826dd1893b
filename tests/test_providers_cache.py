"""The cache and the shared requests, through a real server and a scripted provider."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chatstream.errors import ProviderError
from chatstream.providers import Finish, Message, Piece, ProviderRequest, Reasoning, Text, Usage
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.providers.route.cache import Answers
from chatstream.providers.route.cached import CachedRoute
from chatstream.settings import Settings
from tests.log_steps import until
from tests.running import Gate, Running, kinds

WHOLE = (Reasoning("hm"), Text("he"), Text("llo"), Usage(5, 7), Finish("stop"))


class Asking:
    def __init__(self, provider: Scripted, **given: Any) -> None:
        self.now = 0.0
        self.providers = Providers({p.name: p for p in (provider,)}, provider.name)
        self.settings = Settings(retries=0)
        options = {"per_user": True, "most_bytes": 100_000} | given
        self.answers = Answers(60, clock=lambda: self.now, **options)

    def route(self, user: str = "ada") -> CachedRoute:
        route = self.providers.route(None, None, self.settings, user)
        route.admit()
        return CachedRoute(self.answers, user, route)

    async def read(self, route: CachedRoute, message: str = "q", **given: Any) -> list[Piece]:
        asked = ProviderRequest(messages=[Message("user", message)], model="scripted", **given)
        try:
            return [piece async for piece in route.reply(asked)]
        finally:
            route.leave()

    async def ask(self, message: str = "q", user: str = "ada", **given: Any) -> tuple[str, bool]:
        route = self.route(user)
        pieces = await self.read(route, message, **given)
        return "".join(p.text for p in pieces if isinstance(p, Text)), route.cached

    @property
    def in_use(self) -> int:
        return self.providers.limiters["scripted"].in_use


@pytest.mark.anyio
async def test_the_same_question_gets_the_kept_answer_without_a_request() -> None:
    provider = Scripted(*WHOLE)
    asking = Asking(provider)

    assert await asking.ask() == ("hello", False)
    route = asking.route()
    pieces = await asking.read(route)

    assert pieces == [Reasoning("hm"), Text("hello"), Finish("stop")]
    assert (route.cached, route.lookup, route.name) == (True, "hit", "scripted")
    assert len(provider.requests) == 1
    assert asking.in_use == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    "other",
    [{"message": "r"}, {"user": "bob"}, {"system": "s"}, {"temperature": 0.0}, {"max_tokens": 9}],
)
async def test_another_question_is_asked(other: dict[str, Any]) -> None:
    provider = Scripted("hello")
    asking = Asking(provider)
    await asking.ask()

    assert await asking.ask(**other) == ("hello", False)
    assert len(provider.requests) == 2


@pytest.mark.anyio
async def test_users_share_answers_where_that_is_set() -> None:
    asking = Asking(Scripted("hello"), per_user=False)
    await asking.ask()

    assert await asking.ask(user="bob") == ("hello", True)


@pytest.mark.anyio
async def test_a_kept_answer_is_forgotten_after_its_time() -> None:
    asking = Asking(Scripted("hello"))
    await asking.ask()
    asking.now = 59.9
    assert await asking.ask() == ("hello", True)
    asking.now = 60.0

    assert await asking.ask() == ("hello", False)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "steps",
    [
        ("he", ProviderError("broke")),
        ("he", Finish("length")),
        ("he", Finish("filter")),
        ("he", Finish("tool")),
        (Reasoning("only thoughts"),),
        (Finish("stop"),),
    ],
)
async def test_an_answer_that_is_not_whole_is_never_kept(steps: tuple[Any, ...]) -> None:
    provider = Scripted(*steps).then("good")
    asking = Asking(provider)
    try:
        await asking.ask()
    except ProviderError:
        pass

    assert await asking.ask() == ("good", False)


@pytest.mark.anyio
async def test_a_fallbacks_answer_is_not_kept_for_the_provider_that_was_asked() -> None:
    asking = Asking(broken := Scripted(ProviderError("broke", retryable=True)))
    asking.providers.by_name["other"] = Scripted("other's", name="other")
    asking.settings = asking.settings.model_copy(update={"fallbacks": ("other",)})

    assert await asking.ask() == ("other's", False)
    assert await asking.ask() == ("other's", False)
    assert len(broken.requests) == 2


@pytest.mark.anyio
async def test_the_one_unused_for_longest_makes_room() -> None:
    provider = Scripted("x" * 4000)
    asking = Asking(provider, most_bytes=11_000)
    for message in ("a", "b", "a", "c"):
        await asking.ask(message)

    assert len(asking.answers) == 2
    assert asking.answers.size <= 11_000
    assert await asking.ask("a") == ("x" * 4000, True)
    assert await asking.ask("b") == ("x" * 4000, False)


@pytest.mark.anyio
async def test_an_answer_larger_than_the_cache_drops_nothing() -> None:
    provider = Scripted("small").then("x" * 200_000)
    asking = Asking(provider)
    await asking.ask("a")
    await asking.ask("b")

    assert await asking.ask("a") == ("small", True)


@pytest.mark.anyio
async def test_the_same_questions_at_once_share_one_request() -> None:
    gate = asyncio.Event()
    provider = Scripted("he", gate, "llo", Usage(1, 2))
    asking = Asking(provider)
    routes = [asking.route() for _ in range(5)]
    readers = [asyncio.ensure_future(asking.read(route)) for route in routes]
    await until(lambda: all(route.lookup for route in routes))
    assert asking.in_use == 1
    gate.set()

    answers = await asyncio.gather(*readers)

    assert len(provider.requests) == 1
    assert answers == [[Text("he"), Text("llo"), Usage(1, 2), Finish("stop")]] * 5
    assert sorted(route.cached for route in routes) == [False, True, True, True, True]
    assert asking.in_use == 0


@pytest.mark.anyio
async def test_the_request_goes_on_for_those_who_stay_and_closes_with_the_last() -> None:
    provider = Scripted("he", asyncio.Event())
    asking = Asking(provider)
    routes = [asking.route() for _ in range(3)]
    readers = [asyncio.ensure_future(asking.read(route)) for route in routes]
    await until(lambda: provider.running == 1 and all(route.lookup for route in routes))

    for reader in readers[:2]:
        reader.cancel()
    await asyncio.gather(*readers[:2], return_exceptions=True)
    assert provider.running == 1

    readers[2].cancel()
    await asyncio.gather(readers[2], return_exceptions=True)
    await asking.answers.aclose()
    assert (provider.running, asking.in_use, len(asking.answers)) == (0, 0, 0)


@pytest.mark.anyio
async def test_a_new_turn_does_not_join_a_request_that_all_have_left() -> None:
    provider = Scripted("he", asyncio.Event()).then("hello")
    asking = Asking(provider)
    reader = asyncio.ensure_future(asking.read(asking.route()))
    await until(lambda: provider.running == 1)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)

    assert await asking.ask() == ("hello", False)


@pytest.mark.anyio
async def test_whoever_leaves_before_the_request_began_leaves_no_place_taken() -> None:
    provider = Scripted("hello")
    asking = Asking(provider)
    route = asking.providers.route(None, None, asking.settings, "ada")
    route.admit()
    asked = ProviderRequest(messages=[Message("user", "q")], model="scripted")
    question = asking.answers.question("ada", route, asked)
    shared = asking.answers.join(question, "ada", route, asked)

    shared.leave()
    await asking.answers.aclose()

    assert (asking.in_use, provider.requests) == (0, [])


@pytest.mark.anyio
async def test_a_failure_is_everyones() -> None:
    gate = asyncio.Event()
    provider = Scripted("he", gate, ProviderError("broke"))
    asking = Asking(provider)
    readers = [asyncio.ensure_future(asking.read(asking.route())) for _ in range(3)]
    await until(lambda: provider.running == 1)
    gate.set()

    failures = await asyncio.gather(*readers, return_exceptions=True)

    assert [str(failure) for failure in failures] == ["broke"] * 3
    assert len(provider.requests) == 1


@pytest.mark.anyio
async def test_what_a_user_put_there_is_forgotten_and_what_runs_is_not_kept() -> None:
    gate = asyncio.Event()
    provider = Scripted("kept").then("he", gate, "llo").then("again")
    asking = Asking(provider, per_user=False)
    await asking.ask("a", "ada")
    running = asyncio.ensure_future(asking.ask("b", "ada"))
    joined = asyncio.ensure_future(asking.ask("b", "bob"))
    await until(lambda: provider.running == 1)

    asking.answers.forget("bob")
    assert await asking.ask("a", "bob") == ("kept", True)
    asking.answers.forget("ada")
    gate.set()

    assert {(await running)[0], (await joined)[0]} == {"hello"}
    assert (len(asking.answers), asking.answers.size) == (0, 0)
    assert await asking.ask("b", "bob") == ("again", False)


# ---- as clients see it


def chat(server: Running, message: str = "q", **given: Any) -> dict[str, Any]:
    answer = server.http.post("/chat", json={"message": message, **given})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_first_message_is_answered_from_the_cache_as_a_real_turn(tmp_path: Path) -> None:
    provider = Scripted("hello", Usage(3, 4))
    with Running(tmp_path, provider, cache_ttl=60) as server:
        first = chat(server, conversation_id="one")
        second = chat(server, conversation_id="two")
        path = f"/turns/{second['turn_id']}/events?conversation_id=two"
        frames = server.events(path)
        metrics = server.http.get("/metrics").text

    assert (first["cached"], second["cached"]) == (False, True)
    assert first["usage"] == {"input_tokens": 3, "output_tokens": 4}
    assert second["usage"] == {"input_tokens": 0, "output_tokens": 0}
    assert (second["reply"], second["provider"]) == ("hello", "scripted")
    assert kinds(frames) == ["ready", "turn.started", "turn.completed"]
    assert frames[-1].data["cached"] is True
    assert len(provider.requests) == 1
    assert 'chatstream_cache_lookups_total{result="hit"} 1.0' in metrics
    assert "chatstream_cache_answers 1.0" in metrics


def test_a_second_message_is_always_asked(tmp_path: Path) -> None:
    provider = Scripted("hello")
    with Running(tmp_path, provider, cache_ttl=60) as server:
        chat(server)
        assert not chat(server)["cached"]

    assert len(provider.requests) == 2


def test_regenerating_asks_anew(tmp_path: Path) -> None:
    provider = Scripted("one").then("two")
    with Running(tmp_path, provider, cache_ttl=60) as server:
        turn = chat(server)["turn_id"]
        again = server.http.post(f"/turns/{turn}/regenerate", json={}).json()
        frames = server.events(f"/turns/{again['turn_id']}/events")

    assert frames[-1].data["text"] == "two"
    assert len(provider.requests) == 2


def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    provider = Scripted("hello")
    with Running(tmp_path, provider) as server:
        chat(server, conversation_id="one")
        chat(server, conversation_id="two")

    assert len(provider.requests) == 2


@pytest.mark.parametrize("way", ["clear", "erase", "user"])
def test_what_was_cleared_is_in_no_cache(tmp_path: Path, way: str) -> None:
    provider = Scripted("hello")
    with Running(tmp_path, provider, cache_ttl=60) as server:
        chat(server, conversation_id="one")
        if way == "clear":
            server.http.post("/history/clear", json={"conversation_id": "one"})
        elif way == "erase":
            server.http.delete("/conversations", params={"conversation_id": "one"})
        else:
            server.http.delete("/users", params={"user_id": "default"})
        answers = server.app.services.answers
        assert answers is not None and len(answers) == 0
        assert not chat(server, conversation_id="two")["cached"]


def test_turns_of_two_conversations_share_a_request_until_the_last_is_cancelled(
    tmp_path: Path,
) -> None:
    gate = Gate()
    provider = Scripted("he", gate, "llo")
    with Running(tmp_path, provider, cache_ttl=60) as server:
        started = {
            name: server.http.post("/turns", json={"message": "q", "conversation_id": name}).json()
            for name in ("one", "two")
        }
        gate.reached()
        turn = started["one"]["turn_id"]
        cancelled = server.http.post(f"/turns/{turn}/cancel", json={"conversation_id": "one"})
        assert cancelled.json()["status"] == "cancelled"
        assert provider.running == 1
        gate.open()
        frames = server.events(started["two"]["events"])

    assert (frames[-1].type, frames[-1].data["text"]) == ("turn.completed", "hello")
    assert frames[-1].data["cached"] is False
    assert len(provider.requests) == 1


CANCELLED = ("", "0", "2", "01", "012")
"""Which of three turns that share a request are cancelled: the first asked, the others joined."""


@pytest.mark.parametrize("how", ["completed", "failed", "interrupted"])
def test_the_tokens_of_a_shared_request_are_counted_once_however_its_turns_end(
    tmp_path: Path, how: str
) -> None:
    gate = Gate()
    steps = ("llo", ProviderError("broke")) if how == "failed" else ("llo", Usage(5, 3))
    provider = Scripted("he", Usage(5, 1), gate, *steps)
    turns = [(user, number) for user in CANCELLED for number in "012"]
    with Running(tmp_path, provider, cache_ttl=60) as server:
        started = {}
        for user, number in turns:
            body = {"message": "q", "user_id": f"u{user}", "conversation_id": number}
            started[user, number] = server.http.post("/turns", json=body).json()
        for turn in started.values():
            with server.stream("GET", turn["events"]) as stream:
                stream.until("delta")
        for user, number in turns:
            if number in user:
                where = {"user_id": f"u{user}", "conversation_id": number}
                path = f"/turns/{started[user, number]['turn_id']}/cancel"
                server.http.post(path, json=where)
        if how == "interrupted":
            server.stop()
            server.start()
        else:
            gate.open()
        ends = {key: server.events(turn["events"])[-1].data for key, turn in started.items()}
        totals = {
            user: server.http.get("/usage", params={"user_id": f"u{user}"}).json()["total"]
            for user in CANCELLED
        }

    assert len(provider.requests) == len(CANCELLED)
    for (user, number), end in ends.items():
        assert end["type"] == f"turn.{'cancelled' if number in user else how}"
        assert end["usage"] is not None
    for user, total in totals.items():
        came = 3 if how == "completed" and user != "012" else 1
        counts = (total["turns"], total["unknown"], total["input_tokens"], total["output_tokens"])
        assert counts == (3, 0, 5, came)


def test_a_turn_that_waits_for_room_has_started_and_can_be_cancelled(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("he", gate, "llo")
    provider.concurrency = 1  # type: ignore[attr-defined]
    with Running(tmp_path, provider) as server:
        first = server.http.post("/turns", json={"message": "q"}).json()
        gate.reached()
        second = server.http.post("/turns", json={"message": "r"}).json()
        metrics = server.http.get("/metrics").text
        waiting = 'chatstream_provider_requests{provider="scripted",state="waiting"} 1.0'
        assert waiting in metrics

        cancelled = server.http.post(f"/turns/{second['turn_id']}/cancel", json={}).json()
        assert (cancelled["status"], cancelled["text"]) == ("cancelled", "")
        gate.open()
        assert server.events(first["events"])[-1].data["text"] == "hello"

    assert len(provider.requests) == 1


def test_a_turn_for_which_there_is_no_room_is_refused_before_it_starts(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("he", gate, "llo")
    provider.concurrency = 1  # type: ignore[attr-defined]
    with Running(tmp_path, provider, max_queued=0) as server:
        server.http.post("/turns", json={"message": "q"})
        gate.reached()
        refused = server.http.post("/turns", json={"message": "r", "turn_id": "turn-refused"})
        again = server.http.get("/turns/turn-refused")
        metrics = server.http.get("/metrics").text
        gate.open()

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert int(refused.headers["Retry-After"]) >= 1
    assert again.status_code == 404
    assert 'chatstream_turns_refused_total{code="overloaded"} 1.0' in metrics
