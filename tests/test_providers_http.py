import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import anyio
import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.errors import ProviderError, ProviderTimeout
from chatstream.providers import Finish, Piece, Text, Usage
from chatstream.providers.http import failures
from chatstream.providers.http.error_object import error_object
from chatstream.providers.http.proxies import environment_proxy
from chatstream.providers.http.transport import AiohttpTransport
from chatstream.providers.registry import Providers
from chatstream.settings import Settings
from tests.asking import FORMS, Adapter, answer, ask, failure, make
from tests.upstream import EMOJI, Upstream, text_of, token

pytestmark = pytest.mark.anyio
ERROR_KEYS = st.sampled_from(
    ("error", "code", "status", "message", "details", "type", "reason", "retryDelay", "metadata")
)
DATES = st.sampled_from(
    (
        "Mon, 01 Jan 0001 00:00:00 -0000",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 31 Feb 2026 25:61:61 GMT",
        "1e999",
        "-inf",
        "Mon,",
    )
)


@pytest.fixture(params=FORMS)
async def provider(request: pytest.FixtureRequest, upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make(request.param, upstream.url)
    yield provider
    await provider.aclose()
    await upstream.until(lambda: upstream.open == 0)


async def refused(provider: Adapter, script: str = "hello") -> ProviderError:
    _, error = await failure(provider, script)
    return error


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
    return port


# Reaching it


@pytest.mark.parametrize("form", FORMS)
async def test_a_refused_connection_can_be_tried_again(form: str, closed_port: int) -> None:
    provider = make(form, f"http://127.0.0.1:{closed_port}")
    error = await refused(provider)
    await provider.aclose()

    assert (error.code, error.retryable) == ("provider_unreachable", True)
    assert str(closed_port) not in error.message


async def test_an_unknown_host_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    provider = make("openai", "http://provider.invalid")
    error = await refused(provider)
    await provider.aclose()

    assert (error.code, error.retryable) == ("provider_unreachable", True)


async def test_a_server_without_tls_is_unreachable_over_https(upstream: Upstream) -> None:
    provider = make("openai", upstream.url.replace("http:", "https:"))
    error = await refused(provider)
    await provider.aclose()

    assert error.code == "provider_unreachable"


@pytest.mark.parametrize("form", FORMS)
async def test_a_connection_that_is_not_accepted_in_time_is_a_timeout(form: str) -> None:
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        provider = make(form, url, connect_timeout=0.05)
        error = await refused(provider)
        await provider.aclose()

    assert isinstance(error, ProviderTimeout)
    assert (error.code, error.retryable) == ("provider_timeout", True)


async def test_a_server_that_accepts_and_says_nothing_has_its_time_for_the_first_token() -> None:
    async def wait(form: str, url: str) -> ProviderError:
        provider = make(form, url, connect_timeout=0.1)
        settings = Settings(retries=0)
        route = Providers({form: provider}, form).route(None, None, settings)
        asyncio.get_running_loop().call_later(0.2, route.expire)
        with pytest.raises(ProviderError) as caught:
            async for _ in route.reply(ask("hello")):
                pass
        await provider.aclose()
        return caught.value

    # The kernel takes the connections; nobody accepts, reads or answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        errors = await asyncio.gather(*(wait(form, url) for form in FORMS))

    assert [error.code for error in errors] == ["first_token_timeout"] * len(FORMS)


async def test_a_connection_closed_unanswered_can_be_tried_again(provider: Adapter) -> None:
    error = await refused(provider, "!drop")

    assert (error.code, error.retryable) == ("provider_cut", True)


async def test_connecting_in_time_leaves_the_answer_all_its_time(upstream: Upstream) -> None:
    providers = [make(form, upstream.url, connect_timeout=0.2) for form in FORMS]
    asked = (answer(p, "!wait=0.15 tokens=1 wait=0.15 tokens=1") for p in providers)

    for pieces in await asyncio.gather(*asked):
        assert pieces[-1] == Finish("stop")
    for provider in providers:
        await provider.aclose()


# Statuses


@pytest.mark.parametrize(
    ("script", "code", "retryable"),
    [
        ("status=500", "provider_error", True),
        ("status=502", "provider_error", True),
        ("status=503", "provider_error", True),
        ("status=529", "provider_error", True),
        ("status=408", "provider_error", True),
        ("status=409", "provider_error", True),
        ("status=429", "provider_rate_limited", True),
        ("status=400", "provider_error", False),
        ("status=404", "provider_error", False),
        ("status=422", "provider_error", False),
        ("status=401", "provider_auth", False),
        ("status=403", "provider_auth", False),
        ("status=413", "context_too_long", False),
        ("status=302", "provider_error", False),
        ("code=API_KEY_INVALID status=400", "provider_auth", False),
        ("code=context_length_exceeded status=400", "context_too_long", False),
        ("code=content_policy_violation status=400", "content_refused", False),
    ],
)
async def test_a_status_says_what_went_wrong_and_whether_to_ask_again(
    provider: Adapter, script: str, code: str, retryable: bool
) -> None:
    error = await refused(provider, "!" + script)

    assert (error.code, error.retryable) == (code, retryable)
    assert error.upstream_status == int(script[-3:])
    assert error.message.startswith(provider.name)


@pytest.mark.parametrize(
    ("script", "wait"),
    [
        ("retry-after=7", 7),
        ("retry-after=0.5", 0.5),
        ("retry-after=-3", 0),
        ("retry-after=nan", None),
        ("retry-after=soon", None),
        ("retry-after=99999", 120),
        ("retry-after-ms=1500", 1.5),
        ("retry-after=9 retry-after-ms=250", 0.25),
        ("retry-info=3s", 3),
        ("retry-text=1.5s", 1.5),
        ("retry-text=2m1.5s", 120),
        ("retry-text=350ms", 0.35),
        ("", None),
    ],
)
async def test_retry_after_is_read_in_all_its_forms(
    provider: Adapter, script: str, wait: float | None
) -> None:
    error = await refused(provider, f"!{script} status=429".replace("! ", "!"))

    assert error.retry_after == (None if wait is None else pytest.approx(wait))


async def test_retry_after_may_be_a_date(provider: Adapter) -> None:
    later = await refused(provider, "!retry-after=date+30 status=503")
    past = await refused(provider, "!retry-after=date+-30 status=503")

    assert later.retry_after == pytest.approx(30, abs=2)
    assert past.retry_after == 0


async def test_an_error_body_that_never_ends_does_not_keep_the_turn(
    upstream: Upstream, provider: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.bodies.ERROR_BODY_SECONDS", 0.05)

    assert (await refused(provider, "!half=500")).upstream_status == 500
    await upstream.until(lambda: upstream.broken_off == 1)


async def test_an_error_at_status_200_is_an_error(provider: Adapter) -> None:
    error = await refused(provider, "!code=invalid_api_key json")

    assert error.code == "provider_auth"


async def test_a_page_is_no_answer(provider: Adapter) -> None:
    assert (await refused(provider, "!html")).code == "provider_error"


async def test_a_redirect_is_not_followed(upstream: Upstream, provider: Adapter) -> None:
    await refused(provider, "!status=307")

    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "body", [b"", b"oops", b"[]", b"[1]", b'"x"', b'{"error":"x"}', b'{"error":[1]}', b"\xff", b"{"]
)
async def test_any_error_body_makes_an_error(body: bytes) -> None:
    error = failures.explain("openai", 500, error_object(body), {})

    assert (error.code, error.message) == ("provider_error", "openai failed (status 500).")


async def test_a_message_that_was_flagged_is_refused_and_not_the_key() -> None:
    body = b'{"error":{"code":403,"message":"x","metadata":{"reasons":["y"],"flagged_input":"z"}}}'
    error = failures.explain("openai", 403, error_object(body), {})

    assert (error.code, error.retryable) == ("content_refused", False)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-10, 10**12) | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ERROR_KEYS, inner, max_size=4),
        max_leaves=8,
    ),
    st.text(max_size=20) | DATES,
    st.none() | st.integers(300, 599),
)
def test_whatever_a_provider_says_of_its_failure_is_an_error(
    body: object, retry_after: str, status: int | None
) -> None:
    told = error_object(orjson.dumps(body))
    for name in ("retry-after", "retry-after-ms"):
        error = failures.explain("openai", status, told, {name: retry_after})
        assert error.retry_after is None or 0 <= error.retry_after <= 120


# The connection


async def test_many_turns_use_one_connection(upstream: Upstream, provider: Adapter) -> None:
    for _ in range(200):
        assert len(await answer(provider, "!tokens=1")) == 3

    assert (upstream.opened, upstream.open) == (1, 1)


async def test_a_reader_that_stops_at_the_finish_gives_the_connection_back(
    upstream: Upstream, provider: Adapter
) -> None:
    for _ in range(5):
        pieces = provider.reply(ask("!tokens=1"))
        while not isinstance(await anext(pieces), Finish):
            pass
        await pieces.aclose()

    assert (upstream.opened, upstream.open) == (1, 1)


async def test_an_end_that_comes_late_is_waited_for(upstream: Upstream, provider: Adapter) -> None:
    for _ in range(5):
        await answer(provider, "!tokens=1 finish done wait=0.02 eof")

    assert (upstream.opened, upstream.open) == (1, 1)


async def test_many_turns_at_once_are_each_given_a_connection(
    upstream: Upstream, provider: Adapter
) -> None:
    waiting = [provider.reply(ask("!tokens=1 gate tokens=1")) for _ in range(150)]
    await asyncio.gather(*(anext(pieces) for pieces in waiting))
    assert upstream.open == 150

    upstream.open_gate()
    for pieces in waiting:
        assert [p async for p in pieces if isinstance(p, Text)] == [Text(token(0))]


async def test_a_connection_that_the_provider_closed_is_not_used_again(
    upstream: Upstream, provider: Adapter
) -> None:
    await answer(provider, "!tokens=1")
    # Closed after the provider's, and seen by the same loop: then it has seen both.
    reader, writer = await asyncio.open_connection("127.0.0.1", int(upstream.url.split(":")[2]))
    await upstream.until(lambda: upstream.open == 2)
    upstream.hang_up()
    assert await reader.read() == b""
    writer.close()

    assert (await answer(provider, "!tokens=1"))[-1] == Finish("stop")
    assert upstream.opened == 3


async def test_broken_framing_ends_the_answer_at_once_after_its_text(
    upstream: Upstream, provider: Adapter
) -> None:
    pieces: list[Piece] = []
    with pytest.raises(ProviderError) as caught:
        async with asyncio.timeout(2):
            async for piece in provider.reply(ask("!tokens=2 gate bad-chunk hang")):
                pieces.append(piece)
                upstream.open_gate()

    assert pieces == [Text(token(0)), Text(token(1))]
    assert (caught.value.code, caught.value.retryable) == ("provider_cut", True)


async def test_broken_framing_after_the_end_mark_breaks_nothing(
    upstream: Upstream, provider: Adapter
) -> None:
    pieces: list[Piece] = []
    async for piece in provider.reply(ask("!tokens=1 gate finish done bad-chunk hang")):
        pieces.append(piece)
        upstream.open_gate()

    assert pieces == [Text(token(0)), Finish("stop")]


@pytest.mark.parametrize("ending", ["cut", "bad-chunk hang"])
async def test_text_that_came_before_a_cut_is_read_after_it(
    upstream: Upstream, provider: Adapter, ending: str
) -> None:
    reply = provider.reply(ask(f"!tokens=1 gate tokens=2 {ending}"))
    pieces = [await anext(reply)]
    upstream.open_gate()
    await upstream.until(lambda: upstream.open == 0)
    with pytest.raises(ProviderError):
        async for piece in reply:
            pieces.append(piece)

    assert pieces == [Text(token(0)), Text(token(0)), Text(token(1))]


@pytest.mark.parametrize("end", ["cut-at", "eof-at"])
async def test_an_answer_is_whole_or_a_failure_wherever_its_connection_ends(
    provider: Adapter, end: str
) -> None:
    texts: list[Piece] = [Text(EMOJI), Text(token(0))]
    whole = cut = 0
    for place in range(1, 1000, 11):
        pieces: list[Piece] = []
        try:
            async for piece in provider.reply(ask(f"!{end}={place} emoji tokens=1")):
                pieces.append(piece)
        except ProviderError as error:
            assert (error.code, error.retryable) == ("provider_cut", True)
            told = [p for p in pieces if not isinstance(p, Usage)]
            assert told == texts[: len(told)]
            cut += 1
        else:
            assert [p for p in pieces if not isinstance(p, Usage)] == [*texts, Finish("stop")]
            whole += 1

    assert whole
    assert cut > 20


SCRIPTS = {
    "before the headers": "hang",
    "before the first content": "headers keepalive=0",
    "after a role": "role hang",
    "amid the text": "tokens=3 hang",
    "amid quick text": "pace=1000 tokens=1000000",
}


