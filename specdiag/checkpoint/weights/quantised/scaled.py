"""Small numbers and their scales -> weights: FP8, FP4 (NVFP4, MXFP4), FP6, int8.

A weight is its numbers times the scale of their tensor, row or block, and times or by one scale of
the whole tensor. Sources:

- FP8 in blocks: DeepSeek-V3, `inference/kernel.py`, `weight_dequant` (`weight_scale_inv`);
- FP8 and int8: compressed-tensors 0.20, `compressors/naive_quantized`, `compressors/mxfp8`;
- NVFP4, a scale in FP8 for 16 numbers: compressed-tensors, `compressors/nvfp4`, which divides by
  `weight_global_scale`; ModelOpt 0.47, `qtensor/nvfp4_tensor.py`, which multiplies by
  `weight_scale_2`;
- MXFP4 and MXFP6, a power of two for 32 numbers: compressed-tensors, `compressors/mxfp4`, `mxfp6`;
  ModelOpt, `qtensor/mxfp4_tensor.py`; `_blocks` and `_scales` of gpt-oss: transformers 5.24,
  `integrations/mxfp4.py`.
"""

from math import prod

import numpy as np

from specdiag.checkpoint.tensor import unpacked
from specdiag.checkpoint.weights.quantised.codes import (
    FP4,
    FP6,
    block_of,
    on_grid,
    powers,
)
from specdiag.checkpoint.weights.quantised.stored import Arrays, Recipe, Stored, check

_REAL = ("float", "bfloat16")


def scaled(stored: Stored) -> Recipe:
    """Return the recipe of numbers that are not packed: FP8, int8, or uint8 with zero points."""
    numbers = ("float8", "int8", "uint8") if "zeros" in stored.parts else ("float8", "int8")
    codes, scales = stored.need("codes", *numbers), stored.need("scales")
    is_fp8 = codes.dtype.startswith("float8")
    flipped = _belong_to_columns(codes.shape, scales.shape)
    grid = (*scales.shape[:-2], 1, scales.shape[-2]) if flipped else scales.shape
    block = block_of(codes.shape, grid, _declared_block(stored))
    if block is None:
        raise ValueError("its scales do not fit")
    if not scales.dtype.startswith(_REAL):
        check(scales.dtype == "uint8" and is_fp8 and block == (1, 32), "its scales")
    check("second_scale" not in stored.parts, "its scales")
    zeros = stored.parts.get("zeros")
    check(zeros is None or zeros.shape == scales.shape, "its zero points")
    n = codes.shape[-1]

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        numbers = arrays["codes"].reshape(-1, n)
        scales = powers(arrays["scales"])
        if flipped:
            scales = np.swapaxes(scales, -1, -2)
        return on_grid(lambda rows: numbers[rows], shape, block, scales, arrays.get("zeros"))

    kind = "MXFP8" if scales.dtype == "uint8" else "FP8" if is_fp8 else codes.dtype
    stacked = stored.stacked(codes.shape)
    return Recipe(codes.shape, f"{kind} values times scales", values, stacked)


def quantized(stored: Stored) -> Recipe:
    """Return the recipe of ``x_quantized``, ``x_scale``, ``x_zero_point`` of onnxruntime.

    The recurrent layers that it quantises have such names: (directions, inputs, outputs), a scale
    for each direction. It can scale rows or columns of a matrix, which a vector does not tell.
    """
    scales = stored.need("scales")
    check(len(scales.shape) != 1 or len(stored.need("codes").shape) == 3, "its scales")
    return scaled(stored)


def _belong_to_columns(shape: tuple[int, ...], scales: tuple[int, ...]) -> bool:
    """Return whether scales of shape (experts, n, 1) belong to the n columns of each expert.

    Those of `down_proj` of Llama 4 in FBGEMM's FP8 do: transformers 5.24,
    `integrations/fbgemm_fp8.py`.
    """
    return len(shape) > 2 and shape[-2] != shape[-1] and scales == (*shape[:-2], shape[-1], 1)


