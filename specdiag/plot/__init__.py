"""Figures of any Dataset."""
