"""An empty account and a missing model: told apart from what has the same status."""

import html
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest

from chatstream.errors import ProviderError
from chatstream.providers import Message, ProviderRequest
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.http.error_object import error_object, unquoted
from chatstream.providers.http.failures import explain
from chatstream.providers.registry import Providers
from chatstream.providers.route.breaker import EMPTY_SECONDS, Account, Breaker
from chatstream.providers.route.breakers import Breakers
from tests.asking import FORMS, failure, make
from tests.running import EVENT_STREAM, Running
from tests.upstream import Asked, Upstream
from tests.upstream_script import script_of

QUOTA = ProviderError("p says that the account has no credit left.", code="provider_quota")
PER_MINUTE = {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}


def told(
    status: int | None, body: Any, headers: dict[str, str] | None = None, model: str = "m"
) -> ProviderError:
    return explain("p", status, error_object(orjson.dumps(body)), headers or {}, model)


def error(message: str, kind: str | None = None, code: Any = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


# ---- an empty account

EMPTY: list[tuple[int | None, dict[str, Any]]] = [
    (429, error("You exceeded your current quota, please check your plan and billing details.",
                "insufficient_quota", "insufficient_quota")),
    (429, error("You have no credits remaining.", "insufficient_quota",
                "credit_balance_exhausted")),
    (429, error("Billing hard limit has been reached", "x", "billing_hard_limit_reached")),
    (429, error("Your account is not active, please check your billing details.",
                "billing_not_active", "billing_not_active")),
    (402, error("Insufficient credits. Add more at https://example.invalid/credits", code=402)),
    (402, error("Insufficient Balance", "unknown_error", "invalid_request_error")),
    (402, {}),
    (402, {"detail": "no"}),
    (400, error("Your credit balance is too low to access the Anthropic API. Please go to Plans &"
                " Billing to upgrade or purchase credits.", "invalid_request_error")),
    (402, {"type": "error", "error": {"type": "billing_error", "message": "no"}}),
    (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
                     "You exceeded your current quota, please check your plan and billing."}}),
    (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
                     "Your prepayment credits are depleted."}}),
    (403, {"error": {"code": 403, "status": "PERMISSION_DENIED", "message":
                     "This API method requires billing to be enabled."}}),
    (429, error("Insufficient balance or no resource package. Please recharge.", code="1113")),
    (429, error("Your account org-x is suspended, please check your plan and billing details",
                "exceeded_current_quota_error")),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
    (403, error("user quota is not enough", code="insufficient_user_quota")),
    (400, error("Access denied, please make sure your account is in good standing.",
                "Arrearage", "Arrearage")),
    (429, error("Your team has either used all available credits or reached its monthly spending"
                " limit.")),
    (401, error("You exceeded your current quota", "insufficient_quota", 401)),
    (403, error("Out of call volume quota. Quota will be replenished in 1.21:03:00.", code="403")),
    (403, {"code": "AllocationQuota.FreeTierOnly", "message": "no", "request_id": "x"}),
    (403, error("The free tier of the model has been exhausted.", "x", "x")),
    (403, error("预扣费额度失败, 用户剩余额度: 1, 需要预扣费额度: 2", "new_api_error", "x")),
    (403, error("Key limit exceeded (total limit). Manage it at https://x.invalid", code=403)),
    (400, error("Budget has been exceeded! Current cost: 5.1, Max budget: 5.0", "x", "400")),
    (429, error("ExceededTokenBudget", "budget_exceeded", "400")),
    (400, error("You have reached your specified API usage limits. You will regain access on "
                "2026-12-01 at 00:00 UTC.", "invalid_request_error")),
    (412, error("Account x is suspended, possibly due to reaching the monthly spending limit.")),
    (None, {"base_resp": {"status_code": 1008, "status_msg": "no"}, "choices": None}),
    (None, error("Insufficient credits", code=402)),
    (None, error("no", "insufficient_quota", "insufficient_quota")),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), EMPTY)
