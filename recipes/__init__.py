"""The recipes of checkpoints.lock: each module declares entries, and builds them."""
