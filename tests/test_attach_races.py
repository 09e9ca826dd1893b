"""
Readers that come at any moment get every event once, in order: shown by trying every order.

A scene is a few actors: writers, an erasure, clients that come while a turn starts, speaks and
ends, while the log is rewritten and its live files go, and between the file and memory. See
`interleaving` for what is tried, and `attach_client` for what each client checks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chatstream.events import place
from chatstream.log.files import journal
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.journal import Journal
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.records import Encoded
from chatstream.log.files.tail import Tail
from chatstream.log.files.visibility import FOREVER
from chatstream.views.subscriber import Subscriber
from chatstream.web.sse import LogStream
from tests.attach_client import Client
from tests.attach_world import World, apart
from tests.choices import Broken
from tests.interleaving import InterleavedLoop, Scenario, explore, play

Scene = Callable[[World], None]
PRIOR, TURN, NEXT = "turn-0000", "turn-0001", "turn-0002"


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


def staged(scene: Scene, root: Path) -> Scenario:
    """Play a scene in a world of its own each time, and compare at its end."""

    def scenario(loop: InterleavedLoop) -> None:
        world = World(loop, root / "data")
        try:
            scene(world)
            world.end()
        finally:
            world.close()

    return scenario


def prior(world: World) -> None:
    """Have one turn that has ended, so that the file has what memory has not."""
    world.do(world.writes(PRIOR, "x", moments=False))


def running(world: World) -> Client:
    """Have a turn that has said something, and a client that saw it."""
    prior(world)
    world.do(world.writes(TURN, "a", moments=False, end=False))
    return world.reads(Client(world, "first", cursor="0"))


def a_turn(world: World) -> None:
    prior(world)
    client = Client(world, "client", cursor="0")
    world.play(writer=world.writes(TURN, "a", "b"), client=client.follows())


def a_turn_on_a_socket(world: World) -> None:
    prior(world)
    client = Client(world, "client", cursor="0")
    world.play(writer=world.writes(TURN, "a", "b"), client=client.follows_on_a_socket())


def a_turn_beside_another_conversation(world: World) -> None:
    prior(world)
    client = Client(world, "client", cursor="0")
    world.play(writer=world.writes(TURN, "a", "b"), client=client.follows_beside_another())


def a_turn_without_a_cursor(world: World) -> None:
    prior(world)
    world.play(writer=world.writes(TURN, "a", "b"), client=Client(world).follows())


def a_first_turn(world: World) -> None:
    client = Client(world, "client", cursor="0")
    world.play(writer=world.writes(TURN, "a"), client=client.follows())


def from_the_middle(world: World, at: int) -> None:
    client = Client(world).seeded(running(world), at)
    world.play(writer=world.goes_on(TURN, "b", "c"), client=client.follows())


def the_turns_own_stream(world: World) -> None:
    running(world)
    world.play(writer=world.goes_on(TURN, "b"), client=Client(world).follows_turn(TURN))


def the_turns_own_stream_from_the_middle(world: World, at: int) -> None:
    client = Client(world).seeded(running(world), at)
    world.play(writer=world.goes_on(TURN, "b"), client=client.follows_turn(TURN))


def a_clear(world: World) -> None:
    running(world)
    client = Client(world, "client", cursor="0")
    world.play(
        writer=world.goes_on(TURN, "b"),
        clearer=world.erases(world.log.clear),
        client=client.follows(),
    )


def a_clear_and_the_turns_own_stream(world: World) -> None:
    running(world)
    world.play(
        writer=world.goes_on(TURN, "b"),
        clearer=world.erases(world.log.clear),
        client=Client(world).follows_turn(TURN),
    )


def an_erasure_and_a_new_turn(world: World) -> None:
    running(world)
    client = Client(world, "client", cursor="0")
    world.play(
        clearer=world.erases(world.log.erase, then=partial(world.writes, NEXT, "c", moments=False)),
        client=client.follows(),
    )


def an_erasure_a_new_turn_and_the_turns_own_stream(world: World) -> None:
    running(world)
    world.play(
        clearer=world.erases(world.log.erase, then=partial(world.writes, NEXT, "c", moments=False)),
        client=Client(world, "client", slow=True).follows_turn(TURN),
    )


def a_clear_a_new_turn_and_the_turns_own_stream(world: World) -> None:
    running(world)
    world.play(
        clearer=world.erases(world.log.clear, then=partial(world.writes, NEXT, "c", moments=False)),
        client=Client(world, "client", slow=True).follows_turn(TURN),
    )


def an_erasure_and_a_slow_client(world: World) -> None:
    first = running(world)
    client = Client(world, "client", slow=True).seeded(first, -1)
    world.play(
        clearer=world.erases(world.log.erase, then=partial(world.writes, NEXT, "c", moments=False)),
        client=client.follows(),
    )


def two_turns(world: World) -> None:
    running(world)
    client = Client(world, "client", cursor="0")
    world.play(
        one=world.goes_on(TURN, "b"),
        two=world.writes(NEXT, "c", moments=False),
        client=client.follows(),
    )


def an_end_and_the_next_start(world: World) -> None:
    running(world)
    client = Client(world, "client", cursor="0")
    world.play(one=world.goes_on(TURN), two=world.writes(NEXT), client=client.follows())


def two_turns_and_the_ones_own_stream(world: World) -> None:
    running(world)
    world.play(
        one=world.goes_on(TURN, "b"),
        two=world.writes(NEXT, "c", moments=False),
        client=Client(world).follows_turn(TURN),
    )


def a_cut(world: World) -> None:
    running(world)
    client = Client(world, "client", cursor="0")
    world.play(writer=world.goes_on(TURN, "b"), client=client.is_cut_and_comes_back())


def a_slow_client(world: World) -> None:
    prior(world)
    client = Client(world, "client", cursor="0", slow=True)
    world.play(writer=world.writes(TURN, "a", "b"), client=client.follows())


def two_clients(world: World) -> None:
    running(world)
    clients = [Client(world, name, cursor="0") for name in ("one", "other")]
    world.play(
        writer=world.goes_on(TURN, "b"), one=clients[0].follows(), other=clients[1].follows()
    )


def every_job_takes_its_time(world: World) -> None:
    running(world)
    world.loop.prompt = frozenset()
    client = Client(world, "client", cursor="0")
    world.play(clearer=world.erases(world.log.clear), client=client.follows())


def the_live_file_is_dropped_late(world: World) -> None:
    running(world)
    world.loop.prompt = frozenset()
    client = Client(world, "client", cursor="0")
    world.play(writer=world.goes_on(TURN, "b"), client=client.follows())


def a_start_whose_sync_fails(world: World) -> None:
    prior(world)
    world.syncer.failing = 1
    client = Client(world, "client", cursor="0")
    world.play(
        one=world.writes(TURN, "a", moments=False),
        two=world.writes(NEXT, "b", moments=False),
        client=client.follows(),
    )


def an_end_whose_sync_fails(world: World) -> None:
    running(world)
    world.syncer.failing = 1
    client = Client(world, "client", cursor="0")
    world.play(writer=world.goes_on(TURN, "b"), client=client.follows())


AT = range(5)
"""After each of the events that there are when the client was cut off."""
SCENES: list[tuple[Scene, int | None, int]] = [
    (a_turn, None, 100),
    (a_turn_on_a_socket, None, 70),
    (a_turn_beside_another_conversation, 0, 60),
    (a_turn_without_a_cursor, None, 60),
    (a_first_turn, None, 50),
    *((partial(from_the_middle, at=at), None, 10) for at in AT),
    (the_turns_own_stream, None, 30),
    *((partial(the_turns_own_stream_from_the_middle, at=at), None, 10) for at in AT),
    (a_slow_client, 0, 700),
    (a_cut, 0, 700),
    (two_clients, 0, 150),
    (two_turns, 0, 100),
    (an_end_and_the_next_start, 0, 100),
    (two_turns_and_the_ones_own_stream, 0, 100),
    (the_live_file_is_dropped_late, None, 150),
    (a_start_whose_sync_fails, None, 10),
    (an_end_whose_sync_fails, None, 50),
    (a_clear, 1, 600),
    (every_job_takes_its_time, 2, 150),
    (a_clear_and_the_turns_own_stream, 0, 100),
    (a_clear_a_new_turn_and_the_turns_own_stream, 0, 150),
    (an_erasure_and_a_new_turn, 1, 900),
    (an_erasure_and_a_slow_client, 0, 300),
    (an_erasure_a_new_turn_and_the_turns_own_stream, 0, 700),
]
"""Each with its bound (None: every order there is), and how many schedules that is at least."""


def named(scene: Scene) -> str:
    if isinstance(scene, partial):
        return f"{scene.func.__name__}-{scene.keywords['at']}"
    return scene.__name__


@pytest.mark.parametrize(
    ("scene", "bound", "least"),
    SCENES,
    ids=lambda value: named(value) if callable(value) else f"bound {value}",
)
def test_a_reader_that_comes_at_any_moment_gets_every_event_once_and_in_order(
    scene: Scene, bound: int | None, least: int, tmp_path: Path, record_property: Any
) -> None:
    count = explore(staged(scene, tmp_path), bound, apart)

    record_property("schedules", count)
    print(f"{named(scene)}: {count} schedules, all of them within the bound {bound}")  # noqa: T201
    assert count >= least, "the scheduler has lost choices"


@pytest.mark.parametrize("scene", [two_turns, two_clients, an_erasure_and_a_new_turn])
def test_it_is_so_too_where_memory_keeps_nothing_that_the_file_has(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "TAIL_BYTES", 0)

    assert explore(staged(scene, tmp_path), 0, apart) >= 100


# ---- faults that the search must find


def memory_forgets_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    trim = Tail.trim
    patch.setattr(Tail, "trim", lambda self, keep_from, most: trim(self, FOREVER, most))
    patch.setattr(journal, "TAIL_BYTES", 0)


def memory_hands_over_one_event_too_late(patch: pytest.MonkeyPatch) -> None:
    read = Tail.read

    def broken(self: Tail, after: int, upto: int, *rest: Any) -> list[Encoded]:
        last = self._segments[-1].last if self._segments else 0
        return read(self, after, min(upto, last - 1), *rest)

    patch.setattr(Tail, "read", broken)


def replay_first_then_live_from_now(patch: pytest.MonkeyPatch) -> None:
    read = Journal.read_file

    async def broken(self: Journal, *given: Any) -> tuple[list[Encoded], int]:
        found, _ = await read(self, *given)
        return found, place(self.last_id)

    patch.setattr(Journal, "read_file", broken)


def the_cursor_passes_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    take = Subscriber.take

    async def broken(self: Subscriber, *given: Any) -> list[Encoded]:
        if not (found := await take(self, *given)):
            self.after = max(self.after, self.conversation._last)
        return found

    patch.setattr(Subscriber, "take", broken)


def events_are_shown_before_they_are_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "visible", FOREVER)


def deltas_are_dropped_before_the_end_is_visible(patch: pytest.MonkeyPatch) -> None:
    end_turn = Conversation.end_turn

    async def broken(self: Conversation, turn: LiveTurn, *given: Any) -> Encoded:
        self.tail.drop(turn.turn_id)
        return await end_turn(self, turn, *given)

    patch.setattr(Conversation, "end_turn", broken)


def the_live_file_is_dropped_before_the_end_is_durable(patch: pytest.MonkeyPatch) -> None:
    end_turn = Conversation.end_turn

    async def broken(self: Conversation, turn: LiveTurn, *given: Any) -> Encoded:
        turn.live_file.path.unlink(missing_ok=True)
        return await end_turn(self, turn, *given)

    patch.setattr(Conversation, "end_turn", broken)


def what_was_read_before_a_clear_is_shown_after_it(patch: pytest.MonkeyPatch) -> None:
    async def broken(self: Journal, job: Callable[[int, int], Any]) -> Any:
        await self.settled()
        return await self.file.read(self.shown_size, job)

    patch.setattr(Journal, "with_file", broken)


def nobody_is_told_of_an_erasure_while_reading_the_file(patch: pytest.MonkeyPatch) -> None:
    tell = Journal.tell

    def broken(self: Journal, *given: Any) -> None:
        tell(self, *given)
        self._farewell = []

    patch.setattr(Journal, "tell", broken)
    patch.setattr(journal, "TAIL_BYTES", 0)


def a_stream_reads_from_its_first_send_on(patch: pytest.MonkeyPatch) -> None:
    begin, stream = LogStream.__init__, LogStream.stream

    def broken(self: LogStream, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        self._subscriber.conversation.unwatch(self._signal.set)

    async def late(self: LogStream) -> bool:
        self._subscriber.conversation.watch(self._signal.set)
        return await stream(self)

    patch.setattr(LogStream, "__init__", broken)
    patch.setattr(LogStream, "stream", late)


FAULTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Scene]] = [
    (memory_forgets_what_is_not_durable, an_end_and_the_next_start),
    (memory_hands_over_one_event_too_late, a_turn),
    (replay_first_then_live_from_now, a_turn),
    (the_cursor_passes_what_is_not_durable, a_turn),
    (events_are_shown_before_they_are_durable, a_turn),
    (deltas_are_dropped_before_the_end_is_visible, a_turn),
    (the_live_file_is_dropped_before_the_end_is_durable, a_turn),
    (what_was_read_before_a_clear_is_shown_after_it, a_clear),
    (nobody_is_told_of_an_erasure_while_reading_the_file, an_erasure_and_a_new_turn),
    (a_stream_reads_from_its_first_send_on, an_erasure_a_new_turn_and_the_turns_own_stream),
]


@pytest.mark.parametrize(("fault", "scene"), FAULTS, ids=lambda value: value.__name__)
def test_a_planted_fault_is_found_and_its_choices_repeat_it(
    fault: Callable[[pytest.MonkeyPatch], None],
    scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)

    with pytest.raises(Broken) as found:
        explore(staged(scene, tmp_path), 0, apart)

    with pytest.raises(Broken) as again:
        play(staged(scene, tmp_path), found.value.again(), apart)
    assert str(again.value) == str(found.value)