def test_an_empty_account_is_told_as_one(status: int | None, body: dict[str, Any]) -> None:
    failed = told(status, body)

    assert (failed.code, failed.retryable) == ("provider_quota", False)
    assert "no credit" in failed.message


@pytest.mark.parametrize("word", ["credit_balance_exhausted", "billing_hard_limit_reached"])
def test_an_empty_account_that_says_when_to_come_back_is_one(word: str) -> None:
    assert told(429, error("no", code=word), {"retry-after": "20"}).code == "provider_quota"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (error("Rate limit reached for m. Please try again in 6s. You can increase your rate limit "
               "by adding a payment method at https://platform.example/account/billing.",
               "tokens", "rate_limit_exceeded"), {}),
        (error("Rate limit reached. See https://platform.example/account/billing."), {}),
        (error("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock more."), {}),
        (error("You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
         {"retry-after": "12"}),
        ({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
                    "You exceeded your current quota, please check your plan and billing details. "
                    "Please retry in 36.2s."}}, {}),
        ({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message":
                    "You exceeded your current quota, please check your plan and billing details",
                    "details": [{"violations": [PER_MINUTE]}]}}, {}),
        (error("Too many requests"), {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_a_rate_limit_is_no_empty_account(body: dict[str, Any], headers: dict[str, str]) -> None:
    failed = told(429, body, headers)

    assert (failed.code, failed.retryable) == ("provider_rate_limited", True)


def test_what_a_user_says_of_money_empties_no_account() -> None:
    said = "I have insufficient credits and my billing is wrong"
    request = ProviderRequest(messages=[Message("user", said)], model="m")
    body = error_object(orjson.dumps(error(f"cannot take: {said}")))

    assert explain("p", 400, unquoted(body, request), {}, "m").code == "provider_error"


SAID_OF_MONEY = 'no credits, payment required\nbecause "billing" is é & all ' + "x " * 40


@pytest.mark.parametrize(
    "quoted",
    [
        orjson.dumps(SAID_OF_MONEY).decode(),
        json.dumps(SAID_OF_MONEY),
        json.dumps(json.dumps(SAID_OF_MONEY)),
        repr(SAID_OF_MONEY),
        html.escape(SAID_OF_MONEY),
        f"input_value={SAID_OF_MONEY[:25]!r}...{SAID_OF_MONEY[-24:]!r}, input_type=str",
        f"'{SAID_OF_MONEY[:60]}...{SAID_OF_MONEY[-20:]}'",
        f'"{SAID_OF_MONEY[:11]}…"',
        f"…{SAID_OF_MONEY[12:28]}…",
        f"[{{'role': 'user', 'content': {SAID_OF_MONEY[:30]!r}}}]",
        SAID_OF_MONEY[:50],
        SAID_OF_MONEY[3:48],
    ],
)
@pytest.mark.parametrize("status", [400, 403, 422, 429])
def test_a_quote_in_any_form_empties_no_account(status: int, quoted: str) -> None:
    for messages in (
        [Message("user", SAID_OF_MONEY)],
        [Message("user", "a"), Message("assistant", SAID_OF_MONEY), Message("user", "b")],
    ):
        request = ProviderRequest(messages=messages, model="m")
        body = error_object(orjson.dumps(error(f"Invalid value for 'content': {quoted}")))
        assert explain("p", status, unquoted(body, request), {}, "m").code != "provider_quota"


@pytest.mark.parametrize(("status", "body"), EMPTY)
def test_an_empty_account_is_told_as_one_whatever_is_talked_of(
    status: int | None, body: dict[str, Any]
) -> None:
    said = "What credit is, and what billing is, is too much for the low account that I have. " * 99
    request = ProviderRequest(messages=[Message("user", said)], model="m")
    own = unquoted(error_object(orjson.dumps(body)), request)

    assert explain("p", status, own, {}, "m").code == "provider_quota"


@pytest.mark.parametrize(
    "model",
    ["no credits", "No Credits", "payment required", "insufficient funds/7b", "余额不足"]
    + ["context length", "try again in 100s", 'any "credits"'],
)
@pytest.mark.parametrize("sentence", ["{} is not a valid model ID", "The model '{}' was not found"])
def test_what_a_model_is_called_means_nothing_else(model: str, sentence: str) -> None:
    for named in (model, model.lower(), model.replace('"', '\\"')):
        body = error(sentence.format(named), code=400)
        failed = told(400, body, model=model)
        assert (failed.code, failed.retry_after) == ("model_not_found", None)


def test_a_quote_of_much_is_found_quickly() -> None:
    for said in (
        "x " * 500_000,
        "ab\n" * 300_000,
        '"\\' * 300_000,
        "".join(map(str, range(99_999))),
    ):
        request = ProviderRequest(messages=[Message("user", said)], model="m")
        begun = time.monotonic()
        for quoted in (said, said[5:], repr(said[:60_000])):
            unquoted({"message": f"no: {quoted}"}, request)
        assert time.monotonic() - begun < 1.5


def test_a_client_puts_no_provider_out_for_others(tmp_path: Path) -> None:
    """By what it calls a model, or says."""

    def script(asked: Asked) -> str:
        text = asked.body["messages"][-1]["content"]
        bad = error(f"Invalid value for 'content': {json.dumps(text)[:90]}...", code=400)
        if asked.body["model"] != "m":
            bad = error(f"{asked.body['model']} is not a valid model ID", code=400)
        elif len(text) < 20:
            return script_of(asked)
        return f"body={quote(orjson.dumps(bad).decode(), safe='')} status=400"

    with Upstream(script) as upstream:
        providers = Providers({"openai": make("openai", upstream.url)}, "openai")
        with Running(tmp_path, providers) as server:
            first = chat(server, model="no credits")
            second = chat(server, message=SAID_OF_MONEY)
            third = chat(server)

    assert (first.status_code, first.json()["code"]) == (502, "model_not_found")
    assert (second.status_code, second.json()["code"]) == (502, "provider_error")
    assert third.status_code == 200


def chat(server: Running, **fields: Any) -> httpx.Response:
    return server.http.post("/chat", json={"message": "hi"} | fields)


def test_an_empty_account_is_asked_once_and_told_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = quote(orjson.dumps(EMPTY[0][1]).decode(), safe="")
    with Upstream(lambda _: f"body={body} status=429") as upstream:
        providers = Providers({"openai": make("openai", upstream.url)}, "openai")
        with Running(tmp_path, providers) as server:
            turn = chat(server)
            later = [chat(server), chat(server, model="another")]
            shown = server.http.get("/providers").json()["providers"][0]
        asked = [a for a in upstream.asked if a.method == "POST"]

    assert len(asked) == 1
    assert (turn.status_code, turn.json()["code"]) == (502, "provider_quota")
    assert "no credit" in turn.json()["detail"]
    for answer in later:
        assert (answer.status_code, answer.json()["code"]) == (503, "provider_quota")
        assert "no credit is left in the account at openai" in answer.json()["detail"]
        assert answer.headers["retry-after"]
    assert shown["state"] == "open"
    (line,) = [r for r in caplog.records if "no credit" in r.message]
    assert (line.levelname, line.__dict__["provider"]) == ("ERROR", "openai")


def test_fallbacks_answer_for_an_empty_account_at_once(tmp_path: Path) -> None:
    first = Scripted(QUOTA, name="first", model="a")
    second = Scripted("hello", name="second", model="b")
    providers = Providers({"first": first, "second": second}, "first")
    with Running(tmp_path, providers, fallbacks=("second",)) as server:
        replies = [chat(server).json() for _ in range(3)]
        other = chat(server, model="c").json()

    assert [reply["provider"] for reply in (*replies, other)] == ["second"] * 4
    assert len(first.requests) == 1


def test_the_turns_error_is_the_empty_account_where_nobody_else_is_left(tmp_path: Path) -> None:
    with Running(tmp_path, Scripted(QUOTA)) as server:
        answered = server.http.post("/chat", json={"message": "hi"}, headers=EVENT_STREAM).text

    failed = orjson.loads(
        next(
            line[6:] for line in answered.splitlines() if '"turn.failed"' in line and "data" in line
        )
    )
    assert failed["error"] == {
        "code": "provider_quota",
        "message": QUOTA.message,
        "retryable": False,
    }


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def state(breaker: Breaker) -> str:
    return breaker.state


def enter(breaker: Breaker) -> Any:
    entry = breaker.enter()
    assert entry is not None
    return entry


def test_an_empty_account_is_tried_by_one_after_five_minutes() -> None:
    clock, changes = Clock(), list[bool]()
    account = Account(clock, changes.append)
    one, other = (Breaker(clock, lambda: 0.0, lambda _: None, account) for _ in range(2))
    unrelated = Breaker(clock, lambda: 0.0, lambda _: None)

    entries = [enter(one), enter(one)]
    for entry in entries:
        one.failed(entry, QUOTA)
    assert [state(one), state(other), state(unrelated)] == ["open", "open", "closed"]
    assert other.wait() == pytest.approx(EMPTY_SECONDS, abs=0.1)
    assert EMPTY_SECONDS == 300

    clock.now += EMPTY_SECONDS
    assert [state(one), state(other)] == ["half-open"] * 2
    trial = enter(other)
    assert one.enter() is None
    other.failed(trial, QUOTA)
    assert one.enter() is None

    clock.now += EMPTY_SECONDS
    trial = enter(one)
    one.left(trial)
    trial = enter(other)
    other.failed(trial, ProviderError("broken", retryable=True))
    trial = enter(one)
    one.began(trial)
    assert [state(one), state(other)] == ["closed"] * 2
    assert [enter(breaker).trial for breaker in (one, other)] == [False, False]
    assert changes == [True, False]


def test_a_model_that_was_never_asked_shows_its_account() -> None:
    breakers = Breakers()
    breaker = breakers.of("p", "a")
    breaker.failed(enter(breaker), QUOTA)

    assert breakers.state("p", "b") == breakers.state("p", "a") == "open"
    assert breakers.state("q", "b") == "closed"
    assert breakers.of("p", "b").enter() is None


def test_an_account_that_empties_in_the_middle_of_an_answer_is_empty() -> None:
    breaker = Breaker(Clock(), lambda: 0.0, lambda _: None)
    breaker.began(enter(breaker))
    breaker.cut(QUOTA)

    assert breaker.account.empty


# ---- a missing model

MISSING: list[tuple[int, Any]] = [
    (404, {"error": "model 'm' not found"}),
    (404, {"error": 'model "m" not found, try pulling it first'}),
    (404, error("The model `m` does not exist or you do not have access to it.",
                "invalid_request_error", "model_not_found")),
    (403, error("Project `p` does not have access to model `m`", "x", "model_not_found")),
    (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: m"}}),
    (404, {"error": {"code": 404, "status": "NOT_FOUND", "message":
                     "models/m is not found for API version v1beta, or is not supported for "
                     "generateContent. Call ListModels to see the list."}}),
    (404, {"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError",
           "param": None, "code": 404}),
    (400, {"object": "error", "message": "Invalid model: m", "type": "invalid_model"}),
    (400, error("Model Not Exist", "invalid_request_error")),
    (400, error("m is not a valid model ID", code=400)),
    (404, error("No endpoints found for m.", code=404)),
    (404, error("The API deployment for this resource does not exist.", code="DeploymentNotFound")),
    (404, error("Unable to access model m. Please visit the site.", code="model_not_available")),
    (404, {"detail": "Model m not found"}),
    (404, {"message": "m"}),
    (400, {"message": "The provided model identifier is invalid."}),
    (400, error("The requested model 'm' is not supported by any provider you have enabled.",
                "invalid_request_error", "model_not_supported")),
    (400, error("The requested model is not supported.")),
    (404, error("No models loaded. Please load a model in the developer page or use the `lms load` "
                "command.", "invalid_request_error")),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), MISSING)
def test_a_model_that_is_not_there_is_named(status: int, body: Any) -> None:
    failed = told(status, body)

    assert (failed.code, failed.retryable) == ("model_not_found", False)
    assert failed.message.startswith("p has no model 'm'")
    assert "pull" not in failed.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {}),
        (404, {"detail": "Not Found"}),
        (404, error("Invalid URL (POST /v1/v1/chat/completions)", "invalid_request_error")),
        (404, {"message": "Route POST:/v1beta/models/gpt:streamGenerateContent not found"}),
        (404, "404 page not found"),
        (400, error("This model does not support assistant message prefill.")),
        (400, error("Unsupported parameter: 'max_tokens' is not supported with this model.")),
        (503, error("The model is not available, it is loading")),
        (404, error("nothing like it here", code=404)),
    ],
)
def test_what_names_no_model_is_no_missing_model(status: int, body: Any) -> None:
    failed = told(status, body, model="gpt-4o")

    assert failed.code == "provider_error"
    assert ("nothing at the address" in failed.message) is (status == 404)


