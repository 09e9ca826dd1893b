"""Tokens in `/metrics`: by provider and model, in a bounded number of series."""

from dataclasses import replace

from chatstream.metrics import MAX_MODELS, Metrics, Outcome

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
