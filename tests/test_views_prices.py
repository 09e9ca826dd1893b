"""Prices: what a file of them may say, and what is said where it says something else."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from chatstream.cli.commands import main
from chatstream.errors import SettingsError
from chatstream.views.prices import load_prices


def written(folder: Path, text: str) -> Path:
    path = folder / "prices.json"
    path.write_text(text)
    return path


def test_a_cost_is_that_of_its_model_and_exact(tmp_path: Path) -> None:
    path = written(
        tmp_path, '{"currency": "EUR", "a/m": {"input": 0.1, "output": 0.2}, "a/x/y": {"input": 1, '
        '"output": 2.5}, "b/m": {"input": 0, "output": 0}}',
    )  # fmt: skip
    prices = load_prices(path)

    assert prices.currency == "EUR"
    assert prices.cost("a", "m", 1, 1) == 0.0000003
    assert prices.cost("a", "x/y", 1_000_000, 2_000_000) == 6
    assert prices.cost("b", "m", 5, 5) == 0
    for provider, model in (("b", "n"), ("c", "m"), (None, "m"), ("a", None)):
        assert prices.cost(provider, model, 1, 1) is None


def test_without_a_currency_it_is_the_dollar(tmp_path: Path) -> None:
    assert load_prices(written(tmp_path, "{}")).currency == "USD"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object, not []"),
        ('{"currency": "dollars"}', 'currency: takes three capital letters, not "dollars"'),
        ('{"currency": null}', "currency: takes three capital letters, not null"),
        ('{"gpt": {"input": 1, "output": 1}}', "gpt: must be a key of the form provider/model"),
        ('{"a/": {"input": 1, "output": 1}}', "a/: must be a key of the form provider/model"),
        ('{"a/m": 3}', 'a/m: takes {"input": …, "output": …}, not 3'),
        ('{"a/m": {"input": 1}}', 'a/m: takes {"input": …, "output": …}, not {"input":1}'),
        (
            '{"a/m": {"input": 1, "output": 1, "cache": 1}}',
            'a/m: takes {"input": …, "output": …}, not {"input":1,"output":1,"cache":1}',
        ),
        ('{"a/m": {"input": "1", "output": 1}}', 'a/m: input: takes a number from 0 on, not "1"'),
        ('{"a/m": {"input": 1, "output": -2}}', "a/m: output: takes a number from 0 on, not -2"),
        ('{"a/m": {"input": true, "output": 1}}', "a/m: input: takes a number from 0 on, not true"),
    ],
)
def test_a_wrong_file_is_named_with_the_key_and_the_value(
    tmp_path: Path, text: str, named: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_prices(path)

    assert caught.value.message.startswith(f"CHATSTREAM_PRICES: {path}: ")
    assert named in caught.value.message


@pytest.mark.parametrize("text", [None, '{"a/m": {"input": "free", "output": 1}}'])
def test_a_wrong_file_keeps_the_server_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "prices.json" if text is None else written(tmp_path, text)
    monkeypatch.setenv("CHATSTREAM_PRICES", str(path))
    result = CliRunner().invoke(main, ["serve", "--provider", "offline", "--no-model"])

    assert result.exit_code == 2
    assert result.stderr.startswith(f"chatstream: CHATSTREAM_PRICES: {path}: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
