"""Plants every defect of the list, and prints which of them no test notices."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.defects import DEFECTS
from tests.mutants.planting import Result, broken_before, try_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the options say; 1 where a defect survives, or its line is no longer there."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="which ones; all without any")
    parser.add_argument("--list", action="store_true", help="tell the list, and plant nothing")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="how many at once")
    given = parser.parse_args(arguments)
    known = {defect.name: defect for defect in DEFECTS}
    if unknown := set(given.names) - known.keys():
        parser.error(f"not in the list: {', '.join(sorted(unknown))}")
    chosen = [known[name] for name in given.names] or DEFECTS
    if given.list:
        for defect in chosen:
            say(f"{defect.name}: {defect.file} ({', '.join(defect.tests)})")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        if told := broken_before(Path(folder), chosen):
            say(f"the tests fail without any defect, so that nothing is known: {told}")
            return 1
        results = try_all(Path(folder), chosen, say, jobs=max(given.jobs, 1))
    survivors = [result for result in results if not result.noticed]
    say(f"{len(survivors)} of {len(results)} survive")
    for result in survivors:
        say(str(result))
    return 1 if survivors else 0


def say(what: Result | str) -> None:
    """Print a line at once, however long the next one takes."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
