"""Turns done again, with a real log and a scripted provider."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from chatstream.errors import Conflict, NotFound, ProviderError, StorageFailed, Unavailable
from chatstream.events import Address, EventId, place
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog, open_log
from chatstream.metrics import Metrics
from chatstream.providers import Message
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.schemas import ReplacingTurnRequest, TurnRequest
from chatstream.settings import Settings
from chatstream.turns import runner as turns
from chatstream.turns.runner import EndedTurn, TurnRunner
from chatstream.views.history import page
from chatstream.views.versions import AgainBody, AgainKind, AgainRequest, again, versions
from tests.log_steps import contents, everything
from tests.logged import finish, run_with, say
from tests.running import Frame, Running, fold

pytestmark = pytest.mark.anyio
ADDRESS = Address("default", "default")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


async def do_again(runner: TurnRunner, kind: AgainKind, turn: EndedTurn, new: str) -> EndedTurn:
    wanted = again(kind, AgainBody(turn_id=new), turn.started, turn.terminal)
    return await finish(runner, await runner.start(wanted))


async def test_a_continued_turn_begins_with_what_had_come_and_is_whole(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("half an ", ValueError("died")).then("answer")
    runner = run_with(log, provider, tmp_path)
    first = await finish(runner, await runner.start(TurnRequest(message="q", turn_id="turn-0001")))
    assert first.terminal["type"] == "turn.failed"

    whole = await do_again(runner, "continue", first, "turn-0002")

    assert whole.terminal["text"] == "half an answer"
    assert (whole.started["replaces"], whole.started["kind"]) == ("turn-0001", "continue")
    assert provider.requests[1].messages == [Message("user", "q"), Message("assistant", "half an ")]


async def test_a_regenerated_turn_asks_the_same_anew_without_the_old_answer(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("one").then("two")
    runner = run_with(log, provider, tmp_path)
    asked = TurnRequest(message="q", turn_id="turn-0001", temperature=0.5, model="other")
    first = await finish(runner, await runner.start(asked))

    second = await do_again(runner, "regenerate", first, "turn-0002")

    assert second.terminal["text"] == "two"
    assert second.started["kind"] == "regenerate"
    assert provider.requests[1].messages == [Message("user", "q")]
    assert provider.requests[1].model == "other"
    assert provider.requests[1].temperature == 0.5


async def test_doing_again_is_idempotent_and_two_kinds_are_two_bodies(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("one").then("two")
    runner = run_with(log, provider, tmp_path)
    first = await finish(runner, await runner.start(TurnRequest(message="q", turn_id="turn-0001")))
    second = await do_again(runner, "regenerate", first, "turn-0002")

    assert await do_again(runner, "regenerate", first, "turn-0002") == second
    with pytest.raises(Conflict):
        await do_again(runner, "continue", first, "turn-0002")
    assert len(provider.requests) == 2


async def test_a_running_turn_and_one_without_text_are_refused(
    log: JsonlLog, tmp_path: Path
) -> None:
    with pytest.raises(Conflict, match="running"):
        again("regenerate", AgainBody(), {}, None)

    runner = run_with(log, Scripted(ValueError("died")), tmp_path)
    empty = await finish(runner, await runner.start(TurnRequest(message="q", turn_id="turn-0001")))
    with pytest.raises(Conflict, match="no text"):
        again("continue", AgainBody(), empty.started, empty.terminal)


async def test_versions_are_a_turns_family_whichever_member_is_asked(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("1").then("2").then("other").then("3")
    runner = run_with(log, provider, tmp_path)
    first = await finish(runner, await runner.start(TurnRequest(message="q", turn_id="turn-0001")))
    second = await do_again(runner, "regenerate", first, "turn-0002")
    await finish(runner, await runner.start(TurnRequest(message="x", turn_id="turn-other")))
    edited = ReplacingTurnRequest(message="Q", turn_id="turn-0003", replaces=second.turn_id)
    await finish(runner, await runner.start(edited))

    conversation = await log.conversation(ADDRESS)
    for member in ("turn-0001", "turn-0002", "turn-0003"):
        found = await versions(conversation, member)
        assert [v["turn_id"] for v in found] == ["turn-0001", "turn-0002", "turn-0003"]
        assert [v["text"] for v in found] == ["1", "2", "3"]
        assert [v["kind"] for v in found] == [None, "regenerate", "edit"]
    assert [v["turn_id"] for v in await versions(conversation, "turn-other")] == ["turn-other"]


async def test_what_was_made_of_one_turn_twice_is_one_family(log: JsonlLog, tmp_path: Path) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    first = await finish(runner, await runner.start(TurnRequest(message="q", turn_id="turn-0001")))
    for new in ("turn-0002", "turn-0003"):
        await do_again(runner, "regenerate", first, new)

    conversation = await log.conversation(ADDRESS)
    for member in ("turn-0001", "turn-0002", "turn-0003"):
        found = await versions(conversation, member)
        assert [v["turn_id"] for v in found] == ["turn-0001", "turn-0002", "turn-0003"]


async def test_a_bad_line_among_versions_hides_only_itself(log: JsonlLog, tmp_path: Path) -> None:
    runner = run_with(log, Scripted("a"), tmp_path)
    turn = await finish(runner, await runner.start(TurnRequest(message="q", turn_id="turn-0001")))
    await do_again(runner, "regenerate", turn, "turn-0002")
    conversation = await log.conversation(ADDRESS)
    data = conversation.path.read_bytes()
    conversation.path.write_bytes(data.replace(b'"kind":"regenerate"', b'"kind":"regenerat\xff"'))
    assert [v["turn_id"] for v in await versions(conversation, "turn-0001")] == ["turn-0001"]

    conversation.path.write_bytes(data.replace(b'"content":"q"', b'"content":"\xff"', 1))
    assert [v["turn_id"] for v in await versions(conversation, "turn-0001")] == ["turn-0002"]


@pytest.mark.parametrize("kind", ["regenerate", "continue"])
def test_a_turn_whose_provider_is_here_no_more_is_done_again_by_the_default_one(
    tmp_path: Path, kind: str
) -> None:
    path, body = f"/turns/turn-0001/{kind}", {"turn_id": "turn-0002"}
    gone = Scripted("half", ProviderError("died"), name="gone")
    with Running(tmp_path, gone) as server:
        server.http.post("/chat", json={"message": "q", "turn_id": "turn-0001"})
    other = Scripted("whole", model="m")
    with Running(tmp_path, other) as server:
        new = server.http.post(path, json=body)
        server.events(new.json()["events"])
    with Running(tmp_path, gone) as server:
        repeated = server.http.post(path, json=body)

    assert (new.status_code, repeated.status_code) == (202, 202)
    assert [asked.model for asked in other.requests] == ["m"]
    assert len(gone.requests) == 1


async def test_of_turns_that_replace_the_same_one_at_once_the_last_alone_goes_on(
    log: JsonlLog, tmp_path: Path
) -> None:
    runner = run_with(log, Scripted("a").then(asyncio.Event()), tmp_path)
    first = await finish(runner, await runner.start(TurnRequest(message="q", turn_id="turn-0001")))
    wanted = [
        again("regenerate", AgainBody(turn_id=f"turn-100{n}"), first.started, first.terminal)
        for n in range(4)
    ]
    *earlier, last = sorted(
        [
            turn
            for turn in await asyncio.gather(*map(runner.start, wanted))
            if isinstance(turn, LiveTurn)
        ],
        key=lambda turn: turn.started_id,
    )

    ends = [(await finish(runner, turn)).terminal["type"] for turn in earlier]
    assert ends == 3 * ["turn.cancelled"]
    assert list(runner.running) == [last]
    await runner.interrupt()


@pytest.mark.parametrize("kind", ["regenerate", "continue"])
def test_an_idempotency_key_is_the_new_turns_id(tmp_path: Path, kind: str) -> None:
    provider = Scripted("half", ProviderError("died")).then("whole")
    key = {"Idempotency-Key": "a key of any form"}
    with Running(tmp_path, provider) as server:
        server.http.post("/chat", json={"message": "q", "turn_id": "turn-0001"})
        path = f"/turns/turn-0001/{kind}"
        first = server.http.post(path, headers=key)
        again = server.http.post(path, headers=key, json={"turn_id": first.json()["turn_id"]})
        other = server.http.post(path, headers=key, json={"turn_id": "turn-0002"})
        server.events(first.json()["events"])
        found = server.http.get("/turns/turn-0001/versions").json()["versions"]

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
    assert first.json() == again.json()
    assert [version["turn_id"] for version in found] == ["turn-0001", first.json()["turn_id"]]
    assert len(provider.requests) == 2


def test_the_history_says_what_a_turn_replaced(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("one").then("two")) as server:
        server.http.post("/chat", json={"message": "q", "turn_id": "turn-0001"})
        new = server.http.post("/turns/turn-0001/regenerate").json()
        server.events(new["events"])
        message, reply = server.http.get("/history").json()["history"]

    assert (message["turn_id"], message["replaces"]) == (new["turn_id"], "turn-0001")
    assert "replaces" not in reply


# ---- the text that a turn goes on from


async def half(runner: TurnRunner) -> EndedTurn:
    """Run a turn that fails with half an answer."""
    return await say(runner, "q", "turn-0001")


def going_on(turn: EndedTurn, new: str = "turn-0002") -> AgainRequest:
    return again("continue", AgainBody(turn_id=new), turn.started, turn.terminal)


async def shown(log: JsonlLog) -> list[str]:
    """Return the messages of the history."""
    ratings = await log.feedback.ratings(ADDRESS.user_id)
    found = await page(await log.conversation(ADDRESS), ratings, 10, None)
    return [item["message"] for item in orjson.loads(orjson.dumps(found.messages))]


@pytest.mark.parametrize("steps", [*range(8), None])
async def test_a_continued_turn_that_is_stopped_at_any_moment_keeps_what_it_goes_on_from(
    log: JsonlLog, tmp_path: Path, steps: int | None
) -> None:
    provider = Scripted("half an ", ValueError("died")).then(asyncio.Event())
    runner = run_with(log, provider, tmp_path)
    await runner.start(going_on(await half(runner)))
    if steps is None:
        await runner.drain(0)  # the server stops
    else:
        for _ in range(steps):
            await asyncio.sleep(0)
        await runner.cancel(ADDRESS, "turn-0002")

    assert await shown(log) == ["q", "half an "]
    found = await runner.get(ADDRESS, "turn-0002")
    assert runner.snapshot(found)["text"] == "half an "
    another = Scripted("next")
    await say(run_with(log, another, tmp_path), "r", "turn-0003")
    assert another.requests[0].messages[1] == Message("assistant", "half an ")


@pytest.mark.parametrize("code", ["provider_auth", "overloaded"])
async def test_a_continued_turn_that_a_provider_refuses_keeps_what_it_goes_on_from(
    log: JsonlLog, tmp_path: Path, code: str
) -> None:
    provider = Scripted("half an ", ValueError("died")).then(ProviderError("no", code=code))
    runner = run_with(log, provider, tmp_path)

    ended = await do_again(runner, "continue", await half(runner), "turn-0002")

    assert (ended.terminal["type"], ended.terminal["text"]) == ("turn.failed", "half an ")
    assert await shown(log) == ["q", "half an "]


async def test_a_continued_turn_whose_context_cannot_be_read_keeps_what_it_goes_on_from(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = run_with(log, Scripted("half an ", ValueError("died")), tmp_path)
    wanted = going_on(await half(runner))

    async def unreadable(*_: object) -> list[Message]:
        raise StorageFailed("The conversation's file cannot be read.")

    monkeypatch.setattr(turns, "context", unreadable)
    ended = await finish(runner, await runner.start(wanted))

    assert (ended.terminal["type"], ended.terminal["text"]) == ("turn.failed", "half an ")


async def test_where_no_provider_can_be_asked_the_turn_that_was_to_go_on_stays_in_view(
    log: JsonlLog, tmp_path: Path
) -> None:
    provider = Scripted("half an ", ValueError("died"))
    runner = run_with(log, provider, tmp_path, max_turns=1)
    wanted = going_on(await half(runner))
    other = TurnRequest(message="q", turn_id="turn-0009", conversation_id="other")
    provider.then(asyncio.Event())
    held = await runner.start(other)

    with pytest.raises(Unavailable):
        await runner.start(wanted)
    assert await shown(log) == ["q", "half an "]
    await runner.cancel(other.address, held.turn_id)


async def test_no_death_at_any_moment_loses_what_a_turn_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies the folder after each change on the disk: each copy is what a `kill -9` leaves."""
    root = tmp_path / "data"
    async with open_log(root, "terminal") as log:
        provider = Scripted("half an ", ValueError("died")).then("ans", "wer")
        runner = run_with(log, provider, root)
        wanted = going_on(await half(runner))
        with monkeypatch.context() as patch:
            copies = copied_at_each_change(patch, root, tmp_path)
            await finish(runner, await runner.start(wanted))
        copies += torn(copies)

    texts = [await text_after_death(copy) for copy in copies]

    assert {"half an ", "half an answer"} <= set(texts)
    assert all(text.startswith("half an ") for text in texts), texts


