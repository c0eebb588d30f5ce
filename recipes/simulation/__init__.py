"""Simulated recordings, in the files that torch_brain writes of real ones."""
