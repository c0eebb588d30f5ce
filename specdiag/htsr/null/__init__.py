"""Is an alpha lower than chance gives it? A law of Gaussian entries, and a ladder of nulls."""
