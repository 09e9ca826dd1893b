"""The page's files, as they lie there: nothing runs here."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

STATIC = Path(__file__).parent.parent / "static"
VENDOR = STATIC / "vendor"
PAGE = (STATIC / "index.html").read_text()
CALLERS = {"client/access.js", "client/socket.js"}
"""The modules that speak to the server."""
CLIENT = sorted(STATIC.glob("client/*.js"))
OLD_ENTRY = "chatstream-client.js"
"""Where the client lay before it had a folder: others import it from there."""
MODULES = sorted(
    path.relative_to(STATIC).as_posix()
    for path in STATIC.rglob("*.js")
    if path.parent.name != "vendor"
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_vendored_files_are_those_of_the_manifest() -> None:
    listed = {"manifest.json"}
    for package in json.loads((VENDOR / "manifest.json").read_text()):
        files = {package["file"]: package["sha256"], **package["licence_files"]}
        assert {name: sha256(VENDOR / name) for name in files} == files
        assert f"{package['name']}@{package['version']}" in package["source"]
        assert package["version"] in (VENDOR / package["file"]).read_text()[:500]
        listed |= files.keys()
    assert {path.name for path in VENDOR.iterdir()} == listed


def test_the_sanitiser_is_not_older_than_its_last_known_hole() -> None:
    packages = {p["name"]: p["version"] for p in json.loads((VENDOR / "manifest.json").read_text())}

    version = tuple(int(part) for part in packages["dompurify"].split("."))

    assert version >= (3, 4, 18)


def test_the_page_loads_every_module_at_once() -> None:
    preloaded = re.findall(r'<link rel="modulepreload" href="static/([^"]+)"', PAGE)
    vendored = [f"vendor/{p['file']}" for p in json.loads((VENDOR / "manifest.json").read_text())]

    assert sorted([*preloaded, "page/app.js", OLD_ENTRY]) == sorted(MODULES + vendored)


def test_the_page_has_nothing_inline_and_only_relative_addresses() -> None:
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", PAGE) == []
    for address in re.findall(r'(?:href|src)="([^"]*)"', PAGE):
        assert re.match(r"static/|#", address), address


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_small(name: str) -> None:
    assert (STATIC / name).read_text().count("\n") <= 250


def test_the_browser_client_stays_small() -> None:
    """No minifier runs here: names are as long as they are written, and 5.9 KB read as 7.6."""
    source = "".join(path.read_text() for path in CLIENT)
    code = re.sub(r"/\*.*?\*/|^\s*//[^\n]*$", "", source, flags=re.S | re.M)
    lines = [line.strip() for line in code.splitlines() if line.strip()]

    assert len(gzip.compress("\n".join(lines).encode(), 9)) <= 7_700
    assert len(CLIENT) == 12


@pytest.mark.parametrize("name", MODULES)
def test_modules_make_no_markup_and_call_the_server_through_the_client_only(name: str) -> None:
    source = (STATIC / name).read_text()

    if name != "page/markdown.js":
        assert not re.search(r"innerHTML|insertAdjacentHTML|outerHTML|document\.write", source)
    if name not in CALLERS:
        assert not re.search(r"(?<!\.)\bfetch\(|EventSource\(|WebSocket\(|XMLHttpRequest", source)
