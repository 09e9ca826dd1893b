"""
What one client, or one provider, can do to everybody else: attacks on a real server, measured.

A module here is a group of attacks: async functions of one `Target` that attack until its time is
up, listed in `ATTACKS`; a function's name is the attack's. Where the group's server needs more than
the offline provider, `world` of the module is a context manager that yields its environment.
`GROUPS` in `tests/abuse/groups.py` lists the modules.

Each attack meets a server of its own, a process. Meanwhile another process asks for `/healthz`
over a connection that it keeps, and now and then over a new one.
"""
