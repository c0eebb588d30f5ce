"""Names, classes and configurations -> how to read the axes of a tensor."""

import re

from specdiag.checkpoint.weights.evidence import EXPERTS, HEADS, KEY_HEADS, WIDTH
from specdiag.checkpoint.weights.stacks.reading import (
    AXES,
    FEW,
    Reading,
    are_taps,
    by_letters,
    heads_in,
    heads_out,
    input_first,
    kernel,
    stacked,
)
from specdiag.checkpoint.weights.stacks.subject import Subject

# Experts of transformers, mlx-lm and llama.cpp.
_EXPERTS = re.compile(
    r"(?:.*_)?experts?(?:_[a-z_0-9]*)?|switch_(?:mlp|glu)|ffn_[a-z_]+_exps", re.IGNORECASE
)
_PACKED = re.compile(r"values times scales|^MLX")  # rules of weights that were quantised
_CONVOLUTION = re.compile(r"conv|cnn|patch_?emb")
_BILINEAR = re.compile(r"bilin|biaff|(^|[._])bil([._]|$)")
_HEADS = re.compile(r"(^|_)heads?(_|$)")
# Projections to heads and from heads, as flax, Keras, T5X and TransformerLens call them.
_TO_HEADS = re.compile(r"_?(w_?)?([qkv]|query|key|value)(_?(proj|dense))?", re.IGNORECASE)
_FROM_HEADS = re.compile(
    r"_?(w_?)?(o|out|output|attention_output|to_out)(_?(proj|dense))?", re.IGNORECASE
)

# A bilinear layer: one matrix for each output, all parts of one layer, as taps of a kernel are.
BILINEAR = Reading(rows=(1,), columns=(2,), stack=(0,), pooled=True)


def by_class(subject: Subject) -> list[Reading]:
    """Return the readings that the class of the module proves."""
    n = len(subject.shape)
    if subject.role.startswith(AXES) and len(subject.role) == len(AXES) + n:
        return [by_letters(subject.role.removeprefix(AXES))]
    if subject.role == "convolution":
        return [kernel(n)]
    if subject.role == "bilinear" and n == 3:
        return [BILINEAR]
    if n == 3 and _PACKED.search(subject.rule):
        return [stacked("linear layers")]  # no library packs the kernels of convolutions so
    if n == 3 and any(subject.facts.get(key) == subject.shape[0] for key in EXPERTS):
        return [stacked("experts")]
    return []


def by_experts(subject: Subject) -> list[Reading]:
    """Return the readings of experts: by the name, or by a router with a row for each of them.

    A convolution in one expert, or beside a `gate`, is none: its bias tells, or its own name.
    """
    shape, n = subject.shape, len(subject.shape)
    known = subject.evidence.numbers(*EXPERTS)
    named = _named_experts(subject)
    if not named and (len(subject.bias) == 1 or not _has_router(subject)):
        return []
    if _is_one_kernel(subject):
        return []
    if n > 4 and are_taps(shape[3:]):
        stack = Reading(rows=(1,), columns=(2,), taps=(*range(3, n),), stack=(0,), why="experts")
        return [kernel(n), stack] if subject.is_module_weight and are_taps(shape[2:]) else [stack]
    if n != 3:
        return []
    if named and known and shape[0] not in known:
        others = [axis for axis in (1, 2) if shape[axis] in known]
        if others == [1]:
            return [Reading(rows=(0,), columns=(2,), stack=(1,), why="experts")]
        return [stacked(), kernel(3)]
    return [stacked("experts")]


def _is_one_kernel(subject: Subject) -> bool:
    """Return whether the first side is that of the outputs of one kernel, not of experts."""
    if subject.bias == subject.shape[:1]:
        return True
    if len(subject.shape) != 3 or not subject.is_module_weight:
        return False
    owner = subject.parts[-2] if len(subject.parts) > 1 else ""
    return subject.shape[2] <= FEW or _CONVOLUTION.search(owner.lower()) is not None


def _named_experts(subject: Subject) -> bool:
    """Return whether the name is that of all experts; `experts.3` is one of them."""
    parts = subject.parts
    return any(
        _EXPERTS.fullmatch(part) and not (i + 1 < len(parts) and parts[i + 1].isdigit())
        for i, part in enumerate(parts)
    )


def _has_router(subject: Subject) -> bool:
    if len(subject.shape) != 3:
        return False
    count, *sides = subject.shape
    return count not in sides and any(
        (n == count and width in sides) or (width == count and n in sides)
        for n, width in _routers(subject)
    )


def _routers(subject: Subject) -> list[tuple[int, ...]]:
    """Return the shapes of the routers in the modules around a tensor."""
    within = [subject.parts[:end] for end in range(1, len(subject.parts))][-3:]
    return [
        shape
        for parts, shape in subject.evidence.routers
        if any(parts[: len(prefix)] == prefix for prefix in within)
    ]


