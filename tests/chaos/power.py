"""
What a power cut leaves of a killed server's files: each is cut at a random length that is not
below what was synced, or has half a record behind its end.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import orjson

from tests.chaos.ledger import TERMINAL, Json, Ledger


class Power:
    """
    Knows what is synced of the files of a data folder, and cuts them.

    Attributes:
        notes: Where the server notes its syncs (see `serve`).
    """

    def __init__(self, folder: Path, ledger: Ledger, seed: int, fsync: str) -> None:
        self.notes = folder / "syncs"
        self._data = folder / "data"
        self._ledger = ledger
        # Of its own, since how much is drawn for the files is left to the time.
        self._rng = random.Random(f"{seed}/power cuts")
        self._fsync = fsync
        self._durable: dict[int, int] = {}

    def on(self) -> None:
        """What is there now is on the disk."""
        self.notes.unlink(missing_ok=True)
        self._durable = {}
        for path in self._data.rglob("*"):
            found = path.stat()
            self._durable[found.st_ino] = found.st_size

    def off(self, *, torn: bool) -> None:
        """Tear the files of a killed server, if `torn`; note what is left of running turns."""
        # Where nothing is ever synced, a power cut may take anything: there is nothing to check.
        torn = torn and self._fsync != "never"
        self._read_notes()
        for log in sorted(self._data.glob("users/*/*.jsonl")):
            if torn:
                self._cut(log, "torn logs", 0.8)
            if log.name.startswith("+"):
                continue
            whole = log.read_bytes().rpartition(b"\n")[0]
            ended = {r["turn_id"] for r in _records(whole) if r["type"] in TERMINAL}
            for live in sorted(log.parent.glob(f"{log.stem}.*.live")):
                cut = torn and self._cut(live, "torn live files", 0.4)
                self._leave(live, ended, torn=cut and self._fsync != "always")
            if torn and whole and self._rng.random() < 0.4:
                self._add_half(log, whole.splitlines()[-1])

    def _read_notes(self) -> None:
        if self.notes.exists():
            for line in self.notes.read_bytes().splitlines():
                inode, size = map(int, line.split())
                self._durable[inode] = max(size, self._durable.get(inode, 0))

    def _cut(self, path: Path, figure: str, likely: float) -> bool:
        found = path.stat()
        durable = self._durable.get(found.st_ino, 0)
        if durable >= found.st_size or self._rng.random() > likely:
            return False
        data = path.read_bytes()
        size = self._rng.randrange(durable, len(data))
        os.truncate(path, size)
        self._ledger.figures[figure] += 1
        if path.suffix == ".jsonl" or self._fsync == "always":
            lost = data[data.rfind(b"\n", 0, size) + 1 :].rpartition(b"\n")[0]
            for record in _records(lost):
                if record["id"] in self._ledger.ids:
                    self._ledger.violate(2, f"{record['id']} was shown, and is not synced")
        return True

    def _add_half(self, log: Path, record: bytes) -> None:
        data = log.read_bytes()
        if data.endswith(b"\n"):
            with log.open("ab") as file:
                file.write(record[: self._rng.randrange(1, len(record))])
            self._ledger.figures["half records"] += 1

    def _leave(self, live: Path, ended: set[str], *, torn: bool) -> None:
        found = _records(live.read_bytes().rpartition(b"\n")[0])
        if not found:
            if torn:
                self._nothing_left(live)
            return
        turn = self._ledger.turns[found[0]["turn_id"]]
        turn.torn = turn.torn or torn
        if turn.turn_id not in ended:
            texts = [r["text"] for r in found if r["type"] == "delta" and "kind" not in r]
            turn.left = "".join(texts)

    def _nothing_left(self, live: Path) -> None:
        """A live file that names its turn no more: whose it was, its own name tells."""
        started_id = live.name.split(".")[-2]
        for turn in self._ledger.turns.values():
            if started_id in turn.starts:
                turn.torn, turn.left = True, ""


def _records(data: bytes) -> list[Json]:
    return [orjson.loads(line) for line in data.splitlines()]
