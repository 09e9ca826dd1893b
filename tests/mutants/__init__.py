"""
One-line defects, planted one at a time in a copy of the package: does a test notice?

A suite that passes says little; one that fails as soon as a promise is broken says what it is
worth. `defects` is the list, `planting` copies, plants and runs, `python -m tests.mutants` does it
for the whole list.
"""
