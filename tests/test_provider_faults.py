"""Five hundred turns at providers of which three requests in ten fail: what must hold of each."""

from pathlib import Path

import pytest

from tests import provider_faults


@pytest.fixture(autouse=True)
def short_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a breaker that opened be tried sooner, so that the test is short."""
    monkeypatch.setattr("chatstream.providers.route.breaker.SHORTEST_OPEN", 0.5)


def test_nearly_all_turns_complete_although_three_requests_in_ten_fail(tmp_path: Path) -> None:
    figures = provider_faults.run(tmp_path, seed=1)

    assert figures.broken == []
    assert figures.completed + figures.failed.total() == 500
    assert figures.completed >= 495, figures
    assert figures.faults >= 0.25 * figures.requests
    assert figures.retries
    assert figures.fallbacks


def test_what_breaks_off_after_its_first_content_is_told_and_never_completed(
    tmp_path: Path,
) -> None:
    figures = provider_faults.run(
        tmp_path, seed=2, turns=150, before=0.1, amid=0.3, names=("anthropic", "ollama")
    )

    assert figures.broken == []
    assert figures.completed + figures.failed.total() == 150
    assert 20 <= figures.failed.total() <= 75, figures
