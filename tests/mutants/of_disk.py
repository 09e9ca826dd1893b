"""Defects below a conversation: what is written, synced and seen, and in which order."""

from tests.mutants.planting import Defect

DEFECTS = [
    Defect(
        "history-shows-what-is-not-durable",
        "log/files/journal.py",
        "return self.order.shown_size(self.file.end.size) if self.created else 0",
        "return self.file.end.size if self.created else 0",
        ("test_views_history.py",),
    ),
    Defect(
        "a-failed-sync-tells-before-it-undoes",
        "log/files/visibility.py",
        (
            "        if error is not None:\n"
            "            owner.undo(next((p.before for p in done if p.before is "
            "not None), None), error)\n"
            "        for pending in done:\n"
            "            pending.tell(error)\n"
        ),
        (
            "        for pending in done:\n"
            "            pending.tell(error)\n"
            "        if error is not None:\n"
            "            owner.undo(next((p.before for p in done if p.before is "
            "not None), None), error)\n"
        ),
        ("test_log_visibility.py",),
    ),
    Defect(
        "text-is-joined-with-reasoning",
        "log/files/tail.py",
        "if isinstance(run, DeltaRun) and run.turn_id == turn_id and run.kind == kind:",
        "if isinstance(run, DeltaRun) and run.turn_id == turn_id:",
        ("test_log_tail.py",),
    ),
    Defect(
        "a-failed-sync-spares-what-came-after-it",
        "log/files/visibility.py",
        ("            count = len(self._pending)\n        done,"),
        ("            count = min(count, len(self._pending))\n        done,"),
        ("test_log_visibility.py",),
    ),
    Defect(
        "the-next-sync-is-forgotten",
        "log/files/visibility.py",
        ("        self._close_retired()\n        self._sync()\n        if"),
        ("        self._close_retired()\n        if"),
        ("test_log_visibility.py",),
    ),
    Defect(
        "the-newest-pending-event-bounds-what-is-seen",
        "log/files/visibility.py",
        "return self._pending[0].place if",
        "return self._pending[-1].place if",
        ("test_log_visibility.py",),
    ),
    Defect(
        "a-live-file-is-closed-under-its-sync",
        "log/files/visibility.py",
        ("        if not self._syncing:\n            self._close_retired()"),
        "        self._close_retired()",
        ("test_log_live_turn.py",),
    ),
    Defect(
        "the-name-of-a-live-file-is-not-synced",
        "log/files/visibility.py",
        ("        else:\n            sync_folder(target)"),
        ("        elif not target.exists():\n            sync_folder(target)"),
        ("test_log_visibility.py",),
    ),
    Defect(
        "drained-while-something-waits",
        "log/files/visibility.py",
        ("while self._pending:\n            if self._drained"),
        ("if self._pending:\n            if self._drained"),
        ("test_log_visibility.py",),
    ),
    Defect(
        "a-pending-event-is-visible",
        "log/files/journal.py",
        "return pending - 1 if pending < FOREVER",
        "return pending if pending < FOREVER",
        ("test_log_conversation.py",),
    ),
    Defect(
        "the-last-reader-takes-what-is-not-durable-along",
        "log/files/journal.py",
        "self.tail.trim(self.order.next_place, 0)",
        "self.tail.trim(FOREVER, 0)",
        ("test_views_subscriber.py",),
    ),
    Defect(
        "a-read-from-before-a-clear-is-good-after-it",
        "log/files/journal.py",
        ("if epoch == self.epoch and self.gate is None:\n                return result"),
        ("if self.gate is None:\n                return result"),
        ("test_log_conversation.py",),
    ),
    Defect(
        "an-event-whose-sync-failed-stays-in-memory",
        "log/files/journal.py",
        "            self.tail.remove(encoded.id)\n",
        "            pass\n",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-clear-is-not-counted",
        "log/files/journal.py",
        "        self.epoch += 1\n",
        "",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-full-disk-found-by-a-sync-keeps-the-reserve",
        "log/files/journal.py",
        "            self.disk.reserve.release()\n",
        "            pass\n",
        ("test_log_conversation.py",),
    ),
    Defect(
        "an-event-is-told-twice-after-an-erasure",
        "log/files/journal.py",
        "if after < place(e.id) <= upto]",
        "if after <= place(e.id) <= upto]",
        ("test_log_erasure.py",),
    ),
    Defect(
        "an-open-gate-wakes-nobody",
        "log/files/journal.py",
        ("            gate.set_result(None)\n        self.notify()"),
        "            gate.set_result(None)",
        ("test_views_subscriber.py",),
    ),
    Defect(
        "a-new-files-name-is-not-synced",
        "log/files/log_file.py",
        ("        if durable:\n            sync_folder(path.parent)\n"),
        "",
        ("test_log_power.py",),
    ),
    Defect(
        "a-half-made-file-stays",
        "log/files/log_file.py",
        ("    except OSError:\n        path.unlink()\n        raise\n    finally:"),
        "    finally:",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-cut-keeps-what-was-refused",
        "log/files/log_file.py",
        "            self._longer = not cut_back(self._fd, end.size)\n",
        "            pass\n",
        ("test_event_log.py",),
    ),
    Defect(
        "a-clear-does-not-wait-for-the-making",
        "log/files/log_file.py",
        "            await asyncio.wait([self._making])",
        "            await asyncio.sleep(0)",
        ("test_log_conversation.py",),
    ),
    Defect(
        "trimming-forgets-one-too-many",
        "log/files/tail.py",
        "or segment.first >= keep_from",
        "or segment.first > keep_from",
        ("test_log_tail.py",),
    ),
    Defect(
        "a-job-that-fails-oddly-ends-its-thread",
        "log/files/syncer.py",
        ('    except Exception:\n        logger.exception("sync job failed")\n        return'),
        ('    except ValueError:\n        logger.exception("sync job failed")\n        return'),
        ("test_log_syncer.py",),
    ),
    Defect(
        "one-conversations-trouble-is-everyones",
        "log/files/syncer.py",
        ("    except Exception:\n        # One"),
        ("    except ValueError:\n        # One"),
        ("test_log_syncer.py",),
    ),
    Defect(
        "a-job-between-looks-waits-for-ever",
        "log/files/syncer.py",
        (
            "        if self._waiting and self._working < THREADS and not self._closed:\n"
            "            self._working += 1\n"
            "            self.executor.submit(self._work)"
        ),
        "        pass",
        ("test_log_syncer.py",),
    ),
    Defect(
        "what-comes-after-closing-is-lost",
        "log/files/syncer.py",
        ("            _tell(done, _run(job))\n            return\n"),
        "            return\n",
        ("test_log_syncer.py",),
    ),
    Defect(
        "what-the-last-ends-ask-for-is-lost",
        "log/files/syncer.py",
        (
            "        while self._waiting:\n"
            "            job, done = self._waiting.popleft()\n"
            "            _tell(done, _run(job))\n"
            "\n"
            "    def"
        ),
        ("\n    def"),
        ("test_log_syncer.py",),
    ),
    Defect(
        "a-busy-file-keeps-all-others-open",
        "log/files/disk.py",
        ("            if not self.rest(oldest):\n                self._open.move_to_end(oldest)"),
        "            self.rest(oldest)",
        ("test_log_disk.py",),
    ),
    Defect(
        "what-waits-is-lost-at-closing",
        "log/files/disk.py",
        ("        self._flush_all()\n        self._readers"),
        "        self._readers",
        ("test_log_disk.py",),
    ),
    Defect(
        "a-reserve-of-any-size-is-one",
        "log/files/disk_reserve.py",
        "if stat.S_ISREG(found.st_mode) and found.st_size == self._size:",
        "if stat.S_ISREG(found.st_mode) and found.st_size <= self._size:",
        ("test_log_disk.py",),
    ),
    Defect(
        "a-reserve-that-cannot-be-held-stays-half",
        "log/files/disk_reserve.py",
        ("            self.release()\n            return False"),
        "            return False",
        ("test_log_disk.py",),
    ),
]
