"""Tokens in `/metrics`: by provider and model, in a bounded number of series."""

from dataclasses import replace
from pathlib import Path

from chatstream.metrics import MAX_MODELS, Metrics, Outcome
from chatstream.providers.registry import Providers
from tests.asking import make
from tests.running import Running
from tests.upstream import MODELS, Upstream

OUTCOME = Outcome(
    asked="p",
    provider="p",
    attempts=1,
    status="completed",
    deltas=1,
    ttft=0.1,
    duration=0.2,
    model="m",
    input_tokens=3,
    output_tokens=2,
)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return the tokens by provider, model and direction."""
    return {
        tuple(sample.labels[name] for name in ("provider", "model", "direction")): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "chatstream_tokens_total"
    }


def test_tokens_are_counted_by_provider_and_model() -> None:
    metrics = Metrics()
    for outcome in (OUTCOME, OUTCOME, replace(OUTCOME, provider="q", model="n", output_tokens=0)):
        metrics.turn_ended(outcome)

    assert samples(metrics) == {
        ("p", "m", "input"): 6,
        ("p", "m", "output"): 4,
        ("q", "n", "input"): 3,
        ("q", "n", "output"): 0,
    }


def test_a_turn_whose_usage_is_unknown_makes_no_series() -> None:
    metrics = Metrics()
    metrics.turn_ended(replace(OUTCOME, input_tokens=0, output_tokens=0))

    assert samples(metrics) == {}


def test_models_beyond_the_bound_are_counted_as_other() -> None:
    metrics = Metrics()
    for number in range(MAX_MODELS + 5):
        metrics.turn_ended(replace(OUTCOME, model=f"m{number}"))
    metrics.turn_ended(replace(OUTCOME, model="m0"))

    found = samples(metrics)
    assert len(found) == 2 * (MAX_MODELS + 1)
    assert found["p", "other", "input"] == 15
    assert found["p", "m0", "input"] == 6


def test_only_a_model_that_is_set_or_listed_is_named(tmp_path: Path, upstream: Upstream) -> None:
    providers = Providers({"openai": make("openai", upstream.url)}, "openai")
    with Running(tmp_path, providers) as server:
        for model in (None, MODELS[1], MODELS[1], 'evil"} 1', "x" * 200):
            asked = {"message": "!wait=0.05 tokens=2", "model": model}
            assert server.http.post("/chat", json=asked).status_code == 200
        told = server.http.get("/metrics").text

    lines = [line for line in told.splitlines() if line.startswith("chatstream_tokens_total")]
    counted = {line.partition('model="')[2].partition('"')[0] for line in lines}
    assert counted == {"m", MODELS[1], "other"}
    assert "evil" not in told
    assert "xxx" not in told
