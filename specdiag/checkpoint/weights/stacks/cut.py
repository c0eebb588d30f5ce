"""Tensors of three and more axes -> kernels, the matrices of a stack, or ambiguous ones.

What proves a reading, in the order of `_RULES`, is described in docs/weights.md. Where two readings
are left that have different eigenvalues, the tensor is ambiguous and is not measured.

Libraries whose conventions are used: torch (convolutions (out, in, *taps), transposed ones
(in, out, *taps), Bilinear (out, in, in)), flax and Keras (kernels (*taps, in, out), heads in the
middle), transformers (experts first), TransformerLens (heads first).
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace

from specdiag.checkpoint.weights.evidence import Evidence
from specdiag.checkpoint.weights.pieces import grouped, piece, reshaped, slices
from specdiag.checkpoint.weights.stacks.by_bias import by_bias
from specdiag.checkpoint.weights.stacks.by_name import (
    by_class,
    by_configuration,
    by_experts,
    by_heads,
    by_layer_name,
    by_norm,
    experts_in_rows,
)
from specdiag.checkpoint.weights.stacks.by_sides import by_sides
from specdiag.checkpoint.weights.stacks.reading import (
    AMBIGUOUS,
    AXES,
    FEW,
    MAX_SLICES,
    MAX_TAPS,
    Reading,
)
from specdiag.checkpoint.weights.stacks.subject import Subject
from specdiag.checkpoint.weights.weight import Weight

_RULES: tuple[Callable[[Subject], list[Reading]], ...] = (
    by_class,
    by_experts,
    by_heads,
    by_layer_name,
    by_bias,
    by_configuration,
    by_norm,
    by_sides,
)

_ADDED = re.compile(r"(^|_)(?P<word>bias(es)?)(_[a-z])?$")
_NORM = re.compile(r"(^|_)(layer|rms|group)?_?norm\d*$|^ln(_\w+|\d+)?$", re.IGNORECASE)
_MASK = re.compile(r"(^|_)masks?$")
_ELEMENTWISE = re.compile(r"A_log|A_real|A_imag|log_A_(real|imag)|inv_A_real")  # Mamba, S4


def cut(weight: Weight, evidence: Evidence) -> list[Weight] | None:
    """Return the weights that a tensor of two or more axes consists of; None if it is one matrix.

    One that is no matrix, or that is ambiguous, is returned with its reason.
    """
    is_real = weight.dtype.startswith(("float", "bfloat"))
    if not is_real or len(weight.shape) < 2 or 0 in weight.shape:
        return None
    return _cut(weight, weight.whole or weight.name, evidence)


def _cut(weight: Weight, name: str, evidence: Evidence) -> list[Weight] | None:
    subject = Subject(name, weight.shape, weight.rule, weight.role, weight.facts, evidence)
    if vectors := _vectors(subject):
        axes = range(len(weight.shape))
        return [reshaped(weight, (math.prod(weight.shape),), axes, vectors)]
    if reason := _no_matrix(subject):
        return [replace(weight, reason=reason)]
    if len(weight.shape) < 3:
        return _rows_of_experts(weight, experts_in_rows(subject))
    layers = evidence.layers_of(subject.parts)
    if layers and weight.shape[0] <= MAX_SLICES:
        inner = evidence.inside(layers)
        parts = slices(weight, 0)
        return [cut for part in parts for cut in _cut(part, name, inner) or [part]]
    has_axes = weight.role.startswith(AXES)
    if (
        weight.shape[0] == 1
        and not has_axes
        and not subject.is_kernel
        and not _on_one_channel(subject)
    ):
        return _squeezed(weight, name, evidence)
    if weight.table:
        return [
            replace(weight, reason=f"a table of {len(weight.shape)} axes, by its {weight.table}")
        ]
    is_kernel = weight.role == "convolution" or weight.role.startswith(AXES)
    groups = weight.facts.get("groups", 1) if is_kernel else 1
    found = _as_read(weight, subject)
    if groups > 1 and found[0].shape[0] % groups == 0 and min(found[0].shape[:2]) > 1:
        return [grouped(found[0], groups)]
    return found


def _as_read(weight: Weight, subject: Subject) -> list[Weight]:
    """Return what the first rule with a reading makes of a weight of three or more axes."""
    readings = next(found for rule in _RULES if (found := rule(subject)))
    distinct = list({reading.key: reading for reading in reversed(readings)}.values())[::-1]
    if len(distinct) > 1:
        texts = [f"{r.text(weight.shape)} ({r.letters})" for r in distinct[:2]]
        return [
            replace(weight, reason=f"{AMBIGUOUS}: {texts[0]}, or {texts[1]}; --split says which")
        ]
    return distinct[0].apply(weight)


def _vectors(subject: Subject) -> str:
    """Return of what a tensor of two or more axes is the vectors, which are counted as such."""
    if subject.name in subject.evidence.biases:
        return f"vectors: the bias of {subject.evidence.biases[subject.name]}"
    if len(subject.shape) == 2 and subject.evidence.layers_of(subject.parts):
        return f"a stack of {subject.shape[0]:,} vectors"
    return ""


def _no_matrix(subject: Subject) -> str:
    """Return why values of two or more axes are no matrix, or an empty string."""
    owner = subject.parts[-2] if len(subject.parts) > 1 else ""
    long = [size for size in subject.shape if size > 1]
    if len(subject.shape) > 2 and len(long) < 2:
        return "a vector: one side is longer than 1"
    if len(long) > 1 and subject.bias == tuple(long):
        return "factors of single values, as of a norm: a bias of the same shape is beside it"
    if subject.role == "norm" or (subject.leaf in ("weight", "scale") and _NORM.search(owner)):
        return "factors of single values: a norm"
    if word := _ADDED.search(subject.leaf):
        return f"called {word['word']}: it is added to values, or masks them"
    if _ELEMENTWISE.fullmatch(subject.leaf):
        return "factors of a state-space model, which multiply value by value"
    if len(subject.shape) > 2 and _MASK.search(subject.leaf):
        return "called mask"
    if len(subject.shape) == 3 and subject.shape[1] == 1 < min(subject.shape[::2]):
        return "" if subject.is_module_weight else "a stack of vectors: its second side is 1"
    return ""


def _rows_of_experts(weight: Weight, count: int) -> list[Weight] | None:
    if not count:
        return None
    size = weight.shape[0] // count
    return [piece(weight, str(i), 0, i * size, (i + 1) * size) for i in range(count)]


def _on_one_channel(subject: Subject) -> bool:
    """Return whether a first side of 1 is the one output of a convolution."""
    shape = subject.shape
    most = {3: MAX_TAPS, 5: FEW}.get(len(shape), max(shape))
    return subject.is_module_weight and max(shape[2:]) <= most


def _squeezed(weight: Weight, name: str, evidence: Evidence) -> list[Weight]:
    """Return what a tensor is whose first sides are 1: as without them, if these are no table."""
    shape = weight.shape
    first = next(axis for axis, size in enumerate(shape) if size > 1)
    whole = reshaped(
        weight,
        shape[first:],
        range(len(shape)),
        f"without the first {'side' if first == 1 else f'{first} sides'} of 1",
    )
    if len(whole.shape) > 2 and not whole.table:
        return _cut(whole, name, evidence) or [whole]
    if whole.table:
        return [whole]
    n, m = whole.shape
    reason = f"{AMBIGUOUS}: a matrix of {n}x{m}, or a table of {n} rows that is added"
    return [replace(whole, reason=f"{reason}; --split NAME=stack measures the matrix")]
