"""Names of tensors -> the quantised weights among them; one reason for what is not dequantised."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.tensor import Tensor, read_values
from specdiag.checkpoint.weights.evidence import json_beside
from specdiag.checkpoint.weights.quantised.integers import gptq_or_awq, int8, pack_quantized
from specdiag.checkpoint.weights.quantised.nibbles import four_bits
from specdiag.checkpoint.weights.quantised.scaled import (
    gpt_oss,
    gpt_oss_original,
    scaled,
    small_floats,
)
from specdiag.checkpoint.weights.quantised.stored import Recipe, Stored
from specdiag.checkpoint.weights.weight import Tensors, Weight, composed, not_measured


@dataclass(frozen=True, kw_only=True)
class Format:
    """The names of a format.

    Attributes
    ----------
    kind : str
        Its name for a reason.
    codes : re.Pattern
        Name of the tensor of values; its group `stem` is the start of the other names.
    dtypes : tuple of str
        How the dtype of the values starts; empty for any.
    beside : dict of str to str
        What else there may be, and the end of its name after the stem.
    needs : tuple of str
        Parts of which one must be there for the names to be those of the format.
    leaf : str
        End of the name of the weight after the stem.
    recipe : callable or None
        Computes the weight; None for a format that is not dequantised.
    inside : bool
        Whether every tensor below the name of the values belongs to the weight.
    """

    kind: str
    codes: re.Pattern[str]
    dtypes: tuple[str, ...] = ()
    beside: Mapping[str, str]
    needs: tuple[str, ...]
    leaf: str = ""
    recipe: Callable[[Stored], Recipe] | None = None
    inside: bool = False


def _after(end: str) -> re.Pattern[str]:
    """Return the pattern of a name that ends so; its stem is the module with its dot."""
    return re.compile(rf"(?P<stem>(?:.*\.)?){re.escape(end)}")


# Scales of inputs, which belong to the layer and not to its values.
_OF_INPUTS = (
    "input_scale",
    "input_scale_inv",
    "input_global_scale",
    "activation_scale",
    "act_scale",
)
_SCALES = {
    "scales": "_scale",
    "inverse scales": "_scale_inv",
    "second_scale": "_scale_2",
    "second_divisor": "_global_scale",
    "zeros": "_zero_point",
    "shape": "_shape",
    "order": "_g_idx",
}
_OF_HQQ = (
    *("scale", "zero", "zero_scale", "meta_zero", "meta_scale", "nbits", "group_size", "shape"),
    *("axis", "packing", "unpack_view_dtype", "view_as_float", "quant_scale", "quant_zero"),
    *("compute_dtype", "offload_meta", "encoded_state_dict", "stores_quant_config"),
    *("channel_wise", "optimize", "round_zero"),
)

# The first format that fits the names and the dtype counts.
FORMATS = (
    Format(
        kind="packed as GPTQ or AWQ",
        codes=_after("qweight"),
        beside={"zeros": "qzeros", "scales": "scales", "order": "g_idx"},
        needs=("zeros", "scales"),
        leaf="weight",
        recipe=gptq_or_awq,
    ),
    Format(
        kind="packed by bitsandbytes in 4 bits",
        codes=re.compile(r"(?P<stem>.+)"),
        beside={
            "scales": ".absmax",
            "table": ".quant_map",
            "nf4": ".quant_state.bitsandbytes__nf4",
            "fp4": ".quant_state.bitsandbytes__fp4",
            "nested_scales": ".nested_absmax",
            "nested_table": ".nested_quant_map",
        },
        needs=("scales",),
        recipe=four_bits,
        inside=True,
    ),
    Format(
        kind="quantised by bitsandbytes to int8",
        codes=_after("weight"),
        dtypes=("int8",),
        beside={"scales": "SCB", "layout": "weight_format"},
        needs=("scales",),
        leaf="weight",
        recipe=int8,
    ),
    Format(
        kind="packed as MXFP4",
        codes=re.compile(r"(?P<stem>.+)_blocks"),
        dtypes=("uint8",),
        beside={"scales": "_scales"},
        needs=("scales",),
        recipe=gpt_oss,
    ),
    Format(
        kind="packed as MXFP4",
        codes=re.compile(r"(?P<stem>.+)\.blocks"),
        dtypes=("uint8",),
        beside={"scales": ".scales"},
        needs=("scales",),
        recipe=gpt_oss_original,
    ),
    Format(
        kind="packed by compressed-tensors",
        codes=re.compile(r"(?P<stem>.+)_packed"),
        dtypes=("uint8",),
        beside=_SCALES,
        needs=("scales",),
        recipe=small_floats,
    ),
    Format(
        kind="packed by compressed-tensors",
        codes=re.compile(r"(?P<stem>.+)_packed"),
        beside=_SCALES,
        needs=("scales", "shape"),
        recipe=pack_quantized,
    ),
    Format(
        kind="packed by HQQ",
        codes=_after("W_q"),
        beside=dict(zip(_OF_HQQ, _OF_HQQ, strict=True)),
        needs=("scale", "zero", "nbits"),
        leaf="weight",
    ),
    Format(
        kind="quantised by quanto",
        codes=re.compile(r"(?P<stem>.+\.)_data\._data"),
        beside={"scales": "_scale", "shift": "_shift"},
        needs=("scales",),
    ),
    Format(
        kind="quantised by quanto",
        codes=_after("_data"),
        beside={"scales": "_scale", "shift": "_shift"},
        needs=("scales",),
        recipe=scaled,
    ),
    Format(
        kind="quantised by torchao",
        codes=re.compile(r"(?P<stem>.+)_qdata"),
        beside=_SCALES,
        needs=("scales",),
    ),
    Format(
        kind="bytes with scales",
        codes=re.compile(r"(?P<stem>.+)"),
        dtypes=("uint8",),
        beside=_SCALES,
        needs=("scales",),
        recipe=small_floats,
    ),
    Format(
        kind="numbers with scales",
        codes=re.compile(r"(?P<stem>.+)"),
        dtypes=("float8", "int", "uint"),
        beside=_SCALES,
        needs=("scales", "inverse scales"),
        recipe=scaled,
    ),
)


def quantised(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Weight]:
    """Yield the quantised weights: dequantised, or all tensors of a weight with one reason.

    Their dtype is float32, whatever the format: their values are products of numbers and scales.
    Only small tensors that tell shapes are read here.

    Parameters
    ----------
    tensors : dict of str to Tensor
    config : dict
        The configuration of the quantisation, or empty: see `declared`.
    """
    inside = _inside(tensors)
    taken: set[str] = set()
    for name, tensor in tensors.items():
        for form in FORMATS:
            found = _parts(tensors, tensor, form)
            if found is None or name in taken:
                continue
            stem, parts = found
            others = inside.get(name, []) if form.inside else []
            weight = _weight(form, tensors, stem, Stored(parts=parts, config=config), others)
            taken.update(weight.tensors)
            yield weight
            break


def _parts(tensors: Tensors, tensor: Tensor, form: Format) -> tuple[str, dict[str, Tensor]] | None:
    """Return the stem and the parts of a weight, or None if its names are not of the format."""
    match = form.codes.fullmatch(tensor.name)
    if not match or len(tensor.shape) < 2 or not tensor.dtype.startswith(form.dtypes or ""):
        return None
    stem = match["stem"]
    beside = {part: stem + end for part, end in form.beside.items() if stem + end in tensors}
    if not any(part in beside for part in form.needs):
        return None
    parts = {"codes": tensor} | {part: tensors[name] for part, name in beside.items()}
    if "inverse scales" in parts and "scales" not in parts:
        parts["scales"] = parts.pop("inverse scales")
    owner = tensor.name.rpartition(".")[0]
    for end in _OF_INPUTS if form.beside is _SCALES else ():
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


def declared(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the configuration of the quantisation beside a checkpoint, or an empty dict.

    It is the `quantization_config` of config.json, or quantize_config.json of AutoGPTQ and AutoAWQ.
    A file that is invalid says nothing.
    """
    try:
        config = json_beside(checkpoint, "config.json").get("quantization_config")
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
