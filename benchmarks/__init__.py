"""Measurements of time, memory and calibration; nothing here is a test."""
