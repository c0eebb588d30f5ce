"""Quantised values and their scales -> weights; or one reason for all tensors of a weight.

FP8 values with scales for a tensor, for each row, or for blocks are dequantised: value times scale
(DeepSeek-V3, `inference/kernel.py`, `weight_dequant`, whose scales are called `weight_scale_inv`;
compressed-tensors, `weight_scale`). Values that are packed into integers are not.
"""

from collections.abc import Iterator

import numpy as np

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.weight import Tensors, Weight, composed, not_measured

DEQUANTISED = "FP8 values times scales"
BLOCK = 128  # rows and columns of a block, where it does not divide the sides of the matrix

# Name of the packed values, names of what lies beside them, and the format.
_PACKED = {
    "qweight": (("qzeros", "scales", "g_idx"), "packed as GPTQ or AWQ"),
    "weight_packed": (
        (
            *("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
            *("weight_global_scale", "input_global_scale"),
        ),
        "packed by compressed-tensors",
    ),
    "W_q": (("scale", "zero"), "packed by HQQ"),
    "_data": (("_scale", "_shift"), "quantised by quanto"),
}
_SCALES = ("_scale", "_scale_inv")
_BESIDE = (*_SCALES, "_scale_2", "_zero_point")
_OF_INPUTS = ("input_scale", "input_scale_inv", "activation_scale", "act_scale")


def quantised(tensors: Tensors) -> Iterator[Weight]:
    """Yield the weights of quantised layers."""
    inside = _inside(tensors)
    for name, tensor in tensors.items():
        owner, dot, leaf = name.rpartition(".")
        others, kind = _beside(tensors, tensor, owner + dot, leaf)
        if absmax := tensors.get(f"{name}.absmax"):
            others, kind = inside[name], "packed by bitsandbytes in 4 bits"
            others = [absmax, *(other for other in others if other is not absmax)]
        if others and kind:
            yield not_measured(name, [tensor, *others], f"{kind}: not dequantised")
        elif others:
            yield _dequantised(tensor, others)


def _inside(tensors: Tensors) -> dict[str, list[Tensor]]:
    """Return the tensors whose names begin with that of another tensor and a dot."""
    inside: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        end = name.rfind(".")
        while end > 0:
            if name[:end] in tensors:
                inside.setdefault(name[:end], []).append(tensor)
            end = name.rfind(".", 0, end)
    return inside


def _beside(tensors: Tensors, tensor: Tensor, owner: str, leaf: str) -> tuple[list[Tensor], str]:
    """Return what belongs to quantised values, and their format; '' for FP8 that can be read."""

    def found(names: tuple[str, ...]) -> list[Tensor]:
        return [tensors[owner + name] for name in names if owner + name in tensors]

    if leaf in _PACKED:
        names, kind = _PACKED[leaf]
        return found(names), kind
    if tensor.dtype == "uint8" and leaf.endswith("_blocks"):
        return found((f"{leaf.removesuffix('_blocks')}_scales",)), "packed as MXFP4"
    if tensor.dtype == "int8" and leaf == "weight" and f"{owner}SCB" in tensors:
        return found(("SCB", "weight_format")), "quantised by bitsandbytes to int8"
    scales = found(tuple(leaf + suffix for suffix in _BESIDE))
    if len(tensor.shape) < 2 or not scales:
        return [], ""
    if not tensor.dtype.startswith(("float8", "int", "uint")):
        return [], ""
    kind = "packed as NVFP4" if tensor.dtype == "uint8" else f"{tensor.dtype} with scales"
    is_float = scales[0].dtype.startswith(("float", "bfloat"))
    if tensor.dtype.startswith("float8") and is_float and len(scales) == 1:
        kind = "" if _block(tensor.shape, scales[0].shape) else kind
    return [*scales, *found(_OF_INPUTS)], kind


def _dequantised(tensor: Tensor, others: list[Tensor]) -> Weight:
    """Return the weight of FP8 values; the first of the others are their scales."""
    block = _block(tensor.shape, others[0].shape) or (1, 1)

    def values(weight: np.ndarray, factors: np.ndarray, *_: np.ndarray) -> np.ndarray:
        if factors.ndim < 2:
            factors = factors.reshape(-1, 1)
        for axis, size in zip((-2, -1), block, strict=True):
            factors = factors.repeat(size, axis)
        return weight * factors[..., : weight.shape[-2], : weight.shape[-1]]

    return composed(tensor.name, (tensor, *others), DEQUANTISED, values, like=tensor)


def _block(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale, or None if the shapes do not fit."""
    if len(scales) < 2:
        size = scales[0] if scales else 1
        if size not in (1, shape[-2]) or (size > 1 and len(shape) > 2):
            return None
        scales = (*shape[:-2], size, 1)
    if len(scales) != len(shape) or scales[:-2] != shape[:-2] or 0 in scales or 0 in shape:
        return None
    sides = list(zip(shape[-2:], scales[-2:], strict=True))
    if all(size % count == 0 for size, count in sides):
        rows, columns = (size // count for size, count in sides)
        return rows, columns
    return (BLOCK, BLOCK) if all(-(-size // BLOCK) == n for size, n in sides) else None
