"""
The event log: every event of every conversation, in order, and what is kept beside it.

An event of a turn is durable before a reader sees it, and readers see events in the order of
their ids. A store is a folder here and knows no other::

    files/              append-only JSONL files in a data folder, one process

Nothing here knows turns' tasks, readers' transports or providers.
"""
