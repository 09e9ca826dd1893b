"""The command `chatstream`: `serve`, `import`, `bench`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from chatstream.app import create_app
from chatstream.errors import ChatstreamError
from chatstream.logs import set_up
from chatstream.providers.routing import build
from chatstream.server import serve as run_server
from chatstream.settings import Settings, load
from chatstream.terminal import Place, talk

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
        settings = load(**given)
        set_up(settings.log_level, settings.log_format)
        providers = build(settings)
        app = create_app(settings, providers=providers)
    except ChatstreamError as error:
        fail(error.message)
    provider = providers.get(None)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    click.echo(f"chatstream: {provider.name} ({provider.model}) answers: {providers.reason}")
    click.echo(f"chatstream: open http://{shown}:{settings.port}/  (Ctrl-C stops it)")
    sys.stdout.flush()
    run_server(app)


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


def fail(message: str) -> NoReturn:
    """Say what is wrong, and exit."""
    click.echo(f"chatstream: {message}", err=True)
    sys.exit(USAGE_ERROR)
