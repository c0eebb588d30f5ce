"""Shapes -> safetensors files of made-up weights, with spectra like those of trained networks."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16)}

# A block of Qwen2.5-0.5B: attention with two heads of keys and values, and its three projections.
QWEN_BLOCK = {
    "self_attn.q_proj": (896, 896),
    "self_attn.k_proj": (128, 896),
    "self_attn.v_proj": (128, 896),
    "self_attn.o_proj": (896, 896),
    "mlp.gate_proj": (4864, 896),
    "mlp.up_proj": (4864, 896),
    "mlp.down_proj": (896, 4864),
}


def gaussian(rng, n, m):
    """Return independent Gaussian entries, whose alpha the null explains."""
    return rng.standard_normal((n, m), dtype=np.float32)


def heavy(rng, n, m):
    """Return Gaussian entries plus a part of low rank with a power-law spectrum.

    As for most matrices of trained networks, both rungs of the null are tested: that costs more.
    The largest eigenvalues are 4 (k / r)^(-2/3), k = 1 .. r, above the bulk of the others.
    """
    r = max(min(n, m) // 8, 4)
    sizes = 2 * (np.arange(1, r + 1, dtype=np.float32) / r) ** (-1 / 3)
    left = gaussian(rng, n, r) * (sizes * np.sqrt(max(n, m) / n / m))
    return gaussian(rng, n, m) + left @ gaussian(rng, r, m)


def write(path, shapes, dtype="F32", draw=heavy):
    """Write weights by name as safetensors, one at a time; return the path."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = DTYPES[dtype].itemsize * int(np.prod(shape))
        offsets = [offset, offset + size]
        header[name + ".weight"] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        offset += size
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            file.write((0.02 * draw(rng, *shape)).astype(DTYPES[dtype]).tobytes())
    return Path(path)


def tiny(path):
    """Write a file of one 64 x 64 matrix: what measuring it takes is reading and starting."""
    return write(path, {"layer": (64, 64)}, draw=gaussian)
