"""Integers packed into integers -> weights: GPTQ, AWQ, compressed-tensors, int8 of bitsandbytes.

All of them are (code - zero point) * scale, where a group of columns of one row shares a scale and
a zero point. What differs is the order of the bits and where zero points begin.
"""

from typing import Any

import numpy as np

from specdiag.checkpoint.tensor import unpacked
from specdiag.checkpoint.weights.quantised.codes import block_of, on_grid
from specdiag.checkpoint.weights.quantised.stored import Arrays, Recipe, Stored, check

# The eight codes of an integer of AWQ: the place of its nibble, lowest first.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def gptq_or_awq(stored: Stored) -> Recipe:
    """Return the recipe of `qweight`, `qzeros` and `scales`; the shapes tell GPTQ from AWQ.

    GPTQ packs along the inputs, so that `qweight` has a column for each output. AWQ packs along the
    outputs.
    """
    codes, scales = stored.need("codes", "int32"), stored.need("scales", "float", "bfloat16")
    check(len(codes.shape) == len(scales.shape) == 2 and 0 not in codes.shape, "its shapes")
    if codes.shape[1] == scales.shape[1]:
        return _gptq(stored)
    if codes.shape[1] * 8 == scales.shape[1]:
        return _awq(stored)
    raise ValueError("its shapes are of no known layout")


