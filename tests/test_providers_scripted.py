"""The scripted provider and, on top of it, `offline`."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chatstream.errors import ProviderError
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
from chatstream.providers.adapters.offline import Offline
from chatstream.providers.adapters.scripted import Scripted

pytestmark = pytest.mark.anyio


def request(text: str = "Hello?") -> ProviderRequest:
    return ProviderRequest(messages=[Message("user", text)], model="any")


async def pieces(provider: Provider, text: str = "Hello?") -> list[Piece]:
    return [piece async for piece in provider.reply(request(text))]


async def next_piece(reply: AsyncIterator[Piece]) -> Piece:
    return await anext(reply)


async def test_pieces_come_in_order_and_a_finish_of_its_own_accord() -> None:
    provider = Scripted(Reasoning("hm"), "Hel", "lo", Usage(3, 2))

    assert await pieces(provider) == [
        Reasoning("hm"),
        Text("Hel"),
        Text("lo"),
        Usage(3, 2),
        Finish("stop"),
    ]


async def test_a_scripted_finish_ends_the_reply() -> None:
    assert await pieces(Scripted("a", Finish("length"), "never")) == [Text("a"), Finish("length")]


async def test_an_error_is_raised_where_the_script_has_it() -> None:
    reply = Scripted("a", ProviderError("it broke", retryable=True)).reply(request())

    assert await anext(reply) == Text("a")
    with pytest.raises(ProviderError, match="it broke"):
        await anext(reply)


async def test_a_gate_holds_the_reply_back_until_it_is_set() -> None:
    gate = asyncio.Event()
    reply = Scripted("a", gate, "b").reply(request())
    assert await anext(reply) == Text("a")

    waiting = asyncio.create_task(next_piece(reply))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()

    assert await waiting == Text("b")
    await reply.aclose()


async def test_a_callable_is_awaited_before_going_on() -> None:
    seen: list[str] = []

    async def note() -> None:
        seen.append("called")

    reply = Scripted("a", note, "b").reply(request())
    await anext(reply)
    assert seen == []
    await anext(reply)
    assert seen == ["called"]
    await reply.aclose()


async def test_each_request_gets_its_own_script_and_the_last_serves_all_others() -> None:
    provider = Scripted("one").then(ProviderError("two")).then("three")

    assert await pieces(provider) == [Text("one"), Finish("stop")]
    with pytest.raises(ProviderError, match="two"):
        await pieces(provider)
    assert await pieces(provider) == [Text("three"), Finish("stop")]
    assert await pieces(provider, "the last") == [Text("three"), Finish("stop")]
    assert len(provider.requests) == 4
    assert provider.requests[-1].messages == [Message("user", "the last")]


async def test_closing_and_cancelling_end_what_runs() -> None:
    provider = Scripted("a", asyncio.Event())
    closed, cancelled = provider.reply(request()), provider.reply(request())
    await anext(closed)
    await anext(cancelled)
    assert provider.running == 2

    await closed.aclose()
    assert provider.running == 1
    waiting = asyncio.create_task(next_piece(cancelled))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])

    assert provider.running == 0


async def test_a_long_script_lets_others_run() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await pieces(Scripted(*["a"] * 100))
    ticking.cancel()

    assert ticks >= 100


async def test_offline_says_why_it_answers_and_what_to_do() -> None:
    reply = await pieces(Offline("the package xllamacpp is not installed."))
    text = "".join(piece.text for piece in reply if isinstance(piece, Text))

    assert "the package xllamacpp is not installed. Your" in text
    for way_out in ("OPENAI_API_KEY", "`./run.sh`", "--no-model", "CHATSTREAM_LOCAL_MODEL"):
        assert way_out in text
    assert reply[-1] == Finish("stop")


async def test_offline_streams_small_pieces_and_quotes_nothing() -> None:
    reply = await pieces(Offline(), "<secret> {reason}")

    assert await pieces(Offline(), "another") == reply
    assert "secret" not in repr(reply)
    assert len(reply) > 50
    assert all(0 < len(piece.text) < 40 for piece in reply if isinstance(piece, Text))


async def test_offline_names_itself_so_that_nobody_takes_it_for_a_model() -> None:
    assert (Offline().name, Offline().model) == ("offline", "offline-script")
