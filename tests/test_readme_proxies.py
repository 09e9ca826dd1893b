"""The README's samples for reverse proxies: real ones in front of a real server."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from chatstream.bench.processes import free_port
from chatstream.providers.adapters.scripted import Scripted
from tests.running import EVENT_STREAM, Gate, Running, Stream
from tests.test_readme import blocks

SITE = "chat.example.org"
SECONDS = 10.0
HELP = "needs {}; ./run.sh test installs it on Debian"

NGINX = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/sample;
}}
"""
CADDY = """
{{
    admin off
    auto_https off
    default_bind 127.0.0.1
}}
import {folder}/sample
"""


class Proxied(NamedTuple):
    """A server behind a proxy, as a browser sees it: at `authority`."""

    server: Running
    port: int

    @property
    def authority(self) -> str:
        """The site, with its port."""
        return f"{SITE}:{self.port}"

    @property
    def page(self) -> dict[str, str]:
        """What the site's own page sends."""
        return {"Host": self.authority, "Origin": f"http://{self.authority}"}

    def post(self, path: str, headers: dict[str, str], **body: str) -> httpx.Response:
        """Post as JSON."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with httpx.Client(trust_env=False, timeout=SECONDS) as client:
            return client.post(url, json=body, headers=headers)

    @contextmanager
    def stream(self, method: str, path: str, **given: Any) -> Iterator[Stream]:
        """Open an SSE answer."""
        given["headers"] = self.page | EVENT_STREAM | given.get("headers", {})
        url = f"http://127.0.0.1:{self.port}{path}"
        with (
            httpx.Client(trust_env=False, timeout=SECONDS) as client,
            client.stream(method, url, **given) as response,
        ):
            assert response.status_code == 200
            yield Stream(response)

    def socket(self, origin: str) -> ClientConnection:
        """Open a WebSocket."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
        url = f"ws://{self.authority}/ws"
        return connect(url, sock=raw, origin=Origin(origin), proxy=None)


