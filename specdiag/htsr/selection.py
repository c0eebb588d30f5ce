"""Checkpoint -> the weights with two or more axes, and why some of them are not measured."""

import math

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.weights.find import weights
from specdiag.checkpoint.weights.pieces import matches
from specdiag.checkpoint.weights.stacks.reading import AMBIGUOUS
from specdiag.checkpoint.weights.weight import Weight
from specdiag.wording import counted

MIN_EIGENVALUES = 50
EMBEDDING = "embedding table, by its"  # class, name or other evidence


def matrices(checkpoint: Checkpoint, pattern: str | None = None) -> tuple[Weight, ...]:
    """Return the weights with two or more axes whose name matches the shell pattern.

    Raises
    ------
    ValueError
        If there are none.
    """
    all_weights = weights(checkpoint)
    all_matrices = tuple(w for w in all_weights if w.is_matrix)
    if not all_matrices:
        raise ValueError(
            f"{checkpoint.path.name if checkpoint.path else checkpoint.name}: no weight matrix: "
            f"{counted(len(checkpoint.tensors), 'tensor')}, none with two axes or more"
            + "".join(f"; {note}" for note in checkpoint.notes[:1])
        )
    chosen = tuple(w for w in all_matrices if pattern is None or matches(w, pattern))
    if not chosen:
        names = ", ".join(w.name for w in all_matrices[:3])
        raise ValueError(
            f"no matrix of {checkpoint.name} matches {pattern!r}; it has {len(all_matrices)}, "
            f"such as {names}"
        )
    return chosen


def skip_reason(weight: Weight, min_eigenvalues: int, include_embeddings: bool) -> str:
    """Return why a weight is not measured, or an empty string if it is.

    `checkpoint.weights.tables` tells embedding tables, and `checkpoint.weights.stacks` what is no
    kernel and no matrix, or ambiguous.
    """
    if weight.reason.startswith(AMBIGUOUS):
        most = math.prod(weight.shape) // sorted(weight.shape)[1]  # as a kernel of the longer sides
        if most < min_eigenvalues:
            return f"too few eigenvalues: {most} or fewer of at least {min_eigenvalues}"
    if weight.problem or weight.reason:
        return weight.problem or weight.reason
    if not weight.dtype.startswith(("float", "bfloat")):
        return f"{weight.dtype} values, not real weights"
    if weight.table and not include_embeddings:
        return f"{EMBEDDING} {weight.table}"
    kernel = weight.shape[2:]
    if kernel and min(weight.shape[:2]) == 1:
        return "a kernel on one channel: each of its positions is a vector, not a matrix"
    size = min(weight.shape[:2]) * math.prod(kernel)
    if weight.rank is not None:
        size = min(size, weight.rank * math.prod(kernel))
    if size < min_eigenvalues:
        return f"too few eigenvalues: {size} of at least {min_eigenvalues}"
    return ""
