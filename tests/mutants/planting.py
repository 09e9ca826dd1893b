"""A copy of the checkout, a defect planted in it, and the tests that must notice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "chatstream"
TESTS = ROOT / "tests"

SECONDS = 180.0
"""How long the tests of one defect may take: beyond it they hang, which is noticed too."""
ONE_TEST_SECONDS = 30
"""The same for a single test: a defect often shows as a wait that never ends."""
_LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "dist", "data")
_FAILED, _PASSED = 1, 0


class Defect(NamedTuple):
    """
    One line that somebody tired might write.

    Attributes:
        name: What is wrong then.
        file: Where, below the package's folder.
        original: A fragment that stands there exactly once.
        planted: What takes its place.
        tests: Files below `tests/` of which at least one must fail.
    """

    name: str
    file: str
    original: str
    planted: str
    tests: tuple[str, ...]


class Result(NamedTuple):
    """What became of one defect. `noticed`: a test failed, or hung."""

    defect: Defect
    noticed: bool
    how: str

    def __str__(self) -> str:
        return f"{'noticed' if self.noticed else 'SURVIVES'}  {self.defect.name}: {self.how}"


def misplaced(defect: Defect) -> str | None:
    """Say what is wrong with an entry of the list: its line has moved, or its tests; or None."""
    path = PACKAGE / defect.file
    if not path.is_file():
        return f"there is no chatstream/{defect.file}: it has moved"
    if (count := path.read_text().count(defect.original)) != 1:
        return f"its fragment stands {count} times in chatstream/{defect.file}, not once"
    if missing := [name for name in defect.tests if not (TESTS / name).is_file()]:
        return f"there is no tests/{missing[0]}: it has moved"
    return None


def copy(folder: Path, source: Path = ROOT) -> Path:
    """Copy a checkout into a new folder, for tests to run in; returns its root."""
    root = folder / "checkout"
    left_out = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(source, root, ignore=left_out, symlinks=True)
    return root


def plant(root: Path, defect: Defect) -> None:
    """Write a defect into a copy of the checkout."""
    path = root / PACKAGE.name / defect.file
    path.write_text(path.read_text().replace(defect.original, defect.planted))


def run_tests(root: Path, names: Iterable[str], seconds: float) -> tuple[int | None, str]:
    """
    Run test files of a copy up to the first failure.

    Returns pytest's exit status (None where it hung and was ended), and which test failed.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    # By a thread: it ends the process, also where closing what the test had open would hang too.
    command += ["-rfE", "-o", f"timeout={ONE_TEST_SECONDS}", "-o", "timeout_method=thread"]
    command += [f"tests/{name}" for name in names]
    # Before the installed package, in every process that a test starts.
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            told, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, f"hung for {seconds:g} s"
    return process.returncode, _failure(told)


def _failure(told: str) -> str:
    lines = told.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return (failed or lines or [""])[-1].removeprefix("FAILED ").partition(" - ")[0]


def _tried(folder: Path, defect: Defect) -> Result:
    if (wrong := misplaced(defect)) is not None:
        return Result(defect, False, f"{wrong}; correct the list in tests/mutants/")
    root = copy(folder)
    plant(root, defect)
    status, told = run_tests(root, defect.tests, SECONDS)
    shutil.rmtree(root)
    if status is None or status == _FAILED:
        return Result(defect, True, told)
    if status == _PASSED:
        return Result(defect, False, f"{', '.join(defect.tests)} pass all the same")
    return Result(defect, False, f"the tests could not be run, which says nothing: {told}")


def try_all(
    folder: Path, defects: Sequence[Defect], told: Callable[[Result], None], *, jobs: int = 1
) -> list[Result]:
    """Plant each defect, `jobs` at a time; `told` is called with each result, in order."""
    results = []
    with ThreadPoolExecutor(jobs) as threads:
        places = [folder / str(number) for number in range(len(defects))]
        for result in threads.map(_tried, places, defects):
            told(result)
            results.append(result)
    return results


def broken_before(folder: Path, defects: Iterable[Defect]) -> str | None:
    """Run the tests of these defects without any; returns what fails: then nothing is known."""
    names = sorted(
        {name for defect in defects for name in defect.tests if (TESTS / name).is_file()}
    )
    root = copy(folder)
    status, told = run_tests(root, names, SECONDS * 5)
    shutil.rmtree(root)
    return None if status == _PASSED else told
