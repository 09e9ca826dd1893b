"""Defects of a start, of the clock and of feedback."""

from tests.mutants.planting import Defect

DEFECTS = [
    Defect(
        "a-finished-clear-keeps-the-end-of-an-earlier-turn",
        "log/files/unfinished.py",
        ('return record["id"] > upto and str(record.get("started_id", record["id"])) > upto'),
        'return bool(record["id"] > upto)',
        ("test_log_erasure.py",),
    ),
    Defect(
        "one-old-file-makes-a-folder-old",
        "log/files/unfinished.py",
        "return all(first is None",
        "return any(first is None",
        ("test_log_erasure.py",),
    ),
    Defect(
        "an-unfinished-erasure-gives-its-id-back",
        "log/files/recovery.py",
        '        findings.floor = max(findings.floor, place(intent["id"]))\n',
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "the-last-id-of-a-file-is-given-again",
        "log/files/recovery.py",
        (
            '            findings.floor = max(findings.floor, place(last.data["id"]))\n'
            "        if (needs"
        ),
        ("            pass\n        if (needs"),
        ("test_log_recovery.py",),
    ),
    Defect(
        "a-new-conversation-is-erased-with-the-old",
        "log/files/unfinished.py",
        (
            "        if created is None or created <= identifier:\n"
            "            remove_conversation(conversation)"
        ),
        "        remove_conversation(conversation)",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-clear-is-told-after-what-follows-it",
        "log/files/unfinished.py",
        "kept.insert(0, records",
        "kept.insert(len(kept), records",
        ("test_log_erasure.py",),
    ),
    Defect(
        "a-turn-without-deltas-stays-running",
        "log/files/recovery.py",
        'return end < size or (last is not None and bool(last.data.get("running"))), last',
        "return end < size, last",
        ("test_log_recovery.py",),
    ),
    Defect(
        "live-files-of-ended-turns-stay",
        "log/files/recovery.py",
        "        if (needs or has_live) and",
        "        if needs and",
        ("test_log_recovery.py",),
    ),
    Defect(
        "an-erasure-that-fails-at-the-start-stops-it",
        "log/files/recovery.py",
        ("            if path.suffix == bulk_import.DECIDED:\n                raise  #"),
        ("            if path.suffix != bulk_import.DECIDED:\n                raise  #"),
        ("test_log_recovery.py",),
    ),
    Defect(
        "a-started-turn-is-ended-twice",
        "log/files/summary.py",
        ('if started is not None and len(lookup.find_turn(fd, size, started["turn_id"])) == 1:'),
        "if started is not None:",
        ("test_log_recovery.py",),
    ),
    Defect(
        "the-clock-closes-on-its-last-id",
        "log/files/clock.py",
        "self._write(self._last // PER_MILLISECOND + 1)",
        "self._write(self._last // PER_MILLISECOND)",
        ("test_log_clock.py",),
    ),
    Defect(
        "the-ceiling-rises-before-it-is-written",
        "log/files/clock.py",
        ("                self._write(ceiling_ms)\n                self._ceiling_ms = ceiling_ms"),
        ("                self._ceiling_ms = ceiling_ms\n                self._write(ceiling_ms)"),
        ("test_log_disk.py",),
    ),
    Defect(
        "the-ceiling-is-not-synced",
        "log/files/clock.py",
        "        os.fdatasync(self._fd)\n",
        "",
        ("test_log_power.py",),
    ),
    Defect(
        "the-clock-forgets-the-files",
        "log/files/clock.py",
        "self._last = max(place(floor), floor_ms * PER_MILLISECOND)",
        "self._last = floor_ms * PER_MILLISECOND",
        ("test_log_clock.py",),
    ),
    Defect(
        "renewing-never-ends",
        "log/files/clock.py",
        ("        finally:\n            self._renewing = False\n"),
        ("        finally:\n            pass\n"),
        ("test_log_clock.py",),
    ),
    Defect(
        "feedback-that-was-refused-stays",
        "log/files/feedback.py",
        ("        except OSError:\n            cut_back(fd, size)\n            if"),
        ("        except OSError:\n            if"),
        ("test_log_feedback.py",),
    ),
    Defect(
        "an-empty-feedback-file-stays",
        "log/files/feedback.py",
        ("            if size == 0:\n                path.unlink()\n            raise"),
        "            raise",
        ("test_log_feedback.py",),
    ),
    Defect(
        "a-rating-is-shown-before-it-is-durable",
        "log/files/feedback.py",
        (
            "        async with self.held(user_id):\n"
            "            try:\n"
            "                await self._disk.run(partial(_append"
        ),
        (
            "        async with self.held(user_id):\n"
            "            if ratings := self._users.get(user_id):\n"
            "                ratings.take(entry)\n"
            "            try:\n"
            "                await self._disk.run(partial(_append"
        ),
        ("test_log_feedback.py",),
    ),
    Defect(
        "feedbacks-torn-end-is-written-behind",
        "log/files/feedback.py",
        ("        size = committed_size(fd)\n        cut_back(fd, size)\n        data"),
        ("        size = os.fstat(fd).st_size\n        data"),
        ("test_log_feedback.py",),
    ),
    Defect(
        "orphans-ended-by-a-clear-fail-the-opening",
        "log/files/leftovers.py",
        (
            "        elif isinstance(result, TurnEnded):\n"
            "            continue  # by a clear, which writes their ends\n"
        ),
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "an-orphan-that-was-refused-is-forgotten",
        "log/files/leftovers.py",
        "            conversation.orphans.append(orphan)\n",
        "",
        ("test_log_recovery.py",),
    ),
]
