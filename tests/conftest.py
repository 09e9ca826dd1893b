"""What every test shares."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests.upstream import Upstream

# An example takes as long as what else the machine does lets it.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

LONGEST = ("test_chaos.py",)
"""Files that take longest, which begin first: beside them there is enough to do on other cores."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The server runs on asyncio: its log and its timers do."""
    return "asyncio"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A provider of all four wire forms, that fails on demand."""
    with Upstream() as upstream:
        yield upstream


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay as they are."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
