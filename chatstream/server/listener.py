"""The sockets to listen on, and what is wrong where that cannot be."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from chatstream.errors import SettingsError


def bind(host: str, port: int, *, stuck_seconds: float) -> list[socket.socket]:
    """
    Bind every address of a host, all to one port; nobody listens yet.

    A connection whose client takes nothing for `stuck_seconds` is given up by the kernel, where it
    can (Linux): closing one waits for the client else.

    Raises:
        OSError: One of them cannot be had; an address family that is missing here is passed over.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            taken = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bound(family, (address[0], taken, *address[2:]), stuck_seconds))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _bound(family: int, address: tuple[object, ...], stuck_seconds: float) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # The connections that it accepts inherit it.
            milliseconds = round(stuck_seconds * 1000)
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


@contextmanager
def told(host: str, port: int) -> Iterator[None]:
    """
    Turn the system's error about an address into a wrong setting.

    Raises:
        SettingsError: Names the setting.
    """
    try:
        yield
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            message = f"CHATSTREAM_PORT: {port} is in use by another program; 0 takes a free one"
        elif number == errno.EACCES:
            message = f"CHATSTREAM_PORT: {port} may not be listened on by this user"
        else:
            message = f"CHATSTREAM_HOST: {host} is no address of this machine"
        raise SettingsError(message) from error


def url_of(listening: socket.socket, host: str) -> str:
    """Return the address that a browser on this machine opens."""
    port = listening.getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
