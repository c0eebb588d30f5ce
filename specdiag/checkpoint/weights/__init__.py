"""Named tensors of a file -> the weights that its network multiplies with."""
