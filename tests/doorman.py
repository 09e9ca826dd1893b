"""A proxy in front of a server, through which a browser meets what lies between them in life."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

READ_BYTES = 65536
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Doorman:
    """
    Forwards requests, each over a connection of its own.

    Attributes:
        answer: Is asked about each request's head; answers in the server's place with bytes, or
            lets the request through with None.
        seen: The first lines of all requests.
        url: Where it listens, with a slash at its end.
    """

    def __init__(self, port: int, path: str = "") -> None:
        """Forward to a port of loopback; `path` is what the server is not told of addresses."""
        self._path = path
        self.answer: Callable[[str], bytes | None] = lambda head: None
        self.seen: list[str] = []
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._open: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._stalled: list[threading.Event] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        for flowing in self._stalled:
            flowing.set()

    def cut(self) -> None:
        """Break every connection off."""
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Let nothing more through what is open now; new connections are forwarded as before."""
        self._flowing.clear()
        self._stalled.append(self._flowing)
        self._flowing = threading.Event()
        self._flowing.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        try:
            with client, suppress(OSError):
                head = self._head(client)
                if not head:
                    return
                self.seen.append(head.split("\r\n", 1)[0])
                answer = self.answer(head)
                if answer is None:
                    self._forward(client, head)
                else:
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)
                    client.recv(READ_BYTES)
        finally:
            self._open.discard(client)

    def _head(self, client: socket.socket) -> str:
        data = b""
        while b"\r\n\r\n" not in data:
            more = client.recv(READ_BYTES)
            if not more:
                return ""
            data += more
        return data.decode("latin-1")

    def _forward(self, client: socket.socket, head: str) -> None:
        head = head.replace("Connection: keep-alive", "Connection: close")
        head = head.replace(f" {self._path}/", " /", 1)
        flowing = self._flowing
        with socket.create_connection(self._target) as server:
            self._open.add(server)
            try:
                server.sendall(head.encode("latin-1"))
                back = threading.Thread(target=_pump, args=(server, client, flowing), daemon=True)
                back.start()
                _pump(client, server, flowing)
                back.join()
            finally:
                self._open.discard(server)


def _pump(source: socket.socket, sink: socket.socket, flowing: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(READ_BYTES):
            flowing.wait()
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def refusal(status: int, body: str = "{}", headers: str = "") -> bytes:
    """Write an answer that ends its connection."""
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


def closed_socket(head: str, code: int) -> bytes:
    """Accept a WebSocket's handshake, and close the socket with a code."""
    key = re.search(r"sec-websocket-key: (\S+)", head, re.I)
    assert key is not None
    digest = base64.b64encode(hashlib.sha1((key[1] + MAGIC).encode()).digest()).decode()
    return (
        (
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {digest}\r\nSec-WebSocket-Protocol: chatstream.v1\r\n\r\n"
        ).encode()
        + b"\x88\x02"
        + code.to_bytes(2, "big")
    )
