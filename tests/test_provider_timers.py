"""What is no content resets no timer: each wire form, through the whole server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatstream.providers.routing import Providers
from tests.provider_faults import adapters
from tests.running import EVENT_STREAM, Running
from tests.upstream import Upstream, token

FORMS = ("openai", "gemini", "anthropic", "ollama")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def ended(tmp_path: Path, upstream: Upstream, form: str, script: str, **given: Any) -> Any:
    """Return the end of one turn; the connection to the provider is closed then."""
    providers = Providers({form: adapters(upstream.url)[form]}, form)
    with Running(tmp_path, providers, retries=0, **given) as server:
        asked = {"message": f"!{script}"}
        with server.stream("POST", "/chat", json=asked, headers=EVENT_STREAM) as stream:
            end = stream.until("turn.failed")[-1]
        upstream.wait(lambda: upstream.open == 0)
    return end.data


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "script",
    [
        "hang",
        "headers hang",
        "role hang",
        "pace=100 headers keepalive=0",
        "empty pace=100 keepalive=0",
        "drip=1",
    ],
)
def test_nothing_but_content_is_a_first_token(
    tmp_path: Path, upstream: Upstream, form: str, script: str
) -> None:
    end = ended(tmp_path, upstream, form, script, first_token_timeout=0.2)

    assert end["error"]["code"] == "first_token_timeout"
    assert end["error"]["retryable"]
    assert (end["text"], end["ttft_ms"]) == ("", None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("script", ["hang", "pace=100 keepalive=0", "drip=1", "empty empty hang"])
def test_nothing_but_content_keeps_an_answer_going(
    tmp_path: Path, upstream: Upstream, form: str, script: str
) -> None:
    end = ended(tmp_path, upstream, form, f"tokens=1 {script}", token_timeout=0.2)

    assert end["error"]["code"] == "token_timeout"
    assert end["text"] == token(0)
    assert end["duration_ms"] < 3000


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_turn_has_its_time(tmp_path: Path, upstream: Upstream, form: str) -> None:
    end = ended(tmp_path, upstream, form, "pace=200 tokens=1000000", turn_timeout=0.3)

    assert end["error"]["code"] == "turn_timeout"
    assert end["text"].startswith(token(0))
