"""Base addresses as people set them, and the proxies that the environment names."""

from pathlib import Path

import httpx
import pytest

from chatstream.errors import ProviderError, SettingsError
from chatstream.providers import Finish
from chatstream.providers.http.address import Address
from chatstream.providers.http.proxies import on_loopback, unusable
from chatstream.settings import Settings
from tests.asking import FORMS, answer, failure, make
from tests.upstream import MODELS, Upstream

PATHS = {
    "openai": "/v1/chat/completions",
    "gemini": "/v1beta/models/m:streamGenerateContent",
    "anthropic": "/v1/messages",
    "ollama": "/api/chat",
}
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# Addresses


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tail", ["?api-version=2024-10-21", "/?api-version=2024-10-21#top"])
async def test_a_query_of_the_address_goes_along(upstream: Upstream, form: str, tail: str) -> None:
    base = upstream.url + ("/v1" if form == "openai" else "") + tail
    given = {"base_url": base} if form != "ollama" else {}
    provider = make(form, upstream.url + tail if form == "ollama" else upstream.url, **given)
    pieces = await answer(provider, "!tokens=1")
    models = await provider.models()
    await provider.aclose()

    assert (pieces[-1], models) == (Finish("stop"), list(MODELS))
    assert upstream.asked[0].path == PATHS[form]
    for asked in upstream.asked:
        assert asked.query.split("&")[-1] == "api-version=2024-10-21"
        assert asked.query.count("=") == len(asked.query.split("&"))


@pytest.mark.parametrize(
    ("base", "path", "right"),
    [
        ("http://a/v1", "models", "http://a/v1/models"),
        ("http://a/v1//", "models", "http://a/v1/models"),
        ("http://a", "models?x=1", "http://a/models?x=1"),
        ("HTTP://A:8080/V1?b=%20c&&d", "m", "http://a:8080/V1/m?b=%20c&d"),
        ("http://a/v1?alt=json&k=1", "m?alt=sse", "http://a/v1/m?alt=sse&k=1"),
        ("http://me:pw@a/v1", "m", "http://a/v1/m"),
        (" http://a/v1 ", "m", "http://a/v1/m"),
        ("http://[::1]:8/x#y", "m", "http://[::1]:8/x/m"),
    ],
)
def test_paths_are_put_below_an_address(base: str, path: str, right: str) -> None:
    assert Address("x", base).at(path) == right


@pytest.mark.parametrize(
    "base",
    ["", "a:80", "ftp://a", "http://", "http://me:hush@", "http://a:x"]
    + ["http://me:hush@127.0.0.1:99999/v1", "http://a:0", "http://a..b/v1", f"http://{'a' * 64}"],
)
def test_what_is_no_address_is_refused_without_a_quotation(base: str) -> None:
    with pytest.raises(SettingsError, match="the address of openai") as caught:
        Address("openai", base)
    assert "hush" not in caught.value.message


@pytest.mark.anyio
async def test_a_user_in_the_address_is_told_as_http_does(upstream: Upstream) -> None:
    base = upstream.url.replace("//", "//me:p%40ss@")
    for form, given, told in (
        ("openai", {"api_key": "", "base_url": f"{base}/v1"}, "Basic bWU6cEBzcw=="),
        ("openai", {"api_key": "k", "base_url": f"{base}/v1"}, "Bearer k"),
        ("anthropic", {"api_key": "k", "base_url": base}, "Basic bWU6cEBzcw=="),
    ):
        provider = make(form, upstream.url, **given)
        await answer(provider, "!tokens=1")
        await provider.aclose()
        assert upstream.asked[-1].headers["authorization"] == told


def test_the_setting_takes_a_query(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", "HTTPS://x.example/v1?api-version=1")
    assert Settings.from_environment().openai_base_url == "HTTPS://x.example/v1?api-version=1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://?x")
    with pytest.raises(SettingsError, match="OPENAI_BASE_URL"):
        Settings.from_environment()


# Proxies


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("variable", "value", "kind"),
    [
        ("ALL_PROXY", "socks5://me:hush@127.0.0.1:1", "a SOCKS proxy"),
        ("all_proxy", "SOCKS5H://127.0.0.1:1", "a SOCKS proxy"),
        ("HTTPS_PROXY", "me:hush@127.0.0.1:1", "an address without http://"),
        ("https_proxy", "127.0.0.1:1", "an address without http://"),
        ("HTTPS_PROXY", "ftp://hush", "an address of another scheme than http"),
        ("HTTPS_PROXY", "http://hush:port", "an address that cannot be read"),
        ("HTTPS_PROXY", "http://", "an address without a host"),
        (
            "HTTPS_PROXY",
            "http://me:hush@127.0.0.1:99999",
            "an address with a port that is not between 1 and 65535",
        ),
        ("ALL_PROXY", "http://hush..x:8080", "an address with a host that is no name"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_named_at_the_start_and_never_passed_by(
    variable: str,
    value: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, value)
    provider = make("openai", "https://llm.example.invalid")

    (record,) = caplog.records
    told = vars(record)
    assert (told["variable"], told["holds"]) == (variable, kind)
    assert "NO_PROXY" in told["takes"]
    _, error = await failure(provider)
    await provider.aclose()
    assert error.code == "provider_unreachable"
    assert error.message == f"openai cannot be reached: {variable} holds {kind}."
    assert "hush" not in str([vars(record) for record in caplog.records])


@pytest.mark.anyio
async def test_a_variable_that_is_for_others_is_named_and_bars_nothing(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTP_PROXY", upstream.url)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    provider = make("openai", "http://provider.invalid")
    pieces = await answer(provider, "!tokens=1")
    await provider.aclose()

    assert pieces[-1] == Finish("stop")
    assert [vars(r)["variable"] for r in caplog.records if r.levelname == "WARNING"] == [
        "ALL_PROXY"
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_is_asked_directly_whatever_the_variables_hold(
    upstream: Upstream,
    host: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    provider = make("openai", upstream.url.replace("127.0.0.1", host))
    pieces = await answer(provider, "!tokens=1")
    await provider.aclose()

    assert pieces[-1] == Finish("stop")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_what_no_proxy_names_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "inner.example")

    assert unusable(httpx.URL("https://x.inner.example")) == []
    assert len(unusable(httpx.URL("https://outer.example"))) == 1


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("localhost", True), ("a.localhost", True), ("::1", True), ("127.8.9.1", True)]
    + [("127.evil.example", False), ("10.0.0.1", False), ("localhost.example", False)],
)
def test_loopback_is_known_by_its_address(host: str, is_loopback: bool) -> None:
    assert on_loopback(host) == is_loopback


def test_a_provider_error_tells_no_secret_of_an_address() -> None:
    with pytest.raises((SettingsError, ProviderError)) as caught:
        make("anthropic", "http://me:hush@:bad")
    assert "hush" not in str(caught.value)
