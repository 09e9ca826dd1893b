"""One client cannot stop the server: a short run of each attack (`python -m tests.abuse`)."""

import pytest

from tests.abuse.__main__ import within
from tests.abuse.groups import GROUPS
from tests.abuse.measure import measure
from tests.abuse.target import Attack, Group

SECONDS = 1.0
TRIES = 2
"""What else the machine does can spoil one run, hardly two."""
ALL = [
    pytest.param(group, attack, id=f"{group.name}: {attack.__name__}")
    for group in GROUPS
    for attack in group.attacks
]


@pytest.mark.parametrize(("group", "attack"), ALL)
def test_nobody_else_is_kept_waiting_by(group: Group, attack: Attack) -> None:
    found = []
    for _ in range(TRIES):
        found.append(measure(group, attack, SECONDS, rest=0))
        if within(found[-1], 2):
            return
    raise AssertionError(found)
