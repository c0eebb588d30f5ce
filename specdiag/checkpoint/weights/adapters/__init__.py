"""Adapters -> the updates of weights, or the weights with their updates."""
