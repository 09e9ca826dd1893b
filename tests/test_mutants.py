"""The planted defects: each still has its line and its tests, and the tool tells what survives."""

from pathlib import Path

import pytest

from tests.mutants.__main__ import main
from tests.mutants.defects import DEFECTS
from tests.mutants.planting import Defect, Result, misplaced, try_all

QUICK = "a-failed-sync-tells-before-it-undoes"


def test_every_defect_still_has_its_line_and_its_tests() -> None:
    wrong = [f"{d.name}: {told}" for d in DEFECTS if (told := misplaced(d)) is not None]

    assert not wrong, "\n".join(["correct the list in tests/mutants/:", *wrong])
    assert all(defect.original != defect.planted for defect in DEFECTS)


def test_no_name_stands_twice() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)


@pytest.mark.timeout(300)
def test_a_defect_is_planted_in_a_copy_and_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([QUICK]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"noticed  {QUICK}: tests/test_log_visibility.py::test_")
    assert last == "0 of 1 survive"


@pytest.mark.timeout(300)
def test_what_no_test_notices_survives_and_what_has_moved_is_told(tmp_path: Path) -> None:
    harmless = Defect(
        "harmless",
        "log/files/visibility.py",
        "FOREVER = 10**18",
        "FOREVER = 10**18 + 1",
        ("test_log_names.py",),
    )
    told: list[Result] = []
    moved = [
        harmless._replace(original="not there"),
        harmless._replace(file="log/nowhere.py"),
        harmless._replace(tests=("test_nothing.py",)),
    ]
    results = try_all(tmp_path, [harmless, *moved], told.append, jobs=2)

    assert results == told
    assert [result.noticed for result in results] == [False] * 4
    assert [result.how.partition(";")[0] for result in results] == [
        "test_log_names.py pass all the same",
        "its fragment stands 0 times in chatstream/log/files/visibility.py, not once",
        "there is no chatstream/log/nowhere.py: it has moved",
        "there is no tests/test_nothing.py: it has moved",
    ]
    assert not list(tmp_path.rglob("*.py"))


def test_the_list_is_told_without_planting_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [defect.name for defect in DEFECTS]
    with pytest.raises(SystemExit):
        main(["a name that is not in the list"])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_defect_survives(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["-j", "2"])
    assert status == 0, capsys.readouterr().out
