"""Turns: each is started once, run by a task of its own, and ended exactly once."""
