import time
from collections.abc import Iterator

import pytest

from chatstream.errors import SettingsError
from chatstream.providers.adapters import ollama
from chatstream.providers.registry import Providers, build
from chatstream.settings import Settings
from tests.upstream import MODELS, Upstream

pytestmark = pytest.mark.anyio
VARIABLES = [
    field.validation_alias
    for field in Settings.model_fields.values()
    if isinstance(field.validation_alias, str)
]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("without-env-file"))
    for name in [*VARIABLES, "CHATSTREAM_PROVIDER", "CHATSTREAM_LOCAL_MODEL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHATSTREAM_NO_MODEL", "true")
    monkeypatch.setattr(ollama.installed, "__defaults__", ("http://127.0.0.1:9",))


@pytest.fixture
def at_default_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    with Upstream() as upstream:
        monkeypatch.setattr(ollama.installed, "__defaults__", (upstream.url,))
        yield upstream


async def built(**given: object) -> Providers:
    providers = build(Settings.from_environment(**given))
    await providers.aclose()
    return providers


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        (["OPENAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY", "OLLAMA_HOST"], "openai"),
        (["GEMINI_API_KEY", "ANTHROPIC_API_KEY", "OLLAMA_HOST"], "gemini"),
        (["ANTHROPIC_API_KEY", "OLLAMA_HOST"], "anthropic"),
        (["OLLAMA_HOST"], "ollama"),
        ([], "offline"),
    ],
)
async def test_the_first_that_can_answer_is_the_default(
    variables: list[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in variables:
        monkeypatch.setenv(name, "localhost")

    assert (await built()).default == chosen


async def test_an_ollama_at_its_default_address_answers_with_its_first_model(
    at_default_address: Upstream,
) -> None:
    providers = await built()

    assert providers.default == "ollama"
    assert providers.get(None).model == MODELS[0]
    assert "default address" in providers.reason


async def test_no_ollama_is_looked_for_where_a_key_is_set(
    at_default_address: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    providers = await built()

    assert providers.default == "gemini"
    assert at_default_address.opened == 0


async def test_an_ollama_that_accepts_and_hangs_does_not_keep_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.perf_counter()
        assert ollama.installed(address) is None

    assert time.perf_counter() - began < 0.4


async def test_a_provider_without_its_key_says_what_is_missing() -> None:
    with pytest.raises(SettingsError, match="ANTHROPIC_API_KEY is not set"):
        await built(provider="anthropic")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("http://0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("[::]:1234", "http://127.0.0.1:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("[::1]", "http://[::1]:11434"),
        ("gpu", "http://gpu:11434"),
        ("gpu/ollama/", "http://gpu:11434/ollama"),
        ("https://gpu.example", "https://gpu.example"),
        ("http://localhost:11434/", "http://localhost:11434"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(host: str, url: str) -> None:
    assert ollama.base_url(host) == url
