"""What is read from a log. Nothing here writes, and nothing knows who answers or who asks."""
