"""What the code cites is in the repository: documents, their sections and their promises."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "chatstream" / "protocol.md").read_text()
SECTIONS = set(re.findall(r"^## (\d+)\. ", PROTOCOL, re.M))
PROMISES = set(re.findall(r"^(\d+)\. \*\*", PROTOCOL, re.M))
DOCUMENTS = {"README.md", "protocol.md"}
NOT_DOCUMENTS = (Path(__file__), ROOT / "chatstream" / "protocol.md")
"""Here are examples of what is wrong, and the sections themselves."""
MARK = r"(?:\s|[*#/])+"
"""What stands between two words of a comment, where a line may end."""
CITATION = re.compile(rf"`protocol\.md`,{MARK}section{MARK}(\d+)(?:,{MARK}promise{MARK}(\d+))?")
STANDARD = re.compile(rf"(?:HTML{MARK}standard|RFC{MARK}\d+),{MARK}section{MARK}[\d.]+")


def wrong(text: str) -> list[str]:
    """Return what a text cites that is not in the repository."""
    found = [name for name in re.findall(r"\b[A-Z_-]+\.md\b", text) if name not in DOCUMENTS]
    found += re.findall(r"\b(?:CONTRACT|HOUSE|STYLE|DESIGN)\b", text)
    for section, promise in CITATION.findall(text):
        if section not in SECTIONS or (promise and promise not in PROMISES):
            found.append(f"protocol.md {section} {promise}".strip())
    left = STANDARD.sub("", CITATION.sub("", text))
    for word in ("section", "promise"):
        bare = re.findall(rf"\b{word}s?{MARK}(\d+)(?![\d:])", left)  # "promise 2:" heads a report
        found += [f"{word} {number}" for number in bare]
    return found


def test_citations_name_what_is_in_the_repository() -> None:
    cited = {
        str(path.relative_to(ROOT)): wrong(path.read_text(encoding="utf-8"))
        for folder in ("chatstream", "static", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".js", ".css", ".html") and "vendor" not in path.parts
        if path not in NOT_DOCUMENTS
    }

    assert len(cited) > 300
    assert {name: found for name, found in cited.items() if found} == {}


def test_the_search_finds_what_is_wrong() -> None:
    assert wrong("`protocol.md`, section 2, promise 9; RFC 9562, section 5.7; README.md") == []
    assert wrong("(`protocol.md`,\n * section 2)") == []
    assert wrong("see CONTRACT section 2") == ["CONTRACT", "section 2"]
    assert wrong("on purpose: promise 9") == ["promise 9"]
    assert wrong("`protocol.md`, section 6") == ["protocol.md 6"]
    assert wrong("`protocol.md`, section 2, promise 10") == ["protocol.md 2 10"]
    assert wrong("see `PROTOCOL.md`") == ["PROTOCOL.md"]
