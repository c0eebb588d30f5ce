"""What a spectrum has in common with that of a random matrix, and what lies beyond it."""
