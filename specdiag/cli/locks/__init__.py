"""Commands about a lock of checkpoints: list, fetch, train, lock."""
