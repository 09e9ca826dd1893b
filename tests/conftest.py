"""What every test shares."""

from collections.abc import Iterator

import pytest

from tests.upstream import Upstream


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The server runs on asyncio: its log and its timers do."""
    return "asyncio"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A provider of all four wire forms, that fails on demand."""
    with Upstream() as upstream:
        yield upstream