def experts_in_rows(subject: Subject) -> int:
    """Return how many experts lie one below another in the rows of a matrix, as in DBRX; or 0.

    Their number is that of the rows of a router beside, and, if it is known, in a configuration.
    The weight of a linear layer, such as `shared_expert.up_proj.weight`, is one matrix.
    """
    is_layer = subject.is_module_weight or subject.is_kernel
    if len(subject.shape) != 2 or is_layer or not _named_experts(subject):
        return 0
    rows, columns = subject.shape
    known = subject.evidence.numbers(*EXPERTS)
    for count, width in _routers(subject):
        fits = columns == width and rows % count == 0 and 1 < count < rows // 2
        if fits and (count in known or not known):
            return count
    return 0


def by_heads(subject: Subject) -> list[Reading]:
    """Return the readings of attention heads, by the name and the shapes of the other projections.

    TransformerLens keeps (heads, in, size) for W_Q, W_K and W_V, and (heads, size, out) for W_O. In
    flax and Keras the kernels are (in, heads, size) and (heads, size, out), and one matrix each.
    """
    if len(subject.shape) != 3:
        return []
    a, b, c = subject.shape
    if subject.is_kernel:
        owner = subject.parts[-2] if len(subject.parts) > 1 else ""
        if _TO_HEADS.fullmatch(owner) and a > b:
            return [heads_out("heads")]
        if _FROM_HEADS.fullmatch(owner) and a < c and _has_heads(subject):
            return [heads_in("heads")]
        return []
    if subject.is_module_weight:
        return []
    if _TO_HEADS.fullmatch(subject.leaf):
        return [stacked("heads")] if a < b else [heads_out("heads")] if a > b else []
    if _FROM_HEADS.fullmatch(subject.leaf):
        return [stacked("heads")] if a < c else []
    if _HEADS.search(subject.leaf.lower()) and a < min(b, c):
        return [stacked("heads")]
    return []


def _has_heads(subject: Subject) -> bool:
    """Return whether a projection to the heads of a kernel, (heads, size, out), is known."""
    beside = subject.evidence.shapes.get(subject.parts[:-2], set())
    heads = subject.evidence.numbers(*HEADS)
    return subject.shape[0] in heads or subject.shape[:2] in {shape[-2:] for shape in beside}


def by_configuration(subject: Subject) -> list[Reading]:
    """Return the readings of heads whose number and width a configuration holds."""
    if len(subject.shape) != 3 or subject.is_kernel:
        return []
    heads = subject.evidence.numbers(*HEADS, *KEY_HEADS)
    width = subject.evidence.numbers(*WIDTH)
    a, b, c = subject.shape
    sizes = {w // h for w in width for h in heads if w % h == 0}
    sizes |= subject.evidence.numbers("head_dim", "d_head", "d_kv")
    readings = []
    if a in heads and ((b in width and c in sizes) or (b in sizes and c in width)):
        readings.append(stacked("heads"))
    if b in heads and a in width and c in sizes:
        readings.append(heads_out("heads"))
    return readings


def by_layer_name(subject: Subject) -> list[Reading]:
    """Return the readings that the name of the layer tells: bilinear, or a convolution."""
    n, name = len(subject.shape), subject.name.lower()
    if n == 3 and _BILINEAR.search(name):
        return [BILINEAR]
    if is_convolution(subject) and not subject.bias:
        if subject.is_kernel:
            return [input_first(n, "a convolution")]
        if subject.is_module_weight and _has_norm(subject):
            return [kernel(n)]
    return []


def is_convolution(subject: Subject) -> bool:
    """Return whether the name of a module around the weight says that it is a convolution."""
    return _CONVOLUTION.search(".".join(subject.parts[-4:-1]).lower()) is not None


def _has_norm(subject: Subject) -> bool:
    """Return whether vectors of the length of the outputs lie beside, and none of the last axis."""
    beside = subject.evidence.vectors_beside.get(subject.parts[:-2], set())
    return subject.shape[0] in beside and subject.shape[-1] not in beside


def by_norm(subject: Subject) -> list[Reading]:
    """Return a kernel if the module of the next number has vectors of the length of its outputs."""
    if not subject.is_module_weight or len(subject.parts) < 2 or not subject.parts[-2].isdigit():
        return []
    number = str(int(subject.parts[-2]) + 1)
    lengths = subject.evidence.vectors.get((*subject.parts[:-2], number), set())
    return [kernel(len(subject.shape))] if lengths == {subject.shape[0]} else []


def heads_in_or_kernel(subject: Subject, why: str) -> list[Reading]:
    """Return the readings of a kernel whose last axis is known to be that of the outputs."""
    n = len(subject.shape)
    if n == 3 and subject.is_module_weight:
        # PyTorch Geometric: a matrix for each relation of a graph, and `root` for the node itself.
        names = subject.evidence.leaves.get(subject.parts[:-1], set())
        stack = stacked("relations")
        return [stack] if names & {"root", "comp"} else [stack, input_first(n, why)]
    if n > 3 or is_convolution(subject):
        return [input_first(n, why)]
    owner = subject.parts[-2] if len(subject.parts) > 1 else ""
    a, b, out = subject.shape
    if _has_heads(subject):
        return [heads_in(why)]
    may_be = a * b == out or _FROM_HEADS.fullmatch(owner)
    return [input_first(n, why), *([heads_in(why)] if may_be else [])]
