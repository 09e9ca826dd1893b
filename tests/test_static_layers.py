"""The modules of the page and of the client: who imports whom, as their entries' maps say."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

STATIC = Path(__file__).parent.parent / "static"
ENTRIES = {"client": "client/chatstream-client.js", "page": "page/app.js"}
OLD_ENTRY = "chatstream-client.js"
MODULES = sorted(
    path.relative_to(STATIC).as_posix()
    for path in STATIC.rglob("*.js")
    if path.parent.name != "vendor"
)
_IMPORT = re.compile(r'^(?:import|export)\s+[\w$*{},\s]+?\s+from\s+"([^"]+)";$', re.M)
_ROW = re.compile(r" \*     ((?:[a-z-]+ )*[a-z-]+)  +\S.*")


def code(name: str) -> str:
    """Return a module's text without its comments."""
    source = (STATIC / name).read_text()
    return re.sub(r"/\*.*?\*/|^\s*//[^\n]*$", "", source, flags=re.S | re.M)


def imports(name: str) -> set[str]:
    """Return what a module imports or exports from elsewhere, as paths in `static/`."""
    found = _IMPORT.findall(code(name))
    assert all(target.startswith(("./", "../")) for target in found), found
    paths = [(STATIC / name).parent.joinpath(target).resolve() for target in found]
    return {path.relative_to(STATIC).as_posix() for path in paths}


def head(name: str) -> str:
    """Return the comment that a module begins with."""
    begun, _, rest = (STATIC / name).read_text().partition("*/\n")
    return begun if begun.startswith("/**") and rest.startswith("\n") else ""


def rows(folder: str) -> list[list[str]]:
    """Return the rows that the head of a folder's entry draws, the highest one first."""
    drawn = (_ROW.fullmatch(line) for line in head(ENTRIES[folder]).splitlines())
    return [[f"{folder}/{name}.js" for name in row[1].split()] for row in drawn if row]


@pytest.mark.parametrize("name", MODULES)
def test_every_import_is_read_here_and_leads_to_a_file(name: str) -> None:
    words = re.findall(r"\bimport\b(?!\.meta)|\bfrom\s*\"", code(name))

    assert words.count("import") <= len(imports(name)), "one that is dynamic, or written otherwise"
    assert all((STATIC / target).is_file() for target in imports(name))


@pytest.mark.parametrize("folder", ENTRIES)
def test_the_map_names_what_is_there(folder: str) -> None:
    drawn = [name for row in rows(folder) for name in row]

    assert sorted(drawn) == [name for name in MODULES if name.startswith(f"{folder}/")]


@pytest.mark.parametrize("folder", ENTRIES)
def test_imports_only_point_down(folder: str) -> None:
    rank = {name: depth for depth, row in enumerate(rows(folder)) for name in row}

    for name, depth in rank.items():
        for target in imports(name) & rank.keys():
            assert rank[target] >= depth, f"{name} must not import {target}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({name: imports(name) for name in MODULES}).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize("name", MODULES)
def test_the_client_stands_alone_and_the_page_knows_its_entry_only(name: str) -> None:
    beyond = {target for target in imports(name) if Path(target).parent != Path(name).parent}

    if name.startswith("page/"):
        beyond = {target for target in beyond if not target.startswith("vendor/")}
        assert beyond <= {ENTRIES["client"]}
    else:
        assert beyond == ({ENTRIES["client"]} if name == OLD_ENTRY else set())


@pytest.mark.parametrize("name", [name for name in MODULES if name != OLD_ENTRY])
def test_a_modules_head_says_what_it_owns_and_what_it_must_not_know(name: str) -> None:
    assert re.search(r"\bknows no(?:thing)?\b", " ".join(re.split(r"[\s*]+", head(name))))


def test_the_check_sees_imports() -> None:
    assert imports("page/markdown.js") >= {"page/parser.js", "vendor/purify.es.mjs"}
    assert imports(OLD_ENTRY) == {ENTRIES["client"]}
    assert "client/event-stream-parser.js" in imports("client/chatstream-client.js")
