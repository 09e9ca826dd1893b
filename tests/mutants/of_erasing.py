"""Defects of clearing and erasing."""

from tests.mutants.planting import Defect

DEFECTS = [
    Defect(
        "a-failed-erasure-of-a-conversation-keeps-its-intent",
        "log/files/erasure.py",
        "await _withdraw(disk, intent, conversation.created is not None)",
        "await _withdraw(disk, intent, False)",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-failed-erasure-of-a-user-keeps-its-intent",
        "log/files/erasure.py",
        "await _withdraw(disk, intent, disk.folder.user(user_id).exists())",
        "await _withdraw(disk, intent, False)",
        ("test_log_erasure.py",),
    ),
    Defect(
        "an-intent-comes-after-the-erasure",
        "log/files/erasure.py",
        (
            "        await with_reserve(disk, partial(disk.run, partial("
            "write_intent, disk.folder, intent)))\n"
            "        state = await with_reserve(disk, partial(change, conversation,"
            " events[-1]))\n"
        ),
        (
            "        state = await with_reserve(disk, partial(change, conversation,"
            " events[-1]))\n"
            "        await with_reserve(disk, partial(disk.run, partial("
            "write_intent, disk.folder, intent)))\n"
        ),
        ("test_log_power.py",),
    ),
    Defect(
        "a-file-put-aside-outlives-a-clear",
        "log/files/erasure.py",
        (
            "            await disk.run(partial(remove_beside, conversation.path))\n"
            "            return False"
        ),
        "            return False",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-failed-clear-forgets-the-running-turns",
        "log/files/erasure.py",
        ('        turn.ended = False\n        try:\n            await turn.end("turn.cancelled",'),
        ('        try:\n            await turn.end("turn.cancelled",'),
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-failed-cleared-turn-is-lost-for-ever",
        "log/files/erasure.py",
        (
            "            conversation.running.pop(turn.started_place, None)\n"
            "            turn.close(None)\n"
            "\n"
            "\n"
            "async def with"
        ),
        ("            conversation.running.pop(turn.started_place, None)\n\n\nasync def with"),
        ("test_log_erasure.py",),
    ),
    Defect(
        "an-erasure-that-failed-halfway-shows-the-old-file",
        "log/files/erasure.py",
        "if state.created is None or state.last == last:",
        "if state.last == last:",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-clear-comes-back-with-a-power-cut",
        "log/files/intents.py",
        ("    finish_intent(folder, intent)\n    sync_folder(folder.intents)"),
        "    finish_intent(folder, intent)",
        ("test_log_power.py",),
    ),
    Defect(
        "files-put-aside-outlive-an-erasure",
        "log/files/intents.py",
        'for suffix in (".aside", ".corrupt"):',
        'for suffix in (".aside",):',
        ("test_log_erasure.py",),
    ),
    Defect(
        "an-erased-users-folder-is-only-renamed",
        "log/files/intents.py",
        "        shutil.rmtree(aside)\n",
        "        pass\n",
        ("test_log_power.py",),
    ),
    Defect(
        "what-is-removed-is-not-synced",
        "log/files/intents.py",
        ("        remove_copies(path)\n        sync_folder(path.parent)"),
        "        remove_copies(path)",
        ("test_log_power.py",),
    ),
    Defect(
        "a-rewrite-is-renamed-before-it-is-synced",
        "log/files/paths.py",
        ("        os.fsync(fd)\n    finally:\n        os.close(fd)\n    os.replace(aside, path)"),
        ("    finally:\n        os.close(fd)\n    os.replace(aside, path)"),
        ("test_log_power.py",),
    ),
    Defect(
        "a-rewrites-name-is-not-synced",
        "log/files/paths.py",
        ("    os.replace(aside, path)\n    sync_folder(path.parent)"),
        "    os.replace(aside, path)",
        ("test_log_power.py",),
    ),
    Defect(
        "a-new-users-name-is-not-synced",
        "log/files/paths.py",
        "                    sync_folder(self.users)\n",
        "                    pass\n",
        ("test_log_power.py",),
    ),
    Defect(
        "an-erasure-that-failed-is-not-told-of",
        "log/files/store.py",
        (
            "            try:\n"
            "                return await erasing\n"
            "            finally:\n"
            "                self._erased_count += 1\n"
            "                self.on_erased(user_id)"
        ),
        (
            "            try:\n"
            "                found = await erasing\n"
            "            finally:\n"
            "                self._erased_count += 1\n"
            "            self.on_erased(user_id)\n"
            "            return found"
        ),
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-list-from-before-a-clear-is-shown",
        "log/files/store.py",
        "                self._erased_count += 1\n",
        "",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-users-erasure-overtakes-an-opening",
        "log/files/store.py",
        "                await asyncio.wait(opening)\n",
        "                pass\n",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-conversation-is-opened-while-its-user-goes",
        "log/files/store.py",
        (
            "        while (erasing := self._erasing.get(address.user_id)) is not None:\n"
            "            await asyncio.shield(erasing)\n"
        ),
        "",
        ("test_log_erasure.py",),
    ),
    Defect(
        "two-erasures-of-a-user-at-once",
        "log/files/store.py",
        (
            "        while (erasing := self._erasing.get(user_id)) is not None:\n"
            "            await asyncio.shield(erasing)\n"
        ),
        "",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-file-of-a-later-clock-is-not-heeded",
        "log/files/store.py",
        "        self._disk.clock.raise_to(state.last)\n",
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "an-orphan-is-tried-once",
        "log/files/store.py",
        ("            if found.orphans:\n                await end_orphans(found)\n"),
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "closing-does-not-wait-for-erasures",
        "log/files/store.py",
        "                await log.settle()\n",
        "                pass\n",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-leaving-caller-ends-an-erasure",
        "log/files/store.py",
        "        return await self._erasures.run(told())\n",
        "        return await self._erasures.begin(told())\n",
        ("test_log_erasure.py",),
    ),
]
