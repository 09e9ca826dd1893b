"""A provider that means harm: floods, bombs and endless answers, as fast as they are taken."""

from __future__ import annotations

import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CONTENT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
ODD = b'data: {"choices":[],"logprob":NaN,"a":[' + b"{}," * 80_000 + b"{}]}\n\n"
SEND_BYTES = 256 * 1024


def _repeated(unit: bytes) -> bytes:
    return unit * (SEND_BYTES // len(unit) + 1)


def _bomb(unit: bytes, size: int = 16 << 20) -> tuple[bytes, bytes]:
    """Return a gzip body's beginning, and a part that may be repeated for ever."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.flush(zlib.Z_FULL_FLUSH)
    part = packer.compress(unit * (size // len(unit))) + packer.flush(zlib.Z_FULL_FLUSH)
    return head, part


def _plain(unit: bytes, before: bytes = b"") -> tuple[bytes, bytes]:
    return STREAM + b"\r\n" + before, _repeated(unit)


def _packed(unit: bytes, status: bytes = b"200") -> tuple[bytes, bytes]:
    head, part = _bomb(unit)
    return STREAM.replace(b"200", status) + b"Content-Encoding: gzip\r\n\r\n" + head, part


def _quotes() -> tuple[bytes, bytes]:
    return STREAM + b"\r\n" + b'x "' + b'\\"' * 200_000 + b"\n", b"\n"


def _error_with(delay: bytes) -> bytes:
    told = b'{"error":{"message":"retry in %s","details":[{"retryDelay":"%s"}]}}' % (delay, delay)
    return STREAM.replace(b"200", b"429") + b"\r\n" + told


SAY_NOTHING = (
    *("comments", "blank", "fields", "empty", "no-content", "usage", "amid", "objects"),
    "null",
)
ANSWERS: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "bomb": lambda: _packed(b": xxxxxxxx\n"),
    "bomb-error": lambda: _packed(b"x" * 100, b"500"),
    "comments": lambda: _plain(b": x\n"),
    "blank": lambda: _plain(b"\n"),
    "fields": lambda: _plain(b"id\n"),
    "empty": lambda: _plain(b"data:\n\n"),
    "no-content": lambda: _plain(b'data: {"choices":[]}\n\n'),
    "usage": lambda: _plain(b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'),
    "amid": lambda: _plain(b"\n", CONTENT),
    "objects": lambda: _plain(b"{}", b" "),
    "null": lambda: _plain(b"null\n"),
    "brackets": lambda: _plain(b"[", b"["),
    "line": lambda: _plain(b"x" * 100, b"data: "),
    "odd": lambda: _plain(ODD),
    "quotes": _quotes,
    "digits": lambda: (_error_with(b"1" * 60_000), b" "),
    "small-chunks": lambda: (
        STREAM + b"Transfer-Encoding: chunked\r\n\r\n",
        _repeated(b"1\r\n\n\r\n"),
    ),
    "interim": lambda: (b"", _repeated(b"HTTP/1.1 100 C\r\n\r\n")),
    "headers": lambda: (STREAM, _repeated(b"a: b\r\n")),
    "header": lambda: (STREAM + b"a: ", _repeated(b"x" * 100)),
    "names": lambda: _plain(b'{"id":"' + b"n" * 5000 + b'"},', b'{"data":['),
    "names-bomb": lambda: _packed(b'{"id":"name"},'),
}


def _serve(connection: socket.socket, listing: str) -> None:
    with connection, suppress(OSError):
        request = b""
        while not (asked := re.search(rb"(?s)\r\n\r\n(.*)", request)):
            if not (data := connection.recv(65536)):
                return
            request += data
        size = re.search(rb"(?i)content-length: (\d+)", request)
        body = asked[1]
        while size is not None and len(body) < int(size[1]):
            body += connection.recv(65536)
        named = re.findall(rb"!([\w-]+)", body)
        head, part = ANSWERS[named[-1].decode() if named else listing]()
        connection.sendall(head)
        while True:
            connection.sendall(part)


@contextmanager
def provider(listing: str) -> Iterator[str]:
    """
    Serve on loopback; yields the address.

    The name of an answer after `!` in a request's last message chooses it; `listing` is that of a
    request without a body.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=_serve, args=(connection, listing), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        server.shutdown(socket.SHUT_RDWR)
