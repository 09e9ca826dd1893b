"""Providers of one's own: found, named, refused in one line, and held to the protocol."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatstream.cli.commands import main
from chatstream.errors import ProviderError, ProviderTimeout, SettingsError
from chatstream.providers import (
    Finish,
    Message,
    Piece,
    Provider,
    ProviderRequest,
    Reasoning,
    Text,
    Usage,
)
from chatstream.providers.built_in import BUILT_IN
from chatstream.providers.custom import Registered, registered
from chatstream.providers.registry import build
from chatstream.settings import Settings
from tests.running import Running

pytestmark = pytest.mark.anyio
REQUEST = ProviderRequest(messages=[Message("user", "hi")], model="m")
MODULE = """
from chatstream.errors import ProviderError
from chatstream.providers import Finish, Text

calls = []

class Parrot:
    async def reply(self, request):
        yield Text(request.messages[-1].content + "!")
        yield Finish("stop")

class Named(Parrot):
    name, model = "bird", "bird-1"
    async def models(self):
        return ["bird-2", "bird-1"]

class Flaky(Parrot):
    async def reply(self, request):
        calls.append(request.model)
        if len(calls) == 1:
            raise OSError("secret")
        async for piece in super().reply(request):
            yield piece

class Broken(Parrot):
    async def reply(self, request):
        raise ValueError("secret")
        yield

class Group:
    Inner = Named

def make():
    return Named()

class Argument:
    def __init__(self, key): ...

class Raises:
    def __init__(self):
        raise KeyError("KEY")

class NoReply: ...

class Coroutine:
    async def reply(self, request): return "x"

class Plain:
    def reply(self, request): yield "x"

class TooMany:
    async def reply(self, request, more): yield

class BadName(Parrot):
    name = "My Bird"

class Openai(Parrot): ...

async def later():
    return Parrot()

