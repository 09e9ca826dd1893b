"""Turns done again, with a real log and a scripted provider."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatstream.errors import Conflict, ProviderError
from chatstream.events import Address
from chatstream.log.jsonl import JsonlLog, open_log
from chatstream.log.live_turn import LiveTurn
from chatstream.metrics import Metrics
from chatstream.providers import Message
from chatstream.providers.routing import Providers
from chatstream.providers.scripted import Scripted
from chatstream.settings import Settings
from chatstream.turns import EndedTurn, TurnRunner
from chatstream.validation import ReplacingTurnRequest, TurnRequest
from chatstream.versions import AgainBody, AgainKind, again, versions
from tests.running import Gate, Running

pytestmark = pytest.mark.anyio
ADDRESS = Address("default", "default")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[JsonlLog]:
    async with open_log(tmp_path, "terminal") as log:
        yield log


def run_with(log: JsonlLog, provider: Scripted, tmp_path: Path) -> TurnRunner:
    settings = Settings(data_dir=tmp_path)
    return TurnRunner(log, Providers({"scripted": provider}, "scripted"), settings, Metrics())


async def finish(runner: TurnRunner, turn: LiveTurn | EndedTurn) -> EndedTurn:
    if isinstance(turn, LiveTurn):
        await runner.wait(turn)
    ended = await runner.get(ADDRESS, turn.turn_id)
    assert isinstance(ended, EndedTurn)
    return ended


async def do_again(runner: TurnRunner, kind: AgainKind, turn: EndedTurn, new: str) -> EndedTurn:
    wanted = again(kind, AgainBody(turn_id=new), turn.started, turn.terminal, {"scripted"})
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
        again("regenerate", AgainBody(), {}, None, ())

    runner = run_with(log, Scripted(ValueError("died")), tmp_path)
    empty = await finish(runner, await runner.start(TurnRequest(message="q", turn_id="turn-0001")))
    with pytest.raises(Conflict, match="no text"):
        again("continue", AgainBody(), empty.started, empty.terminal, ())


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


def test_a_continued_turn_that_dies_at_once_still_has_what_had_come(tmp_path: Path) -> None:
    half = Scripted("half", ProviderError("died")).then(Gate())
    with Running(tmp_path / "a", half) as server:
        server.http.post("/chat", json={"message": "q", "turn_id": "turn-0001"})
        server.http.post("/turns/turn-0001/continue", json={"turn_id": "turn-0002"})
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    for live in (tmp_path / "b").rglob("*.live"):
        live.unlink()
    with Running(tmp_path / "b") as server:
        turn = server.http.get("/turns/turn-0002").json()
        shown = server.http.get("/history").json()["history"]

    assert (turn["status"], turn["text"]) == ("interrupted", "half")
    assert [message["message"] for message in shown] == ["q", "half"]


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
