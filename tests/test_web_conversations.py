"""Conversations over real sockets: history, following, clearing, erasing, feedback and lists."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chatstream.errors import ProviderError
from chatstream.events import event_id, place
from chatstream.providers import Usage
from chatstream.providers.adapters.scripted import Scripted
from tests.running import Gate, Running, fold, kinds


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path, Scripted("Hello", Usage(3, 2))) as server:
        yield server


def say(server: Running, message: str, **body: Any) -> dict[str, Any]:
    """Run a turn to its end; returns the answer's body."""
    answer: dict[str, Any] = server.http.post("/chat", json={"message": message, **body}).json()
    return answer


def history(server: Running, **query: Any) -> dict[str, Any]:
    answer = server.http.get("/history", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def texts(page: dict[str, Any]) -> list[str]:
    return [item["message"] for item in page["history"]]


# ---- history


def test_history_has_each_message_and_its_reply_with_every_field(server: Running) -> None:
    turn_id = say(server, "hi")["turn_id"]

    page = history(server)
    question, reply = page["history"]

    fields = {
        "role", "message", "turn_id", "id", "timestamp", "status", "provider", "model", "usage",
        "finish_reason", "feedback",
    }  # fmt: skip
    assert set(question) == set(reply) == fields
    assert (question["role"], question["message"]) == ("user", "hi")
    assert (reply["role"], reply["message"]) == ("assistant", "Hello")
    assert question["turn_id"] == reply["turn_id"] == turn_id
    assert (reply["provider"], reply["model"], reply["finish_reason"]) == (
        "scripted", "scripted", "stop",
    )  # fmt: skip
    assert reply["usage"] == {"input_tokens": 3, "output_tokens": 2}
    assert question["status"] == reply["status"] == "completed"
    assert question["id"] < reply["id"] == page["cursor"]
    assert (page["has_more"], page["before"], reply["feedback"]) == (False, None, None)


def test_an_empty_conversation_is_empty_and_makes_no_file(server: Running, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))

    page = history(server, user_id="nobody")
    with server.stream("GET", "/events?user_id=nobody") as stream:
        frames = stream.until("caught_up")
    cleared = server.http.post("/history/clear", json={"user_id": "nobody"})

    assert page == {"history": [], "has_more": False, "before": None, "cursor": page["cursor"]}
    assert kinds(frames) == ["ready", "caught_up"]
    assert cleared.json() == {"status": "success"}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7])
def test_pages_together_are_the_whole_history(tmp_path: Path, limit: int) -> None:
    provider = Scripted("0").then(ProviderError("x")).then("2").then("3").then("4")
    with Running(tmp_path, provider) as server:
        for number in range(5):
            say(server, f"q{number}")
        whole = history(server)
        found: list[Any] = []
        before: dict[str, str] = {}
        while True:
            page = history(server, limit=limit, **before)
            assert 0 < len(page["history"]) <= limit
            found[:0] = page["history"]
            assert page["has_more"] == (page["before"] is not None)
            if not page["has_more"]:
                break
            before = {"before": page["before"]}

    assert found == whole["history"]
    assert texts(whole) == ["q0", "0", "q1", "q2", "2", "q3", "3", "q4", "4"]


def test_a_page_is_at_most_512_kib_but_at_least_one_message(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("é" * 100_000)) as server:
        for number in range(4):
            say(server, f"q{number}")
        first = server.http.get("/history")
        rest = history(server, before=first.json()["before"])

    assert len(first.content) < 512 * 1024 + 1000
    assert first.json()["has_more"]
    assert len(first.json()["history"]) + len(rest["history"]) == 8


