"""Spectra of a network while it trains."""
