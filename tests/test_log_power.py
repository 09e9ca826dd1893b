"""What was answered outlives a power cut, and what was erased does not come back with one."""

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import orjson
import pytest

from chatstream.errors import StorageFailed
from chatstream.events import place
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.store import JsonlLog, open_log
from tests.log_steps import ADDRESS, contents, everything, fail, home, kinds, say, start, until
from tests.power_cut import Power

pytestmark = pytest.mark.anyio
SECRET = "correct horse battery staple"
ERASURES: dict[str, Callable[[JsonlLog, Conversation], Awaitable[object]]] = {
    "clear": lambda log, conversation: log.clear(conversation),
    "conversation": lambda log, conversation: log.erase(conversation),
    "user": lambda log, conversation: log.erase_user(conversation.address.user_id),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def power(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Power]:
    """From before the data folder is made."""
    power = Power(root, monkeypatch)
    yield power
    power.close()


async def left(root: Path) -> list[dict[str, object]]:
    """Return the events that the next start finds."""
    async with open_log(root, "terminal") as log:
        found = await everything(await log.conversation(ADDRESS))
    return [orjson.loads(event.json) for event in found]


async def test_the_first_message_of_a_new_user_is_there_once_it_was_answered(
    root: Path, power: Power, tmp_path: Path
) -> None:
    async with open_log(root, "terminal") as log:
        await start(log, content="remember")
        started = power.cut(tmp_path / "started")
        await (await start(log, "turn-0002")).end("turn.completed", {})
        ended = power.cut(tmp_path / "ended")

    first, *rest = await left(started)
    assert first["message"] == {"role": "user", "content": "remember"}
    assert [event["type"] for event in rest] == ["turn.interrupted"]
    found = await left(ended)
    assert [event["type"] for event in found if event["turn_id"] == "turn-0002"] == [
        "turn.started",
        "turn.completed",
    ]


async def test_every_delta_that_was_shown_is_there_where_that_is_asked_for(
    root: Path, power: Power, tmp_path: Path
) -> None:
    async with open_log(root, "always") as log:
        turn = await start(log)
        await say(turn, "all ", "of it")
        await until(lambda: turn.text("text", turn.conversation.visible) == b"all of it")
        after = power.cut(tmp_path / "after")

    assert (await left(after))[-1]["text"] == "all of it"


async def test_feedback_is_there_once_it_was_answered(
    root: Path, power: Power, tmp_path: Path
) -> None:
    async with open_log(root, "terminal") as log:
        await log.feedback.add("u", {"rating": 1, "turn_id": "t", "conversation_id": "c"})
        first = power.cut(tmp_path / "first")
        await log.feedback.add("u", {"rating": 5, "turn_id": "t", "conversation_id": "c"})
        second = power.cut(tmp_path / "second")

    for folder, rating in ((first, 1), (second, 5)):
        async with open_log(folder, "terminal") as log:
            (found,) = (await log.feedback.ratings("u")).by_turn.values()
        assert found.rating == rating


async def test_no_id_is_given_twice_although_nothing_of_a_reply_was_synced(
    root: Path, power: Power, tmp_path: Path
) -> None:
    async with open_log(root, "terminal") as log:
        turn = await start(log)
        # Ahead of the machine's clock, as after it was set back.
        log._disk.clock.raise_to(place(turn.started_id) + 10**12)
        await say(turn, "a", "b")
        last = log.last_id
        after = power.cut(tmp_path / "after")

    async with open_log(after, "terminal") as log:
        assert (await start(log, "turn-0002")).started_id > last


@pytest.mark.parametrize("what", ERASURES)
async def test_what_was_erased_does_not_come_back(
    root: Path, power: Power, tmp_path: Path, what: str
) -> None:
    async with open_log(root, "always") as log:
        await (await start(log, content=SECRET)).end("turn.completed", {})
        running = await start(log, "turn-0002", SECRET)
        await say(running, SECRET)
        await log.feedback.add("u", {"rating": 1, "comments": SECRET[::-1]})
        await ERASURES[what](log, home(running))
        erased = power.cut(tmp_path / "erased")
        await start(log, "turn-0003")
        goes_on = power.cut(tmp_path / "goes on")

    for folder in (erased, goes_on):
        assert SECRET.encode() not in contents(folder)
        assert (SECRET[::-1].encode() in contents(folder)) == (what != "user")
    told = ["history.cleared"] if what == "clear" else []
    assert [event["type"] for event in await left(erased)] == told
    told += ["turn.started", "turn.interrupted"]
    assert [event["type"] for event in await left(goes_on)] == told


@pytest.mark.parametrize("what", ERASURES)
async def test_a_power_cut_at_any_moment_of_an_erasure_leaves_all_or_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with open_log(root, "terminal") as log:
        await (await start(log, content=SECRET)).end("turn.completed", {})
        conversation = await log.conversation(ADDRESS)
        with monkeypatch.context() as patch:
            power = Power(root, patch, tmp_path)
            await ERASURES[what](log, conversation)
    power.close()

    found: list[list[object]] = []
    for moment in power.moments:
        begun = any((moment / "intents").glob("*.json"))
        found.append([event["type"] for event in await left(moment)])
        if begun or moment is power.moments[-1]:
            assert SECRET.encode() not in contents(moment), moment.name
    old: list[object] = ["turn.started", "turn.completed"]
    new: list[object] = ["history.cleared"] if what == "clear" else []
    turned = found.index(new)
    assert found == [old] * turned + [new] * (len(found) - turned)
    assert turned > 0


@pytest.mark.parametrize("what", ERASURES)
async def test_what_is_to_be_erased_is_durably_known_before_anything_is_removed(
    root: Path, power: Power, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    known: list[bool] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def removes(path: Path, *rest: object, **named: object) -> None:
            if "users" in str(path):
                cut = power.cut(tmp_path / f"before-{len(known)}")
                known.append(any((cut / "intents").glob("*.json")))
            real(path, *rest, **named)

        monkeypatch.setattr(os, name, removes)

    async with open_log(root, "terminal") as log:
        turn = await start(log)
        await say(turn, "text")
        for name in ("unlink", "replace", "rename"):
            watch(name)
        await ERASURES[what](log, home(turn))
    assert known and all(known)


@pytest.mark.parametrize("what", ERASURES)
async def test_an_erasure_that_failed_is_not_made_good_after_a_power_cut(
    root: Path, power: Power, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with open_log(root, "terminal") as log:
        await (await start(log)).end("turn.completed", {})
        conversation = await log.conversation(ADDRESS)
        with monkeypatch.context() as patch:
            fail(patch, "unlink", errno.EIO, lambda path: str(path).endswith(".jsonl"))
            fail(patch, "replace", errno.EIO, lambda path: not str(path).endswith(".new"))
            with pytest.raises(StorageFailed):
                await ERASURES[what](log, conversation)
        new = await start(log, "turn-0002")
        after = power.cut(tmp_path / "after")
        await new.end("turn.completed", {})

    async with open_log(after, "terminal") as log:
        events = await everything(await log.conversation(ADDRESS))
    assert kinds(events)[:3] == ["turn.started", "turn.completed", "turn.started"]
