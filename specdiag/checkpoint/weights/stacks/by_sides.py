"""Sides of a tensor -> how its axes can be read, where nothing else tells."""

from specdiag.checkpoint.weights.stacks.reading import (
    FEW,
    MAX_TAPS,
    Reading,
    are_taps,
    depthwise,
    heads_in,
    heads_out,
    input_first,
    kernel,
    stacked,
)
from specdiag.checkpoint.weights.stacks.subject import Subject


def by_sides(subject: Subject) -> list[Reading]:
    """Return the readings that the sides allow, the likeliest first; never an empty list."""
    shape, n = subject.shape, len(subject.shape)
    if subject.leaf == "depthwise_kernel" and n > 3:
        return [depthwise(n)]
    if n == 3:
        return _of_three(subject)
    torch, first = kernel(n), input_first(n)
    if subject.is_kernel:
        return (
            [first] if are_taps(shape[:-2]) else [torch] if are_taps(shape[2:]) else [first, torch]
        )
    if subject.is_module_weight:
        if are_taps(shape[2:]):
            return [torch]
        if are_taps(shape[:-2]):
            return [first]
        if n == 5 and are_taps(shape[1:-1]):  # spconv
            return [Reading(rows=(0,), columns=(n - 1,), taps=(*range(1, n - 1),))]
    elif max(shape[2:]) <= FEW and len({*shape[2:]}) == 1 and shape[2] < min(shape[:2]):
        return [torch]
    stack = Reading(rows=(n - 2,), columns=(n - 1,), stack=(*range(n - 2),))
    return [torch, stack]


def _of_three(subject: Subject) -> list[Reading]:
    a, b, c = subject.shape
    # torch's modules whose weight has three axes are convolutions and Bilinear, (out, in, in).
    is_torch = subject.leaf == "weight" and c <= min(a, MAX_TAPS) and b != c
    if is_torch or (subject.is_module_weight and (c <= FEW or b == 1)):
        return [kernel(3)]
    if subject.is_kernel:
        if a <= FEW < min(b, c):
            return [input_first(3), heads_in()]
        return [input_first(3), heads_out() if a > b else heads_in()]
    return [kernel(3), stacked()]
