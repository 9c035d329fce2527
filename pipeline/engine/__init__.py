"""The engine: phases over shards, exchange by key, journal, executors. The only part that knows Ray."""
