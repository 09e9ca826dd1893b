"""What is no content resets no timer: each wire form, through the whole server."""

from pathlib import Path
from typing import Any

import pytest

from chatstream.providers.registry import Providers
from tests.asking import FORMS, make
from tests.running import Running
from tests.upstream import Upstream, token

NO_CONTENT = (
    "hang",
    "headers hang",
    "role hang",
    "pace=100 headers keepalive=0",
    "empty pace=100 keepalive=0",
    "drip=1",
)


def ends(
    tmp_path: Path, upstream: Upstream, form: str, *scripts: str, **given: Any
) -> list[dict[str, Any]]:
    """Return the end of a turn for each script; the connections to the provider are closed then."""
    providers = Providers({form: make(form, upstream.url)}, form)
    with Running(tmp_path, providers, retries=0, **given) as server:
        started = [
            server.http.post(
                "/turns", json={"message": f"!{script}", "conversation_id": f"c{number}"}
            ).json()
            for number, script in enumerate(scripts)
        ]
        found = [server.events(turn["events"])[-1].data for turn in started]
        upstream.wait(lambda: upstream.open == 0)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_nothing_but_content_is_a_first_token(
    tmp_path: Path, upstream: Upstream, form: str
) -> None:
    for end in ends(tmp_path, upstream, form, *NO_CONTENT, first_token_timeout=0.2):
        assert end["error"]["code"] == "first_token_timeout"
        assert end["error"]["retryable"]
        assert (end["text"], end["ttft_ms"]) == ("", None)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_but_content_keeps_an_answer_going(
    tmp_path: Path, upstream: Upstream, form: str
) -> None:
    silent = ("hang", "pace=100 keepalive=0", "drip=1", "empty empty hang")
    scripts = (f"tokens=1 {script}" for script in silent)
    for end in ends(tmp_path, upstream, form, *scripts, token_timeout=0.2):
        assert end["error"]["code"] == "token_timeout"
        assert end["text"] == token(0)
        assert end["duration_ms"] < 3000


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_turn_has_its_time(tmp_path: Path, upstream: Upstream, form: str) -> None:
    (end,) = ends(tmp_path, upstream, form, "pace=200 tokens=1000000", turn_timeout=0.3)

    assert end["error"]["code"] == "turn_timeout"
    assert end["text"].startswith(token(0))