value = 3
"""


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module on the path; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATSTREAM_NO_MODEL", "true")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("birds", "needy", "wrong", "aviary", "aviary.small"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "birds.py").write_text(MODULE)
    (tmp_path / "needy.py").write_text("import no_such_thing\n")
    (tmp_path / "wrong.py").write_text("def (:\n")
    (tmp_path / "aviary").mkdir()
    (tmp_path / "aviary" / "__init__.py").write_text("")
    (tmp_path / "aviary" / "small.py").write_text(MODULE)
    return "birds"


def made(*entries: str) -> dict[str, Provider]:
    return registered(entries, BUILT_IN)


# ---- found and named


@pytest.mark.parametrize(
    ("entry", "name", "model"),
    [
        ("birds:Parrot", "parrot", "parrot"),
        ("birds:Named", "bird", "bird-1"),
        ("other=birds:Named", "other", "bird-1"),
        ("birds:make", "bird", "bird-1"),
        ("birds:Group.Inner", "bird", "bird-1"),
        ("aviary.small:Parrot", "parrot", "parrot"),
    ],
)
def test_a_path_makes_a_provider_under_its_name(
    birds: str, entry: str, name: str, model: str
) -> None:
    ((key, provider),) = made(entry).items()

    assert (key, provider.name, provider.model) == (name, name, model)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("birds", "must be of the form module:Class"),
        ("birds:", "must be of the form module:Class"),
        ("a=b=birds:Parrot", "must be of the form module:Class"),
        ("nowhere:Parrot", "there is no module nowhere"),
        ("aviary.large:Parrot", "there is no module aviary.large"),
        ("birds.sub:Parrot", "there is no module birds.sub"),
        ("birds:Eagle", "birds has no Eagle"),
        ("birds:Group.Outer", "birds has no Group.Outer"),
        ("needy:Parrot", "needy cannot be imported: ModuleNotFoundError: No module named"),
        ("wrong:Parrot", "wrong cannot be imported: SyntaxError: "),
        ("birds:value", "is neither a class nor a function"),
        ("birds:Argument", "cannot be made: TypeError: "),
        ("birds:Raises", "cannot be made: KeyError: 'KEY'"),
        ("birds:NoReply", "wrong protocol: NoReply has no method `reply`"),
        ("birds:later", "wrong protocol: coroutine has no method `reply`"),
        ("birds:Coroutine", "wrong protocol: `reply` must be an async generator"),
        ("birds:Plain", "wrong protocol: `reply` must be an async generator"),
        ("birds:TooMany", "wrong protocol: `reply` must take one argument"),
        ("birds:BadName", "the name 'My Bird': takes up to 64 of a-z, 0-9, _ and -"),
        ("a/b=birds:Parrot", "the name 'a/b': takes up to 64"),
        ("=birds:Parrot", "the name '': takes up to 64"),
        ("birds:Openai", "openai is the name of a built-in provider"),
        ("offline=birds:Parrot", "offline is the name of a built-in provider"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_started(
    birds: str, entry: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHATSTREAM_PROVIDERS", entry)
    result = CliRunner().invoke(main, ["serve", "--port", "0"])

    assert result.exit_code == 2
    assert result.stderr.startswith(f"chatstream: CHATSTREAM_PROVIDERS: {entry}: {said}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_two_of_one_name_are_refused_and_a_name_of_its_own_helps(birds: str) -> None:
    with pytest.raises(SettingsError, match="parrot is the name of another of these"):
        made("birds:Parrot", "birds:Parrot")

    assert list(made("birds:Parrot", "two=birds:Parrot")) == ["parrot", "two"]


async def test_it_answers_where_it_is_named_and_never_by_default(
    birds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATSTREAM_PROVIDERS", "birds:Parrot, Big=birds:Named")
    with pytest.raises(SettingsError, match="'Big'"):
        build(Settings.from_environment())
    monkeypatch.setenv("CHATSTREAM_PROVIDERS", "birds:Parrot, big=birds:Named")

    assert build(Settings.from_environment(provider="big", fallbacks=("parrot",))).default == "big"
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    found = build(Settings.from_environment())
    await found.aclose()
    assert found.default == "openai"
    assert {"parrot", "big"} < set(found.by_name)
    with pytest.raises(SettingsError, match="CHATSTREAM_FALLBACKS: eagle: takes some of .*parrot"):
        build(Settings.from_environment(fallbacks=("eagle",)))


# ---- served, with all that the others have


def served(tmp_path: Path, providers: str, provider: str, **given: Any) -> Running:
    own = tuple(providers.split(","))
    found = build(Settings.from_environment(providers=own, provider=provider, **given))
    return Running(tmp_path / "data", found, **given)


def test_a_turn_is_answered_and_its_models_are_listed(birds: str, tmp_path: Path) -> None:
    with served(tmp_path, "birds:Named", provider="bird") as server:
        answer = server.http.post("/chat", json={"message": "hi"}).json()
        listed = {each["name"]: each for each in server.http.get("/providers").json()["providers"]}

    assert (answer["reply"], answer["provider"], answer["model"]) == ("hi!", "bird", "bird-1")
    assert listed["bird"]["models"] == ["bird-1", "bird-2"]
    assert listed["bird"]["default"]


def test_a_failed_attempt_is_made_again(birds: str, tmp_path: Path) -> None:
    with served(tmp_path, "birds:Flaky", provider="flaky") as server:
        answer = server.http.post("/chat", json={"message": "hi"})

    assert (answer.status_code, answer.json()["reply"]) == (200, "hi!")
    assert sys.modules["birds"].calls == ["flaky", "flaky"]


def test_a_fallback_answers_and_the_breaker_opens(birds: str, tmp_path: Path) -> None:
    own = "birds:Broken,birds:Parrot"
    with served(tmp_path, own, "broken", fallbacks=("parrot",), retries=0) as server:
        answers = [server.http.post("/chat", json={"message": "hi"}).json() for _ in range(12)]
        listed = {each["name"]: each for each in server.http.get("/providers").json()["providers"]}

    assert {(answer["reply"], answer["provider"]) for answer in answers} == {("hi!", "parrot")}
    assert listed["broken"]["state"] == "open"


# ---- held to the protocol


class Says:
    """Yields what it is given; raises what is an error."""

    def __init__(self, *steps: Any) -> None:
        self.steps = steps
        self.closed = 0

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Any, None]:
        try:
            for step in self.steps:
                if isinstance(step, BaseException):
                    raise step
                yield step
        finally:
            self.closed += 1


async def pieces_of(provider: Any) -> list[Piece]:
    return [piece async for piece in Registered("own", provider).reply(REQUEST)]


async def test_pieces_pass_empty_ones_do_not_and_nothing_follows_the_end() -> None:
    says = Says(Reasoning("r"), Text(""), Text("a"), Usage(1, 2), Finish("length"), Text("b"))

    assert await pieces_of(says) == [Reasoning("r"), Text("a"), Usage(1, 2), Finish("length")]
    assert says.closed == 1


async def test_a_reason_of_its_own_is_other() -> None:
    odd: Any = "end_turn"
    assert await pieces_of(Says(Finish(odd))) == [Finish("other")]


@pytest.mark.parametrize("step", ["text", None, b"x", Text(3), OSError("secret"), RuntimeError()])  # type: ignore[arg-type]
async def test_what_breaks_the_protocol_may_be_tried_again_and_tells_nothing(
    step: Any, caplog: pytest.LogCaptureFixture
) -> None:
    says = Says(Text("a"), step)
    with pytest.raises(ProviderError) as caught:
        await pieces_of(says)

    assert (caught.value.message, caught.value.retryable) == ("The provider failed.", True)
    assert says.closed == 1
    (record,) = caplog.records
    assert record.message == "provider failed" and record.exc_info is not None


async def test_an_error_of_the_protocol_passes_as_it_is() -> None:
    error = ProviderError("No more today.", code="provider_rate_limited", retry_after=9)
    with pytest.raises(ProviderError) as caught:
        await pieces_of(Says(error))

    assert caught.value is error


async def test_a_timeout_of_its_own_is_one_of_the_provider() -> None:
    with pytest.raises(ProviderTimeout):
        await pieces_of(Says(TimeoutError()))


async def test_a_reply_that_is_no_async_generator_is_a_failure() -> None:
    class Lists:
        def reply(self, request: ProviderRequest) -> list[Piece]:
            return [Finish("stop")]

    with pytest.raises(ProviderError):
        await pieces_of(Lists())


async def test_who_leaves_closes_its_generator_at_once() -> None:
    says = Says(Text("a"), Text("b"))
    pieces = Registered("own", says).reply(REQUEST)
    await anext(pieces)
    await pieces.aclose()

    assert says.closed == 1


async def test_a_cancellation_passes_through() -> None:
    entered = asyncio.Event()

    class Hangs:
        async def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
            entered.set()
            await asyncio.Event().wait()
            yield Finish("stop")

    asking = asyncio.ensure_future(pieces_of(Hangs()))
    await entered.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_models_and_closing_that_fail_spoil_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Says):
        async def models(self) -> list[str]:
            raise OSError("secret")

        async def aclose(self) -> None:
            raise OSError("secret")

    provider = Registered("own", Fails())
    with pytest.raises(ProviderError, match="The provider failed."):
        await provider.models()
    await provider.aclose()
    assert [record.message for record in caplog.records] == [
        "provider failed",
        "provider not closed",
    ]
    assert await Registered("own", Says()).models() == []


async def test_how_many_it_answers_at_once_is_its_own_to_say() -> None:
    class Narrow(Says):
        concurrency = 2

    assert Registered("own", Narrow()).concurrency == 2
    assert not hasattr(Registered("own", Says()), "concurrency")
