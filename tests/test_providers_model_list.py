import asyncio
import logging
import socket
from typing import Any

import pytest

from chatstream.errors import ProviderError, ProviderTimeout
from chatstream.providers.adapters import openai
from chatstream.providers.adapters.ollama import installed
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.model_list import AGAIN_SECONDS, KEPT_SECONDS, MAX_NAMES, ModelList
from chatstream.providers.registry import Providers
from tests.abuse import hostile
from tests.asking import FORMS, make
from tests.upstream import Upstream

pytestmark = pytest.mark.anyio


class Listing(Scripted):
    """Answers each call with the next list, error or gate; with the last one for ever."""

    def __init__(self, *answers: list[str] | Exception | asyncio.Event) -> None:
        super().__init__(model="mine")
        self._answers = answers
        self.asked = 0
        self.running_lists = 0

    async def models(self) -> list[str]:
        found = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        if isinstance(found, asyncio.Event):
            self.running_lists += 1
            try:
                await found.wait()
            finally:
                self.running_lists -= 1
            return ["late"]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let time pass for whoever looks at the loop's clock; timers of the loop keep their pace."""
    loop_time = asyncio.BaseEventLoop.time
    passed = 0.0

    def now(loop: asyncio.BaseEventLoop) -> float:
        return loop_time(loop) + passed

    def pass_time(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(asyncio.BaseEventLoop, "time", now)
    return pass_time


async def settled(models: ModelList) -> None:
    """Wait for the list that is asked for."""
    if models._asking is not None:
        await asyncio.wait((models._asking,))


async def test_the_default_model_comes_first_and_nothing_twice() -> None:
    assert await ModelList(Listing(["a", "mine", "b", "a"])).names() == ["mine", "a", "b"]


async def test_a_provider_that_lists_none_has_its_own() -> None:
    assert await ModelList(Scripted(model="mine")).names() == ["mine"]


async def test_a_list_is_asked_for_once() -> None:
    provider = Listing(["a"])
    models = ModelList(provider)
    for _ in range(3):
        assert await models.names() == ["mine", "a"]

    assert provider.asked == 1


async def test_all_who_want_to_know_at_once_share_one_request() -> None:
    gate = asyncio.Event()
    provider = Listing(gate)
    models = ModelList(provider)
    asking = [asyncio.create_task(models.names()) for _ in range(5)]
    while not provider.running_lists:
        await asyncio.sleep(0)
    asking[0].cancel()
    gate.set()

    assert await asyncio.gather(*asking[1:]) == [["mine", "late"]] * 4
    assert provider.asked == 1


async def test_an_old_list_is_told_while_a_new_one_is_fetched(pass_time: Any) -> None:
    gate = asyncio.Event()
    provider = Listing(["old"], gate)
    models = ModelList(provider)
    await models.names()
    pass_time(KEPT_SECONDS)

    assert await models.names() == ["mine", "old"]
    assert await models.names() == ["mine", "old"]
    gate.set()
    await settled(models)
    assert await models.names() == ["mine", "late"]
    assert provider.asked == 2


async def test_an_old_list_is_better_than_a_failure(pass_time: Any) -> None:
    provider = Listing(["old"], ProviderError("no"))
    models = ModelList(provider)
    await models.names()
    pass_time(KEPT_SECONDS)
    await models.names()
    await settled(models)

    assert await models.names() == ["mine", "old"]
    assert provider.asked == 2


@pytest.mark.parametrize("error", [ProviderError("no"), TimeoutError(), KeyError("shape")])
async def test_a_failed_list_is_told_in_the_log_once_and_asked_for_again_soon(
    error: Exception, pass_time: Any, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Listing(error, ["a"])
    models = ModelList(provider)
    with caplog.at_level(logging.WARNING):
        assert await models.names() == ["mine"]
        assert await models.names() == ["mine"]
    assert provider.asked == 1
    (record,) = caplog.records
    assert vars(record)["error"] == type(error).__name__
    pass_time(AGAIN_SECONDS)
    await models.names()
    await settled(models)

    assert await models.names() == ["mine", "a"]
    assert AGAIN_SECONDS < KEPT_SECONDS


async def test_a_list_that_hangs_keeps_only_the_first_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatstream.providers.model_list.WAIT_SECONDS", 0.02)
    provider = Listing(asyncio.Event())
    models = ModelList(provider)
    assert await models.names() == ["mine"]
    async with asyncio.timeout(0.01):
        assert await models.names() == ["mine"]

    await models.aclose()
    await models.aclose()
    assert (provider.asked, provider.running_lists) == (1, 0)


async def test_a_list_that_is_asked_for_ends_with_the_providers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatstream.providers.model_list.WAIT_SECONDS", 0.01)
    provider = Listing(asyncio.Event())
    providers = Providers({"scripted": provider}, "scripted")
    await providers.list_models("scripted")
    assert provider.running_lists == 1
    await providers.aclose()

    assert provider.running_lists == 0


async def test_a_list_that_hangs_for_ever_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chatstream.providers.model_list.ASK_SECONDS", 0.02)
    provider = Listing(asyncio.Event())
    models = ModelList(provider)

    assert await models.names() == ["mine"]
    assert provider.running_lists == 0
    assert vars(caplog.records[-1])["error"] == "TimeoutError"


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x00", "\ud83d", "a\u2028b", "\x1b[31m"])
async def test_what_cannot_be_shown_is_no_name(name: str) -> None:
    assert await ModelList(Listing([name, "é" * 200])).names() == ["mine", "é" * 200]


async def test_so_many_names_and_no_more_are_kept() -> None:
    names = await ModelList(Listing([str(n) for n in range(MAX_NAMES + 9)])).names()

    assert len(names) == MAX_NAMES + 1


@pytest.mark.parametrize("form", FORMS)
async def test_a_providers_list_leaves_out_what_is_no_name(
    form: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.upstream.MODELS", ("good", "x" * 201, "a\nb"))
    provider = make(form, upstream.url)
    assert await provider.models() == ["good"]
    await provider.aclose()


@pytest.mark.parametrize("listing", ["names", "names-bomb", "header"])
async def test_a_list_without_end_has_a_bound(listing: str) -> None:
    with hostile.provider(listing) as url:
        provider = openai.provider(base_url=url, api_key="k", model="m", connect_timeout=5)
        with pytest.raises(ProviderError):
            await provider.models()
        await provider.aclose()


async def test_a_list_that_comes_byte_by_byte_has_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatstream.providers.http.client.GET_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        provider = openai.provider(base_url=url, api_key="k", model="m", connect_timeout=5)
        with pytest.raises(ProviderTimeout):
            await provider.models()
        await provider.aclose()


def test_an_ollama_whose_list_never_ends_is_none() -> None:
    with hostile.provider("names") as url:
        assert installed(url) is None
