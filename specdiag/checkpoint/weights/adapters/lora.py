"""Names of LoRA and AdaLoRA -> the updates B A of weights.

The names are those of peft, loralib, diffusers and kohya. Hu et al. (2022), ICLR. The factor of the
update is alpha / r, where r is the rank. Alpha comes from a tensor called `alpha` or from the
configuration; in files of diffusers and kohya it is r unless they say otherwise. Where it is
unknown, an update is measured with the factor 1, which changes no exponent, and is not added to its
base. AdaLoRA: B (A * E), where E has a number for each row of A. Zhang et al. (2023), ICLR.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.adapters.update import Array, Update, factor_of
from specdiag.checkpoint.weights.weight import Tensors

# The components of a diffusion pipeline, as diffusers and kohya write them.
COMPONENT = re.compile(
    r"(lora_(unet|te\d?|transformer)|unet|transformer|text_encoder(_\d)?)(?=[._])"
)
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_DOWN = {
    "lora_A": "lora_B",
    "lora_embedding_A": "lora_embedding_B",
    "lora_down": "lora_up",
    "lora.down": "lora.up",
    "lora_linear_layer.down": "lora_linear_layer.up",
}
_ADAPTER = re.compile(
    rf"(?:(?P<stem>.*?)[._])??(?P<down>{'|'.join(map(re.escape, _DOWN))})"
    r"(?P<rest>(?:\.(?P<adapter>(?!weight$)[^.]+))?(?:\.weight)?)"
)


def lora_updates(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Update]:
    """Yield the updates; `config` is the content of the adapter_config.json, or empty."""
    for name, down in tensors.items():
        match = _ADAPTER.fullmatch(name)
        if not match:
            continue
        stem, rest, start = match["stem"] or "", match["rest"], match.start("down")
        up = tensors.get(name[:start] + _DOWN[match["down"]] + rest)
        if not up or not _fit(down, up):
            continue

        def beside(*names: str, rest: str = rest, stem: str = stem) -> Tensor | None:
            """Return the first of the other tensors of the module that exists."""
            keys = (
                f"{stem}.{leaf}".removeprefix(".") + end for leaf in names for end in (rest, "")
            )
            return next((tensors[key] for key in keys if key in tensors), None)

        is_table = match["down"] == "lora_embedding_A"
        yield _update(stem, match["adapter"] or "", (down, up), beside, config, is_table)


def _fit(down: Tensor, up: Tensor) -> bool:
    """Return whether A is (r, in, *kernel) and B (out, r, 1, 1)."""
    return (
        2 <= len(down.shape) == len(up.shape)
        and down.shape[0] == up.shape[1] > 0
        and all(size == 1 for size in up.shape[2:])
    )


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
    is_transposed = is_table or (bool(config.get("fan_in_fan_out")) and len(down.shape) == 2)
    shape = (up.shape[0], *down.shape[1:])
    factor, formula = _factor(stem, config, rank), "B (A E)" if numbers else "B A"
    if alpha:
        factor, formula = 1.0, f"{formula} alpha / {rank}"
    elif numbers:
        factor = factor_of(config, "lora_alpha", stem, 1)
        if factor and not by_rank:  # of each module, peft then takes the rank of the start
            start = None if config.get("rank_pattern") else config.get("init_r")
            factor = factor / (start + 1e-5) if type(start) is int and start > 0 else None
        formula = f"{formula} / ranknum" if by_rank else formula

    def product(down: Array, up: Array, *more: Array) -> Array:
        rest = iter(more)
        number = float(next(rest).item()) / rank if alpha else 1.0
        down = down * next(rest).reshape(-1, *[1] * (down.ndim - 1)) if numbers else down
        number /= float(next(rest).item()) + 1e-5 if by_rank else 1.0
        update = number * (up.reshape(len(up), -1) @ down.reshape(len(down), -1))
        return update.T if is_transposed else update.reshape(shape)

    return Update(
        kind="AdaLoRA" if numbers else "LoRA",
        stem=stem,
        label=label,
        parts=tuple(part for part in (down, up, alpha, numbers, by_rank) if part),
        product=product,
        formula=formula,
        factor=factor,
        shape=shape[::-1] if is_transposed else shape,
        rank=rank,
        magnitude=beside("lora_magnitude_vector", "dora_scale"),
        axis=int(is_transposed),
        reason=_reason(rank, config),
    )


def _factor(stem: str, config: Mapping[str, Any], rank: int) -> float | None:
    component = COMPONENT.match(stem)
    if not component:
        return factor_of(config, "lora_alpha", stem, rank)
    start = f"{component[0]}."
    own = {key.removeprefix(start): value for key, value in config.items() if key.startswith(start)}
    factor = factor_of(own or config, "lora_alpha", stem, rank)
    return 1.0 if factor is None and "lora_alpha" not in config else factor


def _reason(rank: int, config: Mapping[str, Any]) -> str:
    """Return why an update is not computed, or an empty string.

    Some initialisations take the first singular vectors out of the base, and do not save what is
    left: neither B A nor its sum with the base is a matrix of the network. An adapter of peft's
    `target_parameters` updates a stack of matrices by factors of all of them.
    """
    kind = config.get("init_lora_weights")
    if isinstance(kind, str) and kind.lower().startswith(_CHANGE_BASE):
        return f"LoRA with the initialisation {kind[:20]}, which changes the base: not computed"
    r = config.get("r")
    if config.get("target_parameters") and type(r) is int and 0 < r < rank and rank % r == 0:
        return f"LoRA of a stack of {rank // r} matrices: not computed"
    return ""
