"""Fields that a server refuses by name, in the forms in which vendors say so, and what is asked."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from chatstream.errors import ProviderError
from chatstream.providers import GO_ON, Finish, Message, Piece, ProviderRequest, Text
from chatstream.providers.http.error_object import error_object
from chatstream.providers.http.refusals import refused
from chatstream.providers.registry import Providers
from tests.asking import FORMS, Adapter, make
from tests.running import Running
from tests.upstream import Asked, Upstream

pytestmark = pytest.mark.anyio

MESSAGES = (Message("user", "What is a field?"),)
FULL = ProviderRequest(
    messages=MESSAGES, model="m", system="Be kind.", temperature=0.7, max_tokens=50
)
CONTINUED = ProviderRequest(messages=[*MESSAGES, Message("assistant", "Hello ")], model="m")


def pydantic(*loc: object, kind: str = "extra_forbidden", msg: str = "") -> dict[str, Any]:
    return {"type": kind, "loc": ["body", *loc], "msg": msg or "Extra inputs are not permitted"}


def openai(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def gemini(message: str, *fields: str) -> dict[str, Any]:
    violations = [{"field": field, "description": message} for field in fields]
    details = [{"@type": "x/google.rpc.BadRequest", "fieldViolations": violations}]
    error = {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}
    return {"error": error | ({"details": details} if fields else {})}


def anthropic(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


REFUSALS: list[tuple[dict[str, Any], set[str]]] = [
    # stream_options
    ({"object": "error", "message": {"detail": [pydantic("stream_options", "include_usage")]}},
     {"stream_options"}),
    ({"detail": [pydantic("stream_options")]}, {"stream_options"}),
    (openai("Unrecognized request argument supplied: stream_options"), {"stream_options"}),
    (openai("property 'stream_options' is unsupported"), {"stream_options"}),
    (openai("Unknown parameter: 'stream_options'.", "stream_options"), {"stream_options"}),
    ({"object": "error", "code": 400, "message":
      "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are"
      " not permitted'}]"}, {"stream_options"}),
    ({"error": "Additional properties are not allowed ('stream_options' was unexpected)"},
     {"stream_options"}),
    # max_tokens
    (openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.", "max_tokens", "unsupported_parameter"),
     {"max_tokens"}),
    (openai("this model is not supported MaxTokens, please use MaxCompletionTokens"),
     {"max_tokens"}),
    ({"detail": [pydantic("max_tokens")]}, {"max_tokens"}),
    # temperature
    (openai("Unsupported value: 'temperature' does not support 0.7 with this model. Only the "
            "default (1) value is supported.", "temperature", "unsupported_value"),
     {"temperature"}),
    (anthropic("`temperature` is deprecated for this model."), {"temperature"}),
    (anthropic("temperature: Extra inputs are not permitted"), {"temperature"}),
    (gemini("Invalid JSON payload received. Unknown name \"temperature\" at 'generation_config':"
            " Cannot find field.", "generation_config"), {"temperature"}),
    (gemini("no", "generation_config.temperature"), {"temperature"}),
    ({"error": {"message": orjson.dumps(openai("'temperature' does not support 0.2 with this model",
                                                "temperature")).decode(), "code": 400}},
     {"temperature"}),
    ({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw":
      orjson.dumps(openai("Unsupported parameter: 'temperature'", "temperature")).decode()}}},
     {"temperature"}),
    # several at once
    ({"detail": [pydantic("stream_options"), pydantic("temperature")]},
     {"stream_options", "temperature"}),
    # the system prompt
    (openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            "messages[0].role", "unsupported_value"), {"system"}),
    ({"object": "error", "message": "System role not supported", "code": 400}, {"system"}),
    (gemini("Developer instruction is not enabled for models/gemma-3-27b-it"), {"system"}),
    (gemini("Invalid JSON payload received. Unknown name \"systemInstruction\": Cannot find field.",
            "systemInstruction"), {"system"}),
    ({"detail": [pydantic("messages", 0, "role", kind="literal_error",
                          msg="Input should be 'user' or 'assistant'")]}, {"system"}),
    (openai("Only user and assistant roles are supported!"), {"system"}),
    (openai("Conversation roles must alternate user/assistant/user/assistant/..."), {"system"}),
    (anthropic("system: Extra inputs are not permitted"), {"system"}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "fields"), REFUSALS)
async def test_each_vendors_refusal_names_its_field(body: dict[str, Any], fields: set[str]) -> None:
    for status in (400, 422):
        found = refused("openai", status, error_object(orjson.dumps(body)), FULL)
        assert found is not None
        assert found.names == fields


@pytest.mark.parametrize(
    "body",
    [
        anthropic(
            "This model does not support assistant message prefill. The conversation must end "
            "with a user message."
        ),
        {
            "object": "error",
            "message": "Expected last role User or Tool (or Assistant with prefix True) for "
            "serving but got assistant",
        },
        openai("Unrecognized request argument supplied: continue_final_message"),
        {"detail": [pydantic("add_generation_prompt")]},
        openai("The last message must be from the user"),
    ],
)
async def test_a_prefilled_answer_is_refused_in_many_words(body: dict[str, Any]) -> None:
    error = error_object(orjson.dumps(body))
    found = refused("anthropic", 400, error, CONTINUED)
    assert found is not None
    assert found.names == {"prefill"}
    assert refused("anthropic", 400, error, FULL) is None


@pytest.mark.parametrize(
    "body",
    [
        openai("We could not parse the JSON body of your request."),
        openai("The model produced invalid content."),
        openai("What went wrong is not supported."),
        openai("stream_options"),
        anthropic("messages: at least one message is required"),
        gemini("Request contains an invalid argument."),
        {"error": "no"},
        {"error": {"message": ["x"], "param": ["temperature", None], "details": "x"}},
        {},
    ],
)
async def test_what_refuses_no_field_that_was_sent_is_none(body: dict[str, Any]) -> None:
    request = ProviderRequest(messages=MESSAGES, model="m")
    found = refused("openai", 400, error_object(orjson.dumps(body)), request)

    assert found is None or found.names <= {"messages"}


async def test_a_users_own_words_are_no_refusal() -> None:
    said = "'temperature' is not supported. System role not supported."
    request = ProviderRequest(
        messages=[Message("user", said)], model="m", temperature=1.0, system="Be kind."
    )

    assert refused("openai", 400, {"message": f"cannot read: {said}"}, request) is None
    assert refused("openai", 400, {"message": said}, FULL) is not None


async def test_other_statuses_refuse_no_field() -> None:
    error = error_object(orjson.dumps(openai("'temperature' is not supported", "temperature")))

    for status in (401, 402, 404, 408, 429, 500, 503):
        assert refused("openai", status, error, FULL) is None
    template = {"message": "Jinja Exception: System role not supported", "code": 500}
    found = refused("openai", 500, template, FULL)
    assert found is not None
    assert found.names == {"system"}


# ---- over a socket


def server(refusal: Callable[[dict[str, Any]], tuple[int, Any] | None]) -> Upstream:
    """Return an upstream that refuses what it is told to, and answers the rest."""

    def script(asked: Asked) -> str:
        told = refusal(asked.body)
        if told is None:
            return "say=Hello"
        status, body = told
        return f"body={quote(orjson.dumps(body).decode(), safe='')} status={status}"

    return Upstream(script)


async def ask(provider: Adapter, request: ProviderRequest = FULL) -> list[Piece]:
    return [piece async for piece in provider.reply(request)]


def whole(pieces: list[Piece]) -> bool:
    return pieces[0] == Text("Hello") and pieces[-1] == Finish("stop")


@pytest.mark.parametrize(
    ("field", "said", "instead"),
    [
        ("stream_options", "Unrecognized request argument supplied: stream_options", None),
        ("temperature", "'temperature' does not support 0.7 with this model", None),
        (
            "max_tokens",
            "'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            "max_completion_tokens",
        ),
        (
            "max_tokens",
            "Unknown field max_tokens: use max_output_tokens please",
            "max_output_tokens",
        ),
        ("max_tokens", "Unrecognized request argument: max_tokens", "max_completion_tokens"),
    ],
)
async def test_a_field_is_left_out_or_renamed_once_and_that_is_remembered(
    field: str, said: str, instead: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with server(lambda body: (400, openai(said)) if field in body else None) as upstream:
        provider = make("openai", upstream.url)
        assert whole(await ask(provider))
        assert whole(await ask(provider))
        await provider.aclose()
        first, second, third = [asked.body for asked in upstream.asked]

    expected = {key: value for key, value in first.items() if key != field}
    if instead is not None:
        expected[instead] = first[field]
    assert second == third == expected
    (record,) = [r for r in caplog.records if r.name.startswith("chatstream")]
    assert record.__dict__["fields"] == field
    assert record.__dict__["model"] == "m"


@pytest.mark.parametrize("status", [200, 403, 422, 501])
@pytest.mark.parametrize("retries", [1, 2])
async def test_a_refusal_is_mended_with_whatever_status_it_comes(
    status: int, retries: int, caplog: pytest.LogCaptureFixture
) -> None:
    fields = ("stream_options", "temperature")[:retries]

    def script(asked: Asked) -> str:
        field = next((field for field in fields if field in asked.body), None)
        if field is None:
            return "say=Hello"
        body = orjson.dumps(openai(f"{field} is not permitted")).decode()
        if status == 200:
            body = f"data: {body}\n\n"
        return f"body={quote(body, safe='')} status={status}"

    with Upstream(script) as upstream:
        provider = make("openai", upstream.url)
        assert whole(await ask(provider))
        assert whole(await ask(provider))
        await provider.aclose()
        assert len(upstream.asked) == 2 + retries
    told = [r.__dict__["fields"] for r in caplog.records if "asked without it" in r.message]
    assert told == list(fields)


async def test_a_refusal_behind_text_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    chunk = orjson.dumps({"choices": [{"index": 0, "delta": {"content": "Hello"}}]}).decode()
    body = orjson.dumps(openai("temperature is not permitted")).decode()
    events = quote(f"data: {chunk}\n\ndata: {body}\n\n", safe="")
    pieces: list[Piece] = []
    with Upstream(lambda _: f"body={events} status=200") as upstream:
        provider = make("openai", upstream.url)
        with pytest.raises(ProviderError, match="openai refused the field temperature; it is"):
            async for piece in provider.reply(FULL):
                pieces.append(piece)
        await provider.aclose()
        assert len(upstream.asked) == 1

    assert pieces == [Text("Hello")]
    assert [r.message for r in caplog.records if r.name.startswith("chatstream")] == [
        "provider failed"
    ]


async def test_what_one_model_refuses_another_is_asked() -> None:
    def refusal(body: dict[str, Any]) -> tuple[int, Any] | None:
        strict = body["model"] == "m" and "temperature" in body
        return (422, {"detail": [pydantic("temperature")]}) if strict else None

    with server(refusal) as upstream:
        provider = make("openai", upstream.url)
        await ask(provider)
        await ask(provider, ProviderRequest(messages=MESSAGES, model="n", temperature=0.2))
        await provider.aclose()

        assert [("temperature" in asked.body) for asked in upstream.asked] == [True, False, True]


SAID = "temperature cannot be used " + "x " * 40


@pytest.mark.parametrize(
    "told",
    [
        anthropic(
            f"1 validation error: messages.0.content: input_value='{SAID[:60]}...{SAID[-20:]}'"
        ),
        openai(f"cannot take this: {SAID[:40]}"),
        openai("The field temperature is not supported beside such a message"),
        anthropic(SAID.replace("temperature", "temperature:")[:60]),
    ],
)
async def test_a_refusal_teaches_nothing_before_the_mended_request_is_taken(
    told: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def refusal(body: dict[str, Any]) -> tuple[int, Any] | None:
        return (400, told) if "cannot be used" in str(body["messages"]) else None

    with server(refusal) as upstream:
        provider = make("openai", upstream.url)
        with pytest.raises(ProviderError):
            await ask(provider, replace(FULL, messages=[Message("user", SAID)]))
        assert whole(await ask(provider, replace(FULL, temperature=0.9)))
        await provider.aclose()
        assert upstream.asked[-1].body["temperature"] == 0.9
    assert not [r for r in caplog.records if "asked without it" in r.message]


@pytest.mark.parametrize(
    "model", ["temperature is not supported", "stream_options", "temperature: not permitted"]
)
async def test_a_models_name_is_no_refusal(model: str) -> None:
    for sentence in (
        f"{model} is not supported",
        f"Invalid request for '{model}', it cannot be used",
    ):
        error = error_object(orjson.dumps(openai(sentence)))
        assert refused("openai", 400, error, replace(FULL, model=model)) is None


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("unknown field `stream_options`, expected one of `model`, `temperature`, `max_tokens`",
         {"stream_options"}),
        ("unknown field `temperature`, expected `stop` or `max_tokens`", {"temperature"}),
        ("stream_options is not supported. Supported fields are: temperature, max_tokens",
         {"stream_options"}),
        ("stream_options is not supported. Supported parameters: temperature, max_tokens",
         {"stream_options"}),
        ("Unsupported parameter stream_options; allowed parameters include max_tokens",
         {"stream_options"}),
        ("unknown variant `system`, expected one of `user`, `assistant` at temperature",
         {"system"}),
        ("invalid temperature: only 1 is allowed for this model", {"temperature"}),
    ],
)  # fmt: skip
async def test_what_a_server_would_take_is_not_refused(said: str, names: set[str]) -> None:
    for body in (openai(said), {"error": said}, {"detail": said}, {"message": said}):
        found = refused("openai", 422, error_object(orjson.dumps(body)), FULL)
        assert found is not None
        assert (set(found.names), found.bounds) == (names, False)


async def test_several_fields_one_after_the_other_are_all_mended() -> None:
    def refusal(body: dict[str, Any]) -> tuple[int, Any] | None:
        for field in ("stream_options", "max_tokens", "temperature"):
            if field in body:
                return 400, openai(f"Unknown parameter: '{field}'.", field)
        system = body["messages"][0]["role"] == "system"
        return (400, openai("System role not supported")) if system else None

    with server(refusal) as upstream:
        provider = make("openai", upstream.url)
        assert whole(await ask(provider))
        await provider.aclose()

        assert len(upstream.asked) == 5
        assert upstream.asked[-1].body == {
            "model": "m",
            "messages": [{"role": "user", "content": "Be kind.\n\nWhat is a field?"}],
            "stream": True,
            "max_completion_tokens": 50,
        }


def system_in(form: str, body: dict[str, Any]) -> bool:
    match form:
        case "gemini":
            return "systemInstruction" in body
        case "anthropic":
            return "system" in body
    return bool(body["messages"][0]["role"] == "system")


@pytest.mark.parametrize("form", FORMS)
async def test_a_refused_system_prompt_heads_the_first_message(form: str) -> None:
    def refusal(body: dict[str, Any]) -> tuple[int, Any] | None:
        return (400, openai("System role not supported")) if system_in(form, body) else None

    with server(refusal) as upstream:
        provider = make(form, upstream.url)
        request = ProviderRequest(
            messages=[Message("user", "a"), Message("assistant", "b"), Message("user", "c")],
            model="m",
            system="Be kind.",
        )
        assert whole(await ask(provider, request))
        await provider.aclose()
        body = upstream.asked[-1].body

    said = [
        (message["role"], message.get("content") or message["parts"][0]["text"])
        for message in body.get("contents") or body["messages"]
    ]
    assert said[0] == ("user", "Be kind.\n\na")
    assert [text for _, text in said[1:]] == ["b", "c"]


@pytest.mark.parametrize("form", FORMS)
async def test_a_refused_temperature_is_left_out_in_every_form(form: str) -> None:
    def refusal(body: dict[str, Any]) -> tuple[int, Any] | None:
        sent = b"temperature" in orjson.dumps(body)
        return (400, anthropic("`temperature` is deprecated for this model.")) if sent else None

    with server(refusal) as upstream:
        provider = make(form, upstream.url)
        assert whole(await ask(provider))
        assert whole(await ask(provider))
        await provider.aclose()
        assert len(upstream.asked) == 3


@pytest.mark.parametrize(("form", "options"), [("anthropic", {}), ("openai", {"prefill": True})])
async def test_where_a_prefilled_answer_is_refused_it_is_asked_to_go_on(
    form: str, options: dict[str, Any]
) -> None:
    said = "This model does not support assistant message prefill."

    def refusal(body: dict[str, Any]) -> tuple[int, Any] | None:
        return (400, anthropic(said)) if body["messages"][-1]["role"] == "assistant" else None

    with server(refusal) as upstream:
        provider = make(form, upstream.url, **options)
        assert whole(await ask(provider, CONTINUED))
        assert whole(await ask(provider, CONTINUED))
        await provider.aclose()
        bodies = [asked.body for asked in upstream.asked]

    assert len(bodies) == 3
    for body in bodies[1:]:
        assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
        assert body["messages"][1]["content"] == "Hello "
        assert body["messages"][2]["content"] == GO_ON
        assert "continue_final_message" not in body


@pytest.mark.parametrize(
    ("message", "param", "told"),
    [
        ("temperature: range: 0..1", None, "temperature (status 400); it is the request's temp"),
        ("max_tokens: 50 > 20, which is the maximum allowed", None, "max_tokens (status 400)"),
        ("max_tokens is too large: 50", "max_tokens", "max_tokens (status 400); it is the requ"),
        ("verify your organization to stream", "stream", "stream (status 400)"),
        ("wrong", "model", "model (status 400); it is OPENAI_MODEL"),
    ],
)
async def test_what_cannot_be_mended_names_the_field_and_the_setting(
    message: str, param: str | None, told: str
) -> None:
    with server(lambda _: (400, openai(message, param))) as upstream:
        provider = make("openai", upstream.url)
        with pytest.raises(ProviderError, match="refused the field") as caught:
            await ask(provider)
        await provider.aclose()
        assert len(upstream.asked) == 1

    assert f"openai refused the field {told}" in caught.value.message
    assert (caught.value.code, caught.value.retryable) == ("provider_error", False)


async def test_a_server_that_refuses_whatever_is_asked_is_not_asked_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refusal(body: dict[str, Any]) -> tuple[int, Any]:
        now, other = "max_tokens", "max_completion_tokens"
        if other in body:
            now, other = other, now
        return 400, openai(f"'{now}' is not supported, use '{other}'")

    with server(refusal) as upstream:
        provider = make("openai", upstream.url)
        with pytest.raises(ProviderError, match="refused the field max_tokens"):
            await ask(provider)
        await provider.aclose()
        assert [r.message for r in caplog.records if r.name.startswith("chatstream")] == [
            "provider failed"
        ]
        assert len(upstream.asked) == 2
        await upstream.until(lambda: upstream.open <= 1)


async def test_the_models_whose_ways_are_remembered_have_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatstream.providers.http.manners.MOST_MODELS", 3)

    def refusal(body: dict[str, Any]) -> tuple[int, Any] | None:
        strict = "temperature" in body
        return (400, openai("not supported: temperature", "temperature")) if strict else None

    with server(refusal) as upstream:
        provider = make("openai", upstream.url)
        for model in "abcde":
            await ask(provider, replace(FULL, model=model))
        for model in "cdeb":
            await ask(provider, replace(FULL, model=model))
        await provider.aclose()

        assert len(upstream.asked) == 2 * 5 + 3 + 2


def test_a_turn_is_answered_all_the_same_without_a_retry(tmp_path: Path) -> None:
    def refusal(body: dict[str, Any]) -> tuple[int, Any] | None:
        detail = {"detail": [pydantic("stream_options", "include_usage")]}
        return (422, {"object": "error", "message": detail}) if "stream_options" in body else None

    with server(refusal) as upstream:
        providers = Providers({"openai": make("openai", upstream.url)}, "openai")
        with Running(tmp_path, providers, retries=0) as running:
            turn = running.http.post("/turns", json={"message": "hi"}).json()
            events = running.events(turn["events"])

    assert events[-1].data["text"] == "Hello"
    assert len(upstream.asked) == 2