def copied_at_each_change(patch: pytest.MonkeyPatch, root: Path, parent: Path) -> list[Path]:
    """Have every write and removal leave a copy of the folder behind."""
    copies: list[Path] = []
    lock = threading.RLock()

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            with lock:
                result = real(*arguments, **named)
                target = parent / f"copy-{len(copies)}"
                ignored = shutil.ignore_patterns("reserve", "lock")
                copies.append(shutil.copytree(root, target, ignore=ignored))
                return result

        patch.setattr(os, name, call)

    watch("pwrite")
    watch("unlink")
    return copies


def torn(copies: list[Path]) -> list[Path]:
    """Return more copies: with the live file cut off, as a power cut may leave it."""
    found = []
    for copy in copies:
        for live in copy.rglob("*.live"):
            for part in (0, 1, 2):
                target = copy.with_name(f"{copy.name}-torn-{part}")
                shutil.copytree(copy, target)
                os.truncate(target / live.relative_to(copy), live.stat().st_size * part // 3)
                found.append(target)
    return found


async def text_after_death(root: Path) -> str:
    """Start on what a death left; return the answer that everybody sees of the only question."""
    async with open_log(root, "terminal") as log:
        provider = Scripted("next")
        runner = run_with(log, provider, root)
        conversation = await log.conversation(ADDRESS)
        question, text = await shown(log)
        events = [Frame(e.id, orjson.loads(e.json)) for e in await everything(conversation)]
        (now,) = fold(events).values()
        assert (question, now["text"]) == ("q", text)
        last = await runner.get(ADDRESS, events[-1].data["turn_id"])
        assert runner.snapshot(last)["text"] == text
        for number, event in enumerate(events, 1):
            rest = await everything(conversation, place(EventId(event.data["id"])))
            later = [Frame(e.id, orjson.loads(e.json)) for e in rest]
            assert fold([*events[:number], *later]) == fold(events)
        await say(runner, "r", "turn-0003")
        assert provider.requests[0].messages[1] == Message("assistant", text)
    return text


async def test_what_was_cleared_does_not_come_back_with_a_turn_that_goes_on_from_it(
    log: JsonlLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Scripted("half an ", ValueError("died")).then("answer")
    runner = run_with(log, provider, tmp_path)
    wanted = going_on(await half(runner))
    start = Conversation.start

    async def cleared_first(self: Conversation, *given: Any, **named: Any) -> LiveTurn | EventId:
        await log.clear(self)
        return await start(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Conversation, "start", cleared_first)
        with pytest.raises(NotFound):
            await runner.start(wanted)

    assert b"half an " not in contents(tmp_path)
    assert len(provider.requests) == 1


# ---- a provider that is gone


@pytest.mark.parametrize("kind", ["regenerate", "continue"])
async def test_a_turn_whose_provider_is_gone_is_done_again_by_the_default_one(
    log: JsonlLog, tmp_path: Path, kind: AgainKind
) -> None:
    gone, here = Scripted("half an ", ValueError("died"), name="gone"), Scripted("answer")
    providers = Providers({"gone": gone, "scripted": here}, "scripted")
    runner = TurnRunner(log, providers, Settings(data_dir=tmp_path), Metrics())
    asked = TurnRequest(
        message="q", turn_id="turn-0001", provider="gone", model="its own", temperature=0.5
    )
    first = await finish(runner, await runner.start(asked))
    del providers.by_name["gone"]

    second = await do_again(runner, kind, first, "turn-0002")

    assert second.terminal["text"] == ("answer" if kind == "regenerate" else "half an answer")
    assert second.started["request"] == {
        "provider": "scripted",
        "model": "scripted",
        "temperature": 0.5,
    }
    assert await do_again(runner, kind, first, "turn-0002") == second
    assert len(here.requests) == 1
