"""
What a client speaks to: a module for each resource and each transport.

A handler parses, calls and responds; `sse` and `websocket` send what `views/` reads.
"""
