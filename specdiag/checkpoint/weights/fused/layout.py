"""A weight -> the shapes of its neighbours; a layout -> the blocks of the weight."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

from specdiag.checkpoint.weights.evidence import Evidence
from specdiag.checkpoint.weights.pieces import piece
from specdiag.checkpoint.weights.weight import Weight

LEAVES = ("weight", "kernel")


class Layout(NamedTuple):
    """Blocks along an axis: their sizes by label, in each of some groups of equal size."""

    sizes: Mapping[str, int]
    axis: int = 0
    n_groups: int = 1


def in_blocks(weight: Weight, layout: Layout) -> list[Weight] | None:
    """Return the blocks of a weight; None if their sizes do not add up to that of the axis."""
    sizes, axis, n_groups = layout
    size = sum(sizes.values())
    if min(sizes.values()) < 1 or size * n_groups != weight.shape[axis]:
        return None
    found, start = [], 0
    for label, width in sizes.items():
        found.append(piece(weight, label, axis, start, start + width, size))
        start += width
    return found


class Neighbours:
    """The shapes of the weights beside one, by names that replace the end of its name.

    Parameters
    ----------
    weight : Weight
        A matrix, or a slice of a stack: then the shapes are those of slices, too.
    evidence : Evidence
    """

    def __init__(self, weight: Weight, evidence: Evidence) -> None:
        name = weight.whole or weight.name
        self.shape = weight.shape
        self.separator = "/" if "/" in name else "."
        self._evidence, self._weights = evidence, evidence.weights
        whole = self._weights[name].shape if weight.whole and name in self._weights else ()
        self._n_leading = len(whole) - len(self.shape) if whole else 0
        self._slices = whole[: self._n_leading]
        self.name = name
        before, separator, leaf = name.rpartition(self.separator)
        is_leaf = leaf.removesuffix(":0") in LEAVES
        self.leaf = leaf.removesuffix(":0")
        self._module, self._ending = (before, separator + leaf) if is_leaf else (name, "")

    def is_called(self, module: str) -> bool:
        """Return whether the module has this name, which can have dots."""
        end = module.replace(".", self.separator)
        return f"{self.separator}{self._module}".endswith(self.separator + end)

    def module(self, fused: str, other: str) -> tuple[int, ...] | None:
        """Return the shape of the weight of another module beside the one that is called `fused`.

        None if there is none, or if it is no matrix.
        """
        fused, other = (text.replace(".", self.separator) for text in (fused, other))
        return self._shape(self._module.removesuffix(fused) + other + self._ending)

    def parameter(self, leaf: str) -> tuple[int, ...] | None:
        """Return the shape of another matrix of the same module."""
        owner = self.name.rpartition(self.separator)[0]
        ending = ":0" if self.name.endswith(":0") else ""
        name = leaf.replace(".", self.separator) + ending
        return self._shape(f"{owner}{self.separator}{name}" if owner else name)

    def vector(self, leaf: str) -> int | None:
        """Return the length of a vector of the same module, such as its bias."""
        end = f"{self.separator}{leaf}" if self._ending else ""
        vector = self._weights.get(f"{self._module}{end}") if end else None
        return vector.shape[0] if vector and len(vector.shape) == 1 else None

    def has(self, fused: str, start: str) -> bool:
        """Return whether names beside the module `fused` begin with `start`."""
        start = self._module.removesuffix(fused) + start
        names = self._evidence.sorted_names
        place = bisect_left(names, start)
        return place < len(names) and names[place].startswith(start)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        other = self._weights.get(name)
        if other is None or other.shape[: self._n_leading] != self._slices:
            return None
        shape = other.shape[self._n_leading :]
        return shape if len(shape) == 2 and all(shape) else None


def outputs_of_fused(shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the axis of the outputs of a fused matrix, and how many inputs the next matrix has.

    `out` is the shape of the matrix that takes a part of the outputs and returns as many features
    as the fused matrix takes: (n, m) after (N, n) with outputs in rows, as in torch.nn.Linear; and
    (m, n) after (n, N) with outputs in columns, as in GPT-2. N is larger than m, so that no shapes
    can be both. None if they are neither.
    """
    (a, b), (c, d) = shape, out
    if b == c and a > d:
        return 0, d
    if a == d and b > c:
        return 1, c
    return None


def outputs_axis(near: Neighbours) -> int:
    """Return the axis of the outputs of a weight: 0, or 1 for the columns of a matrix.

    They are columns in a `kernel` of Keras or Flax, in a matrix whose bias is as long as its rows,
    and in the Conv1D of GPT-2, whose c_attn shows which of the two a c_proj is.
    """
    if len(near.shape) != 2:
        return 0
    if near.leaf in ("kernel", "recurrent_kernel"):
        return 1
    n_biases = near.vector("bias")
    if n_biases in near.shape and near.shape[0] != near.shape[1]:
        return near.shape.index(n_biases)
    for name in ("c_attn", "c_proj", "q_attn"):
        attention = near.module(name, "c_attn") if near.is_called(name) else None
        out = near.module(name, "c_proj") if attention else None
        found = outputs_of_fused(attention, out) if attention and out else None
        if found:
            return found[0]
    return 0
