"""
The list: what a tired colleague might write, each where the suite once said nothing, or nearly.

A defect that no test can notice, since nothing can be seen of it, is none and is not here.
"""

from tests.mutants import of_log, of_providers, of_turns
from tests.mutants.planting import Defect

DEFECTS: list[Defect] = [*of_log.DEFECTS, *of_turns.DEFECTS, *of_providers.DEFECTS]
