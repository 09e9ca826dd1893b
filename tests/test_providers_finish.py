"""How an answer ends: finish reasons in every wire form, what comes after them, and silence."""

import math
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from chatstream.providers import Finish, Piece, Reasoning, Text, Usage
from chatstream.providers.http.reasons import mark_of
from chatstream.providers.http.settling import Settling
from chatstream.providers.registry import Providers, build
from chatstream.settings import Settings
from tests.asking import FORMS, answer, failure, make, texts
from tests.running import Running
from tests.upstream import Upstream, token

pytestmark = pytest.mark.anyio

# What ends an answer for good, and a finish reason that does not, in each form.
MARKS = {
    "openai": ("finish", "done"),
    "gemini": ("finish", "eof"),
    "anthropic": ("finish done", "eof"),
    "ollama": ("finish", "eof"),
}
CLOSED = ("openai", "anthropic")
CUT_WORDS = {
    "openai": "abort",
    "gemini": "CANCELLED",
    "anthropic": "network_error",
    "ollama": "error",
}


def raw(**chunk: Any) -> str:
    """Return the step that sends a payload as it stands."""
    return f"raw={quote(orjson.dumps(chunk).decode(), safe='')}"


async def said(
    upstream: Upstream, form: str, script: str, **given: Any
) -> tuple[str, str, list[Piece]]:
    """Return the text, the reasoning, and all that is neither."""
    provider = make(form, upstream.url, **given)
    pieces = await answer(provider, f"!{script}")
    await provider.aclose()
    text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    thoughts = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    return text, thoughts, [p for p in pieces if not isinstance(p, Text | Reasoning)]


async def broken(upstream: Upstream, form: str, script: str) -> tuple[list[Piece], str, bool]:
    provider = make(form, upstream.url)
    pieces, error = await failure(provider, f"!{script}")
    await provider.aclose()
    return pieces, error.code, error.retryable


# ---- what comes after a finish reason


@pytest.mark.parametrize("form", FORMS)
async def test_text_long_after_a_first_finish_reason_is_no_less_text(
    upstream: Upstream, form: str
) -> None:
    mark, end = MARKS[form]
    script = f"reason=1 {mark} wait=0.8 tokens=2 {mark} {end}"

    text, thoughts, rest = await said(upstream, form, script)

    assert (text, thoughts, rest[-1]) == ("t0 t1 ", "t0 ", Finish("stop"))


@pytest.mark.parametrize("form", FORMS)
async def test_a_finish_reason_on_each_chunk_ends_nothing(upstream: Upstream, form: str) -> None:
    mark, end = MARKS[form]
    script = " ".join(f"say=a{number} {mark} wait=0.6" for number in range(3)) + f" {end}"

    text, _, rest = await said(upstream, form, script)

    assert (text, rest[-1]) == ("a0a1a2", Finish("stop"))


@pytest.mark.parametrize(
    ("form", "late"),
    [
        ("openai", "finish wait=0.7 usage=7:3 done"),
        ("gemini", "finish wait=0.7 usage=7:3 eof"),
        ("anthropic", "finish done wait=0.7 usage=7:3 eof"),
        ("ollama", "finish wait=0.7 " + raw(done=True, prompt_eval_count=7, eval_count=3) + " eof"),
    ],
)
async def test_usage_that_comes_late_counts(upstream: Upstream, form: str, late: str) -> None:
    _, _, rest = await said(upstream, form, f"role tokens=1 {late}")

    assert rest[-2:] == [Usage(7, 3), Finish("stop")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("first", "last", "ours"), [(0, 1, "length"), (1, 0, "stop")])
async def test_the_last_finish_reason_is_the_one(
    upstream: Upstream, form: str, first: int, last: int, ours: str
) -> None:
    mark, end = MARKS[form]
    words = {"gemini": ("STOP", "MAX_TOKENS"), "anthropic": ("end_turn", "max_tokens")}
    said_so = words.get(form, ("stop", "length"))
    marks = [mark.replace("finish", f"finish={said_so[which]}") for which in (first, last)]

    _, _, rest = await said(upstream, form, f"say=x {marks[0]} say=y {marks[1]} {end}")

    assert rest[-1] == Finish(ours)  # type: ignore[arg-type]


