"""
File names from ids: an encoding that no id escapes or collides in.

Lower-case letters, digits, `_` and `-` stand for themselves; every other byte of the UTF-8 is
`%xx`. So no name holds a separator or a dot, and two ids differ in more than case. A name that
would be too long for a file system is `~` and a SHA-256, which no encoded id begins with.
"""

from __future__ import annotations

import hashlib
import re

MAX_NAME = 160
"""Bytes of a name, leaving room in the usual 255 for what is put behind it."""

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
# Most ids: lists and usage compare one for each file.
_UNCHANGED = re.compile(rf"[a-z0-9_][a-z0-9_-]{{0,{MAX_NAME - 1}}}", re.ASCII)
# Windows opens devices under these names, whatever the extension.
_DEVICES = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]")


def file_name(identifier: str) -> str:
    """
    Return the file name of a user or conversation, without extension.

    >>> file_name("alice"), file_name("A/..%2e"), file_name("con")
    ('alice', '%41%2f%2e%2e%252e', '%63on')
    """
    if _UNCHANGED.fullmatch(identifier) and not _DEVICES.fullmatch(identifier):
        return identifier
    data = identifier.encode()
    if len(data) <= MAX_NAME:
        name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in data)
        # A leading dash would be read as an option by the shell's tools.
        if name.startswith("-") or _DEVICES.fullmatch(name):
            name = f"%{data[0]:02x}{name[1:]}"
        if len(name) <= MAX_NAME:
            return name
    return "~" + hashlib.sha256(data).hexdigest()
