"""Measured layers as one labelled xarray Dataset."""
