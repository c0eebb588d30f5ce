"""Recipes of checkpoints.lock: each public module here declares entries and builds them.

Modules whose name begins with an underscore, and the folders, hold what several recipes share.
"""