@pytest.mark.parametrize("when", SCRIPTS)
async def test_cancelling_closes_the_connection(
    upstream: Upstream, provider: Adapter, when: str
) -> None:
    pace = "pace=200 " if "keepalive" in SCRIPTS[when] else ""
    task = asyncio.create_task(answer(provider, f"!{pace}{SCRIPTS[when]}"))
    await upstream.until(lambda: len(upstream.asked) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await upstream.until(lambda: (upstream.broken_off, upstream.open) == (1, 0))


async def test_a_cancelled_scope_closes_the_connection(
    upstream: Upstream, provider: Adapter
) -> None:
    with anyio.CancelScope() as scope:
        async for _ in provider.reply(ask("!tokens=1 hang")):
            scope.cancel()

    assert scope.cancelled_caught
    await upstream.until(lambda: (upstream.broken_off, upstream.open) == (1, 0))


async def test_closing_the_generator_closes_the_connection_within_a_tenth_of_a_second(
    upstream: Upstream, provider: Adapter
) -> None:
    taken = []
    for count in range(1, 6):
        pieces = provider.reply(ask("!tokens=1 hang"))
        assert await anext(pieces) == Text(token(0))
        began = time.perf_counter()
        await pieces.aclose()
        await upstream.until(lambda expected=count: upstream.broken_off == expected)  # type: ignore[misc]
        taken.append(time.perf_counter() - began)

    assert sorted(taken)[2] < 0.1


async def test_a_failed_answer_leaves_no_connection_open(
    upstream: Upstream, provider: Adapter
) -> None:
    await refused(provider, "!tokens=1 code=x raw-part=1000 hang")

    await upstream.until(lambda: upstream.open == 0)


async def test_closing_the_provider_ends_running_answers_with_an_error(
    upstream: Upstream, provider: Adapter
) -> None:
    answering = asyncio.create_task(refused(provider, "!tokens=1 hang"))
    asking = asyncio.create_task(refused(provider, "!hang"))
    await upstream.until(lambda: len(upstream.asked) == 2)

    await provider.aclose()
    await provider.aclose()

    assert (await answering).code == "provider_cut"
    assert (await asking).code == "provider_cut"
    assert not (await refused(provider)).retryable


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_cookies_are_not_kept(upstream: Upstream, host: str) -> None:
    provider = make("openai", upstream.url.replace("127.0.0.1", host))
    await answer(provider, "!tokens=1")
    await answer(provider, "!tokens=1")
    await provider.aclose()

    assert ["cookie" in asked.headers for asked in upstream.asked] == [False, False]


# Proxies


async def test_the_environments_proxy_is_asked(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", upstream.url.replace("//", "//me:pass@"))
    provider = make("openai", "http://provider.invalid")

    assert (await answer(provider, "!tokens=1"))[-1] == Finish("stop")
    await provider.aclose()

    (asked,) = upstream.asked
    assert asked.target == "http://provider.invalid/v1/chat/completions"
    assert asked.headers["proxy-authorization"].startswith("Basic ")
    assert "proxy-authorization" not in str(asked.body)


async def test_no_proxy_and_loopback_go_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("https_proxy", "http://proxy:2")
    monkeypatch.setenv("no_proxy", "inner.example")

    def proxy(url: str) -> str | None:
        return environment_proxy(httpx.URL(url))

    assert proxy("http://a.example") == "http://proxy:1"
    assert proxy("https://a.example") == "http://proxy:2"
    assert proxy("https://x.inner.example") is None
    assert (
        proxy("http://localhost:1") is proxy("http://127.0.0.1:1") is proxy("http://[::1]") is None
    )


# The transport, as any httpx client sees it


async def test_the_transport_serves_an_ordinary_httpx_client(upstream: Upstream) -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "!tokens=50"}]}
    async with httpx.AsyncClient(transport=AiohttpTransport(), base_url=upstream.url) as client:
        assert (await client.get("/v1/models")).json()["object"] == "list"
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = [line async for line in response.aiter_lines() if line]
        assert (await client.get("/nowhere")).status_code == 404

    assert lines[-1] == "data: [DONE]"
    assert len(lines) == 52
    assert upstream.opened == 1


async def test_the_transport_obeys_a_read_timeout(upstream: Upstream) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "!hang"}]}
    async with httpx.AsyncClient(transport=AiohttpTransport(), timeout=0.05) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{upstream.openai_url}/chat/completions", json=body)


# The upstream itself


def test_the_upstream_runs_as_a_process_of_its_own() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.upstream", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            text = asyncio.run(_text_from(url))
            state = httpx.get(f"{url}/__state", trust_env=False).json()
        finally:
            process.terminate()

    assert text == text_of(8)
    assert [asked["path"] for asked in state["asked"]] == ["/v1/chat/completions"]


async def _text_from(url: str) -> str:
    provider = make("openai", url)
    text = "".join(p.text for p in await answer(provider, "hello") if isinstance(p, Text))
    await provider.aclose()
    return text
