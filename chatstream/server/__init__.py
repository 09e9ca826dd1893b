"""The process: its listener, signals, connections and log. It knows uvicorn; `web/` does not."""
