"""Fixtures of the tests that read from servers."""

import time

import pytest


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Pauses before new attempts, in seconds, which the tests do not wait."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited
