"""
What the page's tests stand on: a real server process, a fake provider, and Debian's Chromium.

Import the fixtures into a test module by name. Without Chromium its tests are skipped with a word
on how to install it, and under `CI=true` they fail.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

from chatstream.bench.processes import free_port
from tests.upstream import Upstream

COMMAND = Path(sys.executable).parent / "chatstream"
OpenPage = Callable[[str], Page]
START = 20.0
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


class ServerProcess:
    """
    `chatstream serve` in a process of its own, which can be killed and started again.

    Attributes:
        url: Where the page is, with a slash at its end.
    """

    def __init__(self, folder: Path, openai_url: str) -> None:
        self._folder = folder
        self._environment = {
            "PATH": os.environ["PATH"],
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": openai_url,
            "OPENAI_MODEL": "fake-small",
        }
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self._folder.mkdir(exist_ok=True)
        log = (self._folder / "server.log").open("ab")
        arguments = ["serve", "--port", str(self._port), "--provider", "openai"]
        with log:
            self._process = subprocess.Popen(
                [COMMAND, *arguments, "--data-dir", self._folder / "data"],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START
        while not self._is_ready():
            gone = self._process.poll() is not None
            if gone or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "server.log").read_text())
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut would: it is not asked, and writes nothing more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Make a request of our own, beside the page's; return its JSON."""
        response = httpx.request(method, self.url + path, trust_env=False, timeout=20, **options)
        response.raise_for_status()
        return response.json()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self.url + "readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. It ends with the module, as its event loop would be in the way of others."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "the page's tests need Chromium: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The provider: a message `!…` is the script that it plays."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream) -> Iterator[ServerProcess]:
    """A server of the test's own, with an empty data folder."""
    with ServerProcess(tmp_path / "server", upstream.openai_url) as server:
        yield server


@pytest.fixture
def complaints() -> list[str]:
    """What the pages of `new_page` complained about."""
    return []


@pytest.fixture
def new_page(browser: Browser, complaints: list[str]) -> Iterator[Callable[[str], Page]]:
    """
    Open pages, each as a tab of one browser.

    What they complain about, a violated Content-Security-Policy above all, fails the test.
    Lost connections and refused turns do not: tests bring them about.
    """
    context = browser.new_context(viewport={"width": 1100, "height": 700})
    context.set_default_timeout(10_000)

    def open_page(url: str) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", note)
        page.goto(url)
        return page

    def note(message: ConsoleMessage) -> None:
        lost = "net::ERR_" in message.text or "WebSocket connection to" in message.text
        expected = lost or message.location["url"].endswith("/turns")
        if message.type in ("error", "warning") and not expected:
            complaints.append(message.text)

    yield open_page
    context.close()
    assert not complaints


@pytest.fixture(scope="module")
def module_page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page whose modules are tested one by one, with `run`; its provider is out of reach."""
    with ServerProcess(tmp_path_factory.mktemp("server"), "http://127.0.0.1:9/v1") as server:
        page = browser.new_page()
        page.goto(server.url)
        yield page
        page.close()


def run(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """Run a function's body inside a page; there `module` is what a file of static/ exports."""
    source = f'await import(new URL("static/{module}", document.baseURI))'
    return page.evaluate(f"async (argument) => {{ const module = {source};\n{body} }}", argument)


def ident(number: int) -> str:
    """Make an event id; they are in order of the numbers."""
    return f"1764000000000-{number:04d}"


def say(page: Page, message: str) -> None:
    """Write a message and send it."""
    page.get_by_label("Message", exact=True).fill(message)
    page.get_by_label("Message", exact=True).press("Enter")


def turns(page: Page, status: str | None = None) -> Locator:
    """The turns on the page, of one status or all."""
    return page.locator(f'.turn[data-status="{status}"]' if status else ".turn")


def answer(page: Page) -> Locator:
    """The text of the newest answer."""
    return page.locator(".turn").last.locator(".answer")


def shown(page: Page) -> str:
    """The newest answer's text, exactly."""
    return answer(page).inner_text().strip()


def stop_button(page: Page) -> Locator:
    """The button that ends an answer."""
    return page.get_by_role("button", name="Stop the answer")


def ask(server: ServerProcess, message: str, **more: Any) -> Any:
    """Have a turn without the page."""
    return server.call("POST", "chat", json={"message": message, **more})


def asked(upstream: Upstream) -> int:
    """How often the provider was asked for an answer."""
    return sum(request.method == "POST" for request in upstream.asked)