def small_floats(stored: Stored) -> Recipe:
    """Return the recipe of numbers in FP4 or FP6 that are packed into bytes along the last axis."""
    codes, scales = stored.need("codes", "uint8"), stored.need("scales")
    check(len(codes.shape) == len(scales.shape) >= 2 and 0 not in scales.shape, "its shapes")
    check(codes.shape[:-1] == scales.shape[:-1], "its shapes")
    width, groups = codes.shape[-1], scales.shape[-1]
    kinds = {
        (8, "float8_e4m3fn"): ("NVFP4", 4),
        (16, "uint8"): ("MXFP4", 4),
        (16, "float8_e8m0fnu"): ("MXFP4", 4),
        (24, "uint8"): ("MXFP6", 6),
    }
    kind, bits = kinds.get((width // groups, scales.dtype), ("", 0))
    check(bool(kind) and width % groups == 0, "its scales")
    second = [part for part in ("second_scale", "second_divisor") if part in stored.parts]
    check(len(second) == (kind == "NVFP4"), "its scales of the whole tensor")
    check(all(prod(stored.parts[part].shape) == 1 for part in second), "its scales")
    shape = (*codes.shape[:-1], width * 8 // bits)

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        factors = powers(arrays["scales"])
        if "second_scale" in arrays:
            factors = factors * arrays["second_scale"].astype(np.float32).reshape(())
        if "second_divisor" in arrays:
            factors = factors / arrays["second_divisor"].astype(np.float32).reshape(())
        return looked_up(arrays["codes"], bits, shape, factors)

    return Recipe(shape, f"{kind} values times scales", values, stored.stacked(shape))


def gpt_oss(stored: Stored) -> Recipe:
    """Return the recipe of MXFP4 in blocks of gpt-oss: (experts, out, groups, 16) bytes.

    The weight is (experts, in, out), as transformers has it.
    """
    return _blocks(stored, transposed=True)


def gpt_oss_original(stored: Stored) -> Recipe:
    """Return the recipe of MXFP4 in the names of OpenAI: the weight is (experts, out, in)."""
    return _blocks(stored, transposed=False)


def _blocks(stored: Stored, *, transposed: bool) -> Recipe:
    codes, scales = stored.need("codes", "uint8"), stored.need("scales", "uint8")
    check(codes.shape == (*scales.shape, 16) and len(codes.shape) >= 3, "its shapes")
    shape = (*scales.shape[:-1], scales.shape[-1] * 32)

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        if not transposed:
            return looked_up(arrays["codes"], 4, shape, powers(arrays["scales"]))
        shape = *shape[:-2], shape[-1], shape[-2]
        weight = looked_up(arrays["codes"], 4, shape, powers(arrays["scales"]))
        return np.swapaxes(weight, -1, -2)

    if transposed:
        shape = *shape[:-2], shape[-1], shape[-2]
    return Recipe(shape, "MXFP4 values times scales", values, stored.stacked(shape))


def looked_up(
    packed: np.ndarray, bits: int, shape: tuple[int, ...], factors: np.ndarray
) -> np.ndarray:
    """Return the numbers of packed codes of FP4 or FP6, times one factor for each group of columns.

    Parameters
    ----------
    packed : ndarray
        Integers of any size whose bits are the codes of the weight, row after row.
    bits : int
        4 or 6.
    shape : tuple of int
        Shape of the weight.
    factors : ndarray of shape (..., groups)
    """
    table, data = (FP4 if bits == 4 else FP6), packed.reshape(prod(shape[:-1]), -1)
    block = (1, shape[-1] // factors.shape[-1])
    return on_grid(lambda rows: table[unpacked(data[rows], bits, shape[-1])], shape, block, factors)


def _declared_block(stored: Stored) -> tuple[int, int] | None:
    """Return the size of the blocks as the configuration has it, or None."""
    block = stored.config.get("weight_block_size") or stored.setting("block_structure")
    if not isinstance(block, list) or len(block) != 2:
        return None
    if not all(type(size) is int and 0 < size < 2**31 for size in block):
        return None
    return block[0], block[1]