def test_overlapping_turns_are_ordered_by_their_start_with_each_reply_after_its_message(
    tmp_path: Path,
) -> None:
    first, second = Gate(), Gate()
    provider = Scripted("A", first).then("B", second).then("C")
    with Running(tmp_path, provider) as server:
        for message, gate in (("a", first), ("b", second)):
            server.http.post("/turns", json={"message": message, "turn_id": f"turn-000{message}"})
            gate.reached()
        say(server, "c")
        between = history(server)
        second.open()
        server.events("/turns/turn-000b/events")
        first.open()
        server.events("/turns/turn-000a/events")
        pages = [history(server, limit=n) for n in range(1, 7)]
        whole = history(server)
        older = [history(server, limit=6, before=p["before"]) for p in pages if p["before"]]

    assert texts(between) == ["a", "b", "c", "C"]
    assert [item["status"] for item in between["history"]] == [
        "running", "running", "completed", "completed",
    ]  # fmt: skip
    assert texts(whole) == ["a", "A", "b", "B", "c", "C"]
    for page, rest in zip(pages, older, strict=False):
        assert texts(rest) + texts(page) == texts(whole)
    assert provider.requests[2].messages[-1].content == "c"
    assert len(provider.requests[2].messages) == 1


def test_a_failed_turn_shows_its_text_and_one_without_text_its_message_alone(
    tmp_path: Path,
) -> None:
    provider = Scripted("half", ProviderError("x")).then(ProviderError("y"))
    with Running(tmp_path, provider) as server:
        say(server, "a")
        say(server, "b")
        page = history(server)

    assert texts(page) == ["a", "half", "b"]
    assert {item["status"] for item in page["history"]} == {"failed"}


def test_the_cursor_of_a_history_goes_on_without_a_hole(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("one").then("run", gate, "ning").then("three")
    with Running(tmp_path, provider) as server:
        say(server, "a")
        server.http.post("/turns", json={"message": "b", "turn_id": "turn-000b"})
        gate.reached()
        page = history(server)
        assert texts(page) == ["a", "one", "b"]
        with server.stream("GET", "/events", params={"after": page["cursor"]}) as stream:
            frames = stream.until("caught_up")
            gate.open()
            frames += stream.until("turn.completed")
        end = history(server)
        with server.stream("GET", "/events", params={"after": end["cursor"]}) as stream:
            assert kinds(stream.until("caught_up")) == ["ready", "caught_up"]

    assert "reset" not in kinds(frames)
    assert fold(frames)["turn-000b"]["text"] == "running"
    assert end["cursor"] == frames[-1].id


def test_a_history_that_did_not_change_is_304_and_any_change_is_seen(server: Running) -> None:
    def ask(tag: str = "") -> tuple[int, str]:
        answer = server.http.get("/history", headers={"If-None-Match": tag})
        assert answer.headers["cache-control"] == "private, no-cache"
        return answer.status_code, answer.headers["etag"]

    _, empty = ask()
    assert empty.startswith('W/"')
    turn_id = say(server, "hi")["turn_id"]
    status, said = ask(empty)
    assert (status, ask(said)[0], ask(f'"x", {said}')[0]) == (200, 304, 304)
    assert server.http.get("/history?limit=1", headers={"If-None-Match": said}).status_code == 200
    server.http.post("/feedback", json={"rating": 5, "turn_id": turn_id})
    status, rated = ask(said)
    assert (status, ask(rated)[0]) == (200, 304)
    server.http.post("/history/clear", json={})
    assert ask(rated)[0] == 200


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "before=x", "before=1764000000000-0007"]
)
def test_a_wrong_page_is_422_with_its_field(server: Running, query: str) -> None:
    answer = server.http.get(f"/history?{query}")

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [query.partition("=")[0]]


# ---- context


