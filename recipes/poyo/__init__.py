"""POYO: the model, its training, its evaluation and its checkpoints."""
