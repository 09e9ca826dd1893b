"""Sentences have a thing for their subject: a program is no "he", and nobody is "whoever"."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = re.compile(r"\b(?:whoever|he|his|him|takes? note|says? whether)\b", re.IGNORECASE)
MENDED_ELSEWHERE = ("providers", "web")
"""Folders of the package that are not plain yet."""


def texts() -> list[Path]:
    package = ROOT / "chatstream"
    return [ROOT / "README.md", package / "protocol.md"] + [
        path
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in MENDED_ELSEWHERE
    ]


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_is_about_him(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()

    found = [f"{number}: {line}" for number, line in enumerate(lines, 1) if FORBIDDEN.search(line)]

    assert found == []


def test_the_search_finds_words_and_not_their_parts() -> None:
    assert FORBIDDEN.search("Whoever reads it") and FORBIDDEN.search("takes note of it")
    assert not FORBIDDEN.search("the history of a hero, shimmering")
