"""Who may start a turn while the loop is late: few are always let in, many are told to wait."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from chatstream.providers.adapters.scripted import Scripted
from chatstream.turns.admission import FEW_TURNS, MOST_LAG, MOST_LAG_OF_MANY, REFUSED_A_SECOND
from chatstream.turns.lag import Lag
from tests.running import Gate, Running


class Known(Lag):
    """A lag that is as it is said to be."""

    def __init__(self, smoothed: float, recent: float) -> None:
        super().__init__(lambda: False)
        self.smoothed, self.recent = smoothed, recent

    def start(self) -> None:
        """Look at nothing."""


class Late(Running):
    """A server whose loop is late when the test says so."""

    def late(self, *, smoothed: float = 0.0, recent: float = 0.0) -> None:
        """Have the loop be late by so many seconds from now on."""

        async def put() -> None:
            self.app.services.runner._admission._lag = Known(smoothed, recent)

        self.call(put())

    def run_turns(self, count: int, user_id: str = "u") -> list[str]:
        """Have so many turns running; returns their ids."""
        ids = []
        for number in range(count):
            body = {"message": "x", "user_id": user_id, "conversation_id": f"c{number}"}
            answer = self.http.post("/turns", json=body)
            assert answer.status_code == 202
            ids.append(answer.json()["turn_id"])
        return ids


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Late]:
    gate = Gate()
    with Late(tmp_path / "data", Scripted(gate)) as running:
        yield running
        gate.open()


def start(server: Late, user_id: str = "other") -> "tuple[int, dict[str, object]]":
    answer = server.http.post("/turns", json={"message": "x", "user_id": user_id})
    return answer.status_code, answer.json()


def test_a_start_is_refused_while_the_loop_is_late(server: Late) -> None:
    server.run_turns(FEW_TURNS)
    server.late(smoothed=2 * MOST_LAG)
    answer = server.http.post("/turns", json={"message": "x"})

    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert int(answer.headers["Retry-After"]) >= 1
    told = server.http.get("/metrics").text
    assert 'chatstream_turns_refused_total{code="overloaded"} 1.0' in told


def test_every_way_to_start_is_refused(server: Late) -> None:
    server.run_turns(FEW_TURNS)
    server.late(smoothed=2 * MOST_LAG)

    for path in ("/chat", "/turns", "/turns/unknown1/regenerate", "/turns/unknown1/continue"):
        assert server.http.post(path, json={"message": "x"}).json()["code"] == "overloaded", path
    with connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as ws:
        ws.send('{"type":"send","message":"x","ref":7}')
        told = json.loads(ws.recv(timeout=10))
    assert (told["type"], told["code"], told["ref"]) == ("error", "overloaded", 7)
    assert told["retry_after"] >= 1


def test_few_turns_are_let_in_however_late_the_loop_is(server: Late) -> None:
    server.run_turns(FEW_TURNS - 1)
    server.late(smoothed=10.0, recent=10.0)

    assert start(server)[0] == 202


def test_one_who_runs_many_is_refused_before_the_others_are(server: Late) -> None:
    server.run_turns(FEW_TURNS, "many")
    server.late(smoothed=MOST_LAG / 2, recent=2 * MOST_LAG_OF_MANY)

    assert start(server, "many")[1]["code"] == "overloaded"
    assert start(server, "other")[0] == 202


def test_a_refusal_waits_for_no_body(server: Late) -> None:
    server.run_turns(FEW_TURNS)
    server.late(smoothed=2 * MOST_LAG)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"POST /turns HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 400000\r\n\r\n{"
        )
        assert client.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_reading_and_stopping_go_on_while_starts_are_refused(server: Late) -> None:
    turn_id = server.run_turns(FEW_TURNS)[0]
    server.late(smoothed=2 * MOST_LAG)
    query, path = "?user_id=u&conversation_id=c0", f"/turns/{turn_id}"

    assert server.http.get(f"/history{query}").status_code == 200
    assert server.http.get(path + query).json()["status"] == "running"
    body = {"user_id": "u", "conversation_id": "c0"}
    assert server.http.post(f"{path}/cancel", json=body).json()["status"] == "cancelled"


def test_a_flood_that_meets_no_place_is_refused_before_it_is_read(tmp_path: Path) -> None:
    gate = Gate()
    with Late(tmp_path / "data", Scripted(gate), max_turns=FEW_TURNS) as server:
        turn_id = server.run_turns(FEW_TURNS)[0]
        again = {"message": "x", "user_id": "u", "conversation_id": "c0", "turn_id": turn_id}
        assert server.http.post("/turns", json=again).status_code == 202  # it runs already
        server.late()
        for _ in range(REFUSED_A_SECOND):
            assert start(server)[1]["code"] == "overloaded"
        answer = server.http.post("/turns", content=b"this is no JSON")
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        gate.open()
