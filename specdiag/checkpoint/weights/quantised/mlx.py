"""Weights of MLX, and of the Metal quantisation of transformers -> weights.

A module has `weight`, codes in uint32, `scales`, and `biases` (or `qbiases`) of its groups of
columns. MLX 0.32, `mlx.core.quantize` and `dequantize`; transformers 5.24,
`integrations/metal_quantization.py`.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from specdiag.checkpoint.tensor import numpy_dtype, unpacked
from specdiag.checkpoint.weights.quantised.codes import on_grid, powers
from specdiag.checkpoint.weights.quantised.scaled import looked_up
from specdiag.checkpoint.weights.quantised.stored import Arrays, Recipe, Stored, check


def mlx(stored: Stored) -> Recipe:
    """Return the recipe of codes with scales, with or without biases."""
    codes, scales = stored.need("codes"), stored.need("scales")
    check(len(codes.shape) == len(scales.shape) and 0 not in scales.shape, "its shapes")
    check(codes.shape[:-1] == scales.shape[:-1] and prod(codes.shape) > 0, "its shapes")
    return _affine(stored) if "shifts" in stored.parts else _floats(stored)


def _affine(stored: Stored) -> Recipe:
    """Return the recipe of code * scale + bias, whose bits only the configuration tells."""
    codes, scales, shifts = (stored.need(part) for part in ("codes", "scales", "shifts"))
    settings = _settings(stored.config, codes.name.rpartition(".")[0])
    bits, group = settings.get("bits"), settings.get("group_size")
    if type(bits) is not int or type(group) is not int:
        raise ValueError("without config.json, which tells its bits")
    check(1 <= bits <= 8 and scales.shape == shifts.shape, "its bits and shapes")
    shape = (*codes.shape[:-1], scales.shape[-1] * group)
    check(group > 0 and shape[-1] * bits == codes.shape[-1] * 32, "its bits, groups and shapes")

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        words = arrays["codes"].reshape(-1, codes.shape[-1])
        return on_grid(
            lambda rows: unpacked(words[rows], bits, shape[-1]),
            shape,
            (1, group),
            arrays["scales"],
            shifts=arrays["shifts"],
        )

    rule = f"MLX, {bits} bits, groups of {group}"
    return Recipe(shape, rule, values, stored.stacked(shape))


def _settings(config: Mapping[str, Any], owner: str) -> Mapping[str, Any]:
    """Return the settings of one module, or those of all modules where it has none of its own.

    Names in the configuration keep the wrappers that names of tensors have lost.
    """
    for key, value in config.items():
        if isinstance(value, dict) and f".{key}".endswith(f".{owner}"):
            return value
    return config


def _floats(stored: Stored) -> Recipe:
    """Return the recipe of FP4 or FP8 with scales of one byte; their width tells the format."""
    codes, scales = stored.need("codes"), stored.need("scales", "uint8")
    n_bytes, groups = 4 * codes.shape[-1], scales.shape[-1]
    kind = {8: "NVFP4", 16: "MXFP4", 32: "MXFP8"}.get(n_bytes // groups, "")
    check(bool(kind) and n_bytes % groups == 0, "its scales")
    shape = (*codes.shape[:-1], n_bytes if kind == "MXFP8" else 2 * n_bytes)

    def values(arrays: Arrays, shape: tuple[int, ...]) -> np.ndarray:
        if kind == "NVFP4":
            factors = arrays["scales"].view(numpy_dtype("float8_e4m3fn")).astype(np.float32)
            return looked_up(arrays["codes"], 4, shape, factors)
        factors = powers(arrays["scales"])
        if kind == "MXFP4":
            return looked_up(arrays["codes"], 4, shape, factors)
        numbers = arrays["codes"].view(numpy_dtype("float8_e4m3fn")).reshape(-1, shape[-1])
        return on_grid(lambda rows: numbers[rows], shape, (1, 32), factors)

    return Recipe(shape, f"{kind} values times scales", values, stored.stacked(shape))
