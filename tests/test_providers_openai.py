import logging
from collections.abc import AsyncIterator

import pytest

from chatstream.errors import SettingsError
from chatstream.providers import (
    Finish,
    Message,
    ProviderRequest,
    Reasoning,
    Text,
    Usage,
)
from chatstream.providers.adapters import openai
from chatstream.providers.adapters.openai import OpenAIAnswer
from chatstream.providers.http.manners import PLAIN
from tests.asking import KEY, Adapter, answer, ask, failure, make, texts
from tests.upstream import EMOJI, Upstream, text_of, token

pytestmark = pytest.mark.anyio


@pytest.fixture
async def provider(upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make("openai", upstream.url)
    yield provider
    await provider.aclose()


async def test_a_question_is_asked_in_openais_form(upstream: Upstream, provider: Adapter) -> None:
    request = ProviderRequest(
        messages=[Message("user", "a"), Message("assistant", "b"), Message("user", "c")],
        model="other",
        system="be brief",
        temperature=0.0,
        max_tokens=5,
        stop=("END",),
    )
    assert [p async for p in provider.reply(request)][-1] == Finish("stop")

    (asked,) = upstream.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["accept"] == "text/event-stream"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.body == {
        "model": "other",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "max_tokens": 5,
        "stop": ["END"],
    }


async def test_what_is_not_given_is_not_sent(upstream: Upstream, provider: Adapter) -> None:
    await answer(provider, "hello")

    assert set(upstream.asked[0].body) == {"model", "messages", "stream", "stream_options"}


async def test_openai_itself_is_given_its_newer_name_for_max_tokens() -> None:
    provider = openai.provider(
        base_url="https://api.openai.com/v1", api_key=KEY, model="m", connect_timeout=5
    )

    asked = provider._form.ask(ProviderRequest(messages=(), model="m", max_tokens=3), PLAIN)

    assert asked.body["max_completion_tokens"] == 3
    await provider.aclose()


async def test_a_server_without_keys_is_sent_none(upstream: Upstream) -> None:
    provider = openai.provider(
        base_url=upstream.openai_url, api_key="", model="m", connect_timeout=5
    )
    await answer(provider, "hello")
    await provider.aclose()

    assert "authorization" not in upstream.asked[0].headers


async def test_a_key_that_no_header_takes_is_refused_without_naming_it() -> None:
    with pytest.raises(SettingsError) as caught:
        openai.provider(base_url="http://x", api_key="sk-\u00e9", model="m", connect_timeout=5)

    assert "sk-" not in caught.value.message


async def test_an_answer_is_its_text_its_usage_and_its_finish(provider: Adapter) -> None:
    assert await answer(provider, "!role tokens=3") == [
        *texts(3),
        Usage(7, 3),
        Finish("stop"),
    ]


async def test_a_script_may_be_in_the_models_name(provider: Adapter) -> None:
    request = ProviderRequest(messages=[Message("user", "hi")], model="any!tokens=1,end=length")

    assert [p async for p in provider.reply(request)] == [
        Text(token(0)),
        Usage(7, 1),
        Finish("length"),
    ]


@pytest.mark.parametrize(
    "manner",
    ["nl=crlf", "nl=cr", "comment", "empty", "split=1", "keepalive=2", "gzip", "split=7 nl=crlf"],
)
async def test_the_manner_of_sending_changes_nothing(provider: Adapter, manner: str) -> None:
    pace = "pace=1000 " if "keepalive" in manner else ""

    assert await answer(provider, f"!{pace}{manner} emoji comment empty tokens=2") == [
        Text(EMOJI),
        *texts(2),
        Usage(7, 2),
        Finish("stop"),
    ]


async def test_text_comes_before_the_answer_ends(upstream: Upstream, provider: Adapter) -> None:
    pieces = provider.reply(ask("!tokens=1 gate tokens=1"))

    assert await anext(pieces) == Text(token(0))
    upstream.open_gate()
    assert [p async for p in pieces] == [Text(token(0)), Usage(7, 2), Finish("stop")]


async def test_a_refusal_is_text_of_an_answer_that_was_filtered(provider: Adapter) -> None:
    assert await answer(provider, "!reason=1 refusal=never") == [
        Reasoning(token(0)),
        Text("never"),
        Usage(7, 1),
        Finish("filter"),
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "filter"),
        ("tool_calls", "tool"),
        ("function_call", "tool"),
        ("something_new", "other"),
    ],
)
async def test_finish_reasons_are_ours(provider: Adapter, theirs: str, ours: str) -> None:
    assert (await answer(provider, f"!end={theirs}"))[-1] == Finish(ours)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ending",
    [
        "finish eof",
        "finish cut",
        "finish hang",
        "finish error=503",
        "finish error-event",
        "finish raw-error",
        "finish plain-error",
        "finish broken eof",
        "finish huge=5000000 eof",
        "linger",
    ],
)
async def test_an_answer_is_whole_once_its_finish_reason_was_seen(
    provider: Adapter, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.05)
    monkeypatch.setattr("chatstream.providers.http.bodies.DRAIN_SECONDS", 0.05)
    pieces = await answer(provider, f"!tokens=2 {ending}")

    assert [p for p in pieces if not isinstance(p, Usage)] == [*texts(2), Finish("stop")]


