"""Features of two networks -> ratios of their numbers, overlap of their directions, and CKA."""
