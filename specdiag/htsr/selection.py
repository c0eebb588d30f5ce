"""Checkpoint -> the weights with two or more axes, and why some of them are not measured."""

import math
import re

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.weights.find import weights
from specdiag.checkpoint.weights.pieces import matches
from specdiag.checkpoint.weights.weight import Weight
from specdiag.wording import counted

MIN_EIGENVALUES = 50
LARGEST_KERNEL = 32  # sides of a convolution kernel; longer trailing axes are stacks of matrices
EMBEDDING = "embedding table, by its"  # name or class

# Names of lookup tables: that of the parameter, or of the module that owns its `weight`.
_EMBEDDING = re.compile(
    r"(^|_)emb(ed(ding)?)?s?$|[a-z]Emb(ed(ding)?)?s?$"
    r"|^(embed_tokens|embed_positions|embed_in|embedding_table|wte|wpe|shared)$"
)


def matrices(checkpoint: Checkpoint, pattern: str | None = None) -> tuple[Weight, ...]:
    """Return the weights with two or more axes whose name matches the shell pattern.

    Raises
    ------
    ValueError
        If there are none.
    """
    all_weights = weights(checkpoint)
    all_matrices = tuple(w for w in all_weights if len(w.shape) >= 2)
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

    Embedding tables are lookup tables: each row is trained only as often as its token occurs. The
    class of their module decides, where it is known. Otherwise they have two axes, no bias, and are
    recognised by name. The name of the module that owns the `weight`, or of the parameter itself,
    ends in the word emb, embed, embedding or their plurals (`unit_emb`, `session_emb`,
    `word_embeddings`), or is embed_tokens, embed_positions, embed_in, embedding_table, wte, wpe or
    shared.
    """
    if weight.problem or weight.reason:
        return weight.problem or weight.reason
    if not weight.dtype.startswith(("float", "bfloat")):
        return f"{weight.dtype} values, not real weights"
    if not include_embeddings and is_embedding(weight):
        return f"{EMBEDDING} {'class' if weight.role == 'embedding' else 'name'}"
    kernel = weight.shape[2:]
    if any(side > LARGEST_KERNEL for side in kernel):
        return f"{len(weight.shape)} axes, not a convolution kernel (a side of {max(kernel)})"
    if kernel and min(weight.shape[:2]) == 1:
        return "a kernel on one channel: each of its positions is a vector, not a matrix"
    size = min(weight.shape[:2]) * math.prod(kernel)
    if weight.rank is not None:
        size = min(size, weight.rank * math.prod(kernel))
    if size < min_eigenvalues:
        return f"too few eigenvalues: {size} of at least {min_eigenvalues}"
    return ""


def is_embedding(weight: Weight) -> bool:
    """Return whether `skip_reason` takes a weight for an embedding table."""
    if weight.role == "embedding":
        return True
    *owners, leaf = weight.name.split(".")
    name = owners[-1] if owners and leaf == "weight" else leaf
    by_name = len(weight.shape) == 2 and _EMBEDDING.search(name) is not None
    return by_name and not weight.has_bias and weight.role != "linear"
