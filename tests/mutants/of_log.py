"""Defects of the log: what is durable, what is seen, what is erased, what a start makes of it."""

from tests.mutants.planting import Defect

DEFECTS = [
    Defect(
        "history-shows-what-is-not-durable",
        "log/journal.py",
        "return self.order.shown_size(self.file.end.size) if self.created else 0",
        "return self.file.end.size if self.created else 0",
        ("test_history.py",),
    ),
    Defect(
        "a-finished-clear-keeps-the-end-of-an-earlier-turn",
        "log/recovery.py",
        ('return record["id"] > upto and str(record.get("started_id", record["id"])) > upto'),
        'return bool(record["id"] > upto)',
        ("test_log_erase.py",),
    ),
    Defect(
        "a-failed-erasure-of-a-conversation-keeps-its-intent",
        "log/erase.py",
        "await _withdraw(disk, intent, conversation.created is not None)",
        "await _withdraw(disk, intent, False)",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-failed-erasure-of-a-user-keeps-its-intent",
        "log/erase.py",
        "await _withdraw(disk, intent, disk.folder.user(user_id).exists())",
        "await _withdraw(disk, intent, False)",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-failed-sync-tells-before-it-undoes",
        "log/order.py",
        (
            "        if error is not None:\n"
            "            self._undo(next((p.before for p in done if p.before is "
            "not None), None), error)\n"
            "        for pending in done:\n"
            "            pending.tell(error)\n"
        ),
        (
            "        for pending in done:\n"
            "            pending.tell(error)\n"
            "        if error is not None:\n"
            "            self._undo(next((p.before for p in done if p.before is "
            "not None), None), error)\n"
        ),
        ("test_log_order.py",),
    ),
    Defect(
        "text-is-joined-with-reasoning",
        "log/tail.py",
        "if isinstance(run, DeltaRun) and run.turn_id == turn_id and run.kind == kind:",
        "if isinstance(run, DeltaRun) and run.turn_id == turn_id:",
        ("test_log_tail.py",),
    ),
    Defect(
        "an-end-whose-write-failed-counts",
        "log/conversation.py",
        ("        else:\n            turn.ended = False\n        done.set_result(written)"),
        "        done.set_result(written)",
        ("test_log_live_turn.py",),
    ),
    Defect(
        "a-failed-sync-spares-what-came-after-it",
        "log/order.py",
        ("            count = len(self._pending)\n        done,"),
        ("            count = min(count, len(self._pending))\n        done,"),
        ("test_log_order.py",),
    ),
    Defect(
        "the-next-sync-is-forgotten",
        "log/order.py",
        ("        self._close_retired()\n        self._sync()\n        if"),
        ("        self._close_retired()\n        if"),
        ("test_log_order.py",),
    ),
    Defect(
        "the-newest-pending-event-bounds-what-is-seen",
        "log/order.py",
        "return self._pending[0].place if",
        "return self._pending[-1].place if",
        ("test_log_order.py",),
    ),
    Defect(
        "a-live-file-is-closed-under-its-sync",
        "log/order.py",
        ("        if not self._syncing:\n            self._close_retired()"),
        "        self._close_retired()",
        ("test_log_live_turn.py",),
    ),
    Defect(
        "the-name-of-a-live-file-is-not-synced",
        "log/order.py",
        ("        else:\n            sync_folder(target)"),
        ("        elif not target.exists():\n            sync_folder(target)"),
        ("test_log_order.py",),
    ),
    Defect(
        "drained-while-something-waits",
        "log/order.py",
        ("while self._pending:\n            if self._drained"),
        ("if self._pending:\n            if self._drained"),
        ("test_log_order.py",),
    ),
    Defect(
        "a-pending-event-is-visible",
        "log/journal.py",
        "return pending - 1 if pending < FOREVER",
        "return pending if pending < FOREVER",
        ("test_log_conversation.py",),
    ),
    Defect(
        "the-last-reader-takes-what-is-not-durable-along",
        "log/journal.py",
        "self.tail.trim(self.order.next_place, 0)",
        "self.tail.trim(FOREVER, 0)",
        ("test_subscriber.py",),
    ),
    Defect(
        "a-read-from-before-a-clear-is-good-after-it",
        "log/journal.py",
        ("if epoch == self.epoch and self.gate is None:\n                return result"),
        ("if self.gate is None:\n                return result"),
        ("test_log_conversation.py",),
    ),
    Defect(
        "an-event-whose-sync-failed-stays-in-memory",
        "log/journal.py",
        "            self.tail.remove(encoded.id)\n",
        "            pass\n",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-clear-is-not-counted",
        "log/journal.py",
        "        self.epoch += 1\n",
        "",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-full-disk-found-by-a-sync-keeps-the-reserve",
        "log/journal.py",
        "            self.disk.reserve.release()\n",
        "            pass\n",
        ("test_log_conversation.py",),
    ),
    Defect(
        "an-event-is-told-twice-after-an-erasure",
        "log/journal.py",
        "if after < place(e.id) <= upto]",
        "if after <= place(e.id) <= upto]",
        ("test_log_erase.py",),
    ),
    Defect(
        "an-open-gate-wakes-nobody",
        "log/journal.py",
        ("            gate.set_result(None)\n        self.notify()"),
        "            gate.set_result(None)",
        ("test_subscriber.py",),
    ),
    Defect(
        "a-text-lacks-what-the-disk-refused",
        "log/live_turn.py",
        (
            "            parts += [escaped for refused, escaped in self._refused "
            "if refused == kind]\n"
        ),
        "",
        ("test_log_conversation.py",),
    ),
    Defect(
        "refused-text-changes-its-order",
        "log/live_turn.py",
        "escaped = self._refused.pop()[1] + escaped",
        "escaped = escaped + self._refused.pop()[1]",
        ("test_log_live_turn.py",),
    ),
    Defect(
        "a-turn-that-lost-a-delta-speaks-on",
        "log/live_turn.py",
        "        if self._mute or self._refused:\n",
        "        if self._refused:\n",
        ("test_log_conversation.py",),
    ),
    Defect(
        "reasoning-does-not-count",
        "log/live_turn.py",
        "        self.size += len(escaped)\n",
        '        self.size += len(escaped) if kind == "text" else 0\n',
        ("test_reply.py",),
    ),
    Defect(
        "a-snapshot-shows-what-is-not-visible",
        "log/live_turn.py",
        "parts.append(run.text if upto is None else run.until(upto))",
        "parts.append(run.text)",
        ("test_event_log.py",),
    ),
    Defect(
        "text-of-two-kinds-is-one",
        "log/live_turn.py",
        ("        if kind != self._kind:\n            self.flush()\n            self._kind = kind"),
        "        self._kind = kind",
        ("test_log_live_turn.py",),
    ),
    Defect(
        "a-refused-start-is-known-as-started",
        "log/conversation.py",
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
        "log/conversation.py",
        ("        except BaseException:\n            turn.ended = False\n            raise\n"),
        ("        except BaseException:\n            raise\n"),
        ("test_log_disk.py",),
    ),
    Defect(
        "readers-come-in-at-the-newest-turn",
        "log/conversation.py",
        "return before(event_id(min(self.running)))",
        "return before(event_id(max(self.running)))",
        ("test_subscriber.py",),
    ),
    Defect(
        "an-orphan-is-forgotten-by-the-next-record",
        "log/conversation.py",
        '        running += [orphan.started["id"] for orphan in self.orphans]\n',
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "one-turn-less-is-known",
        "log/conversation.py",
        "if len(recent) > RECENT_TURNS:",
        "if len(recent) >= RECENT_TURNS:",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-leaving-caller-fails-all-who-wait-for-a-start",
        "log/conversation.py",
        "                    if await asyncio.shield(turn.started):",
        "                    if await turn.started:",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-start-is-answered-before-it-is-durable",
        "log/conversation.py",
        "        if not await asyncio.shield(turn.started):",
        "        if turn.refused:",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-cancelled-end-takes-its-future-along",
        "log/conversation.py",
        'return _durable(await asyncio.shield(done), "The reply could',
        'return _durable(await done, "The reply could',
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-cancelled-rename-takes-its-future-along",
        "log/conversation.py",
        'return _durable(await asyncio.shield(done), "The title could',
        'return _durable(await done, "The title could',
        ("test_log_conversation.py",),
    ),
    Defect(
        "the-live-file-goes-with-a-failed-end",
        "log/conversation.py",
        ("        else:\n            turn.ended = False\n        done.set_result(written)"),
        (
            "        else:\n"
            "            turn.ended = False\n"
            "            turn.remove_live_file()\n"
            "        done.set_result(written)"
        ),
        ("test_log_live_turn.py",),
    ),
    Defect(
        "a-clear-that-cannot-wait-leaves-the-gate-shut",
        "log/conversation.py",
        (
            "        except BaseException:\n"
            "            self.open_gate()\n"
            "            raise\n"
            "        # An"
        ),
        ("        except BaseException:\n            raise\n        # An"),
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-new-files-name-is-not-synced",
        "log/log_file.py",
        ("        if durable:\n            sync_folder(path.parent)\n"),
        "",
        ("test_log_power.py",),
    ),
    Defect(
        "a-half-made-file-stays",
        "log/log_file.py",
        ("    except OSError:\n        path.unlink()\n        raise\n    finally:"),
        "    finally:",
        ("test_log_conversation.py",),
    ),
    Defect(
        "a-cut-keeps-what-was-refused",
        "log/log_file.py",
        "            cut_back(self._fd, end.size)\n",
        "            pass\n",
        ("test_event_log.py",),
    ),
    Defect(
        "a-clear-does-not-wait-for-the-making",
        "log/log_file.py",
        "            await asyncio.wait([self._making])",
        "            await asyncio.sleep(0)",
        ("test_log_conversation.py",),
    ),
    Defect(
        "an-intent-comes-after-the-erasure",
        "log/erase.py",
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
        "log/erase.py",
        (
            "            await disk.run(partial(remove_beside, conversation.path))\n"
            "            return False"
        ),
        "            return False",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-failed-clear-forgets-the-running-turns",
        "log/erase.py",
        ('        turn.ended = False\n        try:\n            await turn.end("turn.cancelled",'),
        ('        try:\n            await turn.end("turn.cancelled",'),
        ("test_log_erase.py",),
    ),
    Defect(
        "a-failed-cleared-turn-is-lost-for-ever",
        "log/erase.py",
        (
            "            conversation.running.pop(turn.started_place, None)\n"
            "            turn.close(None)\n"
            "\n"
            "\n"
            "async def with"
        ),
        ("            conversation.running.pop(turn.started_place, None)\n\n\nasync def with"),
        ("test_log_erase.py",),
    ),
    Defect(
        "an-erasure-that-failed-halfway-shows-the-old-file",
        "log/erase.py",
        "if state.created is None or state.last == last:",
        "if state.last == last:",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-clear-comes-back-with-a-power-cut",
        "log/intents.py",
        ("    finish_intent(folder, intent)\n    sync_folder(folder.intents)"),
        "    finish_intent(folder, intent)",
        ("test_log_power.py",),
    ),
    Defect(
        "files-put-aside-outlive-an-erasure",
        "log/intents.py",
        'for suffix in (".aside", ".corrupt"):',
        'for suffix in (".aside",):',
        ("test_log_erase.py",),
    ),
    Defect(
        "an-erased-users-folder-is-only-renamed",
        "log/intents.py",
        "        shutil.rmtree(aside)\n",
        "        pass\n",
        ("test_log_power.py",),
    ),
    Defect(
        "what-is-removed-is-not-synced",
        "log/intents.py",
        ("    if path.parent.exists():\n        sync_folder(path.parent)"),
        "    path.parent.exists()",
        ("test_log_power.py",),
    ),
    Defect(
        "a-rewrite-is-renamed-before-it-is-synced",
        "log/folder.py",
        ("        os.fsync(fd)\n    finally:\n        os.close(fd)\n    os.replace(aside, path)"),
        ("    finally:\n        os.close(fd)\n    os.replace(aside, path)"),
        ("test_log_power.py",),
    ),
    Defect(
        "a-rewrites-name-is-not-synced",
        "log/folder.py",
        ("    os.replace(aside, path)\n    sync_folder(path.parent)"),
        "    os.replace(aside, path)",
        ("test_log_power.py",),
    ),
    Defect(
        "a-new-users-name-is-not-synced",
        "log/folder.py",
        "                    sync_folder(self.users)\n",
        "                    pass\n",
        ("test_log_power.py",),
    ),
    Defect(
        "one-old-file-makes-a-folder-old",
        "log/recovery.py",
        "return all(first is None",
        "return any(first is None",
        ("test_log_erase.py",),
    ),
    Defect(
        "an-unfinished-erasure-gives-its-id-back",
        "log/recovery.py",
        ("        findings.floor = max(findings.floor, place(identifier))\n    except"),
        "    except",
        ("test_log_recovery.py",),
    ),
    Defect(
        "the-last-id-of-a-file-is-given-again",
        "log/recovery.py",
        (
            '            findings.floor = max(findings.floor, place(last.data["id"]))\n'
            "        if (needs"
        ),
        ("            pass\n        if (needs"),
        ("test_log_recovery.py",),
    ),
    Defect(
        "a-new-conversation-is-erased-with-the-old",
        "log/recovery.py",
        (
            "        if created is None or created <= identifier:\n"
            "            remove_conversation(conversation)"
        ),
        "        remove_conversation(conversation)",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-clear-is-told-after-what-follows-it",
        "log/recovery.py",
        "kept.insert(0, records",
        "kept.insert(len(kept), records",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-turn-without-deltas-stays-running",
        "log/recovery.py",
        'return end < size or (last is not None and bool(last.data.get("running"))), last',
        "return end < size, last",
        ("test_log_recovery.py",),
    ),
    Defect(
        "live-files-of-ended-turns-stay",
        "log/recovery.py",
        "        if (needs or has_live) and",
        "        if needs and",
        ("test_log_recovery.py",),
    ),
    Defect(
        "an-erasure-that-fails-at-the-start-stops-it",
        "log/recovery.py",
        ("            if path.suffix == staging.DECIDED:\n                raise  #"),
        ("            if path.suffix != staging.DECIDED:\n                raise  #"),
        ("test_log_recovery.py",),
    ),
    Defect(
        "a-started-turn-is-ended-twice",
        "log/file_state.py",
        ('if started is not None and len(records.find_turn(fd, size, started["turn_id"])) == 1:'),
        "if started is not None:",
        ("test_log_recovery.py",),
    ),
    Defect(
        "trimming-forgets-one-too-many",
        "log/tail.py",
        "or segment.first >= keep_from",
        "or segment.first > keep_from",
        ("test_log_tail.py",),
    ),
    Defect(
        "the-clock-closes-on-its-last-id",
        "log/clock.py",
        "self._write(self._last // PER_MILLISECOND + 1)",
        "self._write(self._last // PER_MILLISECOND)",
        ("test_log_clock.py",),
    ),
    Defect(
        "the-ceiling-rises-before-it-is-written",
        "log/clock.py",
        ("                self._write(ceiling_ms)\n                self._ceiling_ms = ceiling_ms"),
        ("                self._ceiling_ms = ceiling_ms\n                self._write(ceiling_ms)"),
        ("test_log_disk.py",),
    ),
    Defect(
        "the-ceiling-is-not-synced",
        "log/clock.py",
        "        os.fdatasync(self._fd)\n",
        "",
        ("test_log_power.py",),
    ),
    Defect(
        "the-clock-forgets-the-files",
        "log/clock.py",
        "self._last = max(place(floor), floor_ms * PER_MILLISECOND)",
        "self._last = floor_ms * PER_MILLISECOND",
        ("test_log_clock.py",),
    ),
    Defect(
        "renewing-never-ends",
        "log/clock.py",
        ("        finally:\n            self._renewing = False\n"),
        ("        finally:\n            pass\n"),
        ("test_log_clock.py",),
    ),
    Defect(
        "a-job-that-fails-oddly-ends-its-thread",
        "log/syncer.py",
        ('    except Exception:\n        logger.exception("sync job failed")\n        return'),
        ('    except ValueError:\n        logger.exception("sync job failed")\n        return'),
        ("test_log_syncer.py",),
    ),
    Defect(
        "one-conversations-trouble-is-everyones",
        "log/syncer.py",
        ("    except Exception:\n        # One"),
        ("    except ValueError:\n        # One"),
        ("test_log_syncer.py",),
    ),
    Defect(
        "a-job-between-looks-waits-for-ever",
        "log/syncer.py",
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
        "log/syncer.py",
        ("            _tell(done, _run(job))\n            return\n"),
        "            return\n",
        ("test_log_syncer.py",),
    ),
    Defect(
        "what-the-last-ends-ask-for-is-lost",
        "log/syncer.py",
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
        "log/disk.py",
        ("            if not self.rest(oldest):\n                self._open.move_to_end(oldest)"),
        "            self.rest(oldest)",
        ("test_log_disk.py",),
    ),
    Defect(
        "what-waits-is-lost-at-closing",
        "log/disk.py",
        ("        self._flush_all()\n        self._readers"),
        "        self._readers",
        ("test_log_disk.py",),
    ),
    Defect(
        "a-reserve-of-any-size-is-one",
        "log/reserve.py",
        "if self._path.stat().st_size == self._size:",
        "if self._path.stat().st_size <= self._size:",
        ("test_log_disk.py",),
    ),
    Defect(
        "a-reserve-that-cannot-be-held-stays-half",
        "log/reserve.py",
        ("            self.release()\n            return False"),
        "            return False",
        ("test_log_disk.py",),
    ),
    Defect(
        "feedback-that-was-refused-stays",
        "log/feedback.py",
        ("        except OSError:\n            cut_back(fd, size)\n            if"),
        ("        except OSError:\n            if"),
        ("test_log_feedback.py",),
    ),
    Defect(
        "an-empty-feedback-file-stays",
        "log/feedback.py",
        ("            if size == 0:\n                path.unlink()\n            raise"),
        "            raise",
        ("test_log_feedback.py",),
    ),
    Defect(
        "a-rating-is-shown-before-it-is-durable",
        "log/feedback.py",
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
        "log/feedback.py",
        ("        size = committed_size(fd)\n        cut_back(fd, size)\n        data"),
        ("        size = os.fstat(fd).st_size\n        data"),
        ("test_log_feedback.py",),
    ),
    Defect(
        "an-erasure-that-failed-is-not-told-of",
        "log/jsonl.py",
        (
            "            try:\n"
            "                return await erasing\n"
            "            finally:\n"
            "                self.on_erased(user_id)"
        ),
        (
            "            found = await erasing\n"
            "            self.on_erased(user_id)\n"
            "            return found"
        ),
        ("test_log_erase.py",),
    ),
    Defect(
        "a-list-from-before-a-clear-is-shown",
        "log/jsonl.py",
        "        self._erased_count += 1\n",
        "",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-users-erasure-overtakes-an-opening",
        "log/jsonl.py",
        "                await asyncio.wait(opening)\n",
        "                pass\n",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-conversation-is-opened-while-its-user-goes",
        "log/jsonl.py",
        (
            "        while (erasing := self._erasing.get(address.user_id)) is not None:\n"
            "            await asyncio.shield(erasing)\n"
        ),
        "",
        ("test_log_erase.py",),
    ),
    Defect(
        "two-erasures-of-a-user-at-once",
        "log/jsonl.py",
        (
            "        while (erasing := self._erasing.get(user_id)) is not None:\n"
            "            await asyncio.shield(erasing)\n"
        ),
        "",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-file-of-a-later-clock-is-not-heeded",
        "log/jsonl.py",
        "        self._disk.clock.raise_to(state.last)\n",
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "an-orphan-is-tried-once",
        "log/jsonl.py",
        ("            if found.orphans:\n                await end_orphans(found)\n"),
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "closing-does-not-wait-for-erasures",
        "log/jsonl.py",
        "                await log.settle()\n",
        "                pass\n",
        ("test_log_erase.py",),
    ),
    Defect(
        "a-leaving-caller-ends-an-erasure",
        "log/jsonl.py",
        "        return await asyncio.shield(task)\n",
        "        return await task\n",
        ("test_event_log.py",),
    ),
    Defect(
        "orphans-ended-by-a-clear-fail-the-opening",
        "log/orphans.py",
        (
            "        elif isinstance(result, TurnEnded):\n"
            "            continue  # by a clear, which tells of it\n"
        ),
        "",
        ("test_log_recovery.py",),
    ),
    Defect(
        "an-orphan-that-was-refused-is-forgotten",
        "log/orphans.py",
        "            conversation.orphans.append(orphan)\n",
        "",
        ("test_log_recovery.py",),
    ),
]
