"""4 bit codes of bitsandbytes -> weights.

Two codes lie in a byte, the first in its high half, and index a table of 16 numbers. A block of
elements shares a scale, and the scales themselves may be codes of 8 bits with scales of their own.
Dettmers et al. (2023), NeurIPS (QLoRA); bitsandbytes 0.50, `functional.QuantState`.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np

from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.tensor import ITEMSIZE
from specdiag.checkpoint.weights.quantised.codes import PIECE
from specdiag.checkpoint.weights.quantised.stored import Arrays, Recipe, Stored, check


class _State(NamedTuple):
    """What the JSON beside the codes says."""

    kind: str
    shape: tuple[int, ...]
    block: int
    nested_block: int
    offset: float


def four_bits(stored: Stored) -> Recipe:
    """Return the recipe of the codes, tables and scales that bitsandbytes saves.

    The table of the file is used: those of nf4 and fp4 do not change.
    """
    codes, scales, table = (stored.need(part) for part in ("codes", "scales", "table"))
    state = _state(stored)
    n_bytes, n = prod(codes.shape) * ITEMSIZE.get(codes.dtype, 0), prod(state.shape)
    check(n > 0 and -(-n // 2) <= n_bytes < -(-n // 2) + 8, "its shape and bytes")
    check(scales.shape == (-(-n // state.block),) and table.shape == (16,), "its scales")
    if "nested_scales" in stored.parts:
        nested = stored.need("nested_scales").shape, stored.need("nested_table").shape
        count = -(-scales.shape[0] // state.nested_block)
        check(scales.dtype == "uint8" and nested == ((count,), (256,)), "its nested scales")
    else:
        check(scales.dtype.startswith("float"), "its scales")

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        packed = arrays["codes"].reshape(-1).view(np.uint8)
        scales, table = arrays["scales"], arrays["table"].astype(np.float32)
        if "nested_scales" in arrays:
            block_scales = arrays["nested_scales"].repeat(state.nested_block)[: len(scales)]
            scales = arrays["nested_table"][scales] * block_scales + np.float32(state.offset)
        out = np.empty(n, np.float32)
        step = PIECE // state.block * state.block or state.block
        for start in range(0, n, step):
            stop = min(start + step, n)
            data = packed[start // 2 : -(-stop // 2)]
            piece = table[np.stack([data >> 4, data & 15], axis=-1).reshape(-1)[: stop - start]]
            blocks = scales[start // state.block : -(-stop // state.block)]
            out[start:stop] = piece * blocks.repeat(state.block)[: stop - start]
        return out.reshape(shape)

    rule = f"bitsandbytes {state.kind}, blocks of {state.block}"
    return Recipe(state.shape, rule, values)


def _state(stored: Stored) -> _State:
    """Return the content of `quant_state`. Raise ValueError if it is invalid."""
    kind = next((kind for kind in ("nf4", "fp4") if kind in stored.parts), "")
    if not kind:
        raise ValueError("without quant_state")
    where = stored.parts[kind].name
    try:
        state = parse_json(stored.small(kind).tobytes(), where)
    except ValueError as error:
        raise ValueError("its quant_state is invalid") from error

    def get(name: str, default: Any) -> Any:
        return state.get(name, default) if isinstance(state, dict) else default

    shape, block, nested = get("shape", None), get("blocksize", 0), get("nested_blocksize", 1)
    offset = get("nested_offset", 0.0)
    valid = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    valid = valid and all(type(n) is int and 0 < n <= 2**20 for n in (block, nested))
    if not valid or len(shape) < 1 or type(offset) not in (int, float) or block % 2:
        raise ValueError("its quant_state is invalid")
    return _State(kind, tuple(shape), block, nested, offset)