def test_the_context_is_the_newest_whole_turns_that_had_ended_with_text(tmp_path: Path) -> None:
    gate = Gate()
    provider = (
        Scripted("1").then("half", ProviderError("x")).then(ProviderError("y"))
        .then("running", gate).then("5").then("6")
    )  # fmt: skip
    with Running(tmp_path, provider, context_messages=5) as server:
        for message in ("a", "b", "c"):
            say(server, message)
        server.http.post("/turns", json={"message": "d"})
        gate.reached()
        say(server, "e")
        say(server, "f", system="be brief")
        gate.open()

    asked = [[m.content for m in request.messages] for request in provider.requests]
    assert asked[4] == ["a", "1", "b", "half", "e"]
    assert asked[5] == ["b", "half", "e", "5", "f"]
    assert [m.role for m in provider.requests[5].messages] == [
        "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert provider.requests[5].system == "be brief"


# ---- following


def test_every_follower_sees_every_turn(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted("1").then("2")) as server:
        with server.stream("GET", "/events") as tab, server.stream("GET", "/events") as phone:
            for stream in (tab, phone):
                stream.until("caught_up")
            say(server, "a", turn_id="turn-000a")
            say(server, "b", turn_id="turn-000b")
            seen = []
            for stream in (tab, phone):
                seen.append(stream.until("turn.completed") + stream.until("turn.completed"))

    assert fold(seen[0]) == fold(seen[1])
    assert [turn["text"] for turn in fold(seen[0]).values()] == ["1", "2"]


def test_without_a_cursor_a_stream_starts_before_the_oldest_running_turn(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("1").then("2", gate).then("3")) as server:
        say(server, "a")
        server.http.post("/turns", json={"message": "b", "turn_id": "turn-000b"})
        gate.reached()
        say(server, "c", turn_id="turn-000c")
        with server.stream("GET", "/events") as stream:
            frames = stream.until("caught_up")
        gate.open()

    assert list(fold(frames)) == ["turn-000b", "turn-000c"]


def test_a_whole_log_comes_from_0_with_its_ended_turns_as_start_and_end(server: Running) -> None:
    for number in range(3):
        say(server, "x" * 30_000, turn_id=f"turn-{number:04}")
    with server.stream("GET", "/events?after=0") as stream:
        frames = stream.until("caught_up")

    assert kinds(frames) == ["ready", *["turn.started", "turn.completed"] * 3, "caught_up"]
    assert frames[-1].data["last_id"] == frames[-2].id


def test_resuming_a_conversation_after_every_event_gives_the_same_fold(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("1").then("2", gate, "b").then("3")
    with Running(tmp_path, provider) as server:
        with server.stream("GET", "/events") as stream:
            whole = stream.until("caught_up")
            say(server, "a")
            server.http.post("/turns", json={"message": "b", "turn_id": "turn-000b"})
            gate.reached()
            server.http.post("/turns", json={"message": "c", "replaces": "turn-000b"})
            gate.open()
            while kinds(whole).count("turn.completed") < 2:
                whole.append(next(stream))
        for index, frame in enumerate(whole):
            if frame.id:
                with server.stream("GET", f"/events?after={frame.id}") as again:
                    resumed = again.until("caught_up")
                assert resumed[0].id == frame.id
                assert fold(whole[: index + 1] + resumed) == fold(whole), frame


def test_cursors_that_lead_nowhere_reset(server: Running) -> None:
    say(server, "a")
    last = history(server)["cursor"]
    server.http.delete("/conversations")
    say(server, "b")
    end = history(server)["cursor"]
    future = event_id(place(end) + 10_000 * 3_600_000)

    for cursor in (last, "x", future, event_id(1)):
        with server.stream("GET", "/events", params={"after": cursor}) as stream:
            frames = stream.until("caught_up")
        assert kinds(frames)[:2] == ["ready", "reset"], cursor
        assert (frames[0].id, frames[0].data["last_id"]) == (None, end)
    with server.stream("GET", f"/events?after={last}", headers={"Last-Event-ID": end}) as stream:
        assert kinds(stream.until("caught_up")) == ["ready", "caught_up"]


def test_an_erased_conversation_can_be_followed_on_from_its_history(server: Running) -> None:
    say(server, "a")
    server.http.delete("/conversations")

    for _ in range(2):
        cursor = history(server)["cursor"]
        with server.stream("GET", "/events", params={"after": cursor}) as stream:
            assert "reset" not in kinds(stream.until("caught_up"))


# ---- clearing and erasing


def on_disk(folder: Path, text: str) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_what_was_cleared_is_in_no_file_and_others_stay(tmp_path: Path) -> None:
    gate = Gate()
    provider = Scripted("SECRET-1").then("SECRET-2", gate).then("kept").then("new")
    with Running(tmp_path, provider) as server:
        say(server, "SECRET-0")
        server.http.post("/turns", json={"message": "SECRET-3", "turn_id": "turn-0002"})
        gate.reached()
        say(server, "other", conversation_id="other")
        with server.stream("GET", "/events?after=0") as stream:
            stream.until("caught_up")
            assert on_disk(tmp_path, "SECRET")
            answer = server.http.post("/history/clear", json={"user_id": "default"})
            assert on_disk(tmp_path, "SECRET") == []
            rest = stream.until("history.cleared")
            say(server, "again")
            after = stream.until("turn.completed")
        page, other = history(server), history(server, conversation_id="other")

    assert answer.json() == {"status": "success"}
    assert [f.type for f in rest] == ["turn.cancelled", "history.cleared"]
    assert fold(after) == {after[0].data["turn_id"]: {
        "text": "new", "reasoning": "", "status": "completed"
    }}  # fmt: skip
    assert (texts(page), texts(other)) == (["again", "new"], ["other", "kept"])


def test_erasing_sends_the_same_and_only_what_is_there_can_be_erased(tmp_path: Path) -> None:
    gate = Gate()
    with Running(tmp_path, Scripted("SECRET", gate)) as server:
        where = {"user_id": "a/b", "conversation_id": "feedback"}
        assert server.http.delete("/conversations", params=where).status_code == 404
        body = {"message": "SECRET", "turn_id": "turn-0001", **where}
        path = server.http.post("/turns", json=body).json()["events"]
        gate.reached()
        with server.stream("GET", path) as stream:
            stream.until("caught_up")
            assert server.http.delete("/conversations", params=where).json()["status"] == "success"
            rest = list(stream)
        gone = server.http.get(path)
        again = server.http.delete("/conversations", params=where).status_code
        assert on_disk(tmp_path, "SECRET") == []

    assert [f.type for f in rest] == ["turn.cancelled", "history.cleared"]
    assert rest[0].data["reason"] == "cleared"
    assert (gone.status_code, again) == (404, 404)


def test_a_user_is_erased_with_feedback_and_others_stay(server: Running, tmp_path: Path) -> None:
    for user in ("gone", "kept"):
        say(server, f"MARK-{user}", user_id=user)
        feedback = {"user_id": user, "rating": 4, "comments": f"MARK-{user}"}
        assert server.http.post("/feedback", json=feedback).json() == {"status": "success"}

    assert server.http.delete("/users?user_id=gone").json() == {"status": "success"}

    assert on_disk(tmp_path, "MARK-gone") == []
    assert len(on_disk(tmp_path, "MARK-kept")) == 2
    assert history(server, user_id="gone")["history"] == []
    assert texts(history(server, user_id="kept")) == ["MARK-kept", "Hello"]


def test_the_same_turn_id_can_be_used_right_after_a_clear(tmp_path: Path) -> None:
    class SlowToClose(Scripted):
        async def reply(self, request: Any) -> Any:
            try:
                async for piece in super().reply(request):
                    yield piece
            finally:
                while len(self.requests) < 2:
                    await asyncio.sleep(0.001)

    gate = Gate()
    with Running(tmp_path, SlowToClose("a", gate).then("new")) as server:
        body = {"message": "q", "turn_id": "turn-0001"}
        server.http.post("/turns", json=body)
        gate.reached()
        server.http.post("/history/clear", json={})
        answer = server.http.post("/chat", json=body)

    assert answer.json()["reply"] == "new"


# ---- whose


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "A"), ("a/b", "a%2Fb"), ("%2e", "%2E"), ("é", "e\N{COMBINING ACUTE ACCENT}"),
     ("a b", "a+b"), ("CON", "con"), ("\N{GRINNING FACE}" * 256, "\N{GRINNING FACE}" * 255)],
)  # fmt: skip
def test_names_that_look_alike_are_different_users(tmp_path: Path, one: str, other: str) -> None:
    with Running(tmp_path, Scripted("x")) as server:
        say(server, "mine", user_id=one, conversation_id=one)
        server.stop()
        server.start()
        assert texts(history(server, user_id=one, conversation_id=one)) == ["mine", "x"]
        assert history(server, user_id=other, conversation_id=one)["history"] == []
        assert history(server, user_id=one, conversation_id=other)["history"] == []


