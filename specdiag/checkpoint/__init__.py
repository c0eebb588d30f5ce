"""Read a checkpoint file as named tensors, and write one; nothing in a file is ever executed."""
