"""Weight -> its pieces, whose elements together are exactly its elements."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod

import numpy as np

from specdiag.checkpoint.tensor import ITEMSIZE
from specdiag.checkpoint.weights.weight import Weight

CHUNK = 2**24  # bytes of rows that are read at a time where some of their columns are wanted
MAX_RUNS = 1024  # runs of rows that are read one by one; of more, the whole is read


def piece(
    weight: Weight, label: str, axis: int, start: int, stop: int, every: int | None = None
) -> Weight:
    """Return the rows or columns `start` to `stop` of an axis, called ``name[label]``.

    With `every`, they are the elements `start` to `stop` of each group of so many elements: the
    queries of all heads, where each head has its query, key and value side by side.

    Raises
    ------
    ValueError
        If the axis has no such range.
    """
    shape = weight.shape
    size = every or (shape[axis] if 0 <= axis < len(shape) else 0)
    if not (0 <= start < stop <= size and shape[axis] % size == 0):
        raise ValueError(f"{weight.name}: no elements {start} to {stop} of axis {axis} in {shape}")
    n_groups = shape[axis] // size
    kind = "rows" if axis == 0 else "columns" if len(shape) == 2 else f"axis {axis},"
    of = f"of {size:,}" if n_groups == 1 else f"of each {size:,} of {shape[axis]:,}"
    if axis == 0:
        read = _rows_reader(weight, start, stop, size)
        read_rows = _shifted_rows(weight, start) if n_groups == 1 else None
    else:
        read = _columns_reader(weight, axis, start, stop, size)
        read_rows = _part_of_rows(weight, axis, start, stop, size)
    return replace(
        weight,
        name=f"{weight.name}[{label}]",
        shape=(*shape[:axis], (stop - start) * n_groups, *shape[axis + 1 :]),
        whole=weight.whole or weight.name,
        rule=_rule(weight, f"{kind} {start:,} to {stop:,} {of}: {label}"),
        identity=weight.identity and (weight.identity, axis, start, stop, size),
        read=read,
        read_rows=read_rows,
        factors=None,
        n_read=0 if weight.read_rows else _n_read(weight),
    )


def matches(weight: Weight, pattern: str) -> bool:
    """Return whether a shell pattern matches the name of a weight, or of what it is a piece of.

    The brackets of a piece's name can stand in the pattern as they are.
    """
    names, patterns = (weight.name, weight.whole), (pattern, pattern.replace("[", "[[]"))
    return any(fnmatchcase(name, p) for name in names for p in patterns if name)


def slices(weight: Weight, axis: int) -> list[Weight]:
    """Return the arrays along an axis of a stack, called ``name[0]``, ``name[1]`` and so on."""
    shape, n = weight.shape, weight.shape[axis]
    return [
        replace(
            weight,
            name=f"{weight.name}[{i}]",
            shape=(*shape[:axis], *shape[axis + 1 :]),
            whole=weight.whole or weight.name,
            rule=_rule(weight, f"slice {i:,} of {n:,}"),
            identity=weight.identity and (weight.identity, axis, i),
            read=_squeezed(
                _columns_reader(weight, axis, i, i + 1, n)
                if axis
                else _rows_reader(weight, i, i + 1, n),
                axis,
            ),
            read_rows=None,
            factors=None,
            n_read=0 if weight.read_rows else _n_read(weight),
        )
        for i in range(n)
    ]


def reshaped(
    weight: Weight,
    shape: Sequence[int],
    axes: Sequence[int],
    rule: str,
    split: Sequence[int] = (),
) -> Weight:
    """Return the same elements with the axes in another order, and then in another shape.

    A kernel of flax, (k, in, out), becomes (out, in, k) by the axes (2, 1, 0); the heads of a
    projection, (in, heads, size), become the matrix (in, heads * size) by the axes (0, 1, 2). The
    axes are those of the shape `split`, if it is given.

    Raises
    ------
    ValueError
        If the shape has another number of elements.
    """
    split = tuple(split) or weight.shape
    sizes = {prod(shape), prod(split), prod(weight.shape)}
    if len(sizes) > 1 or sorted(axes) != list(range(len(split))):
        raise ValueError(f"{weight.name}: {weight.shape} cannot become {tuple(shape)}")

    def read() -> np.ndarray:
        return np.ascontiguousarray(weight.read().reshape(split).transpose(axes)).reshape(shape)

    return replace(
        weight,
        shape=tuple(shape),
        rule=_rule(weight, rule),
        identity=weight.identity and (weight.identity, split, tuple(axes), tuple(shape)),
        read=read,
        read_rows=None,
        factors=None,
        n_read=_n_read(weight),
    )


def grouped(weight: Weight, groups: int) -> Weight:
    """Return the kernel of a grouped convolution as a kernel with all positions of all groups.

    Each group multiplies its own channels: at each position, the matrix is block-diagonal, and its
    singular values are those of the blocks. (out, in / groups, *taps) becomes
    (out / groups, in / groups, groups, *taps).
    """
    n, n_in, *taps = weight.shape
    outputs = n // groups
    return reshaped(
        weight,
        (outputs, n_in, groups, *taps),
        (1, 2, 0, *range(3, 3 + len(taps))),
        f"{groups:,} groups of {outputs:,} outputs",
        split=(groups, outputs, n_in, *taps),
    )


def _n_read(weight: Weight) -> int:
    return weight.n_read or prod(weight.shape)


def _rule(weight: Weight, rule: str) -> str:
    return f"{weight.rule}; {rule}" if weight.rule else rule


def _rows_reader(weight: Weight, start: int, stop: int, size: int) -> Callable[[], np.ndarray]:
    """Return a function that reads a range of each `size` rows, and no other rows if it can."""

    def read() -> np.ndarray:
        groups = range(0, weight.shape[0], size)
        if weight.read_rows is None or len(groups) > MAX_RUNS:
            return _taken(weight.read(), 0, start, stop, size)
        runs = [weight.read_rows(first + start, first + stop) for first in groups]
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    return read


def _columns_reader(
    weight: Weight, axis: int, start: int, stop: int, size: int
) -> Callable[[], np.ndarray]:
    """Return a function that reads a range of each `size` columns, some rows at a time if it can.

    So no more memory is needed than for the piece itself.
    """
    rows = _part_of_rows(weight, axis, start, stop, size)
    step = max(1, CHUNK // max(1, prod(weight.shape[1:]) * ITEMSIZE.get(weight.dtype, 4)))

    def read() -> np.ndarray:
        if rows is None or not weight.shape[0]:
            return _taken(weight.read(), axis, start, stop, size)
        n = weight.shape[0]
        return np.concatenate([rows(first, min(first + step, n)) for first in range(0, n, step)])

    return read


def _part_of_rows(
    weight: Weight, axis: int, start: int, stop: int, size: int
) -> Callable[[int, int], np.ndarray] | None:
    rows = weight.read_rows
    return rows and (lambda first, last: _taken(rows(first, last), axis, start, stop, size))


def _taken(values: np.ndarray, axis: int, start: int, stop: int, size: int) -> np.ndarray:
    """Return the elements `start` to `stop` of each `size` elements of an axis."""
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    n_groups = values.shape[axis] // size
    groups = values.reshape(*before, n_groups, size, *after)
    index = (*[slice(None)] * (axis + 1), slice(start, stop))
    return np.ascontiguousarray(groups[index]).reshape(*before, n_groups * (stop - start), *after)


def _squeezed(read: Callable[[], np.ndarray], axis: int) -> Callable[[], np.ndarray]:
    return lambda: read().squeeze(axis)


def _shifted_rows(weight: Weight, offset: int) -> Callable[[int, int], np.ndarray] | None:
    rows = weight.read_rows
    return (lambda start, stop: rows(offset + start, offset + stop)) if rows else None