def _gptq(stored: Stored) -> Recipe:
    """Return the recipe of GPTQ: qweight (in * bits / 32, out), scales (groups, out).

    The first version of the format stores zero points less one, `gptq_v2` stores them as they are:
    AutoGPTQ 0.7, `qlinear_cuda_old.py`; GPTQModel 7, `convert_gptq_v1_to_v2_format_module`. Where
    no configuration tells the version, and all zero points are the middle of the range or all one
    less, they are the middle, because only symmetric weights have such zero points.
    """
    codes, scales, zeros = (stored.need(part) for part in ("codes", "scales", "zeros"))
    check(zeros.dtype == "int32" and len(zeros.shape) == 2, "its zero points")
    groups, n_out = scales.shape
    bits = 32 * zeros.shape[1] // max(n_out, 1)
    n_in = codes.shape[0] * 32 // max(bits, 1)
    sizes = zeros.shape == (groups, -(-n_out * bits // 32)) and codes.shape[0] * 32 == n_in * bits
    check(sizes and groups > 0, "its shapes")
    if bits not in (2, 3, 4, 8):
        raise ValueError(f"of {bits} bits there are several layouts")
    order = stored.parts.get("order")
    check(order is None or (order.dtype.startswith("int") and order.shape == (n_in,)), "its groups")
    check(order is not None or n_in % groups == 0, "its groups")
    version = stored.config.get("checkpoint_format")
    if version not in (None, "gptq", "gptq_v2"):
        raise ValueError(f"its configuration says {str(version)[:40]!r}")

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        zero_points = _zero_points(arrays["zeros"], bits, n_out, version)
        packed = arrays["codes"].T
        return on_grid(
            lambda rows: unpacked(packed[rows], bits, n_in),
            shape,
            (1, n_in // groups),
            arrays["scales"].T,
            zero_points.T,
            arrays.get("order"),
        )

    return Recipe((n_out, n_in), f"GPTQ, {bits} bits, {_groups(groups, n_in)}", values)


def _zero_points(words: np.ndarray, bits: int, n_out: int, version: str | None) -> np.ndarray:
    """Return the zero points, to which one is added in the first version of the format.

    One is added to whole integers, so that a zero point of 0, which was stored by borrowing from
    its neighbour, is found again. Codes of 3 bits do not borrow.
    """
    stored = unpacked(words, bits, n_out)
    symmetric = version is None and (stored == 2 ** (bits - 1)).all()
    if version == "gptq_v2" or symmetric:
        return stored
    if 32 % bits:
        return stored + 1 & 2**bits - 1
    ones = np.uint32(sum(1 << place for place in range(0, 32, bits)))
    return unpacked(words.view(np.uint32) + ones, bits, n_out)


def _awq(stored: Stored) -> Recipe:
    """Return the recipe of AWQ: qweight (in, out / 8), scales (groups, out), always 4 bits.

    AutoAWQ 0.2, `packing_utils.py`, version `gemm`.
    """
    codes, scales, zeros = (stored.need(part) for part in ("codes", "scales", "zeros"))
    n_in, n_out, groups = codes.shape[0], scales.shape[1], scales.shape[0]
    check(zeros.dtype == "int32" and zeros.shape == (groups, n_out // 8), "its zero points")
    check(groups > 0 and n_in % groups == 0 and "order" not in stored.parts, "its groups")

    def nibbles(words: np.ndarray) -> np.ndarray:
        codes = unpacked(words, 4, n_out).reshape(len(words), -1, 8)
        return codes[..., _AWQ_PLACES].reshape(len(words), n_out)

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        weight = on_grid(
            lambda rows: nibbles(arrays["codes"][rows]),
            shape[::-1],
            (n_in // groups, 1),
            arrays["scales"],
            nibbles(arrays["zeros"]),
        )
        return weight.T

    return Recipe((n_out, n_in), f"AWQ, 4 bits, {_groups(groups, n_in)}", values)


def _groups(groups: int, n_in: int) -> str:
    return f"groups of {-(-n_in // groups)}" if groups > 1 else "one scale a row"


def pack_quantized(stored: Stored) -> Recipe:
    """Return the recipe of `weight_packed` in int32, as compressed-tensors writes it.

    Codes have 2**(bits - 1) added. Zero points, if any, are packed along the rows. The library's
    `compressors/pack_quantized`, version 0.20; earlier versions leave bits unused in each integer
    where 32 is no multiple of a code, and are recognised by their width.
    """
    packed, scales = stored.need("codes"), stored.need("scales", "float", "bfloat16")
    shape = tuple(int(size) for size in stored.small("shape").reshape(-1))
    check(len(shape) == len(packed.shape) >= 2 and shape[:-1] == packed.shape[:-1], "its shapes")
    n_out, n_in = shape[-2:]
    bits = _bits(packed.shape[-1], n_in, stored.setting("num_bits"))
    order, block = stored.parts.get("order"), block_of(shape, scales.shape)
    if block is None or not (order is None or order.shape == (n_in,)):
        raise ValueError("its scales do not fit")
    zeros, groups = stored.parts.get("zeros"), scales.shape[-1] if len(scales.shape) > 1 else 1
    if zeros is not None:
        expected = scales.shape
        if zeros.dtype == "int32":
            expected = (*shape[:-2], -(-n_out * bits // 32), groups)
        check(zeros.dtype in ("int32", "int8") and zeros.shape == expected, "its zero points")

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        words, columns = arrays["codes"].reshape(-1, packed.shape[-1]), arrays.get("order")
        if columns is not None and (columns == -1).all():
            columns = None  # the columns were not sorted
        return on_grid(
            lambda rows: unpacked(words[rows], bits, n_in),
            shape,
            block,
            arrays["scales"],
            _zero_codes(arrays, bits, n_out),
            columns,
        )

    rule = f"compressed-tensors, {bits} bits, {_groups(groups, n_in)}"
    return Recipe(shape, rule, values, stored.stacked(shape))


def _zero_codes(arrays: Arrays, bits: int, n_out: int) -> np.ndarray:
    """Return the codes that stand for zero, one for each scale."""
    middle = 2 ** (bits - 1)
    zeros = arrays.get("zeros")
    if zeros is None:
        return np.full(arrays["scales"].shape, middle, np.uint8)
    if zeros.dtype == np.int8:
        return zeros.astype(np.int16) + middle
    return np.swapaxes(unpacked(np.swapaxes(zeros, -1, -2), bits, n_out), -1, -2)


def _bits(width: int, n_in: int, declared: Any) -> int:
    """Return the bits of codes, n_in of which fill as many integers. Raise ValueError if none."""
    fitting = [bits for bits in range(1, 9) if -(-n_in * bits // 32) == width]
    fitting = [bits for bits in fitting if declared in (None, bits)]
    check(len(fitting) == 1, "its shape and bits")
    return fitting[0]


def int8(stored: Stored) -> Recipe:
    """Return the recipe of bitsandbytes' int8: W * SCB / 127 for each row.

    bitsandbytes 0.50, `int8_vectorwise_dequant`. Other layouts than rows, of releases before 0.45
    on a GPU, are not known.
    """
    codes, scales = stored.need("codes"), stored.need("scales", "float32")
    check(len(codes.shape) == 2 and scales.shape == codes.shape[:1], "its shapes")
    if "layout" in stored.parts and stored.small("layout").any():
        raise ValueError("its order is that of a GPU")

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        scales = arrays["scales"] / np.float32(127)
        return on_grid(lambda rows: arrays["codes"][rows], shape, (1, shape[1]), scales)

    return Recipe(codes.shape, "bitsandbytes int8 times scales of rows", values)
