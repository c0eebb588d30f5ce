"""Tensors of three and more axes -> kernels, stacks of matrices, or ambiguous ones."""

from specdiag.checkpoint.weights.evidence import Evidence
from specdiag.checkpoint.weights.weight import Weight


def cut(weight: Weight, evidence: Evidence) -> list[Weight] | None:  # noqa: ARG001
    """Return the weights that a tensor of three or more axes consists of; None if it is one."""
    return None