@pytest.mark.parametrize("ending", ["eof", "cut", "done eof", "done cut", "finish=error eof"])
async def test_a_stream_without_its_finish_reason_is_a_failure(
    provider: Adapter, ending: str
) -> None:
    pieces, error = await failure(provider, f"!tokens=2 {ending}")

    assert pieces == texts(2)
    assert (error.code, error.retryable) == ("provider_cut", True)


@pytest.mark.parametrize(
    ("ending", "code", "retryable"),
    [
        ("error=503", "provider_error", True),
        ("error=429", "provider_rate_limited", True),
        ("error", "provider_error", True),
        ("code=rate_limit_exceeded error", "provider_rate_limited", True),
        ("code=context_length_exceeded error", "context_too_long", False),
        ("code=invalid_api_key error", "provider_auth", False),
        ("error=400", "provider_error", False),
        ("error-event=503", "provider_error", True),
        ("raw-error", "provider_error", True),
        ("plain-error", "provider_error", True),
        ("broken", "provider_error", True),
        ("nl=crlf broken", "provider_error", True),
        ("huge=5000000", "provider_error", False),
    ],
)
async def test_an_error_inside_the_stream_is_an_error_after_the_text(
    provider: Adapter, ending: str, code: str, retryable: bool
) -> None:
    pieces, error = await failure(provider, f"!tokens=2 {ending}")

    assert pieces == texts(2)
    assert (error.code, error.retryable) == (code, retryable)


async def test_a_large_frame_comes_through(provider: Adapter) -> None:
    assert (await answer(provider, "!huge=1000000"))[0] == Text("x" * 1_000_000)


async def test_a_long_answer_is_whole(provider: Adapter) -> None:
    pieces = await answer(provider, "!tokens=5000")

    assert "".join(p.text for p in pieces if isinstance(p, Text)) == text_of(5000)


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": ["x"]},
        {"choices": {"a": 1}},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": {"content": [{"text": 5}]}}]},
        {"choices": [], "usage": "x"},
    ],
)
async def test_a_chunk_of_another_shape_is_not_guessed_at(chunk: dict[str, object]) -> None:
    with pytest.raises((AttributeError, LookupError, TypeError, ValueError)):
        OpenAIAnswer().take(chunk)


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": None},
        {"choices": [], "usage": None},
        {"choices": [{}]},
        {"choices": [{"delta": None, "finish_reason": None}]},
        {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": ""}]},
        {"choices": [{"delta": {"content": None, "tool_calls": [{"index": 0}]}}]},
        {"choices": [], "usage": {"prompt_tokens": None}},
    ],
)
async def test_a_chunk_that_adds_nothing_gives_nothing(chunk: dict[str, object]) -> None:
    answer = OpenAIAnswer()

    assert list(answer.take(chunk)) == []
    assert answer.finish is None


async def test_no_log_line_and_no_message_holds_the_key_or_the_prompt(
    provider: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        _, error = await failure(provider, "!quote status=400")

    ours = [record for record in caplog.records if record.name.startswith("chatstream")]
    assert [record.levelname for record in ours] == ["WARNING"]
    assert not any(KEY in str(record.__dict__) for record in caplog.records)
    assert "quote" not in str(ours[0].__dict__)
    assert KEY not in error.message
    assert "quote" not in error.message