# ---- feedback


def test_a_later_rating_of_a_turn_stands_and_is_shown_with_its_reply(server: Running) -> None:
    turn_id = say(server, "hi")["turn_id"]
    for rating in (1, 5):
        body = {"rating": rating, "comments": f"c{rating}", "turn_id": turn_id}
        assert server.http.post("/feedback", json=body).json() == {"status": "success"}
    shown = history(server)["history"]
    server.stop()
    server.start()

    assert shown == history(server)["history"]
    assert [item["feedback"] for item in shown] == [None, {"rating": 5, "comments": "c5"}]


@pytest.mark.parametrize("rating", [0, 6, "5", 4.5, True, None])
def test_a_rating_is_a_whole_number_from_1_to_5(server: Running, rating: object) -> None:
    answer = server.http.post("/feedback", json={"rating": rating})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "rating"


# ---- lists


def test_conversations_are_listed_newest_first_in_pages(server: Running) -> None:
    for number in range(5):
        say(server, f"the  title\n {number}", conversation_id=f"c{number}")
    say(server, "more", conversation_id="c1")

    whole = server.http.get("/conversations").json()
    names: list[str] = []
    before: dict[str, str] = {}
    while True:
        page = server.http.get("/conversations", params={"limit": 2, **before}).json()
        names += [c["conversation_id"] for c in page["conversations"]]
        if not page["has_more"]:
            break
        before = {"before": page["before"]}

    assert names == [c["conversation_id"] for c in whole["conversations"]]
    assert names == ["c1", "c4", "c3", "c2", "c0"]
    first = whole["conversations"][0]
    assert set(first) == {"conversation_id", "title", "updated_at", "turns"}
    assert (first["title"], first["turns"]) == ("the title 1", 2)
    assert server.http.get("/conversations?user_id=b").json()["conversations"] == []
    assert server.http.get("/conversations?before=x").status_code == 422


