"""Imports point down only, without circles; the layers are those that the docstrings draw."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "chatstream"
APART = {("log", "providers"), ("views", "providers"), ("views", "turns")}
"""Pairs of folders of which the first never imports the second, whatever the rows allow."""
_ROW = re.compile(r"    ((?:[a-z_]+/? )*[a-z_]+/?)  +\S.*")


def rows(folder: Path) -> list[list[str]]:
    """Return the layers that a folder's docstring draws, the highest one first."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()), clean=False) or ""
    drawn = (_ROW.fullmatch(line) for line in text.splitlines())
    return [[name.rstrip("/") for name in row[1].split()] for row in drawn if row]


def parts(folder: Path) -> set[str]:
    """Return the modules and folders that lie directly in a folder."""
    modules = {p.stem for p in folder.glob("*.py")} - {"__init__", "__main__"}
    return modules | {p.parent.name for p in folder.glob("*/__init__.py")}


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names in the package that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield dotted if source(dotted) else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def source(dotted: str) -> Path | None:
    """Return the file of a module of the package."""
    path = PACKAGE.parent / dotted.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if dotted.split(".")[0] == "chatstream" and file.is_file():
            return file
    return None


def dotted(path: Path) -> str:
    """Return a file's module name."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


@pytest.mark.parametrize("folder", ["", "log", "providers"])
def test_the_map_names_what_is_there(folder: str) -> None:
    drawn = [name for row in rows(PACKAGE / folder) for name in row]
    assert sorted(drawn) == sorted(parts(PACKAGE / folder))


@pytest.mark.parametrize("folder", ["", "log", "providers"])
def test_imports_only_point_down(folder: str) -> None:
    layers = rows(PACKAGE / folder)
    rank = {name: depth for depth, row in enumerate(layers) for name in row}
    prefix = dotted(PACKAGE / folder / "__init__.py").count(".") + 1
    for path in (PACKAGE / folder).rglob("*.py"):
        own = dotted(path).split(".")[prefix : prefix + 1]
        if not own or own == ["__main__"]:
            continue
        for name in imports(path):
            if source(name) is None:
                continue
            other = name.split(".")[prefix : prefix + 1]
            if other and name.split(".")[:prefix] == dotted(path).split(".")[:prefix]:
                below = rank[other[0]] > rank[own[0]] or other == own
                assert below, f"{dotted(path)} must not import {name}"
                assert (own[0], other[0]) not in APART, f"{dotted(path)} must not know {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        dotted(path): {name for name in imports(path) if source(name) and name != "chatstream"}
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_the_check_sees_imports() -> None:
    seen = set(imports(Path(__file__).parent / "test_events.py"))
    assert "chatstream.events" in seen
