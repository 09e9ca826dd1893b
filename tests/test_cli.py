"""The command line of `serve`: what it takes, and what it says when that is wrong."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatstream.cli.commands import main
from chatstream.settings import Settings


def test_the_help_names_every_option_with_its_default() -> None:
    result = CliRunner().invoke(main, ["serve", "-h"])

    assert result.exit_code == 0
    for option in ("--host", "--port", "--data-dir", "--provider", "--insecure", "--log-format"):
        assert option in result.output
    assert f"[default: {Settings.model_fields['host'].default}]" in result.output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--fsync", "maybe"], "CHATSTREAM_FSYNC"),
        (["--host", "0.0.0.0"], "CHATSTREAM_HOST"),
        (["--port", "70000"], "CHATSTREAM_PORT"),
        (["--provider", "nobody"], "CHATSTREAM_PROVIDER"),
        (["--log-level", "loud"], "CHATSTREAM_LOG_LEVEL"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_started(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(main, ["serve", *arguments])

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"chatstream: {named}: ")
    assert result.stderr.count("\n") == 1


def test_the_package_itself_is_the_command_too() -> None:
    command = [sys.executable, "-m", "chatstream", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)

    assert said.stdout.startswith("chatstream, version ")


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(main, ["--version"])

    assert result.exit_code == 0
    assert version("chatstream") in result.output


def test_every_package_is_installed_and_the_page_with_it() -> None:
    root = Path(__file__).parent.parent
    told = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(root).parts)
        for path in (root / "chatstream").rglob("__init__.py")
    }

    assert set(told["packages"]) == found | {"chatstream.static"}
    assert (root / told["package-dir"]["chatstream.static"] / "index.html").is_file()
    assert told["package-data"]["chatstream.static"] == ["**/*"]
