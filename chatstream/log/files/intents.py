"""
Intents to erase: durable before anything is removed, finished by recovery if need be.

An intent erases only what is not above its own id, so a start that came later is never lost.
Blocking: for threads.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal, TypedDict

import orjson

from chatstream.events import EventId
from chatstream.log.files.copies import remove_copies
from chatstream.log.files.paths import Folder, is_folder, live_files, put
from chatstream.log.files.syncer import sync_folder

Scope = Literal["clear", "conversation", "user"]


class Intent(TypedDict):
    """What is to be erased: everything up to `id` in this place."""

    id: EventId
    scope: Scope
    user_id: str
    conversation_id: str


def write_intent(folder: Folder, intent: Intent) -> None:
    """
    Make an intent durable: from here on it is carried out, by recovery if need be.

    Raises:
        OSError: It may be durable, or not.
    """
    folder.check()
    path = folder.intents / f"{intent['id']}.json"
    put(path, orjson.dumps(intent), path.with_suffix(".new"))


def finish_intent(folder: Folder, intent: Intent) -> None:
    """Forget an intent. Should it come back after a power cut, it finds nothing to erase."""
    (folder.intents / f"{intent['id']}.json").unlink(missing_ok=True)


def withdraw_intent(folder: Folder, intent: Intent) -> None:
    """Take an intent back, durably."""
    finish_intent(folder, intent)
    sync_folder(folder.intents)


def remove_beside(path: Path) -> None:
    """Remove all that may hold text of a conversation besides its file, durably."""
    for live in live_files(path):
        live.unlink(missing_ok=True)
    for suffix in (".aside", ".corrupt"):
        path.with_suffix(suffix).unlink(missing_ok=True)
    if is_folder(path.parent):
        remove_copies(path)
        sync_folder(path.parent)


def remove_conversation(path: Path) -> None:
    """Remove a conversation's files, durably."""
    path.unlink(missing_ok=True)
    remove_beside(path)


def remove_user(folder: Folder, intent: Intent) -> None:
    """Remove a user's folder, durably."""
    path = folder.user(intent["user_id"])
    aside = folder.intents / f"{intent['id']}.erased"
    # Renaming is at once: what is begun after it gets a folder of its own.
    if is_folder(path):
        os.replace(path, aside)
        sync_folder(folder.users)
    if aside.exists():
        shutil.rmtree(aside)
        sync_folder(folder.intents)
