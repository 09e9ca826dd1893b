"""What is read from a log. Nothing here writes, and nothing knows providers or transports."""
