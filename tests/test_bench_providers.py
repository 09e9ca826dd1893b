"""Reading a provider costs less than half of what httpx's lines do; the command prints both."""

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from chatstream.bench import providers
from chatstream.cli.commands import main


@pytest.mark.anyio
async def test_an_adapter_costs_less_than_half_of_httpx_and_its_lines(tmp_path: Path) -> None:
    found = await providers.measure(tmp_path, 50, 2, lambda _: None, streams=(30,), rate=100.0)

    (cost,) = found
    assert (len(cost.ours), len(cost.theirs)) == (2, 2)
    # 0.4 is what it is meant to be: room is left for a busy machine and a short run.
    assert cost.ratio < 0.6, providers.table(found)


def test_the_command_prints_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.measure, "__defaults__", ((2,), 200.0))
    arguments = ["bench", "--providers", "--tokens", "5", "--rounds", "1", "--json"]
    done = CliRunner().invoke(main, arguments)

    assert done.exit_code == 0, (done.exception, done.stderr)
    (found,) = orjson.loads(done.stdout)["providers"]
    assert found["streams"] == 2
    assert found["ratio"] > 0
