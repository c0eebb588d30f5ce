"""Names of LoRA and AdaLoRA -> the updates B A of weights.

The names are those of peft, loralib, LitGPT, MLX, torchtune, llama.cpp, NeMo, diffusers and kohya.
Hu et al. (2022), ICLR. The factor of the update is alpha / r, where r is the rank. Alpha comes from
a tensor called `alpha` or from the configuration; in files of diffusers and kohya it is r unless
they say otherwise. Where it is unknown, an update is measured with the factor 1, which changes no
exponent, and is not added to its base. AdaLoRA: B (A * E), where E has a number for each row of A.
Zhang et al. (2023), ICLR.

MLX has both factors input-first, A (in, r) and B (r, out). Of bare parameters, whose order no class
sets, the one of the lower rank is right. The factors of fused blocks, A (n r, in) and B (out, r) in
loralib's MergedLinear and LitGPT's q/k/v, do not tell the sizes of the n blocks.

LyCORIS writes the update of a kernel also with a core for its positions, `lora_mid` (a Tucker
decomposition). Peft writes some variants that are no product B A under the same names: BD-LoRA (one
factor is block-diagonal), QALoRA (A acts on means of inputs), KaSA (the base is truncated).
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.adapters.update import Array, Update, factor_of, pattern_not_read
from specdiag.checkpoint.weights.weight import Factors, Tensors

# The components of a diffusion pipeline, as diffusers, kohya, LyCORIS and ComfyUI write them. Their
# loaders take alpha as the rank where a file has none (in ComfyUI, comfy/weight_adapter/lora.py).
COMPONENT = re.compile(
    r"(lora_(prior_)?(unet|te\d?|transformer)|lycoris|unet|transformer(?!\.h\.)|text_encoder(_\d)?"
    r"|diffusion_model|text_encoders\.\w+)(?=[._])"
)
_VARIANTS = {
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow",
}
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_DOWN = {
    "lora_A": "lora_B",
    "lora_a": "lora_b",
    "lora_embedding_A": "lora_embedding_B",
    "lora_down": "lora_up",
    "lora.down": "lora.up",
    "lora_linear_layer.down": "lora_linear_layer.up",
    "linear_in": "linear_out",  # NeMo, Megatron Bridge
}
# The layers that the adapters of NeMo update, in megatron.core and before it.
_NEMO = {
    "kqv": ("linear_qkv", "query_key_value"),
    "unfused_kqv": ("linear_qkv", "query_key_value"),
    "kv": ("linear_kv", "key_value"),
    "q": ("linear_q", "query"),
    "dense_attention": ("linear_proj", "dense"),
    "hto4h": ("linear_fc1", "dense_h_to_4h"),
    "unfused_hto4h": ("linear_fc1", "dense_h_to_4h"),
    "4htoh": ("linear_fc2", "dense_4h_to_h"),
}
_NEMO_STEM = re.compile(
    r"(?P<owner>.+?\.)??((?P<bridge>linear_\w+)\.adapter|(adapter_layer\.)?"
    rf"lora_(?P<layer>{'|'.join(_NEMO)})_adapter)(\.(?P<block>\w+_adapter|adapter_\w+))?"
)
_ADAPTER = re.compile(
    rf"(?:(?P<stem>.*?)[._])??(?P<down>{'|'.join(map(re.escape, _DOWN))})"
    r"(?P<rest>(?:\.(?P<adapter>(?!weight$)[^.]+))?(?:\.weight)?)"
)
_UPS = {up: down for down, up in _DOWN.items()}
_UP = re.compile("|".join(map(re.escape, _UPS)))
_ALORA = "aLoRA updates it only for the tokens after its invocation"


def lora_updates(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Update]:
    """Yield the updates; `config` is the content of the adapter_config.json, or empty."""
    for name, down in tensors.items():
        match = _factor_name(name)
        if not match:
            continue
        stem, rest, start = match["stem"] or "", match["rest"], match.start("down")
        stem = stem.removesuffix(".weight")  # llama.cpp: attn_q.weight.lora_a
        up = tensors.get(name[:start] + _DOWN[match["down"]] + rest)
        is_turned = up and _is_turned(down, up, is_bare=_is_bare(match))
        if not up or is_turned is None or _variant(config):
            continue

        def beside(*names: str, rest: str = rest, stem: str = stem) -> Tensor | None:
            """Return the first of the other tensors of the module that exists."""
            keys = (
                f"{stem}.{leaf}".removeprefix(".") + end for leaf in names for end in (rest, "")
            )
            return next((tensors[key] for key in keys if key in tensors), None)

        is_table, label = match["down"] == "lora_embedding_A", match["adapter"] or ""
        if match["down"] == "linear_in":
            stem, label = _of_nemo(stem, tensors)
        pair = (_turned(down), _turned(up)) if is_turned else (down, up)
        update = _update(stem, label, pair, beside, config, is_table)
        lengths = tensors.get(f"{stem}.m") if is_turned else None  # of MLX
        yield replace(update, magnitude=lengths) if lengths else update


def _is_bare(match: re.Match[str]) -> bool:
    return match["down"] in ("lora_a", "lora_A") and not match["rest"]


def _factor_name(name: str) -> re.Match[str] | None:
    match = _ADAPTER.fullmatch(name)
    is_other = (
        match and match["down"] == "linear_in" and not _NEMO_STEM.fullmatch(match["stem"] or "")
    )
    return None if is_other else match


def _of_nemo(stem: str, tensors: Tensors) -> tuple[str, str]:
    """Return the module that an adapter of NeMo updates, and the block of it or an empty string."""
    match = _NEMO_STEM.fullmatch(stem)
    if not match:
        return stem, ""
    owner, block = match["owner"] or "", match["block"] or ""
    if match["bridge"]:
        return owner + match["bridge"], block
    layers = (owner + layer for layer in _NEMO[match["layer"]])
    found = next((layer for layer in layers if f"{layer}.weight" in tensors), "")
    return (found, block) if found else (stem, "")


def _is_turned(down: Tensor, up: Tensor, *, is_bare: bool) -> bool | None:
    """Return whether A is (in, r) and B (r, out); None if the factors do not fit.

    Of factors that fit both ways, the rank is the smaller side.
    """
    is_usual = _fit(down, up)
    if not is_bare or not len(down.shape) == len(up.shape) == 2 or down.shape[1] != up.shape[0]:
        return False if is_usual else None
    if is_usual and down.shape[0] == down.shape[1]:
        return None
    return not is_usual or down.shape[1] < down.shape[0]


def _turned(tensor: Tensor) -> Tensor:
    def read() -> Array:
        return tensor.read().T

    shape, identity = tensor.shape[::-1], tensor.identity and ("turned", tensor.identity)
    return replace(tensor, shape=shape, read=read, read_rows=None, identity=identity)


def lone_factors(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor, str]]:
    """Yield the factors that belong to no update, with the name of their module, and why."""
    used = {part.name for update in lora_updates(tensors, config) for part in update.parts}
    word = _variant(config)
    for name, tensor in tensors.items():
        down = _UP.sub(lambda match: _UPS[match[0]], name)
        match = _factor_name(name) or _factor_name(down)
        if match and name not in used and len(tensor.shape) > 1:
            start, end = down[: match.start("down")], match["rest"]
            pair = [
                tensors.get(f"{start}{leaf}{end}") for leaf in (match["down"], _DOWN[match["down"]])
            ]
            reason = _not_computed(word) if word else _fault(*pair)
            stem = (match["stem"] or "").removesuffix(".weight")
            yield _of_nemo(stem, tensors)[0], tensor, reason


def _fault(down: Tensor | None, up: Tensor | None) -> str:
    """Return why two factors are not multiplied."""
    if down and up and len(down.shape) == len(up.shape) == 2:
        if down.shape == up.shape == down.shape[::-1]:
            return "LoRA with square factors, whose order the file does not tell: not computed"
        if up.shape[1] and down.shape[0] % up.shape[1] == 0:
            return "LoRA of fused blocks, whose sizes the file does not tell: not computed"
    return "a factor of LoRA without another that fits it"


def _not_computed(word: str) -> str:
    return f"LoRA of the kind {word}: not computed"


def _variant(config: Mapping[str, Any]) -> str:
    """Return the kind of LoRA whose factors are no B A, or change the base; or an empty string."""
    return next((word for key, word in _VARIANTS.items() if config.get(key)), "")


def _fit(down: Tensor, up: Tensor) -> bool:
    """Return whether A is (r, in, *kernel) and B (out, r, 1, 1); r is not larger than both sides.

    MLX has A as (in, r) and B as (r, out).
    """
    return (
        2 <= len(down.shape) == len(up.shape)
        and down.shape[0] <= max(down.shape[1], up.shape[0])
        and down.shape[0] == up.shape[1] > 0
        and all(size == 1 for size in up.shape[2:])
    )


def _has_core(pair: tuple[Tensor, Tensor], core: Tensor) -> bool:
    """Return whether the core of two pointwise convolutions is (r, r, *kernel)."""
    down, up = pair
    is_pointwise = all(size == 1 for size in down.shape[2:])
    return is_pointwise and len(core.shape) > 2 and core.shape[:2] == (up.shape[1], down.shape[0])


def _update(
    stem: str,
    label: str,
    pair: tuple[Tensor, Tensor],
    beside: Callable[..., Tensor | None],
    config: Mapping[str, Any],
    is_table: bool,
) -> Update:
    down, up = pair
    rank = down.shape[0]
    alpha, numbers, ranknum = beside("alpha"), beside("lora_E"), beside("ranknum")
    alpha = alpha if alpha and math.prod(alpha.shape) == 1 else None
    by_rank = ranknum if numbers and ranknum and math.prod(ranknum.shape) == 1 else None
    core, is_kasa = beside("lora_mid"), beside("lora_diag", f"lora_diag.{label}")
    is_transposed = is_table or (bool(config.get("fan_in_fan_out")) and len(down.shape) == 2)
    shape = (up.shape[0], *(down.shape[1:2] + core.shape[2:] if core else down.shape[1:]))
    factor, formula = _factor(stem, config, rank), "B (A E)" if numbers else "B A"
    if alpha:
        factor, formula = 1.0, f"{formula} alpha / {rank}"
    elif numbers:
        factor = _adaptive_factor(stem, config, is_divided=bool(by_rank))
        formula = f"{formula} / ranknum" if by_rank else formula

    product, factors = _products(
        (alpha, numbers, by_rank, core), rank, shape, is_table=is_table, is_transposed=is_transposed
    )
    return Update(
        kind="AdaLoRA" if numbers else "LoRA",
        stem=stem,
        label=label,
        parts=tuple(part for part in (down, up, alpha, numbers, by_rank, core) if part),
        product=product,
        factors=None if core else factors,
        formula=f"{formula} with a core" if core else formula,
        factor=factor,
        shape=shape[::-1] if is_transposed else shape,
        rank=None if core else rank,
        magnitude=beside("lora_magnitude_vector", "dora_scale"),
        axis=int(is_transposed),
        reason=_not_computed("KaSA") if is_kasa else _reason(pair, core, config),
        apart=_ALORA if config.get("alora_invocation_tokens") else pattern_not_read(factor, config),
    )


def _products(
    beside: tuple[Tensor | None, ...],
    rank: int,
    shape: tuple[int, ...],
    *,
    is_table: bool,
    is_transposed: bool,
) -> tuple[Callable[..., Array], Callable[..., Factors]]:
    """Return the functions of the factors, and of the tensors beside them, to update and factors.

    These are alpha, the numbers of AdaLoRA, the rank that divides them, and the core, where a file
    has them.
    """
    alpha, numbers, by_rank, core = beside

    def multiplied(down: Array, up: Array, *more: Array) -> tuple[float, Array, Array, Array]:
        """Return the number, the factors as matrices, and the core or another tensor."""
        rest = [*more]
        number = float(rest.pop(0).item()) / rank if alpha else 1.0
        down = down * rest.pop(0).reshape(-1, *[1] * (down.ndim - 1)) if numbers else down
        number /= float(rest.pop(0).item()) + 1e-5 if by_rank else 1.0
        first, last = up.reshape(len(up), -1), down.reshape(len(down), -1)
        return number, first, last, rest[0] if core else first

    def product(*arrays: Array) -> Array:
        number, first, last, middle = multiplied(*arrays)
        if core:
            return number * np.einsum("oa,ab...,bi->oi...", first, middle, last)
        update = number * (first @ last)
        return update.T if is_transposed else update.reshape(shape)

    def factors(*arrays: Array) -> Factors:
        number, first, last, _ = multiplied(*arrays)
        start: Array | None = last.T if is_table else first  # the others begin at random
        if numbers:  # of AdaLoRA, only these numbers begin as zeros
            start = None
        if is_transposed:
            return Factors(number * last.T, first.T, start)
        return Factors(number * first, last, start)

    return product, factors


def _adaptive_factor(stem: str, config: Mapping[str, Any], *, is_divided: bool) -> float | None:
    """Return the factor of AdaLoRA: alpha, divided by the rank unless the tensor `ranknum` is."""
    factor = factor_of(config, "lora_alpha", stem, 1)
    if factor is None or is_divided:
        return factor
    # Of each module, peft then takes the rank of the start.
    start = None if config.get("rank_pattern") else config.get("init_r")
    return factor / (start + 1e-5) if type(start) is int and start > 0 else None


def _factor(stem: str, config: Mapping[str, Any], rank: int) -> float | None:
    component = COMPONENT.match(stem)
    of_mlx = config.get("lora_parameters")
    if isinstance(of_mlx, dict) and "lora_alpha" not in config:
        scale = of_mlx.get("scale")  # which older versions multiply with alpha / rank
        is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
        return scale if is_number and "alpha" not in of_mlx else None
    if not component:
        factor = factor_of(config, "lora_alpha", stem, rank)
        # In the attention of torch, peft adds this update twice, in `merge` and so in `forward`.
        return factor * 2 if factor and stem.endswith(".base_layer.out_proj") else factor
    start = f"{component[0]}."
    own = {key.removeprefix(start): value for key, value in config.items() if key.startswith(start)}
    factor = factor_of(own or config, "lora_alpha", stem.removeprefix(start), rank)
    return 1.0 if factor is None and "lora_alpha" not in config else factor


def _reason(pair: tuple[Tensor, Tensor], core: Tensor | None, config: Mapping[str, Any]) -> str:
    """Return why an update is not computed, or an empty string.

    Some initialisations take the first singular vectors out of the base, and do not save what is
    left: neither B A nor its sum with the base is a matrix of the network. An adapter of peft's
    `target_parameters` updates a stack of matrices by factors of all of them.
    """
    kind = config.get("init_lora_weights")
    if isinstance(kind, str) and kind.lower().startswith(_CHANGE_BASE):
        return f"LoRA with the initialisation {kind[:20]}, which changes the base: not computed"
    rank, r = pair[0].shape[0], config.get("r")
    if core and not _has_core(pair, core):
        return "LoRA with a core that does not fit its factors: not computed"
    if config.get("target_parameters") and type(r) is int and 0 < r < rank and rank % r == 0:
        return f"LoRA of a stack of {rank // r} matrices: not computed"
    return ""
