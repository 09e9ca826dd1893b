"""
A chaos run: a real server, a provider with known tokens, a network that breaks, and every promise
checked to the byte.

::

    python -m tests.chaos --seed 7 --seconds 600

The seed decides what is asked, cut and killed, each client having a generator of its own; the
operating system decides the rest, so a seed repeats a run's plan, not its every race.
"""