async def test_no_reason_after_a_reason_leaves_it(upstream: Upstream) -> None:
    nothing = [
        raw(choices=[{"index": 0, "delta": {"content": "y"}, "finish_reason": word}])
        for word in ("", None, "null")
    ]
    script = f"say=x finish=length {' '.join(nothing)} done"

    assert await said(upstream, "openai", script) == ("xyyy", "", [Finish("length")])


@pytest.mark.parametrize("form", FORMS)
async def test_text_behind_the_last_finish_reason_that_is_cut_is_a_cut(
    upstream: Upstream, form: str
) -> None:
    mark, _ = MARKS[form]

    assert (await broken(upstream, form, f"tokens=1 {mark} say=y cut"))[1:] == (
        "provider_cut",
        True,
    )
    pieces, code, _ = await broken(upstream, form, f"tokens=1 {mark} say=y error=503")
    assert code == "provider_error"
    assert Text("y") in pieces


async def test_text_behind_the_last_finish_reason_is_whole_at_a_clean_end(
    upstream: Upstream,
) -> None:
    assert (await said(upstream, "openai", "reason=1 finish say=y eof"))[0] == "y"
    assert (await said(upstream, "openai", "reason=1 finish say=y done"))[0] == "y"


# ---- silence


@pytest.mark.parametrize("form", FORMS)
async def test_a_silence_behind_text_and_its_finish_reason_is_the_end(
    upstream: Upstream, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.2)
    mark, _ = MARKS[form]
    begun = time.monotonic()

    text, _, rest = await said(upstream, form, f"tokens=2 {mark} hang")

    assert (text, rest[-1]) == ("t0 t1 ", Finish("stop"))
    assert 0.2 <= time.monotonic() - begun < 2
    await upstream.until(lambda: upstream.open == 0)


async def test_the_silence_begins_anew_with_all_that_comes(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.8)
    script = "say=a finish wait=0.45 say=b finish wait=0.45 usage=7:3 wait=0.45 say=c finish hang"

    assert await said(upstream, "openai", script) == ("abc", "", [Usage(7, 3), Finish("stop")])


async def test_the_silence_is_shorter_than_a_short_token_timeout(upstream: Upstream) -> None:
    begun = time.monotonic()

    assert (await said(upstream, "openai", "say=x finish hang", token_timeout=0.4))[0] == "x"
    assert time.monotonic() - begun < 2