def test_a_rename_is_an_event_and_stands_after_a_restart(server: Running) -> None:
    assert server.http.patch("/conversations", json={"title": "x"}).status_code == 404
    say(server, "hi")
    with server.stream("GET", "/events") as stream:
        stream.until("caught_up")
        answer = server.http.patch("/conversations", json={"title": "My chat"})
        event = stream.until("conversation.renamed")[-1]
    server.stop()
    server.start()

    assert (answer.status_code, answer.json()["status"]) == (200, "success")
    assert event.data["title"] == "My chat"
    assert server.http.get("/conversations").json()["conversations"][0]["title"] == "My chat"
    for title in ("", "  ", "x" * 201, None, 5):
        assert server.http.patch("/conversations", json={"title": title}).status_code == 422


# ---- what clients of the old application do


def test_the_old_applications_client_finds_what_it_knows(server: Running) -> None:
    chat = server.http.post(
        "/chat", json={"message": "hi", "user_id": "u1", "provider": "scripted"}
    )
    past = server.http.get("/history?user_id=u1")
    rated = server.http.post("/feedback", json={"user_id": "u1", "rating": 5, "comments": "good"})
    cleared = server.http.post("/history/clear", json={"user_id": "u1"})

    assert chat.json()["reply"] == "Hello"
    assert [(i["role"], i["message"]) for i in past.json()["history"]] == [
        ("user", "hi"), ("assistant", "Hello"),
    ]  # fmt: skip
    assert rated.json() == cleared.json() == {"status": "success"}
    assert server.http.get("/history?user_id=u1").json()["history"] == []


def test_turns_of_many_users_at_once_stay_apart(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted(*["x"] * 50)) as server, ThreadPoolExecutor(8) as pool:
        users = [f"user-{number}" for number in range(24)]
        list(pool.map(lambda user: say(server, user, user_id=user), users))
        for user in users:
            assert texts(history(server, user_id=user)) == [user, "x" * 50]
