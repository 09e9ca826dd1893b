"""
What a million tokens cost, by provider and model: read once, from the operator's file.

    {"currency": "USD", "openai/gpt-4o-mini": {"input": 0.15, "output": 0.6}}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from chatstream.errors import SettingsError

MILLION = 1_000_000
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)


class Price(NamedTuple):
    """Of a million tokens, in the file's currency."""

    input: float
    output: float


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by `provider/model`; `currency` is an ISO 4217 code."""

    currency: str
    by_model: Mapping[str, Price]

    def cost(
        self, provider: str | None, model: str | None, input_tokens: int, output_tokens: int
    ) -> float | None:
        """Return what tokens cost, not rounded to cents; None where the model has no price."""
        price = self.by_model.get(f"{provider}/{model}")
        if price is None:
            return None
        return rounded((input_tokens * price.input + output_tokens * price.output) / MILLION)


def rounded(cost: float) -> float:
    """Return a cost without the noise of binary fractions: ten decimals."""
    return round(cost, 10)


def load_prices(path: Path) -> Prices:
    """
    Read a file of prices.

    Raises:
        SettingsError: Names the file, the key and the value that is wrong.
    """
    try:
        data = orjson.loads(path.read_bytes())
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise _wrong(path, f"is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise _wrong(path, f"must hold a JSON object, not {_shown(data)}")
    currency = data.pop("currency", "USD")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise _wrong(path, f"currency: takes three capital letters, not {_shown(currency)}")
    return Prices(currency, {name: _price(path, name, value) for name, value in data.items()})


def _price(path: Path, name: str, value: object) -> Price:
    provider, slash, model = name.partition("/")
    if not (provider and slash and model):
        raise _wrong(path, f"{name}: must be a key of the form provider/model, or currency")
    if not isinstance(value, dict) or set(value) != set(Price._fields):
        raise _wrong(path, f'{name}: takes {{"input": …, "output": …}}, not {_shown(value)}')
    for field, number in value.items():
        if type(number) not in (int, float) or not 0 <= number < math.inf:
            raise _wrong(path, f"{name}: {field}: takes a number from 0 on, not {_shown(number)}")
    return Price(value["input"], value["output"])


def _shown(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else text[:79] + "…"


def _wrong(path: Path, message: str) -> SettingsError:
    return SettingsError(f"CHATSTREAM_PRICES: {path}: {message}")
