"""Fused matrices -> their blocks, such as query, key and value."""

from specdiag.checkpoint.weights.evidence import Evidence
from specdiag.checkpoint.weights.weight import Weight


def cut(weight: Weight, evidence: Evidence) -> list[Weight] | None:  # noqa: ARG001
    """Return the blocks that a fused matrix consists of; None if it is one matrix."""
    return None
