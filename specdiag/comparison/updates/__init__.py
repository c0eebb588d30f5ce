"""Two checkpoints -> what was added to each weight of the first: its rank, size and directions."""
