"""Eigenvalues of Gram matrices, computed on all cores or on a GPU, within the memory there is."""
