"""Names of tensors -> the quantised weights among them; one reason for what is not dequantised."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.tensor import Tensor, read_values
from specdiag.checkpoint.weights.evidence import json_beside
from specdiag.checkpoint.weights.quantised.names import FORMATS, OF_INPUTS, SCALES, Format
from specdiag.checkpoint.weights.quantised.stored import Recipe, Stored
from specdiag.checkpoint.weights.weight import Tensors, Weight, composed, not_measured

_CODES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
_INDEX = re.compile(r"ind(ex|ices)|_ids?$|mask", re.IGNORECASE)


def quantised(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Weight]:
    """Yield the quantised weights: dequantised, or all tensors of a weight with one reason.

    Their dtype is float32, whatever the format: their values are products of numbers and scales.
    Only small tensors that tell shapes are read here.

    Parameters
    ----------
    tensors : dict of str to Tensor
    config : dict
        The configuration of the quantisation, or empty: see `quantisation_config`.
    """
    inside = _inside(tensors)
    taken: set[str] = set()
    for name, tensor in tensors.items():
        for form in FORMATS if len(tensor.shape) >= 2 and name not in taken else ():
            found = _parts(tensors, tensor, form)
            if found is None:
                continue
            stem, parts = found
            others = inside.get(name, []) if form.inside else []
            weight = _weight(form, tensors, stem, Stored(parts=parts, config=config), others)
            taken.update(weight.tensors)
            yield weight
            break
    yield from _of_unknown_layouts({n: t for n, t in tensors.items() if n not in taken})


def _parts(tensors: Tensors, tensor: Tensor, form: Format) -> tuple[str, dict[str, Tensor]] | None:
    """Return the stem and the parts of a weight, or None if its names are not of the format."""
    match = form.codes.fullmatch(tensor.name)
    if not match or not tensor.dtype.startswith(form.dtypes or ""):
        return None
    stem, parts = match["stem"], {"codes": tensor}
    for part, ends in form.beside.items():
        for name in (stem + end for end in ends.split()):
            if name in tensors:
                parts[part if part not in parts else name] = tensors[name]
    if "scales" not in parts:
        return None
    owner = tensor.name.rpartition(".")[0]
    for end in OF_INPUTS if form.beside is SCALES else ():
        name = f"{owner}.{end}" if owner else end
        if name in tensors and tensors[name] not in parts.values():
            parts[name] = tensors[name]
    return stem, parts


def _weight(
    form: Format, tensors: Tensors, stem: str, stored: Stored, others: Sequence[Tensor]
) -> Weight:
    """Return the weight of a format, dequantised if it can be."""
    codes = stored.parts["codes"]
    name = f"{stem}{form.leaf}".removesuffix(".")
    name = codes.name if not name or name in tensors else name
    found = list(stored.parts.values())
    parts = [*found, *(tensor for tensor in others if tensor not in found)]
    try:
        recipe = form.recipe(stored) if form.recipe else None
    except ValueError as error:
        return not_measured(codes.name, parts, f"{form.kind}, not dequantised: {error}")
    if recipe is None:
        return not_measured(codes.name, parts, f"{form.kind}, not dequantised")
    like = replace(codes, shape=recipe.shape, dtype="float32")

    def values(*arrays: np.ndarray) -> np.ndarray:
        return recipe.values(dict(zip(stored.parts, arrays, strict=False)), recipe.shape)

    weight = composed(name, parts, recipe.rule, values, like=like, as_stored=True)
    return replace(weight, read_rows=_row_reader(stored.parts, recipe))


def _of_unknown_layouts(tensors: Tensors) -> Iterator[Weight]:
    """Yield integers with smaller tables of floats in the same module, which are their scales.

    The integers have as many rows or columns as a table. Indices have 64 bits or are called so.
    """
    modules: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) >= 2:
            modules.setdefault(name.rpartition(".")[0], []).append(tensor)
    for owner, group in modules.items():
        tables = [t for t in group if t.dtype.startswith(("float", "bfloat"))]
        codes = [t for t in group if t.dtype in _CODES and not _INDEX.search(t.name)]
        if not owner or not codes or not tables:
            continue
        packed = max(codes, key=lambda t: prod(t.shape))
        sides = {size for size in packed.shape if size > 1}
        if all(prod(t.shape) < prod(packed.shape) and sides & {*t.shape} for t in tables):
            reason = "integers with tables of scales, in a layout that is not known"
            others = (t for t in (*codes, *tables) if t is not packed)
            yield not_measured(packed.name, [packed, *others], reason)


def _row_reader(
    parts: Mapping[str, Tensor], recipe: Recipe
) -> Callable[[int, int], np.ndarray] | None:
    """Return a function that computes some of the matrices of a stack, or None."""
    if not recipe.stacked or not all(parts[part].read_rows for part in recipe.stacked):
        return None

    def read_rows(start: int, stop: int) -> np.ndarray:
        arrays = {}
        for part, tensor in parts.items():
            rows = tensor.read_rows if part in recipe.stacked else None
            arrays[part] = rows(start, stop) if rows else read_values(tensor)
        shape = stop - start, *recipe.shape[1:]
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(recipe.values(arrays, shape))

    return read_rows


def quantisation_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the configuration of the quantisation beside a checkpoint, or an empty dict.

    It is the `quantization_config` of config.json, MLX's `quantization` there, or AutoGPTQ's
    quantize_config.json. A file that is invalid says nothing.
    """
    try:
        beside = json_beside(checkpoint, "config.json")
        config = beside.get("quantization_config") or beside.get("quantization")
        config = config or json_beside(checkpoint, "quantize_config.json")
    except (ValueError, OSError):
        return {}
    return config if isinstance(config, dict) else {}


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
