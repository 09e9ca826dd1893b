"""What an import leaves out: told by its place, and written to a file of JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

from chatstream.cli.aichatbot_files import Flaw
from chatstream.errors import Conflict, InvalidRequest
from chatstream.log.files.syncer import sync_folder

LISTED = 100
"""So many are named one by one; of the others, how many there are."""


def refuse(flaws: list[Flaw]) -> None:
    """
    Refuse what has flaws.

    Raises:
        InvalidRequest: Names all that is wrong, up to `LISTED`.
    """
    wrong = [reason for flaw in flaws if flaw.is_wrong for reason in flaw.reasons]
    if not wrong:
        return
    more = len(wrong) - LISTED
    raise InvalidRequest(*wrong[:LISTED], *([("…", f"and {more} more")] if more > 0 else []))


class Report:
    """
    The file that says what was left out: there, and whole, where the import was decided.

    A line is {`file`, `user_id`, `index`, `reasons`, `entry`}: `index` is null where it is all
    that the user has, and `entry` is what the old file had there. Nothing left out, no file.
    """

    def __init__(self, path: Path, flaws: list[Flaw]) -> None:
        """
        Begin one.

        Raises:
            Conflict: The file exists already.
        """
        self._path = path
        self._flaws = flaws
        self._written = False
        if os.path.lexists(path):
            raise self._exists()

    def write(self) -> None:
        """
        Write it; returns once that is durable.

        Raises:
            Conflict: The file exists already.
            OSError: It could not be written, and is not there.
        """
        if not self._flaws:
            return
        try:
            file = open(self._path, "xb", opener=_private)
        except FileExistsError:
            raise self._exists() from None
        try:
            with file:
                for flaw in self._flaws:
                    file.write(_line(flaw))
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._path.parent)
        except BaseException:
            self._path.unlink()
            raise
        self._written = True

    def withdraw(self) -> None:
        """Take the file away, if it was written."""
        if self._written:
            self._path.unlink(missing_ok=True)

    def _exists(self) -> Conflict:
        return Conflict(f"{self._path.name} exists already; nothing was imported.")


def _line(flaw: Flaw) -> bytes:
    reasons = [f"{field}: {message}" for field, message in flaw.reasons]
    told = {"file": flaw.file, "user_id": flaw.user_id, "index": flaw.index, "reasons": reasons}
    # Escaped, so that half a pair stays what it was.
    return json.dumps(told | {"entry": flaw.entry}).encode() + b"\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
