"""The command `chatstream`: `serve`, `chat`, `import`, `export`, `fsck`, `bench`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from chatstream.app import create_app
from chatstream.cli.chat import Place, talk
from chatstream.cli.export import Format, export
from chatstream.cli.fsck import check, repair
from chatstream.cli.import_aichatbot import import_files
from chatstream.errors import ChatstreamError, InvalidRequest
from chatstream.providers.registry import Providers, build
from chatstream.server.logs import set_up
from chatstream.server.server import serve as run_server
from chatstream.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
USAGE_ERROR = 2
logger = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chatstream")
def main() -> None:
    """A streaming chat server that never loses or repeats a token."""


def setting(name: str, *flags: str, **options: Any) -> Callable[[F], F]:
    """Return an option that sets a setting, its help from the setting itself."""
    field = Settings.model_fields[name]
    default = "" if field.default is None else f" [default: {field.default}]"
    return click.option(*flags, name, help=f"{field.description}{default}", **options)


@main.command()
@setting("host", "--host")
@setting("port", "--port", "-p", type=int)
@setting("data_dir", "--data-dir", type=click.Path(path_type=Path))
@setting("provider", "--provider")
@setting("fsync", "--fsync")
@setting("system_prompt", "--system-prompt")
@setting("local_model", "--local-model", type=click.Path(path_type=Path))
@setting("no_model", "--no-model", is_flag=True, default=None)
@setting("insecure", "--insecure", is_flag=True, default=None)
@setting("log_level", "--log-level")
@setting("log_format", "--log-format")
def serve(**given: Any) -> None:
    """Serve chats; settings not given come from the environment and from .env."""
    try:
        settings = Settings.from_environment(**given)
        set_up(settings.log_level, settings.log_format, settings.log_content)
        if settings.providers:
            # Last: a file that happens to lie there takes nothing's place.
            sys.path.append("")
        providers = build(settings)
        app = create_app(settings, providers=providers)
        run_server(app, partial(_ready, providers))
    except ChatstreamError as error:
        fail(error.message)


def _ready(providers: Providers, url: str) -> None:
    """Say where to look, who answers and why."""
    provider = providers.get(None)
    click.echo(f"chatstream: {provider.name} ({provider.model}) answers: {providers.reason}")
    click.echo(f"chatstream: open {url}  (Ctrl-C stops it)")
    sys.stdout.flush()


@main.command()
@click.argument("message", required=False)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="the server")
@click.option("--user", default="default", show_default=True, help="your user_id")
@click.option("--conversation", default="default", show_default=True, help="its conversation_id")
def chat(message: str | None, url: str, user: str, conversation: str) -> None:
    """
    Talk to a running server; without MESSAGE, to what is typed or piped in.

    The answer resumes by itself after a lost connection. Ctrl-C stops it, a second one leaves.
    """
    try:
        sys.exit(talk(Place(url.rstrip("/"), user, conversation), message))
    except ChatstreamError as error:
        fail(error.message)


@main.command("import")
@click.argument("history", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--feedback",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="the old application's feedback.json",
)
@click.option(
    "--skip-bad",
    "skipped",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="leave out entries that cannot be taken, and write them to FILE, a new one, as JSON lines",
)
@setting("data_dir", "--data-dir", type=click.Path(path_type=Path))
def import_(history: Path, feedback: Path | None, skipped: Path | None, **given: Any) -> None:
    """
    Take over HISTORY, the old application's chat_history.json: whole or not at all.

    What cannot be taken is named, entry by entry; with --skip-bad the rest is taken. With a
    message that is left out its answers go too; without its answer a message stays, unanswered.

    No server may be running on the data folder.
    """
    try:
        done = import_files(Settings.from_environment(**given).data_dir, history, feedback, skipped)
    except InvalidRequest as error:
        lines = [f"{e['field']}: {e['message']}" for e in error.errors]
        few = len(lines) == 1
        fail(lines[0] if few else "\n".join(["nothing was imported:", *lines]))
    except ChatstreamError as error:
        fail(error.message)
    click.echo(f"chatstream: {done}" + (f": see {skipped}" if done.left_out else ""))


@main.command("export")
@click.argument("user")
@click.option("--conversation", help="only this one [default: all, and the user's feedback]")
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "markdown"]), default="jsonl", show_default=True
)
@setting("data_dir", "--data-dir", type=click.Path(path_type=Path))
def export_(user: str, conversation: str | None, form: Format, **given: Any) -> None:
    """Write out what USER has; a server may be running."""
    try:
        for part in export(Settings.from_environment(**given).data_dir, user, conversation, form):
            sys.stdout.buffer.write(part)
    except ChatstreamError as error:
        fail(error.message)


@main.command()
@click.argument("data_dir", required=False, type=click.Path(path_type=Path))
@click.option("--repair", "repairs", is_flag=True, help="move bad lines to *.corrupt files")
def fsck(repairs: bool, **given: Any) -> None:
    """
    Check a data folder; a server may be running, but not for --repair.

    Exit status: 0 nothing is wrong, 1 something is, or was before the repair, 2 it cannot be said.
    """
    try:
        root = Settings.from_environment(**given).data_dir
        problems = repair(root) if repairs else check(root)
    except ChatstreamError as error:
        fail(error.message)
    for problem in problems:
        click.echo(str(problem))
    sys.exit(1 if problems else 0)


@main.command()
@click.option("--chats", type=click.IntRange(1), default=100, show_default=True, help="at once")
@click.option(
    "--rate", type=click.FloatRange(0.1), default=50, show_default=True, help="tokens/s of a chat"
)
@click.option(
    "--tokens", type=click.IntRange(2), default=200, show_default=True, help="of an answer"
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="of each server, in turns",
)
@click.option(
    "--endpoints", "part", flag_value="endpoints", help="history, clear, feedback instead"
)
@click.option("--flood", "part", flag_value="flood", help="the others' wait while one user floods")
@click.option("--storm", "part", flag_value="storm", help="1,000 clients come back at once")
@click.option("--idle", "part", flag_value="idle", help="memory of an idle subscriber")
@click.option("--behind", "part", flag_value="behind", help="one that is 10,000 events behind")
@click.option("--recovery", "part", flag_value="recovery", help="a start after a crash")
@click.option("--memory", "part", flag_value="memory", help="memory over many turns and users")
@click.option("--providers", "part", flag_value="providers", help="reading a provider, and httpx")
@click.option("--json", is_flag=True, help="print the figures as JSON")
def bench(part: str | None, **given: Any) -> None:
    """
    Measure what a delivered token costs here, beside two baselines in the same run.

    Everything runs on this machine, the provider included; no settings are read. Takes one to two
    minutes. The relay is httpx's lines in and sse-starlette's events out, without any log.
    """
    from chatstream.bench import command  # the other commands also run where uvloop does not

    note = partial(click.echo, err=True)
    try:
        command.run(part or "streams", command.Options(**given), click.echo, note)
    except ChatstreamError as error:
        fail(error.message)


def fail(message: str) -> NoReturn:
    """Say what is wrong, and exit."""
    click.echo(f"chatstream: {message}", err=True)
    sys.exit(USAGE_ERROR)
