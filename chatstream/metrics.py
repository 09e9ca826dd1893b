"""What can be counted: one registry per application, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Labels = tuple[str, ...]

# Of each: its name, what it says, and its labels.
_GAUGES: tuple[tuple[str, str, Labels], ...] = (
    ("turns_running", "Turns running now.", ("provider",)),
    (
        "breaker",
        "The breaker of a provider's default model: 0 closed, 1 half-open, 2 open.",
        ("provider",),
    ),
    (
        "provider_requests",
        "A provider's requests: running, waiting for room, and how many may run.",
        ("provider", "state"),
    ),
    ("cache_answers", "Answers that are kept.", ()),
    ("cache_bytes", "What they take, about.", ()),
    ("streams_open", "Readers connected.", ("transport",)),
)
_COUNTERS: tuple[tuple[str, str, Labels], ...] = (
    ("turns", "Turns that ended.", ("provider", "status")),
    (
        "attempts",
        "Requests to providers, retries and fallbacks too, by who was asked first.",
        ("provider",),
    ),
    ("turns_refused", "Turns that were not started.", ("code",)),
    (
        "cache_lookups",
        "First messages: a kept answer (hit), another turn's request (joined), or neither.",
        ("result",),
    ),
    ("deltas", "Pieces of text that providers sent.", ("provider",)),
    (
        "tokens",
        "Tokens of turns that ended, as their providers count them.",
        ("provider", "model", "direction"),
    ),
    ("http_requests", "HTTP requests answered.", ("method", "status")),
    ("log_lines_dropped", "Log lines that were not written, since nothing read them.", ()),
)
# Of each: its name, what it says, and where its buckets end, in seconds.
_HISTOGRAMS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    (
        "ttft_seconds",
        "From a turn's start to its first content.",
        (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60),
    ),
    (
        "turn_seconds",
        "From a turn's start to its end.",
        (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600),
    ),
)

MAX_MODELS = 100
"""Tokens of more models than so many are counted as `other`."""
OTHER_MODEL = "other"
"""Where those of a model are counted that neither the settings nor its provider name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a turn ended. Seconds are None where there was no content.

    `asked` is the provider that it began with, `provider` the one that answered, or failed last.
    `lookup` is what the cache had: hit, joined or miss; None where it was not asked.
    Tokens are those that it told of: none where it did not, or was not asked.
    """

    asked: str
    provider: str
    attempts: int
    status: str
    deltas: int
    ttft: float | None
    duration: float
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    lookup: str | None = None


class Metrics:
    """
    Counts of one application; labels are providers and outcomes only, never users.

    Attributes:
        lines_dropped: Returns how many log lines this process has not written; the process sets it.
    """

    def __init__(self) -> None:
        self.lines_dropped: Callable[[], int] = lambda: 0
        self._lines_told = 0
        self._models: set[tuple[str, str]] = set()
        self.registry = registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(f"chatstream_{name}", text, labels, registry=registry)
            for name, text, labels in _GAUGES
        }
        self._counters = {
            name: Counter(f"chatstream_{name}", text, labels, registry=registry)
            for name, text, labels in _COUNTERS
        }
        self._histograms = {
            name: Histogram(
                f"chatstream_{name}", text, ("provider",), buckets=buckets, registry=registry
            )
            for name, text, buckets in _HISTOGRAMS
        }

    def turn_began(self, provider: str) -> None:
        """Count a turn that started."""
        self._gauges["turns_running"].labels(provider).inc()

    def turn_ended(self, outcome: Outcome) -> None:
        """Count a turn that ended."""
        self._gauges["turns_running"].labels(outcome.asked).dec()
        self._counters["attempts"].labels(outcome.asked).inc(outcome.attempts)
        self._counters["turns"].labels(outcome.provider, outcome.status).inc()
        self._counters["deltas"].labels(outcome.provider).inc(outcome.deltas)
        if outcome.input_tokens or outcome.output_tokens:
            self._count_tokens(outcome)
        self._histograms["turn_seconds"].labels(outcome.provider).observe(outcome.duration)
        if outcome.lookup is not None:
            self._counters["cache_lookups"].labels(outcome.lookup).inc()
        if outcome.ttft is not None:
            self._histograms["ttft_seconds"].labels(outcome.provider).observe(outcome.ttft)

    def _count_tokens(self, outcome: Outcome) -> None:
        key = outcome.provider, outcome.model
        if key not in self._models and len(self._models) >= MAX_MODELS:
            key = outcome.provider, OTHER_MODEL
        else:
            self._models.add(key)
        self._counters["tokens"].labels(*key, "input").inc(outcome.input_tokens)
        self._counters["tokens"].labels(*key, "output").inc(outcome.output_tokens)

    def breakers(self, states: dict[str, str]) -> None:
        """Take the breakers' states as they are now."""
        for provider, state in states.items():
            self._gauges["breaker"].labels(provider).set(
                ("closed", "half-open", "open").index(state)
            )

    def turn_refused(self, code: str) -> None:
        """Count a turn that was not started: 429 or 503."""
        self._counters["turns_refused"].labels(code).inc()

    def concurrency(self, provider: str, limit: int, running: int, waiting: int) -> None:
        """Take a provider's requests as they are now."""
        for state, count in (("limit", limit), ("running", running), ("waiting", waiting)):
            self._gauges["provider_requests"].labels(provider, state).set(count)

    def answers(self, kept: int, size: int) -> None:
        """Take the cache as it is now."""
        self._gauges["cache_answers"].set(kept)
        self._gauges["cache_bytes"].set(size)

    def request(self, method: str, status: int) -> None:
        """Count an answered request."""
        known = method if method in _METHODS else "other"
        self._counters["http_requests"].labels(known, f"{status // 100}xx").inc()

    def stream_opened(self, transport: str) -> None:
        """Count a reader that came."""
        self._gauges["streams_open"].labels(transport).inc()

    def stream_closed(self, transport: str) -> None:
        """Count a reader that left."""
        self._gauges["streams_open"].labels(transport).dec()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        told, self._lines_told = self._lines_told, self.lines_dropped()
        self._counters["log_lines_dropped"].inc(self._lines_told - told)
        return generate_latest(self.registry)


_METHODS = frozenset(("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"))
