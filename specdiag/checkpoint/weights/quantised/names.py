"""The names that quantised weights have, format by format."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from specdiag.checkpoint.weights.quantised.hqq import hqq
from specdiag.checkpoint.weights.quantised.integers import gptq_or_awq, int8, pack_quantized
from specdiag.checkpoint.weights.quantised.mlx import mlx
from specdiag.checkpoint.weights.quantised.nibbles import four_bits
from specdiag.checkpoint.weights.quantised.scaled import (
    gpt_oss,
    gpt_oss_original,
    quantized,
    scaled,
    small_floats,
)
from specdiag.checkpoint.weights.quantised.stored import Recipe, Stored


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
        What else there may be, and the ends of its name after the stem, separated by a blank.
        There must be `scales` for the names to be those of the format.
    leaf : str
        End of the name of the weight after the stem.
    recipe : callable or None
        Computes the weight; None for a format that is not dequantised.
    inside : bool
        Whether every tensor whose name begins with that of the values belongs to the weight.
    """

    kind: str
    codes: re.Pattern[str]
    dtypes: tuple[str, ...] = ()
    beside: Mapping[str, str]
    leaf: str = ""
    recipe: Callable[[Stored], Recipe] | None = None
    inside: bool = False


_MODULE = r"(?P<stem>(?:.*\.)?)"  # the start of a name, with its dot
# Scales of inputs, which belong to the layer and not to its values.
OF_INPUTS = (
    "input_scale",
    "input_scale_inv",
    "input_global_scale",
    "activation_scale",
    "act_scale",
)
SCALES = {
    "scales": "_scale _scale_inv",
    "second_scale": "_scale_2",
    "second_divisor": "_global_scale",
    "zeros": "_zero_point",
    "shape": "_shape",
    "order": "_g_idx",
}
_OF_HQQ = (
    "zero_scale meta_zero meta_scale group_size axis packing unpack_view_dtype view_as_float "
    "quant_scale quant_zero compute_dtype offload_meta encoded_state_dict stores_quant_config "
    "channel_wise optimize round_zero"
)

_SPARSE = "sparse, packed by compressed-tensors"
_VPTQ = "centroids.weight res_centroids.weight outlier_centroids.weight"
_OF_VPTQ = "weight_scale weight_bias outlier_indices perm invperm"
# Formats that are not dequantised: the name for a reason, names and dtypes of the values, and the
# ends of other names, of which one of the first must be there.
_NAMED = (
    ("packed by quanto", r"(?P<stem>.+\.)_data\._data", (), "_scale", "_shift"),
    ("packed by AQLM", _MODULE + "codes", (), "codebooks", "scales"),
    ("packed by VPTQ", _MODULE + "indices", (), _VPTQ, _OF_VPTQ),
    ("packed by HIGGS", _MODULE + "weight", ("int16",), "tables tables2", "scales"),
    ("packed by Marlin", _MODULE + "B", ("int32",), "s workspace", ""),
    (_SPARSE, _MODULE + "compressed", (), "bitmask", "shape row_offsets"),
    (_SPARSE, _MODULE + "weight_packed", ("int32",), "scale_packed", "meta"),
    ("quantised by EETQ", _MODULE + "weight", ("int8",), "weight_scales", ""),
)

# The first format that fits the names and the dtype counts.
FORMATS = (
    Format(
        kind="packed as GPTQ or AWQ",
        codes=re.compile(_MODULE + "qweight"),
        beside={
            "scales": "scales",
            "zeros": "qzeros",
            "order": "g_idx",
            "unknown": "tables tables2 forward_hadamard_matrix backward_hadamard_matrix",
        },
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
        recipe=four_bits,
        inside=True,
    ),
    Format(
        kind="quantised by bitsandbytes to int8",
        codes=re.compile(_MODULE + "weight"),
        dtypes=("int8",),
        beside={"scales": "SCB", "layout": "weight_format"},
        leaf="weight",
        recipe=int8,
    ),
    Format(
        kind="packed as MXFP4",
        codes=re.compile(r"(?P<stem>.+)_blocks"),
        dtypes=("uint8",),
        beside={"scales": "_scales"},
        recipe=gpt_oss,
    ),
    Format(
        kind="packed as MXFP4",
        codes=re.compile(r"(?P<stem>.+)\.blocks"),
        dtypes=("uint8",),
        beside={"scales": ".scales"},
        recipe=gpt_oss_original,
    ),
    Format(
        kind="packed by compressed-tensors",
        codes=re.compile(r"(?P<stem>.+)_packed"),
        dtypes=("uint8", "F4", "float4", "F6"),
        beside=SCALES,
        recipe=small_floats,
    ),
    Format(
        kind="packed by compressed-tensors",
        codes=re.compile(r"(?P<stem>.+)_packed"),
        beside={**SCALES, "scales": "_scale", "shape": "_shape"},
        recipe=pack_quantized,
    ),
    Format(
        kind="packed by MLX",
        codes=re.compile(_MODULE + "weight"),
        dtypes=("uint32",),
        beside={"scales": "scales", "shifts": "biases qbiases"},
        leaf="weight",
        recipe=mlx,
    ),
    Format(
        kind="packed by HQQ",
        codes=re.compile(_MODULE + "W_q"),
        beside={
            "scales": "scale",
            "zeros": "zero",
            "shape": "shape",
            "bits": "nbits",
            "unused": _OF_HQQ,
        },
        leaf="weight",
        recipe=hqq,
    ),
    *(
        Format(
            kind=kind,
            codes=re.compile(codes),
            dtypes=dtypes,
            beside={"scales": scales, "others": others},
        )
        for kind, codes, dtypes, scales, others in _NAMED
    ),
    Format(
        kind="quantised by quanto",
        codes=re.compile(_MODULE + "_data"),
        beside={"scales": "_scale", "zeros": "_shift"},
        recipe=scaled,
    ),
    Format(
        kind="quantised by torchao",
        codes=re.compile(r"(?P<stem>.+)_qdata"),
        beside=SCALES,
    ),
    Format(
        kind="numbers with scales",
        codes=re.compile(r"(?P<stem>.+)_quantized"),
        beside=SCALES,
        recipe=quantized,
    ),
    Format(
        kind="bytes with scales",
        codes=re.compile(r"(?P<stem>.+)"),
        dtypes=("uint8", "F4", "float4", "F6"),
        beside=SCALES,
        recipe=small_floats,
    ),
    Format(
        kind="numbers with scales",
        codes=re.compile(r"(?P<stem>.+)"),
        dtypes=("float8", "int", "uint"),
        beside=SCALES,
        recipe=scaled,
    ),
)
