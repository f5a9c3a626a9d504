"""Raw text to token shards, offline: nothing in this package imports jax."""
