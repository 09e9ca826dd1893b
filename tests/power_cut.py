"""
What a power cut leaves of a data folder at its worst: what was synced, and nothing else.

A file's bytes stand as they were when it was last synced, a folder's names as they were when the
folder was. So a name that was removed, or given to another file, comes back where its folder was
not synced since; and a file that was never synced is empty.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

LEFT_OUT = ("lock", "reserve")


class Power:
    """
    Watches the syncs below a folder, from now on. What is there now is on the disk.

    Attributes:
        moments: With `keep_all`, what each sync has left: a folder each, oldest first.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, keep_all: Path | None = None) -> None:
        self.moments: list[Path] = []
        self._root = root
        self._keep_all = keep_all
        self._lock = threading.Lock()
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, tuple[int, bool]]] = {}
        # Held open, so that no other file is given the number of one that was removed.
        self._held: list[int] = []
        for path in (root, *root.rglob("*")):
            if path.name not in LEFT_OUT:
                fd = os.open(path, os.O_RDONLY)
                self._take(fd)
                os.close(fd)
        for name in ("fsync", "fdatasync"):
            self._watch(name, patch)

    def _watch(self, name: str, patch: pytest.MonkeyPatch) -> None:
        real = getattr(os, name)

        def sync(fd: int) -> Any:
            done = real(fd)
            with self._lock:
                self._take(fd)
                if self._keep_all is not None:
                    self.moments.append(self.cut(self._keep_all / f"moment-{len(self.moments)}"))
            return done

        patch.setattr(os, name, sync)

    def _take(self, fd: int) -> None:
        about = os.fstat(fd)
        self._held.append(os.dup(fd))
        if not stat.S_ISDIR(about.st_mode):
            self._files[about.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()
            return
        with os.scandir(fd) as entries:
            self._folders[about.st_ino] = {
                entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False))
                for entry in entries
                if entry.name not in LEFT_OUT
            }

    def cut(self, target: Path) -> Path:
        """Write what would be there now into a new folder; returns it."""
        self._write(self._root.stat().st_ino, target)
        return target

    def _write(self, folder: int, target: Path) -> None:
        target.mkdir()
        for name, (inode, is_folder) in self._folders.get(folder, {}).items():
            if is_folder:
                self._write(inode, target / name)
            else:
                (target / name).write_bytes(self._files.get(inode, b""))

    def close(self) -> None:
        """Let go of the files."""
        while self._held:
            os.close(self._held.pop())
