"""A GGUF model in a process of its own, beside the server."""
