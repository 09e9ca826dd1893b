"""
The event log: every event of every conversation, in order, and what is kept beside it.

What turns write is durable before anybody sees it, and is seen in the order of the ids. A store
is a folder here and knows no other::

    files/              append-only JSONL files in a data folder, one process

Nothing here knows turns' tasks, readers' transports or providers.
"""
