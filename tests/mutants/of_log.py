"""Defects of a conversation and its running turns."""

from tests.mutants.planting import Defect

DEFECTS = [
    Defect(
        "an-end-whose-write-failed-counts",
        "log/files/conversation.py",
        ("        else:\n            turn.ended = False\n        done.set_result(written)"),
        "        done.set_result(written)",
        ("test_log_live_turn.py",),
    ),
    Defect(
        "a-text-lacks-what-the-disk-refused",
        "log/files/live_turn.py",
        (
            "            parts += [escaped for refused, escaped in self._refused "
            "if refused == kind]\n"
        ),
        "",
        ("test_log_conversation.py",),
    ),
    Defect(
        "refused-text-changes-its-order",
        "log/files/live_turn.py",
        "escaped = self._refused.pop()[1] + escaped",
        "escaped = escaped + self._refused.pop()[1]",
        ("test_log_live_turn.py",),
    ),
    Defect(
        "a-turn-that-lost-a-delta-speaks-on",
        "log/files/live_turn.py",
        "        if self._mute or self._refused:\n",
        "        if self._refused:\n",
        ("test_log_conversation.py",),
    ),
    Defect(
        "reasoning-does-not-count",
        "log/files/live_turn.py",
        "        self.size += len(escaped)\n",
        '        self.size += len(escaped) if kind == "text" else 0\n',
        ("test_turns_reply.py",),
    ),
    Defect(
        "a-snapshot-shows-what-is-not-visible",
        "log/files/live_turn.py",
        "parts.append(run.text if upto is None else run.until(upto))",
        "parts.append(run.text)",
        ("test_event_log.py",),
    ),
    Defect(
        "text-of-two-kinds-is-one",
        "log/files/live_turn.py",
        ("        if kind != self._kind:\n            self.flush()\n            self._kind = kind"),
        "        self._kind = kind",
        ("test_log_live_turn.py",),
    ),
    Defect(
        "a-refused-start-is-known-as-started",
        "log/files/conversation.py",
        (
            "            if self.recent is not None and self.recent.get("
            "turn.turn_id) == turn.started_id:\n"
            "                del self.recent[turn.turn_id]\n"
        ),
        "",
        ("test_event_log.py",),
    ),
    Defect(
        "an-end-that-was-refused-is-the-only-try",
        "log/files/conversation.py",
        ("        except BaseException:\n            turn.ended = False\n            raise\n"),
        ("        except BaseException:\n            raise\n"),
        ("test_log_disk.py",),
    ),
    Defect(
        "readers-come-in-at-the-newest-turn",
        "log/files/turn_journal.py",
        "return before(event_id(min(self.running)))",
        "return before(event_id(max(self.running)))",
        ("test_views_subscriber.py",),
    ),
    Defect(
        "an-orphan-is-forgotten-by-the-next-record",
        "log/files/turn_journal.py",
        '        running += [orphan.started["id"] for orphan in self.orphans]\n',
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "one-turn-less-is-known",
        "log/files/conversation.py",
        "if len(recent) > RECENT_TURNS:",
        "if len(recent) >= RECENT_TURNS:",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-leaving-caller-fails-all-who-wait-for-a-start",
        "log/files/conversation.py",
        "                    if await asyncio.shield(turn.started):",
        "                    if await turn.started:",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-start-is-answered-before-it-is-durable",
        "log/files/conversation.py",
        "        if not await asyncio.shield(turn.started):",
        "        if turn.refused:",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-cancelled-end-takes-its-future-along",
        "log/files/conversation.py",
        'return _durable(await asyncio.shield(done), "The reply could',
        'return _durable(await done, "The reply could',
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-cancelled-rename-takes-its-future-along",
        "log/files/conversation.py",
        'return _durable(await asyncio.shield(done), "The title could',
        'return _durable(await done, "The title could',
        ("test_log_conversation.py",),
    ),
    Defect(
        "the-live-file-goes-with-a-failed-end",
        "log/files/conversation.py",
        ("        else:\n            turn.ended = False\n        done.set_result(written)"),
        (
            "        else:\n"
            "            turn.ended = False\n"
            "            turn.live_file.remove()\n"
            "        done.set_result(written)"
        ),
        ("test_log_live_turn.py",),
    ),
    Defect(
        "a-clear-that-cannot-wait-leaves-the-gate-shut",
        "log/files/turn_journal.py",
        (
            "        except BaseException:\n"
            "            self.open_gate()\n"
            "            raise\n"
            "        # An"
        ),
        ("        except BaseException:\n            raise\n        # An"),
        ("test_log_conversation.py",),
    ),
]
