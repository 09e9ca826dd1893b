"""The event log on append-only JSONL files: one process owns a data folder."""
