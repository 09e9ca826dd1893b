"""The terminal client against a real server, as a program."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from chatstream.cli.chat import Place, Refused, Turn, talk
from chatstream.providers.adapters.scripted import Scripted
from tests.running import Running
from tests.upstream import Upstream, text_of

CHATSTREAM = str(Path(sys.executable).parent / "chatstream")


def environment(upstream: Upstream, data: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CHATSTREAM_", "OPENAI_"))}
    return clean | {
        "OPENAI_BASE_URL": upstream.openai_url,
        "OPENAI_API_KEY": "k",
        "CHATSTREAM_DATA_DIR": str(data),
        "CHATSTREAM_PORT": "0",
        "CHATSTREAM_DRAIN_TIMEOUT": "0",
    }


class Served:
    """A server process that can be killed and started again on its port."""

    def __init__(self, upstream: Upstream, data: Path) -> None:
        self._environment = environment(upstream, data)
        self._data = data
        self.url = ""
        self._start("0")

    def _start(self, port: str) -> None:
        self.process = subprocess.Popen(
            [CHATSTREAM, "serve", "--port", port],
            env=self._environment,
            cwd=self._data.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "http://" in line:
                self.url = "http://" + line.split("http://")[1].split()[0].rstrip("/")
                break
        assert self.url

    def kill(self) -> None:
        self.process.kill()
        self._close()

    def again(self) -> None:
        self._start(self.url.rpartition(":")[2])

    def _close(self) -> None:
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def stop(self) -> None:
        self.process.terminate()
        self._close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def served(upstream: Upstream, tmp_path: Path) -> Iterator[Served]:
    served = Served(upstream, tmp_path / "data")
    yield served
    served.stop()


def client(url: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [CHATSTREAM, "chat", "--url", url, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_piped_question_is_answered_on_standard_output(served: Served) -> None:
    out, err = client(served.url).communicate("!tokens=20\n")

    assert (out, err) == (text_of(20) + "\n", "")


def test_what_fails_is_told_apart_from_the_answer(served: Served) -> None:
    asking = client(served.url, "!tokens=3 cut")
    out, err = asking.communicate()

    assert out == text_of(3) + "\n"
    assert err and "3" not in out.removeprefix(text_of(3))
    assert asking.returncode == 1


def test_a_refused_question_says_why(served: Served) -> None:
    asking = client(served.url, " ")
    _, err = asking.communicate()

    assert "Message cannot be empty." in err
    assert asking.returncode == 2


def read(asking: "subprocess.Popen[str]", count: int) -> str:
    assert asking.stdout is not None
    return asking.stdout.read(count)


def test_the_first_interrupt_stops_the_answer(served: Served, upstream: Upstream) -> None:
    asking = client(served.url, "!tokens=5 hang")
    begun = read(asking, len(text_of(5)))
    asking.send_signal(signal.SIGINT)
    rest, err = asking.communicate()

    assert begun + rest == text_of(5) + "\n"
    assert "cancelled" in err
    assert asking.returncode == 130


def test_an_answer_goes_on_through_a_killed_server(served: Served) -> None:
    asking = client(served.url, "!tokens=5 hang")
    begun = read(asking, len(text_of(5)))
    served.kill()
    served.again()
    rest, err = asking.communicate()

    assert begun + rest == text_of(5) + "\n"
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (("127.0.0.1:8000", "u", "c"), "must begin with http"),
        (("", "u", "c"), "must begin with http"),
        (("http://", "u", "c"), "name a host"),
        (("http://[::1", "u", "c"), "Invalid port"),
        (("http://127.0.0.1:99999", "u", "c"), "a port is 1 to 65535"),
        (("http://127.0.0.1", "\udcff", "c"), "--user must be UTF-8"),
        (("http://127.0.0.1", "u", "\udcff"), "--conversation must be UTF-8"),
    ],
)
def test_a_place_where_no_server_can_be_is_refused_at_once(
    place: tuple[str, str, str], why: str
) -> None:
    with pytest.raises(Refused, match=why):
        talk(Place(*place), "q")


def test_a_question_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(Refused, match=r"The question must be UTF-8\."):
        talk(Place("http://127.0.0.1", "u", "c"), "a\udcffb")


def asked(handler: Callable[[httpx.Request], Any], out: io.StringIO) -> Turn:
    """A question to a server that is played by a function."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    return Turn(client, Place("http://server", "u", "c"), out)


