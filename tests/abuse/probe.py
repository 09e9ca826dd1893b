"""Somebody else: asks for `/healthz`, and looks at the server's memory, in a process of its own."""

from __future__ import annotations

import json
import select
import socket
import sys
import time

import psutil

PAUSE_SECONDS = 0.005
NEW_CONNECTION_EVERY = 10
TIMEOUT_SECONDS = 20.0
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Probe:
    """
    One client and one observer.

    Attributes:
        seen: Since `seen` was last taken: the slowest answer in seconds, requests without one, and
            the server's memory in bytes (at first, at most, at last).
    """

    def __init__(self, port: int, server: int) -> None:
        self._port = port
        self._server = psutil.Process(server)
        self._kept = self._connect()
        self.seen: dict[str, float] = self._nothing()

    def take(self) -> dict[str, float]:
        """Return what was seen, and begin anew."""
        seen, self.seen = self.seen, self._nothing()
        return seen

    def ask(self, number: int) -> None:
        """Ask once; of ten times once over a new connection."""
        new = number % NEW_CONNECTION_EVERY == 0
        began = time.monotonic()
        try:
            connection = self._connect() if new else self._kept
            answered = self._answered(connection)
            if new:
                connection.close()
        except OSError:
            answered = False
        if not answered:
            self.seen["refused"] += 1
            self._again()
        memory = self._server.memory_info().rss
        self.seen["worst"] = max(self.seen["worst"], time.monotonic() - began)
        self.seen["most"] = max(self.seen["most"], memory)
        self.seen["last"] = memory

    @staticmethod
    def _answered(connection: socket.socket) -> bool:
        connection.sendall(REQUEST)
        answer = b""
        while not answer.endswith(b"}"):  # its body is JSON
            data = connection.recv(65536)
            if not data:
                return False
            answer += data
        return answer.startswith(b"HTTP/1.1 200 ")

    def _again(self) -> None:
        self._kept.close()
        try:
            self._kept = self._connect()
        except OSError:
            time.sleep(PAUSE_SECONDS)

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_SECONDS)

    def _nothing(self) -> dict[str, float]:
        memory = self._server.memory_info().rss
        return {"worst": 0.0, "refused": 0, "first": memory, "most": memory, "last": memory}


def main() -> None:
    """Ask until nobody asks for what is seen; each line of input is answered with it."""
    probe = Probe(int(sys.argv[1]), int(sys.argv[2]))
    number = 0
    while True:
        number += 1
        probe.ask(number)
        if select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            if not sys.stdin.readline():
                return
            sys.stdout.write(json.dumps(probe.take()) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
