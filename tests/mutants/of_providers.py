"""Defects of asking providers: attempts, breakers, places, connections."""

from tests.mutants.planting import Defect

DEFECTS = [
    Defect(
        "a-cancelled-probe-is-never-over",
        "providers/route/attempts.py",
        ("            if outcome is None:\n                target.breaker.left(self._entry)\n"),
        "",
        ("test_providers_attempts.py",),
    ),
    Defect(
        "a-failed-attempt-keeps-its-place",
        "providers/route/attempts.py",
        ("            finally:\n                self.leave()\n            number ="),
        ("            finally:\n                pass\n            number ="),
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "a-cut-answer-counts-for-nothing",
        "providers/route/attempts.py",
        "                                target.breaker.cut(error)\n",
        "",
        ("test_providers_attempts.py",),
    ),
    Defect(
        "a-provider-that-is-too-slow-is-asked-as-much",
        "providers/route/attempts.py",
        "            self._ticket.failed(outcome)\n",
        "",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "a-provider-that-bears-more-is-not-asked-more",
        "providers/route/attempts.py",
        "            self._ticket.began()\n",
        "",
        ("test_providers_attempts.py",),
    ),
    Defect(
        "all-are-asked-although-nobody-has-time",
        "providers/route/plan.py",
        "return Step(number, wait) if wait < room else None",
        "return Step(number, wait)",
        ("test_providers_plan.py",),
    ),
    Defect(
        "the-providers-stream-stays-open",
        "providers/route/attempts.py",
        (
            "                    async with aclosing(reply) as pieces:\n"
            "                        begun"
        ),
        (
            "                    pieces = reply\n"
            "                    if True:\n"
            "                        begun"
        ),
        ("test_providers_attempts.py",),
    ),
    Defect(
        "the-failure-of-a-queue-hides-the-providers",
        "providers/route/attempts.py",
        "self._failure = self._failure or _overloaded",
        "self._failure = _overloaded",
        ("test_providers_attempts.py",),
    ),
    Defect(
        "a-probe-that-left-blocks-for-ever",
        "providers/route/breaker.py",
        (
            '        """The caller went before anything was decided: it counts as '
            'nothing."""\n'
            "        if entry.probe:\n"
            "            self._probing = False"
        ),
        (
            '        """The caller went before anything was decided: it counts as '
            'nothing."""\n'
            "        if not entry.probe:\n"
            "            self._probing = False"
        ),
        ("test_providers_breaker.py",),
    ),
    Defect(
        "a-shorter-pause-takes-the-longer-ones-place",
        "providers/route/breaker.py",
        "self._parked_until = max(self._parked_until, self._clock() + wait)",
        "self._parked_until = self._clock() + wait",
        ("test_providers_breaker.py",),
    ),
    Defect(
        "a-provider-that-recovered-is-left-alone-as-long-as-before",
        "providers/route/breaker.py",
        ("            self._times_opened = 0\n            self._calls.clear()"),
        "            self._calls.clear()",
        ("test_providers_breaker.py",),
    ),
    Defect(
        "a-provider-that-recovered-is-blamed-for-the-past",
        "providers/route/breaker.py",
        ("            self._times_opened = 0\n            self._calls.clear()\n"),
        "            self._times_opened = 0\n",
        ("test_providers_breaker.py",),
    ),
    Defect(
        "a-failure-late-to-an-open-breaker-lengthens-it",
        "providers/route/breaker.py",
        "entry.probe or self._closed_at is None and self._bad()",
        "entry.probe or self._bad()",
        ("test_providers_breaker.py",),
    ),
    Defect(
        "a-refused-key-is-forgiven",
        "providers/route/breaker.py",
        "            if self._closed_at != math.inf and (",
        "            if True and (",
        ("test_providers_breaker.py",),
    ),
    Defect(
        "a-parked-provider-looks-closed",
        "providers/route/breaker.py",
        "if now + SLACK < self._parked_until or self.account.wait() > 1:",
        "if self.account.wait() > 1:",
        ("test_providers_breaker.py",),
    ),
    Defect(
        "a-ticket-is-let-go-twice",
        "providers/route/concurrency.py",
        (
            "        if not self._released:\n"
            "            self._released = True\n"
            "            self._limiter.leave"
        ),
        ("        if True:\n            self._limiter.leave"),
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "a-place-is-kept-for-who-is-there",
        "providers/route/fair_queue.py",
        "        self._idle.pop(user_id, None)\n",
        "",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "who-comes-overtakes-who-waits",
        "providers/route/concurrency.py",
        "        self._serve()  # nobody overtakes tickets of the same user that wait\n",
        "",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "one-refusal-counts-for-each-that-ran",
        "providers/route/window.py",
        ("        if decreases != self.decreases:\n            return\n"),
        "",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "nobody-looks-again",
        "providers/route/concurrency.py",
        ("        self._looks_later = False\n        self._serve()"),
        "        self._serve()",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "who-leaves-the-queue-stays-counted",
        "providers/route/fair_queue.py",
        ("        self._waiting[user_id].remove(ticket)\n        self._dequeued(user_id)\n"),
        "        self._waiting[user_id].remove(ticket)\n",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "a-place-given-while-time-ran-out-is-lost",
        "providers/route/concurrency.py",
        ("        return self.granted\n\n    @property"),
        ("            return False\n        return True\n\n    @property"),
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "the-limit-falls-below-one",
        "providers/route/window.py",
        "* DECREASE, 1.0)",
        "* DECREASE, 0.0)",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "the-limit-rises-beyond-what-is-allowed",
        "providers/route/window.py",
        "most = self._most if now >= self._trial_at else self.borne",
        "most = math.inf",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "the-limit-rises-unused",
        "providers/route/window.py",
        "        if 2 * in_use >= self.limit:\n",
        "        if True:\n",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "a-user-may-fill-the-queue",
        "providers/route/concurrency.py",
        "most = math.ceil(self._queue.size * SHARE)",
        "most = self._queue.size",
        ("test_providers_concurrency.py",),
    ),
    Defect(
        "the-connection-is-not-closed",
        "providers/http/client.py",
        ("            reading.leave()\n            await response.aclose()\n        if again"),
        ("            reading.leave()\n        if again"),
        ("test_providers_http.py",),
    ),
]