def taken(request: httpx.Request) -> httpx.Response:
    return httpx.Response(202, json={"turn_id": orjson.loads(request.content)["turn_id"]})


@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_a_server_of_another_kind_is_told_from_one_of_ours(status: int) -> None:
    turn = asked(lambda _: httpx.Response(status, text="<html>"), io.StringIO())

    with pytest.raises(Refused, match=rf"no chatstream server|answered {status}"):
        asyncio.run(turn.ask("q"))


def test_a_stream_that_is_refused_for_good_is_not_asked_for_again() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return taken(request) if request.method == "POST" else httpx.Response(403)

    with pytest.raises(Refused, match="403"):
        asyncio.run(asked(handler, io.StringIO()).ask("q"))


def test_a_proxys_date_to_retry_after_is_no_error() -> None:
    date = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    answers = iter([httpx.Response(503, headers=date), httpx.Response(403)])

    with pytest.raises(Refused, match="403"):
        asyncio.run(asked(lambda _: next(answers), io.StringIO()).ask("q"))


def sse(*events: dict[str, str]) -> httpx.Response:
    body = b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events)
    return httpx.Response(200, content=body)


def test_what_is_sent_anew_after_a_reset_is_not_written_twice() -> None:
    def event(kind: str, number: int, **more: str) -> dict[str, str]:
        return {"type": kind, "id": f"1764000000000-000{number}", **more}

    ready, started = event("ready", 0), event("turn.started", 1)
    streams = iter(
        [
            sse(ready, started, event("delta", 2, text="abc")),
            sse(
                *(ready, {"type": "reset"}, started),
                *(event("delta", 2, text="ab"), event("delta", 3, text="cde")),
                event("turn.completed", 4, text="abcde"),
            ),
        ]
    )

    def handler(request: httpx.Request) -> httpx.Response:
        return taken(request) if request.method == "POST" else next(streams)

    out = io.StringIO()

    assert asyncio.run(asked(handler, out).ask("q")) == 0
    assert out.getvalue() == "abcde\n"


def test_one_cut_off_between_ready_and_reset_comes_back_with_its_cursor_and_is_reset() -> None:
    def event(kind: str, number: int, **more: str) -> dict[str, str]:
        return {"type": kind, "id": f"1764000000000-000{number}", **more}

    ready = {"type": "ready", "last_id": "1764000000000-0000"}
    streams = iter(
        [
            sse(event("ready", 0), event("turn.started", 5), event("delta", 6, text="abc")),
            sse(ready),
            sse(ready, {"type": "reset"}),
            sse(
                *(event("ready", 0), event("turn.started", 1), event("delta", 2, text="abcd")),
                event("turn.completed", 3, text="abcd"),
            ),
        ]
    )
    cursors: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return taken(request)
        cursors.append(request.url.params.get("after"))
        return next(streams)

    out = io.StringIO()

    assert asyncio.run(asked(handler, out).ask("q")) == 0
    last = "1764000000000-0006"
    assert cursors == [None, last, last, None]
    assert out.getvalue() == "abcd\n"


def test_an_interrupt_before_the_question_is_taken_stops_the_answer_all_the_same() -> None:
    paths: list[str] = []

    async def play() -> None:
        asking, may_answer = asyncio.Event(), asyncio.Event()

        async def handler(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/turns":
                asking.set()
                await may_answer.wait()
                paths.append("taken")
                return taken(request)
            if request.method == "POST":
                paths.append("cancelled")
                turn_id = request.url.path.split("/")[2]
                return httpx.Response(200, json={"turn_id": turn_id})
            await asyncio.Event().wait()
            raise AssertionError

        turn = asked(handler, io.StringIO())
        task = asyncio.ensure_future(turn.ask("q"))
        await asking.wait()
        stopping = asyncio.ensure_future(turn.stop())
        await asyncio.sleep(0)
        may_answer.set()
        await stopping
        task.cancel()

    asyncio.run(play())

    assert paths == ["taken", "cancelled"]


def test_a_terminal_without_a_character_shows_another_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    with Running(tmp_path, Scripted("né")) as server:
        assert talk(Place(server.base_url, "u", "c"), "q") == 0
    sys.stdout.flush()

    assert written.getvalue() == b"n?\n"