def test_a_model_whose_name_is_a_path_is_named() -> None:
    body = {"object": "error", "message": "The model `/a/path/m` does not exist.", "code": 404}

    assert told(404, body, model="/a/path/m").code == "model_not_found"


def test_a_name_within_a_word_is_no_name() -> None:
    assert told(404, error("nothing among these"), model="m").code == "provider_error"


def test_a_long_error_is_looked_at_quickly() -> None:
    for word in ("model ", "credits ", "rate ", "temperature "):
        begun = time.monotonic()
        told(404, error(word * 10_000))
        assert time.monotonic() - begun < 0.5


def test_an_error_may_be_plain_text() -> None:
    def of(status: int, body: bytes) -> str:
        return explain("p", status, error_object(body), {}, "m").code

    assert of(404, b"model 'm' not found\n") == "model_not_found"
    assert of(429, b"Insufficient credits") == "provider_quota"
    assert of(429, b"slow down") == "provider_rate_limited"
    assert of(404, b"404 page not found") == "provider_error"
    assert of(500, b"\xff\xfe") == "provider_error"


def test_a_404_of_a_page_names_no_model() -> None:
    page = b"<html><title>Not found</title>The model railway shop: gpt-4o not found</html>"

    assert explain("p", 404, error_object(page), {}, "gpt-4o").code == "provider_error"


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_each_form_tells_of_a_missing_model_and_ollama_how_to_get_it(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = quote(orjson.dumps({"error": "model 'm' not found"}).decode(), safe="")
    with Upstream(lambda _: f"body={body} status=404") as upstream:
        provider = make(form, upstream.url)
        _, failed = await failure(provider)
        await provider.aclose()

    assert failed.code == "model_not_found"
    assert f"{form} has no model 'm'" in failed.message
    assert ("`ollama pull m`" in failed.message) is (form == "ollama")
    (line,) = [r for r in caplog.records if r.message == "provider failed"]
    assert (line.__dict__["code"], line.__dict__["model"]) == ("model_not_found", "m")


def test_a_turn_for_a_missing_model_is_asked_once_and_the_next_model_answers(
    tmp_path: Path,
) -> None:
    def script(asked: Asked) -> str:
        body = quote(orjson.dumps({"error": "model 'gone' not found"}).decode(), safe="")
        return f"body={body} status=404" if asked.body["model"] == "gone" else script_of(asked)

    with Upstream(script) as upstream:
        providers = Providers({"ollama": make("ollama", upstream.url)}, "ollama")
        with Running(tmp_path, providers) as server:
            gone = chat(server, model="gone")
            assert chat(server).json()["status"] == "completed"
        asked = [a for a in upstream.asked if a.method == "POST"]

    assert len(asked) == 2
    assert (gone.status_code, gone.json()["code"]) == (502, "model_not_found")
    assert "`ollama pull gone`" in gone.json()["detail"]
