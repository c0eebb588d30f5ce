"""Weights of HQQ -> weights.

A module has codes `W_q`, and a scale and a zero point for each group of elements. Codes of 8 / f
bits (f = 1, 2, 4, 8) lie in bytes, f rows in one, the first in the highest bits; codes of 3 bits
lie in integers of 32 bits, ten rows in one. Badri & Shaji (2023); HQQ 0.2.8, `core/bitpack.py` and
`core/quantize.py`, whose state dicts hold shape, bits and the like as small tensors.
"""

from math import prod

import numpy as np

from specdiag.checkpoint.weights.quantised.codes import on_grid
from specdiag.checkpoint.weights.quantised.stored import Arrays, Recipe, Stored, check

_FIELDS = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}  # rows in one integer, by the bits of a code


def hqq(stored: Stored) -> Recipe:
    """Return the recipe of (code - zero) * scale, in the shape of the weight."""
    codes, scales, zeros = (stored.need(part) for part in ("codes", "scales", "zeros"))
    shape = tuple(int(size) for size in stored.small("shape").reshape(-1))
    check(prod(stored.need("bits").shape) == 1, "its bits")
    bits = int(stored.small("bits").item())
    fields, n = _FIELDS.get(bits, 0), prod(shape)
    check(codes.dtype == ("int32" if bits == 3 else "uint8"), "its bits and integers")
    check(len(codes.shape) == 2 and min(shape, default=0) > 0 and fields > 0, "its shapes")
    step, columns = codes.shape
    rows = n // max(columns, 1)
    check(rows * columns == n and (step - 1) * fields < rows <= step * fields, "its shapes")
    blocks = {(rows, 1): (1, columns), (1, columns): (rows, 1), (): (rows, columns)}
    check(scales.shape in blocks and scales.shape == zeros.shape, "its scales")
    block = blocks[scales.shape]

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        packed, mask = arrays["codes"], 2**bits - 1

        def numbers(part: slice) -> np.ndarray:
            at = np.arange(rows)[part]
            shifts = bits * (fields - 1 - at // step)
            return packed[at % step].astype(np.int32) >> shifts[:, np.newaxis] & mask

        scales, zeros = arrays["scales"], arrays["zeros"]
        return on_grid(numbers, (rows, columns), block, scales, zeros).reshape(shape)

    return Recipe(shape, f"HQQ, {bits} bits", values)
