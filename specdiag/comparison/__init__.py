"""Compare two checkpoints: which tensors are equal, and how the others differ."""
