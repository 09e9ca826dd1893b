"""The descriptors that the system gives the process, and how many of them clients get."""

from __future__ import annotations

from chatstream.log.files.disk import MAX_OPEN_FILES
from chatstream.settings import Settings

try:
    import resource
except ImportError:  # Windows counts otherwise
    resource = None  # type: ignore[assignment]

MOST = 1 << 20
"""More than this is not asked for, where the system has no limit."""
OTHERS = 128
"""Listeners, the log of the process, spare places, what libraries open for a moment."""


def raise_limit() -> int:
    """Raise the soft limit of descriptors to the hard one; return what it is then."""
    if resource is None:
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            return soft  # macOS bears less than it says
        soft = wanted
    return MOST if soft == resource.RLIM_INFINITY else soft


def places(settings: Settings, limit: int) -> int:
    """
    Return how many connections are taken, where so many descriptors can be had.

    What the log and the providers need for the turns that may run is kept back: a turn has a live
    file and a connection to its provider. Where all is scarce, clients get half of it.
    """
    kept = min(limit // 2, MAX_OPEN_FILES + 2 * settings.max_turns + OTHERS)
    bearable = max(1, limit - kept)
    return min(bearable, settings.max_connections or bearable)
