"""The HTTP edge: a module per resource. Handlers parse, call and respond."""
