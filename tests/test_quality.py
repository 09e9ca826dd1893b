"""The linters are tests: what they refuse does not land."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
    ],
    ids=" ".join,
)
@pytest.mark.timeout(300)
def test_the_tree_passes(command: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_no_pattern_needs_a_newer_python_than_we_ask_for() -> None:
    # Possessive quantifiers and atomic groups match wrongly in the first releases of 3.11.
    newer = re.compile(r"[\"'].*(?:[*+?]\+|\}\+[)\"'|]|\(\?>)")
    found = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "chatstream").rglob("*.py")
        for line in path.read_text().splitlines()
        if newer.search(line)
    ]
    assert not found
