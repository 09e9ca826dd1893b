"""Rate limits: what a window holds, what a refusal says, and what is not counted."""

from pathlib import Path

import pytest

from chatstream.errors import TooManyRequests
from chatstream.settings import Settings
from chatstream.web import rate_limits
from chatstream.web.rate_limits import Limits, Throttle
from tests.running import Running


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(rate_limits, "time", clock := Clock())
    return clock


def made(**settings: object) -> Limits:
    return Limits(Settings(**settings))


@pytest.mark.anyio
async def test_no_window_holds_more_than_the_limit(clock: Clock) -> None:
    window = made(rate_limit_chat="3/minute")
    for step in (0, 20, 20):
        clock.now += step
        headers = await window.hit("chat", "192.0.2.1")
    assert headers["RateLimit-Policy"] == '"chat";q=3;w=60'
    assert headers["RateLimit"] == '"chat";r=0;t=20'

    with pytest.raises(TooManyRequests) as refused:
        await window.hit("chat", "192.0.2.1")
    assert refused.value.retry_after == 20
    assert refused.value.headers["RateLimit"] == '"chat";r=0;t=20'

    clock.now += 20  # the oldest is out of the window, and the refused one was not counted
    await window.hit("chat", "192.0.2.1")
    with pytest.raises(TooManyRequests):
        await window.hit("chat", "192.0.2.1")


@pytest.mark.anyio
async def test_callers_and_kinds_are_counted_apart_and_one_network_together(clock: Clock) -> None:
    window = made(rate_limit_chat="1/minute", rate_limit_default="1/minute")
    await window.hit("chat", "192.0.2.1")
    await window.hit("default", "192.0.2.1")
    await window.hit("chat", "192.0.2.2")
    await window.hit("chat", "2001:db8::1")

    with pytest.raises(TooManyRequests):
        await window.hit("chat", "2001:db8::ffff:2")
    with pytest.raises(TooManyRequests):
        await window.hit("chat", "::ffff:192.0.2.1")


@pytest.mark.anyio
async def test_callers_that_went_silent_are_forgotten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = made(rate_limit_chat="5/second")
    for number in range(100):
        await window.hit("chat", f"192.0.2.{number}")
    clock.now += 60
    for number in range(100):
        clock.now += 1
        await window.hit("chat", f"198.51.100.{number % 2}")
    assert len(window._hits) <= 2

    monkeypatch.setattr(rate_limits, "MAX_CALLERS", 10)
    for number in range(100):
        await window.hit("chat", f"192.0.2.{number}")
    assert len(window._hits) == 10


@pytest.mark.anyio
async def test_on_loopback_they_are_off_unless_set(clock: Clock) -> None:
    assert await made().hit("chat", "127.0.0.1") == {}
    assert await made(rate_limit_chat="0").hit("chat", "127.0.0.1") == {}
    assert await made(host="0.0.0.0", insecure=True).hit("chat", "192.0.2.1")


def test_a_refusal_tells_when_to_come_back_and_streams_are_not_counted(tmp_path: Path) -> None:
    with Running(tmp_path, rate_limit_chat="2/minute", rate_limit_default="2/minute") as server:
        for _ in range(2):
            assert server.http.post("/chat", json={"message": "Hi"}).status_code == 200
            assert server.http.get("/history").status_code == 200
        refused = server.http.post("/chat", json={"message": "Hi"})
        assert server.http.get("/history").status_code == 429
        # Another address in a header is no other caller.
        forged = {"X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7"}
        assert server.http.get("/history", headers=forged).status_code == 429
        for _ in range(5):
            for path in ("/", "/static/page/app.js", "/healthz", "/readyz", "/metrics"):
                assert server.http.get(path).status_code == 200
            with server.stream("GET", "/events") as stream:
                assert next(stream).type == "ready"

    assert refused.status_code == 429
    assert refused.json()["code"] == "rate_limited"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["RateLimit-Policy"] == '"chat";q=2;w=60'
    assert refused.headers["RateLimit"].startswith('"chat";r=0;t=')


def test_a_connection_has_a_burst_and_then_a_steady_rate() -> None:
    throttle = Throttle(burst=8, per_second=4)

    assert [throttle.delay(100) for _ in range(9)] == [0] * 8 + [0.25]
    assert throttle.delay(100.25) == 0.25
    assert [throttle.delay(103) for _ in range(9)] == [0] * 8 + [0.25]
