"""Bias beside a tensor -> how to read the axes of the tensor.

A bias has the shape of the outputs: (out,) for a convolution, (heads, size) for a projection to
heads (flax DenseGeneral, Keras EinsumDense), and (n, out) for n stacked layers or experts.
"""

from specdiag.checkpoint.weights.stacks.by_name import (
    BILINEAR,
    by_norm,
    heads_in_or_kernel,
    is_convolution,
)
from specdiag.checkpoint.weights.stacks.reading import (
    FEW,
    MAX_TAPS,
    Reading,
    are_taps,
    depthwise,
    input_first,
    kernel,
    stacked,
)
from specdiag.checkpoint.weights.stacks.subject import Subject


def by_bias(subject: Subject) -> list[Reading]:
    """Return the readings that agree with the bias; [] if there is none, or if none agrees."""
    bias = subject.bias
    if len(bias) == 1:
        return _of_outputs(subject, bias[0])
    if len(bias) >= 2 and len(subject.shape) > len(bias):
        return _of_several_axes(subject, bias)
    return []


def _of_outputs(subject: Subject, out: int) -> list[Reading]:
    shape, n = subject.shape, len(subject.shape)
    why = f"a bias of {out:,}"
    if subject.is_kernel and shape[-1] == out:
        readings = heads_in_or_kernel(subject, why)
        if shape[0] == out and min(shape[2:]) <= FEW < shape[1]:
            readings.append(kernel(n, why))
        return readings
    if subject.is_kernel and shape[-1] * shape[-2] == out:
        return [depthwise(n, why)]
    long = n == 3 and shape[2] > FEW
    # ConvBERT's grouped linear layers are (groups, in, out), with the outputs of all in one bias.
    is_grouped = long and shape[0] * shape[2] == out and not is_convolution(subject)
    groups = [stacked(f"groups: {why}")] if is_grouped else []
    if shape[0] == out and (n == 3 or are_taps(shape[2:]) or shape[-1] != out):
        return [kernel(n, why), *([BILINEAR] if long and _may_be_bilinear(subject) else [])]
    if shape[1] == out and (n == 3 or are_taps(shape[2:])):
        # torch's transposed convolutions are (in, out, *taps).
        first = [input_first(n, why)] if long and shape[2] == out else []
        return [kernel(n, f"transposed: {why}"), *first, *groups]
    if shape[-1] == out:
        return heads_in_or_kernel(subject, why)
    return groups


def _may_be_bilinear(subject: Subject) -> bool:
    """Return whether (out, in, in) of torch's Bilinear is as likely as a kernel (out, in, taps).

    It is for equal inputs, and for fewer outputs than inputs with more taps than images have.
    """
    out, *inputs = subject.shape
    is_likely = inputs[0] == inputs[1] or (out < min(inputs) and inputs[1] > MAX_TAPS)
    return is_likely and not is_convolution(subject) and not by_norm(subject)


def _of_several_axes(subject: Subject, bias: tuple[int, ...]) -> list[Reading]:
    shape, n = subject.shape, len(subject.shape)
    why = f"a bias of {'x'.join(map(str, bias))}"
    readings = []
    for first in range(len(bias)):  # the first axis that is not stacked
        if shape[:first] != bias[:first]:
            break
        stack, outputs = (*range(first),), bias[first:]
        inputs: tuple[int, ...] = tuple(range(first, n - len(outputs)))
        rows = inputs if len(outputs) > 1 else inputs[:1]
        if len(outputs) > 1:
            is_one = len(inputs) == 1 or subject.is_kernel  # flax DenseGeneral has several inputs
            fits = outputs == shape[-len(outputs) :] and is_one
        elif len(inputs) > 1:
            fits = outputs[0] == shape[first]
        else:
            fits = outputs[0] in shape[first:]
        if fits:
            rest = tuple(axis for axis in range(first, n) if axis not in rows)
            taps = rest[1:] if len(outputs) == 1 else ()
            columns = rest[:1] if len(outputs) == 1 else rest
            readings.append(Reading(rows=rows, columns=columns, taps=taps, stack=stack, why=why))
    return readings
