"""
The list: what a tired colleague might write, each where the suite once said nothing, or nearly.

A defect that no test can notice, since nothing can be seen of it, is none and is not here.
"""

from tests.mutants import of_disk, of_erasing, of_log, of_providers, of_recovery, of_turns
from tests.mutants.planting import Defect

DEFECTS: list[Defect] = [
    *of_log.DEFECTS,
    *of_disk.DEFECTS,
    *of_erasing.DEFECTS,
    *of_recovery.DEFECTS,
    *of_turns.DEFECTS,
    *of_providers.DEFECTS,
]