def program(name: str) -> str:
    """Return a program's path; without it the test is skipped, but never under CI."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(HELP.format(name))
    if found is None:
        pytest.skip(HELP.format(name))
    return found


def command(proxy: str, folder: Path, port: int, upstream: int) -> list[str]:
    """Write a proxy's files, the README's sample among them; returns what runs it."""
    path = program(proxy)
    (sample,) = blocks("nginx" if proxy == "nginx" else "caddyfile")
    assert "127.0.0.1:8000" in sample and SITE in sample
    sample = sample.replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
    file = folder / "config"
    user = "user root;" if os.getuid() == 0 else ""
    if proxy == "nginx":
        assert "listen 80;" in sample
        sample = sample.replace("listen 80;", f"listen 127.0.0.1:{port};")
        file.write_text(NGINX.format(folder=folder, user=user))
        run = [path, "-p", str(folder), "-c", str(file), "-e", str(folder / "error.log")]
    else:
        sample = sample.replace(f"{SITE} {{", f"http://{SITE}:{port} {{")
        file.write_text(CADDY.format(folder=folder))
        run = [path, "run", "--config", str(file), "--adapter", "caddyfile"]
    (folder / "sample").write_text(sample)
    return run


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)


@contextmanager
def behind(proxy: str, tmp_path: Path, server: Running) -> Iterator[Proxied]:
    """Run a proxy, as the README sets it up, in front of a server."""
    folder, port, log = tmp_path / "proxy", free_port(), tmp_path / "proxy.log"
    folder.mkdir()
    run = command(proxy, folder, port, server.port)
    homes = ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
    environment = os.environ | dict.fromkeys(homes, str(folder))
    with log.open("wb") as out:
        process = subprocess.Popen(run, stdout=out, stderr=out, env=environment)
    try:
        wait_for(port, process, log)
        yield Proxied(server, port)
    finally:
        process.terminate()
        process.wait(SECONDS)


PROXIES = pytest.mark.parametrize("proxy", ["nginx", "caddy"])


def test_nginx_finds_nothing_wrong_with_the_sample(tmp_path: Path) -> None:
    run = command("nginx", tmp_path, free_port(), free_port())
    tested = subprocess.run([*run, "-t"], capture_output=True, text=True)

    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr


@PROXIES
def test_tokens_come_while_the_turn_runs_and_a_cut_stream_goes_on_after_the_last(
    tmp_path: Path, proxy: str
) -> None:
    provider = Scripted("a", first := Gate(), "b", second := Gate(), "c")
    with (
        Running(tmp_path / "data", provider, allowed_hosts=SITE) as server,
        behind(proxy, tmp_path, server) as site,
    ):
        body = {"message": "Hi", "turn_id": "turn-0001"}
        with site.stream("POST", "/chat", json=body) as stream:
            seen = stream.until("delta")
            first.open()
            seen += stream.until("delta")
        path = "/turns/turn-0001/events"
        headers = {"Last-Event-ID": str(seen[-1].id)}
        with site.stream("GET", path, headers=headers) as stream:
            seen += stream.until("caught_up")
            second.open()
            seen += list(stream)

    deltas = [frame.data["text"] for frame in seen if frame.type == "delta"]
    assert "".join(deltas) == seen[-1].data["text"] == "abc"
    identifiers = [frame.id for frame in seen if frame.id and frame.type != "ready"]
    assert identifiers == sorted(set(identifiers))


def test_a_stream_that_is_cut_looks_cut_behind_nginx_too(tmp_path: Path) -> None:
    with (
        Running(tmp_path / "data", allowed_hosts=SITE) as server,
        behind("nginx", tmp_path, server) as site,
        site.stream("GET", "/events") as stream,
    ):
        stream.until("caught_up")
        server.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            list(stream)
        server.start()


@PROXIES
def test_where_the_server_is_cut_off_the_stream_has_no_end_of_its_turn(
    tmp_path: Path, proxy: str
) -> None:
    """Caddy 2.6 ends a cut body as a whole one: only the turn's last event tells its end."""
    with (
        Running(tmp_path / "data", Scripted("a", gate := Gate()), allowed_hosts=SITE) as server,
        behind(proxy, tmp_path, server) as site,
    ):
        with site.stream("POST", "/chat", json={"message": "Hi", "turn_id": "turn-0001"}) as stream:
            seen = stream.until("delta")
            gate.reached()
            for transport in server.transports(HttpToolsProtocol):
                server.call(abort(transport))
            with suppress(httpx.RemoteProtocolError):
                seen += list(stream)
        gate.open()
        last = {"Last-Event-ID": str(seen[-1].id)}
        with site.stream("GET", "/turns/turn-0001/events", headers=last) as stream:
            rest = list(stream)

    assert "turn.completed" not in [frame.type for frame in seen]
    assert rest[-1].data["text"] == "a"


async def abort(transport: asyncio.Transport) -> None:
    transport.abort()


@PROXIES
def test_the_sites_own_page_may_post_from_its_port_and_a_foreign_one_may_not(
    tmp_path: Path, proxy: str
) -> None:
    with (
        Running(tmp_path / "data", allowed_hosts=SITE) as server,
        behind(proxy, tmp_path, server) as site,
    ):
        own = site.post("/chat", site.page, message="Hi")
        secure = site.page | {"Origin": f"https://{site.authority}"}  # TLS ends before us
        over_tls = site.post("/chat", secure, message="Hi")
        other_port = site.page | {"Origin": f"http://{SITE}"}
        foreign = site.post("/chat", other_port, message="Hi")

    assert [own.status_code, over_tls.status_code, foreign.status_code] == [200, 200, 403]
    assert foreign.json()["code"] == "foreign_origin"


@PROXIES
def test_sockets_work(tmp_path: Path, proxy: str) -> None:
    provider = Scripted("a", gate := Gate(), "b")
    with (
        Running(tmp_path / "data", provider, allowed_hosts=SITE) as server,
        behind(proxy, tmp_path, server) as site,
    ):
        with site.socket(f"http://{site.authority}") as ws:
            ws.send(orjson.dumps({"type": "send", "message": "Hi"}).decode())
            while orjson.loads(ws.recv(SECONDS))["type"] != "delta":
                pass
            gate.open()
            while (last := orjson.loads(ws.recv(SECONDS)))["type"] != "turn.completed":
                pass
        with pytest.raises(InvalidStatus) as refused:
            site.socket("http://evil.example")

    assert last["text"] == "ab"
    assert refused.value.response.status_code == 403
