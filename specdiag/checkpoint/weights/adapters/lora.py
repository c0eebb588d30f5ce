"""LoRA adapters -> the update B A of a weight, or the weight with its update.

The names are those of peft, loralib, diffusers and kohya. Hu et al. (2022), ICLR. The factor of the
update is alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, where r is the rank. Alpha comes
from a tensor called `alpha` or from the adapter_config.json beside the file. Where it is unknown,
an update is measured with the factor 1, which changes no exponent, and is not added to its base.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.weight import Tensors, Weight, composed, not_measured, plain

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
_OTHER_KINDS = re.compile(
    r"(?P<stem>.+)\.(lora_mid(\.weight)?|(hada|lokr)_(w1|w2|t1|t2)(_[ab])?|oft_blocks|oft_r.*)"
)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The two factors of an update, and what else belongs to it."""

    stem: str
    down: Tensor  # A
    up: Tensor  # B
    alpha: Tensor | None
    magnitude: Tensor | None  # of DoRA
    transposed: bool

    @property
    def rank(self) -> int:
        """Rank r of the update."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the update."""
        shape = self.up.shape[0], *self.down.shape[1:]
        return shape[::-1] if self.transposed else shape


def adapted(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Weight]:
    """Yield the updates, and the weights with their update where base and factor are known.

    `config` is the content of the adapter_config.json, or empty.
    """
    adapters: dict[str, list[Adapter]] = {}
    for adapter in _adapters(tensors, config):
        adapters.setdefault(adapter.stem, []).append(adapter)
    yield from _of_other_kinds(tensors)
    for stem, group in adapters.items():
        names = (f"{stem}.base_layer.weight", f"{stem}.weight")
        base = next((tensors[name] for name in names if name in tensors), None)
        if base and base.shape != group[0].shape:
            base = None
        factor = _factor(group[0], config)
        if base and factor is not None and len(group) == 1 and len(base.shape) >= 2:
            yield _merged(group[0], base, factor)
            continue
        if base:
            reason = "its LoRA has a factor that is unknown: put adapter_config.json beside it"
            if len(group) > 1:
                reason = f"it has {len(group)} LoRA adapters, and the file does not tell which"
            yield replace(plain(base, name=f"{stem}.weight"), reason=reason)
        for adapter in group:
            yield _update(adapter, _factor(adapter, config), len(group) > 1)


def _adapters(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Adapter]:
    for name, down in tensors.items():
        match = _ADAPTER.fullmatch(name)
        if not match:
            continue
        stem, rest, start = match["stem"] or "", match["rest"], match.start("down")
        up = tensors.get(name[:start] + _DOWN[match["down"]] + rest)
        alpha = tensors.get(f"{stem}.alpha")
        magnitudes = (
            f"{stem}.lora_magnitude_vector{rest}",
            f"{stem}.lora_magnitude_vector",
            f"{stem}.dora_scale",
        )
        if up and _fit(down, up):
            yield Adapter(
                stem=stem,
                down=down,
                up=up,
                alpha=alpha if alpha and math.prod(alpha.shape) == 1 else None,
                magnitude=next((tensors[m] for m in magnitudes if m in tensors), None),
                transposed=match["down"] == "lora_embedding_A"
                or (bool(config.get("fan_in_fan_out")) and len(down.shape) == 2),
            )


def _fit(down: Tensor, up: Tensor) -> bool:
    """Return whether A is (r, in, *kernel) and B (out, r, 1, 1)."""
    return (
        2 <= len(down.shape) == len(up.shape)
        and down.shape[0] == up.shape[1] > 0
        and all(size == 1 for size in up.shape[2:])
    )


def _factor(adapter: Adapter, config: Mapping[str, Any]) -> float | None:
    """Return the factor of an update; 1 if a tensor has its alpha, and None if it is unknown."""
    if adapter.alpha:
        return 1.0
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern")
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if adapter.stem == pattern or adapter.stem.endswith(f".{pattern}"):
            alpha = value
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        return None
    rank = math.sqrt(adapter.rank) if config.get("use_rslora") else adapter.rank
    return alpha / rank


def _product(adapter: Adapter, factor: float, values: tuple[np.ndarray, ...]) -> np.ndarray:
    down, up, *alpha = values
    update = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    update *= float(alpha[0].item()) / adapter.rank if alpha else factor
    return update.T if adapter.transposed else update.reshape(adapter.shape)


def _rule(adapter: Adapter, factor: float | None) -> str:
    if adapter.alpha:
        return f"B A alpha / {adapter.rank}"
    if factor is None:
        return "B A, of unknown factor"
    return "B A" if factor == 1 else f"{factor:g} B A"


def _update(adapter: Adapter, factor: float | None, several: bool) -> Weight:
    parts = [adapter.down, adapter.up, *([adapter.alpha] if adapter.alpha else [])]
    n, rule = len(parts), f"LoRA update: {_rule(adapter, factor)}"
    if adapter.magnitude:
        parts.append(adapter.magnitude)
        rule += ", without the magnitudes of DoRA, which need the base"
    name = f"{adapter.stem}.lora_update".removeprefix(".")
    if several:
        name += f".{adapter.down.name.removesuffix('.weight').rpartition('.')[2]}"
    like = replace(adapter.down, shape=adapter.shape, dtype=_product_dtype(adapter.down))

    def values(*arrays: np.ndarray) -> np.ndarray:
        return _product(adapter, 1.0 if factor is None else factor, arrays[:n])

    return composed(name, parts, rule, values, like=like, rank=adapter.rank)


def _product_dtype(factor: Tensor) -> str:
    """Return the dtype of the arithmetic: a product is not rounded to that of its factors."""
    return "float64" if factor.dtype == "float64" else "float32"


def _merged(adapter: Adapter, base: Tensor, factor: float) -> Weight:
    """Return the base plus its update; by DoRA, with the lengths of rows that it has learned.

    Liu et al. (2024), ICML: m (W + B A) / |W + B A|, with norms over all axes but the first.
    """
    parts = [base, adapter.down, adapter.up, *([adapter.alpha] if adapter.alpha else [])]
    n, rule = len(parts), f"LoRA: W + {_rule(adapter, factor)}"
    if adapter.magnitude:
        parts.append(adapter.magnitude)
        rule = f"DoRA: m V / |V|, V = W + {_rule(adapter, factor)}"

    def values(weight: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
        merged = weight + _product(adapter, factor, arrays[: n - 1])
        if not adapter.magnitude:
            return merged
        axes = tuple(range(1, merged.ndim))
        if adapter.transposed:
            axes = (0,)
        norm = np.sqrt(np.square(merged).sum(axis=axes, keepdims=True))
        return merged * (arrays[-1].reshape(norm.shape) / norm)

    return composed(f"{adapter.stem}.weight", parts, rule, values, like=base)


def _of_other_kinds(tensors: Tensors) -> Iterator[Weight]:
    """Yield LoHa, LoKr, OFT and Tucker-decomposed adapters, none of which is computed."""
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _OTHER_KINDS.fullmatch(name):
            groups.setdefault(match["stem"], []).append(tensor)
    for stem, parts in groups.items():
        beside = ("alpha", "lora_down.weight", "lora_up.weight", "dora_scale")
        parts += [tensors[f"{stem}.{leaf}"] for leaf in beside if f"{stem}.{leaf}" in tensors]
        reason = "an adapter of another kind than LoRA and DoRA: not computed"
        yield not_measured(f"{stem}.update", parts, reason)
