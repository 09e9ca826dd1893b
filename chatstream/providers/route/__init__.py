"""Who is asked, when and how often: retries, breakers, concurrency, the cache of answers."""