NOTHING = {
    "openai": ("comment", raw(choices=[{"index": 0, "delta": {"content": ""}}])),
    "gemini": ("comment", raw(candidates=[{"index": 0, "content": {"parts": [{"text": ""}]}}])),
    "anthropic": ("comment", raw(type="ping")),
    "ollama": (raw(message={"role": "assistant", "content": ""}, done=False), raw(model="m")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", [0, 1])
async def test_a_stream_with_pings_is_not_silent(
    upstream: Upstream, form: str, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.5)
    mark, end = MARKS[form]
    pings = f"wait=0.2 {NOTHING[form][which]} " * 4

    text, _, rest = await said(
        upstream, form, f"say=a {mark} {pings} wait=0.2 say=b {mark} {end}", token_timeout=60
    )

    assert (text, rest[-1]) == ("ab", Finish("stop"))


async def test_late_usage_behind_pings_counts(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.5)
    pings = "wait=0.2 comment " * 4

    _, _, rest = await said(upstream, "openai", f"say=a finish {pings} usage=7:3 {pings} done")

    assert rest == [Usage(7, 3), Finish("stop")]


async def test_a_silence_is_counted_from_the_last_ping(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.5)
    begun = time.monotonic()

    assert (await said(upstream, "openai", "say=a finish wait=0.3 comment hang"))[0] == "a"
    assert 0.8 <= time.monotonic() - begun < 1.5


@pytest.mark.parametrize("form", FORMS)
def test_pings_without_end_are_bounded_by_the_token_timeout(
    tmp_path: Path, upstream: Upstream, form: str
) -> None:
    mark, _ = MARKS[form]
    providers = Providers({form: make(form, upstream.url, token_timeout=2)}, form)
    with Running(tmp_path, providers, retries=0, token_timeout=2) as server:
        begun = time.monotonic()
        answered = server.http.post(
            "/chat", json={"message": f"!say=x {mark} pace=50 keepalive=0"}
        ).json()

    assert (answered["reply"], answered["finish_reason"]) == ("x", "stop")
    assert 1.4 <= time.monotonic() - begun < 3


async def test_finish_reasons_without_end_are_bounded_too(upstream: Upstream) -> None:
    marks = " ".join(["finish wait=0.1"] * 30)
    begun = time.monotonic()

    text, _, _ = await said(upstream, "openai", f"say=x {marks} hang", token_timeout=1.5)

    assert text == "x"
    assert time.monotonic() - begun < 1.8


@pytest.mark.parametrize(
    ("token_timeout", "seconds"), [(8, 5), (6, 5), (5.5, 5), (4, 3.5), (0.4, 0.2), (math.inf, 5)]
)
async def test_a_silence_is_five_seconds_unless_the_token_timeout_is_shorter(
    upstream: Upstream, token_timeout: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    class Noted(Settling):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            waits.append(self._seconds)

    monkeypatch.setattr("chatstream.providers.http.reading.Settling", Noted)
    await said(upstream, "openai", "say=x finish done", token_timeout=token_timeout)

    assert waits == [seconds]


def test_before_any_text_silence_is_for_the_turns_own_timers(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.05)
    providers = Providers({"openai": make("openai", upstream.url)}, "openai")
    with Running(tmp_path, providers, retries=0, token_timeout=1) as server:
        answered = server.http.post("/chat", json={"message": "!reason=1 finish hang"}).json()
        late = server.http.post(
            "/chat", json={"message": "!reason=1 finish wait=0.3 say=x finish done"}
        ).json()

    assert answered["code"] == "token_timeout"
    assert (late["reply"], late["finish_reason"]) == ("x", "stop")


async def test_a_provider_that_broke_off_and_goes_on_in_silence_is_a_cut(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.http.reading.END_SECONDS", 0.05)

    assert await broken(upstream, "openai", "finish=abort hang") == ([], "provider_cut", True)


# ---- reasons


@pytest.mark.parametrize("form", FORMS)
async def test_a_reason_that_means_broke_off_fails_the_turn_and_keeps_the_text(
    upstream: Upstream, form: str
) -> None:
    word = CUT_WORDS[form]
    pieces, code, retryable = await broken(upstream, form, f"role tokens=2 end={word}")

    assert [piece for piece in pieces if isinstance(piece, Text)] == texts(2)
    assert (code, retryable) == ("provider_cut", True)


def test_a_turn_that_the_provider_aborted_is_failed_with_its_text(
    tmp_path: Path, upstream: Upstream
) -> None:
    providers = Providers({"openai": make("openai", upstream.url)}, "openai")
    with Running(tmp_path, providers) as server:
        problem = server.http.post("/chat", json={"message": "!tokens=1 end=abort"}).json()

    assert (problem["code"], problem["text"]) == ("provider_cut", token(0))
    assert len(upstream.asked) == 1  # content had come: nothing is asked again


def test_a_provider_that_aborts_before_any_content_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.route.plan.backoff", lambda *_: 0.0)
    with Upstream(lambda _: "end=abort" if len(upstream.asked) == 1 else "tokens=1") as upstream:
        providers = Providers({"openai": make("openai", upstream.url)}, "openai")
        with Running(tmp_path, providers) as server:
            assert server.http.post("/chat", json={"message": "hi"}).json()["reply"] == token(0)


@pytest.mark.parametrize(
    ("words", "mark"),
    [
        ("stop STOP eos eos_token end_turn stop_sequence COMPLETE normal", "stop"),
        ("length max_tokens MAX_TOKENS model_length max_output_tokens", "length"),
        ("model_context_window_exceeded ERROR_LIMIT token_limit", "length"),
        ("content_filter content-filter SAFETY RECITATION sensitive refusal", "filter"),
        ("guardrail_intervened content_filtered ERROR_TOXIC IMAGE_SAFETY SPII", "filter"),
        ("tool_calls function_call tool_use TOOL_CALL UNEXPECTED_TOOL_CALL", "tool"),
        ("abort aborted error error_finish ERROR cancelled canceled USER_CANCEL", "cut"),
        ("network_error network-error insufficient_system_resource timeout timed_out", "cut"),
        ("server_error interrupted stream_failed connection_error time_limit", "cut"),
        ("load unload pause_turn OTHER MALFORMED_FUNCTION_CALL repetition new", "other"),
        ("preempted killed terminated shutdown shut_down evicted dropped exception", "cut"),
        ("engine_overloaded unfinished partial EngineOverloaded FINISH_REASON_ERROR", "cut"),
        ("truncated Truncated maxTokens MaxTokens MAXTOKENS FINISH_REASON_MAX_TOKENS", "length"),
        ("ContentFilter contentFilter CONTENTFILTER finish_reason_safety", "filter"),
        ("stopSequence StopSequence endTurn FINISH_REASON_STOP FinishReason.STOP", "stop"),
        ("toolCalls ToolUse", "tool"),
        ("null None FINISH_REASON_UNSPECIFIED not_finished notFinished", None),
    ],
)
def test_every_vendors_words_have_a_meaning(words: str, mark: str | None) -> None:
    for word in words.split():
        assert (word, mark_of(word)) == (word, mark)


@pytest.mark.parametrize(
    ("reason", "mark"),
    [
        ({"type": "stop", "matched": 2}, "stop"),
        ({"type": "length"}, "length"),
        ({"reason": "abort"}, "cut"),
        ({"matched": 2}, "other"),
        (["stop"], "stop"),
        ([[["stop"]]], "other"),
        (2, "other"),
        (True, "other"),
        (0, None),
        ({}, None),
    ],
)
def test_a_reason_that_is_no_text_fails_no_answer(reason: object, mark: str | None) -> None:
    assert mark_of(reason) == mark


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("reason", "ours"), [({"type": "stop", "matched": 2}, "stop"), (2, "other")]
)
async def test_each_form_takes_such_a_reason(
    upstream: Upstream, form: str, reason: object, ours: str
) -> None:
    chunk: dict[str, dict[str, Any]] = {
        "openai": {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
        "gemini": {"candidates": [{"finishReason": reason}]},
        "anthropic": {"type": "message_delta", "delta": {"stop_reason": reason}},
        "ollama": {"done": True, "done_reason": reason},
    }
    _, _, rest = await said(
        upstream, form, f"say=x {raw(**chunk[form])} {'done' if form in CLOSED else ''} eof"
    )

    assert rest[-1] == Finish(ours)  # type: ignore[arg-type]


# ---- [DONE] alone


async def test_done_alone_is_an_end_where_the_settings_say_so(upstream: Upstream) -> None:
    optional = make("openai", upstream.url, finish_optional=True)

    assert await answer(optional, "!tokens=1 done") == [*texts(1), Finish("other")]
    assert (await answer(optional, "!tokens=1 end=length"))[-1] == Finish("length")
    assert (await failure(optional, "!tokens=1 eof"))[1].code == "provider_cut"
    assert (await failure(optional, "!done"))[1].code == "provider_cut"
    await optional.aclose()
    assert await broken(upstream, "openai", "tokens=1 done") == (texts(1), "provider_cut", True)


async def test_the_settings_say_so(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.openai_url)
    monkeypatch.setenv("OPENAI_FINISH_REASON", "Optional")
    settings = Settings.from_environment(provider="openai", no_model=True, token_timeout=0.4)
    providers = build(settings)
    try:
        assert await answer(providers.get(None), "!tokens=1 done") == [*texts(1), Finish("other")]
        begun = time.monotonic()
        assert await answer(providers.get(None), "!tokens=1 finish hang") == [
            *texts(1),
            Finish("stop"),
        ]
        assert time.monotonic() - begun < 2
    finally:
        await providers.aclose()


# ---- nothing


@pytest.mark.parametrize(
    ("form", "script", "reason"),
    [
        ("openai", "role end", "stop"),
        ("openai", "reason=2 end=length", "length"),
        ("gemini", "block=SAFETY", "filter"),
        ("anthropic", "role end=refusal", "filter"),
        ("ollama", "end=load", "other"),
    ],
)
def test_a_good_end_without_text_is_an_empty_reply_with_its_reason(
    tmp_path: Path, upstream: Upstream, form: str, script: str, reason: str
) -> None:
    providers = Providers({form: make(form, upstream.url)}, form)
    with Running(tmp_path, providers) as server:
        answered = server.http.post("/chat", json={"message": f"!{script}"})
        turn = server.http.get(f"/turns/{answered.json()['turn_id']}").json()

    assert answered.status_code == 200
    told = answered.json()
    assert (told["reply"], told["status"], told["finish_reason"]) == ("", "completed", reason)
    assert (turn["status"], turn["text"], turn["finish_reason"]) == ("completed", "", reason)
