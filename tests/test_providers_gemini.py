from collections.abc import AsyncIterator

import pytest

from chatstream.providers import (
    Finish,
    Message,
    Piece,
    ProviderRequest,
    Reasoning,
    Text,
    Usage,
)
from chatstream.providers.adapters.gemini import GeminiAnswer
from tests.asking import KEY, Adapter, answer, failure, make, texts
from tests.upstream import EMOJI, Upstream, token

pytestmark = pytest.mark.anyio


@pytest.fixture
async def provider(upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make("gemini", upstream.url)
    yield provider
    await provider.aclose()


async def test_a_question_is_asked_in_geminis_form(upstream: Upstream, provider: Adapter) -> None:
    request = ProviderRequest(
        messages=[
            Message("user", "a"),
            Message("user", "b"),
            Message("assistant", "c"),
            Message("user", "d"),
        ],
        model="gemini-x",
        system="be brief",
        temperature=0.0,
        max_tokens=5,
        stop=("END",),
    )
    assert [p async for p in provider.reply(request)][-1] == Finish("stop")

    (asked,) = upstream.asked
    assert asked.target == "/v1beta/models/gemini-x:streamGenerateContent?alt=sse"
    assert asked.headers["x-goog-api-key"] == KEY
    assert asked.body == {
        "contents": [
            {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
            {"role": "model", "parts": [{"text": "c"}]},
            {"role": "user", "parts": [{"text": "d"}]},
        ],
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "generationConfig": {"temperature": 0.0, "maxOutputTokens": 5, "stopSequences": ["END"]},
    }


async def test_what_is_not_given_is_not_sent(upstream: Upstream, provider: Adapter) -> None:
    await answer(provider, "hello")

    assert set(upstream.asked[0].body) == {"contents"}


async def test_a_models_name_stays_one_segment_of_the_path(
    upstream: Upstream, provider: Adapter
) -> None:
    for model in ("../../evil?x=1#", "models/plain", "a b%2F"):
        request = ProviderRequest(messages=[Message("user", "hi")], model=model)
        assert [p async for p in provider.reply(request)][-1] == Finish("stop")

    assert [asked.target for asked in upstream.asked] == [
        f"/v1beta/models/{segment}:streamGenerateContent?alt=sse"
        for segment in ("..%2F..%2Fevil%3Fx%3D1%23", "plain", "a%20b%252F")
    ]


async def test_an_answer_is_its_text_its_usage_and_its_finish(provider: Adapter) -> None:
    assert await answer(provider, "!tokens=3 empty") == [*texts(3), Usage(7, 3), Finish("stop")]


async def test_thoughts_are_reasoning(provider: Adapter) -> None:
    assert (await answer(provider, "!reason=2 say=x"))[:3] == [
        Reasoning(token(0)),
        Reasoning(token(1)),
        Text("x"),
    ]


@pytest.mark.parametrize("manner", ["nl=crlf", "nl=cr", "comment", "empty", "split=1", "gzip"])
async def test_the_manner_of_sending_changes_nothing(provider: Adapter, manner: str) -> None:
    assert await answer(provider, f"!{manner} emoji comment empty tokens=2") == [
        Text(EMOJI),
        *texts(2),
        Usage(7, 2),
        Finish("stop"),
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "filter"),
        ("RECITATION", "filter"),
        ("PROHIBITED_CONTENT", "filter"),
        ("UNEXPECTED_TOOL_CALL", "tool"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("SOMETHING_NEW", "other"),
    ],
)
async def test_finish_reasons_are_ours(provider: Adapter, theirs: str, ours: str) -> None:
    assert (await answer(provider, f"!end={theirs}"))[-1] == Finish(ours)  # type: ignore[arg-type]


async def test_a_blocked_prompt_is_an_answer_that_was_filtered(provider: Adapter) -> None:
    assert await answer(provider, "!block=SAFETY") == [Finish("filter")]


@pytest.mark.parametrize("ending", ["eof", "cut", "finish=FINISH_REASON_UNSPECIFIED eof"])
async def test_a_stream_without_its_finish_reason_is_a_failure(
    provider: Adapter, ending: str
) -> None:
    pieces, error = await failure(provider, f"!tokens=2 {ending}")

    assert pieces == texts(2)
    assert error.code == "provider_cut"


@pytest.mark.parametrize("ending", ["finish eof", "finish cut", "finish hang", "finish raw-error"])
async def test_an_answer_is_whole_once_its_finish_reason_was_seen(
    provider: Adapter, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.05)
    monkeypatch.setattr("chatstream.providers.http.bodies.DRAIN_SECONDS", 0.05)
    assert await answer(provider, f"!tokens=2 {ending}") == [*texts(2), Finish("stop")]


@pytest.mark.parametrize(
    ("ending", "code", "status"),
    [
        ("raw-error", "provider_error", 503),
        ("raw-error=429", "provider_rate_limited", 429),
        ("nl=crlf raw-error", "provider_error", 503),
        ("split=1 raw-error", "provider_error", 503),
        ("error=500", "provider_error", 500),
        ("error-event", "provider_error", 503),
        ("plain-error", "provider_error", None),
        ("broken", "provider_error", None),
    ],
)
async def test_an_error_inside_the_stream_is_an_error_after_the_text(
    provider: Adapter, ending: str, code: str, status: int | None
) -> None:
    pieces, error = await failure(provider, f"!tokens=2 {ending}")

    assert pieces == texts(2)
    assert (error.code, error.upstream_status, error.retryable) == (code, status, True)


async def test_a_raw_error_that_is_cut_anywhere_is_still_an_error(
    provider: Adapter,
) -> None:
    for size in range(1, 90):
        pieces, error = await failure(provider, f"!tokens=1 raw-part={size} eof")

        assert pieces == texts(1)
        assert error.code == "provider_error"


async def test_a_raw_error_is_told_before_the_stream_ends(
    upstream: Upstream, provider: Adapter
) -> None:
    pieces, error = await failure(provider, "!tokens=1 raw-part=1000 hang")

    assert pieces == texts(1)
    assert error.upstream_status == 503
    await upstream.until(lambda: upstream.broken_off == 1)


@pytest.mark.parametrize(
    ("script", "wait"), [("retry-info=37s", 37.0), ("retry-info=0.5s", 0.5), ("retry-text=3s", 3.0)]
)
async def test_the_time_to_wait_is_found_in_the_body(
    provider: Adapter, script: str, wait: float
) -> None:
    _, error = await failure(provider, f"!{script} status=429")
    _, inside = await failure(provider, f"!{script} raw-error=429")

    assert (error.code, error.retry_after) == ("provider_rate_limited", wait)
    assert (inside.code, inside.retry_after) == ("provider_rate_limited", wait)


@pytest.mark.parametrize(
    ("chunk", "pieces", "finish"),
    [
        ({}, [], None),
        ({"candidates": []}, [], None),
        ({"candidates": [{"content": None}]}, [], None),
        ({"candidates": [{"content": {"role": "model"}}]}, [], None),
        ({"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]}, [], None),
        ({"candidates": [{"content": {"parts": [{"text": ""}]}}]}, [], None),
        (
            {
                "candidates": [
                    {
                        "content": {"parts": [{"text": "a", "thought": True}, {"text": "b"}]},
                        "finishReason": "STOP",
                    }
                ],
                "usageMetadata": {
                    "promptTokenCount": 1,
                    "candidatesTokenCount": 2,
                    "thoughtsTokenCount": 3,
                },
            },
            [Reasoning("a"), Text("b"), Usage(1, 5)],
            "stop",
        ),
        ({"usageMetadata": {"promptTokenCount": 4}}, [Usage(4, 0)], None),
        ({"usageMetadata": {"candidatesTokenCount": None}}, [Usage(0, 0)], None),
    ],
)
async def test_a_frame_is_read_as_far_as_it_goes(
    chunk: dict[str, object], pieces: list[Piece], finish: str | None
) -> None:
    answer = GeminiAnswer()

    assert list(answer.take(chunk)) == pieces
    assert answer.finish == finish
