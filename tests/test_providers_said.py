"""What a provider quotes of its users' messages, or of its own replies, is in no log line."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from chatstream.errors import ProviderError
from chatstream.providers.custom import Registered
from chatstream.providers.http.said import CONTENT
from chatstream.providers.registry import Providers
from chatstream.server.logs import Lines, set_up
from tests.asking import FORMS, KEY, Adapter, ask, failure, make
from tests.running import Running
from tests.upstream import Upstream

DIARY = "dear-diary"
QUOTING = (
    "status=400",
    "status=401",
    "status=404",
    "status=429",
    "status=503",
    "half=500",
    "json",
    "error=503",
    "error-event=503",
    "raw-error",
    "say=x raw-error",
    "code=dear-diary status=400",
    f"body={quote('<html><title>no</title>dear-diary</html>')} status=502",
    f"bytes={quote('dear-diary could not be answered')}%0A eof",
    f"bytes={quote('{' + chr(34) + 'dear-diary')}%0A%0A eof",
    f"bytes={quote('data: {' + chr(34) + 'dear-diary')}%0A%0A eof",
    f"bytes={quote('<p>dear-diary</p>')} eof",
    "say=dear-diary broken",
)


@pytest.fixture(params=FORMS)
async def provider(request: pytest.FixtureRequest, upstream: Upstream) -> AsyncIterator[Adapter]:
    provider = make(request.param, upstream.url)
    yield provider
    await provider.aclose()


def lines(records: list[logging.LogRecord]) -> str:
    return "\n".join(Lines(form).format(r) for r in records for form in ("text", "json"))


@pytest.mark.anyio
@pytest.mark.parametrize("manner", QUOTING)
async def test_no_level_holds_what_a_provider_quotes(
    provider: Adapter, manner: str, caplog: pytest.LogCaptureFixture
) -> None:
    quoted = "" if "body=" in manner or "bytes=" in manner else "quote "
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.WARNING, "httpx"):
        _, error = await failure(provider, f"!{quoted}{manner}")

    told = lines(caplog.records)
    assert "WARNING" in [record.levelname for record in caplog.records]
    for secret in (DIARY, "Wrong key", KEY, "quote"):
        assert secret not in told
        assert secret not in error.message


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_codes_statuses_and_kinds_are_kept(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Upstream(lambda _: "code=some_code quote status=418") as upstream:
        provider = make(form, upstream.url)
        await failure(provider, "hello")
        await provider.aclose()

    (record,) = [r for r in caplog.records if r.message == "provider failed"]
    told = vars(record)
    assert (told["status"], told["content_type"]) == (418, "application/json")
    assert told["length"] > 100
    assert "some_code" in told["said"]


@pytest.mark.anyio
async def test_a_word_of_the_message_is_no_code(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    provider = make("openai", upstream.url)
    await failure(provider, "!code=heartache status=400")
    await provider.aclose()

    assert "heartache" not in lines([r for r in caplog.records if r.name != "httpx"])


@pytest.mark.anyio
async def test_the_setting_shows_the_beginning_of_it_without_the_key(
    provider: Adapter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CONTENT, "disabled", False)
    await failure(provider, f"!quote status=400 {DIARY}")
    await failure(provider, "!html")

    shown = [vars(record) for record in caplog.records if record.name == CONTENT.name]
    assert DIARY in shown[0]["body"]
    assert "hotel" in shown[1]["body"]
    assert all(len(told["body"]) <= 1000 and KEY not in told["body"] for told in shown)


def test_the_setting_is_off_unless_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert CONTENT.disabled
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = root.handlers[:]
    try:
        for content in (True, False):
            set_up("info", "text", content)
            CONTENT.warning("provider said", extra={"body": f"{DIARY}-{content}"})
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)

    assert "dear-diary-True" in (err := capsys.readouterr().err)
    assert "dear-diary-False" not in err


class Quoting:
    """A provider of one's own whose error quotes what it was asked."""

    name = model = "quoting"

    async def reply(self, request: object) -> AsyncIterator[object]:
        """Fail, as a vendor's SDK does."""
        raise RuntimeError(f"400: cannot answer {DIARY}")
        yield


@pytest.mark.anyio
@pytest.mark.parametrize("shown", [False, True])
async def test_an_own_providers_error_is_logged_by_its_place_and_kind(
    shown: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CONTENT, "disabled", not shown)
    with pytest.raises(ProviderError):
        async for _ in Registered("quoting", Quoting()).reply(ask("hello")):
            pass

    told = lines(caplog.records)
    assert "RuntimeError" in told and "test_providers_said.py" in told
    assert (DIARY in told) == shown


def test_a_turn_that_fails_leaves_none_of_it_in_the_log(
    tmp_path: Path, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    providers = Providers({form: make(form, upstream.url) for form in FORMS}, "openai")
    with (
        caplog.at_level(logging.DEBUG),
        caplog.at_level(logging.WARNING, "httpx"),
        Running(tmp_path, providers, retries=0) as server,
    ):
        for form in FORMS:
            body = {"message": f"!quote status=400 {DIARY}", "provider": form}
            server.http.post("/chat", json={**body, "conversation_id": form})
    ours = [record for record in caplog.records if not record.name.startswith("http")]

    assert [record.message for record in ours].count("provider failed") == len(FORMS)
    assert DIARY not in lines(ours)
    assert "Wrong key" not in lines(ours)
