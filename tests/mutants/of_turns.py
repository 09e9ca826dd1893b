"""Defects of turns, replies, their ends and their readers."""

from tests.mutants.planting import Defect

DEFECTS = [
    Defect(
        "cleared-between-start-and-stream-is-missing",
        "web/turns.py",
        "            return _gone(services, address, turn, where, headers)",
        "            raise",
        ("test_web_turns.py",),
    ),
    Defect(
        "a-replaced-turn-comes-back-after-a-clear",
        "turns/runner.py",
        "if replaced is not None and conversation.epoch != epoch:",
        "if replaced is None and conversation.epoch != epoch:",
        ("test_views_versions.py",),
    ),
    Defect(
        "a-refused-start-keeps-its-place",
        "turns/runner.py",
        ("        finally:\n            starting.leave()\n"),
        ("        finally:\n            pass\n"),
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-replacement-stops-itself",
        "turns/runner.py",
        "if replaced <= other.started_id < turn.started_id and",
        "if replaced <= other.started_id and",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-turn-that-runs-is-run-again",
        "turns/runner.py",
        (
            "            if started.ended or started in self.running:\n"
            "                return started\n"
        ),
        "",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-leaving-canceller-takes-the-end-along",
        "turns/runner.py",
        "while not (await asyncio.wait([turn.done], timeout=REFUSED_SECONDS))[0]:",
        "while not await asyncio.wait_for(turn.done, REFUSED_SECONDS):",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-leaving-reader-takes-the-end-along",
        "turns/runner.py",
        "event = await asyncio.shield(turn.done)",
        "event = await turn.done",
        ("test_turns_runner.py",),
    ),
    Defect(
        "who-waited-reads-for-ever",
        "turns/runner.py",
        ("        finally:\n            conversation.unwatch(waits)\n"),
        ("        finally:\n            pass\n"),
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-snapshot-is-ahead-of-its-id",
        "turns/runner.py",
        'turn.text("text", upto)',
        'turn.text("text")',
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-snapshot-thinks-ahead-of-its-id",
        "turns/runner.py",
        'turn.text("reasoning", upto)',
        'turn.text("reasoning")',
        ("test_turns_runner.py",),
    ),
    Defect(
        "what-starts-while-it-stops-runs-on",
        "turns/runner.py",
        (
            "        if self._interrupting:\n"
            '            reply.stop(Why("turn.interrupted", last=True))\n'
        ),
        "",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-leaving-caller-ends-its-start",
        "turns/runner.py",
        "        return await self._starting.run(self._start(request))",
        "        return await self._starting.begin(self._start(request))",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-turn-between-looks-does-not-exist",
        "turns/runner.py",
        (
            "        if len(found) == 1 and (live := conversation.live(turn_id)) is not None:\n"
            "            return live\n"
        ),
        "",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-turn-that-ends-between-looks-is-interrupted",
        "turns/runner.py",
        (
            "        if len(found) == 1 and not (found := await find_records("
            "conversation, turn_id)):\n"
            '            raise NotFound("There is no such turn.")\n'
        ),
        "",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-known-replacement-cancels-again",
        "turns/runner.py",
        "        if not (runs or turn_id in await conversation.load_recent()):",
        "        if not runs:",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-started-reply-loses-its-place",
        "turns/start.py",
        "        self._route = None  # it is the reply's from now on\n",
        "",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-refused-start-keeps-the-providers-place",
        "turns/start.py",
        ("        if self._route is not None:\n            self._route.leave()\n"),
        "",
        ("test_turns_runner.py",),
    ),
    Defect(
        "the-last-reason-stands",
        "turns/terminal.py",
        (
            "        if self._why is None:\n"
            "            self._why = why\n"
            "        elif why.last:\n"
            "            self._why = self._why._replace(last=True)"
        ),
        "        self._why = why",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-stop-does-not-hurry",
        "turns/terminal.py",
        ("        elif why.last:\n            self._why = self._why._replace(last=True)\n"),
        "",
        ("test_turns_reply.py",),
    ),
    Defect(
        "a-cancelled-end-that-failed-is-the-only-try",
        "turns/terminal.py",
        "if self._turn.ended and await self._is_ended():\n",
        "if self._turn.ended:\n",
        ("test_turns_reply.py",),
    ),
    Defect(
        "a-stop-while-the-disk-refuses-is-not-heard",
        "turns/terminal.py",
        (
            "                except asyncio.CancelledError:\n"
            "                    kind, fields = self.cancelled()\n"
            "                delay"
        ),
        (
            "                except asyncio.CancelledError:\n"
            "                    pass\n"
            "                delay"
        ),
        ("test_turns_reply.py",),
    ),
    Defect(
        "a-lost-turn-is-never-let-go",
        "turns/terminal.py",
        ("                    self._turn.close(None)\n                    return"),
        "                    return",
        ("test_turns_reply.py",),
    ),
    Defect(
        "an-end-is-tried-once",
        "turns/terminal.py",
        "                if self._why is not None and self._why.last:",
        "                if self._why is None or self._why.last:",
        ("test_turns_reply.py",),
    ),
    Defect(
        "an-end-that-somebody-cleared-is-completed",
        "turns/terminal.py",
        (
            '                self.status = "cleared"\n'
            "                return\n"
            "            except asyncio"
        ),
        (
            '                self.status = "completed"\n'
            "                return\n"
            "            except asyncio"
        ),
        ("test_turns_reply.py",),
    ),
    Defect(
        "a-deadline-runs-on-while-the-end-is-written",
        "turns/reply.py",
        ("        finally:\n            self._deadlines.close()\n"),
        ("        finally:\n            pass\n"),
        ("test_turns_reply.py",),
    ),
    Defect(
        "a-reply-that-never-began-keeps-its-place",
        "turns/reply.py",
        "        self.source.leave()\n",
        "",
        ("test_turns_runner.py",),
    ),
    Defect(
        "a-reply-may-be-one-byte-too-long",
        "turns/reply.py",
        "if len(piece.text) * 6 > room:",
        "if len(piece.text) * 6 > room + 1:",
        ("test_turns_reply.py",),
    ),
    Defect(
        "a-stop-before-the-first-step-is-forgotten",
        "turns/reply.py",
        "            if self._ending.stopped or self.turn.ended:",
        "            if self.turn.ended:",
        ("test_turns_runner.py",),
    ),
    Defect(
        "the-first-usage-stands",
        "turns/reply.py",
        "                    self._usage = piece\n",
        "                    self._usage = self._usage or piece\n",
        ("test_turns_reply.py",),
    ),
    Defect(
        "a-wake-up-lasts-for-ever",
        "views/subscriber.py",
        ("            self._future = None\n        self._set = False"),
        ("            self._future = None\n            self._set = False"),
        ("test_views_subscriber.py",),
    ),
    Defect(
        "a-cleared-turns-stream-lacks-the-clear",
        "views/subscriber.py",
        "if event.type in TERMINAL_TYPES and not event.by_clear:",
        "if event.type in TERMINAL_TYPES:",
        ("test_web_turns.py",),
    ),
    Defect(
        "caught-up-comes-one-event-late",
        "views/subscriber.py",
        "return self.after >= place(self.backlog_until)",
        "return self.after > place(self.backlog_until)",
        ("test_views_subscriber.py",),
    ),
    Defect(
        "a-turns-reader-passes-by-what-is-pending",
        "views/subscriber.py",
        "self.after = max(self.after, min(conversation.visible, place(conversation.last_id)))",
        "self.after = max(self.after, conversation.visible)",
        ("test_views_subscriber.py",),
    ),
    Defect(
        "a-closed-reader-is-woken-on",
        "views/subscriber.py",
        "        self.conversation.unwatch(self._wake)\n",
        "",
        ("test_views_subscriber.py",),
    ),
    Defect(
        "an-orphan-is-stopped-in-the-middle-of-reading",
        "turns/deadlines.py",
        "                self._read_until = now\n",
        "                pass\n",
        ("test_turns_reply.py",),
    ),
    Defect(
        "the-whole-turn-has-no-deadline",
        "turns/deadlines.py",
        ("        due = min(self._due, self._last_due)\n        orphan"),
        ("        due = self._due\n        orphan"),
        ("test_turns_reply.py",),
    ),
    Defect(
        "the-first-text-does-not-bring-the-deadline-nearer",
        "turns/deadlines.py",
        ("        self.close()\n        self.watch()\n        return True"),
        "        return True",
        ("test_turns_reply.py",),
    ),
    Defect(
        "the-wrong-deadline-is-told",
        "turns/deadlines.py",
        "        if self._last_due <= self._due:",
        "        if self._last_due > self._due:",
        ("test_turns_reply.py",),
    ),
]
