import logging
from collections.abc import AsyncIterator

import pytest

from chatstream.providers import Finish, Message, ProviderRequest, Reasoning, Text, Usage
from chatstream.providers.adapters.anthropic import AnthropicAnswer
from tests.asking import KEY, Adapter, answer, ask, failure, make
from tests.upstream import EMOJI, Upstream, token

pytestmark = pytest.mark.anyio


@pytest.fixture
async def provider(upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make("anthropic", upstream.url, version="2024-01-02")
    yield provider
    await provider.aclose()


async def test_a_question_is_asked_in_anthropics_form(
    upstream: Upstream, provider: Adapter
) -> None:
    request = ProviderRequest(
        messages=[Message("user", "a"), Message("assistant", " "), Message("user", "c")],
        model="other",
        system="be brief",
        temperature=1.5,
        max_tokens=5,
        stop=("END",),
    )
    assert [p async for p in provider.reply(request)][-1] == Finish("stop")

    (asked,) = upstream.asked
    assert asked.path == "/v1/messages"
    assert asked.headers["x-api-key"] == KEY
    assert asked.headers["anthropic-version"] == "2024-01-02"
    assert "authorization" not in asked.headers
    assert asked.body == {
        "model": "other",
        "system": "be brief",
        "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "c"}],
        "stream": True,
        "temperature": 1.0,
        "max_tokens": 5,
        "stop_sequences": ["END"],
    }


async def test_an_answer_always_has_a_greatest_length(
    upstream: Upstream, provider: Adapter
) -> None:
    await answer(provider, "hello")

    assert set(upstream.asked[0].body) == {"model", "messages", "stream", "max_tokens"}
    assert upstream.asked[0].body["max_tokens"] == 4096


async def test_the_beginning_of_an_answer_is_passed_on_without_white_space_at_its_end(
    upstream: Upstream, provider: Adapter
) -> None:
    provider_says = ask("go on", "It is \n")
    asked = ProviderRequest(messages=provider_says.messages, model="!say=%20%0A,say=%0Aso")
    texts = [p.text async for p in provider.reply(asked) if isinstance(p, Text)]

    assert upstream.asked[0].body["messages"][-1] == {"role": "assistant", "content": "It is"}
    assert "".join(texts) == "\nso"


@pytest.mark.parametrize("manner", ["", "split=3 ", "split=1 ", "nl=crlf ", "nl=cr ", "gzip "])
async def test_an_answer_is_the_same_however_it_is_cut(provider: Adapter, manner: str) -> None:
    assert await answer(provider, f"!{manner}role emoji reason=1 empty tokens=1") == [
        Usage(7, 1),
        Text(EMOJI),
        Reasoning(token(0)),
        Text(token(0)),
        Usage(7, 2),
        Finish("stop"),
    ]


async def test_a_ping_is_no_content(provider: Adapter) -> None:
    assert await answer(provider, "!pace=1000 keepalive=3 say=x") == [
        Text("x"),
        Usage(0, 0),
        Finish("stop"),
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "filter"),
        ("tool_use", "tool"),
        ("pause_turn", "other"),
        ("something_new", "other"),
    ],
)
async def test_stop_reasons_are_ours(provider: Adapter, theirs: str, ours: str) -> None:
    assert (await answer(provider, f"!end={theirs}"))[-1] == Finish(ours)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ending",
    ["finish done eof", "finish done cut", "finish done hang", "finish done error", "linger"],
)
async def test_an_answer_is_whole_once_its_stop_was_seen(
    provider: Adapter, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.05)
    monkeypatch.setattr("chatstream.providers.http.bodies.DRAIN_SECONDS", 0.05)
    pieces = await answer(provider, f"!say=x {ending}")

    assert [p for p in pieces if not isinstance(p, Usage)] == [Text("x"), Finish("stop")]


@pytest.mark.parametrize("ending", ["eof", "cut", "finish eof", "finish cut", "usage=1:2 eof"])
async def test_a_stop_reason_alone_is_no_end(provider: Adapter, ending: str) -> None:
    pieces, error = await failure(provider, f"!say=x {ending}")

    assert pieces[0] == Text("x")
    assert (error.code, error.retryable) == ("provider_cut", True)


@pytest.mark.parametrize(
    ("ending", "code", "retryable"),
    [
        ("error", "provider_error", True),
        ("finish error", "provider_error", True),
        ("error=429", "provider_rate_limited", True),
        ("error=401", "provider_auth", False),
        ("error=400", "provider_error", False),
        ("raw-error", "provider_error", True),
        ("plain-error", "provider_error", True),
        ("broken", "provider_error", True),
    ],
)
async def test_an_error_inside_the_stream_is_an_error_after_the_text(
    provider: Adapter, ending: str, code: str, retryable: bool
) -> None:
    pieces, error = await failure(provider, f"!say=x {ending}")

    assert pieces[0] == Text("x")
    assert (error.code, error.retryable) == (code, retryable)


async def test_an_overloaded_anthropic_can_be_asked_again(provider: Adapter) -> None:
    _, error = await failure(provider, "!retry-after=2 status=529")

    assert (error.retryable, error.retry_after, error.upstream_status) == (True, 2, 529)


@pytest.mark.parametrize(
    "chunk",
    [
        {"type": "content_block_delta"},
        {"type": "content_block_delta", "delta": "x"},
        {"type": "content_block_delta", "delta": {"text": [5]}},
        {"type": "message_start"},
        {"type": "message_delta", "delta": None},
    ],
)
def test_an_event_of_another_shape_is_not_guessed_at(chunk: dict[str, object]) -> None:
    with pytest.raises((AttributeError, LookupError, TypeError, ValueError)):
        AnthropicAnswer().take(chunk)


async def test_no_log_line_and_no_message_holds_the_key_or_the_prompt(
    provider: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        _, error = await failure(provider, "!quote status=400")

    assert not any("quote" in str(record.__dict__) for record in caplog.records)
    assert not any(KEY in str(record.__dict__) for record in caplog.records)
    assert KEY not in error.message
    assert "quote" not in error.message
