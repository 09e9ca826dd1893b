"""The terminal client against a real server, as a program."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
