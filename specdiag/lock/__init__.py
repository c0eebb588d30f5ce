"""checkpoints.lock, and the recipes that declare its entries."""
