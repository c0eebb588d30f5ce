"""Tensors of adapters -> updates, and weights with their updates."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.adapters.lora import lone_factors, lora_updates
from specdiag.checkpoint.weights.adapters.lycoris import (
    lycoris_updates,
    not_computed,
    tokens,
    wrapped,
)
from specdiag.checkpoint.weights.adapters.update import (
    Update,
    in_shape_of,
    merged,
    shaper_of,
    update_alone,
)
from specdiag.checkpoint.weights.weight import Tensors, Weight, not_measured, plain

# The layer below: peft; LitGPT, cloneofsimo and MLX; loralib; MLX; Megatron Bridge; none.
_INNER = ("base_layer.", "linear.", "conv.", "embedding.", "to_wrap.", "")
LEAVES = ("weight", "in_proj_weight")  # of a layer, and of the attention of torch


def updates(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, list[Update]]:
    """Return the updates in a file by the name of the module; several if it has several adapters.

    `config` is the content of the adapter_config.json, or empty.
    """
    found: dict[str, list[Update]] = {}
    for update in (*lora_updates(tensors, config), *lycoris_updates(tensors, config)):
        found.setdefault(update.stem, []).append(update)
    return found


def adapted(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Weight]:
    """Yield the updates, and the weights with their update where base and factor are known.

    Bases that are composed themselves are among the tensors by the names of their weights.
    """
    found = updates(tensors, config)
    for stem, group in found.items():
        start = f"{stem}.".replace("base_layer.", "").removeprefix(".")
        name = _base_of(stem, tensors)
        base = tensors.get(name)
        base = base if base is None or isinstance(base, Weight) else plain(base)
        if base and shaper_of(group[0], base.shape) and len(base.shape) > 1:
            short = start + name.rpartition(".")[2]
            name = name if short in tensors else short
            if not (why := why_not_merged(group)):
                yield merged(group[0], base, name)
                continue
            yield replace(base, name=name, reason=why)
        elif base and len(base.shape) > 1:
            parts = [tensors[name], *(part for update in group for part in update.tensors)]
            yield not_measured(
                name, parts, "LoRA whose factors do not fit the weight: not computed"
            )
            continue
        shape = base.shape if base else ()
        yield from updates_alone([in_shape_of(update, shape) for update in group])
    yield from (weight for _, weight in tokens(tensors))
    yield from wrapped(tensors, found.keys())
    yield from not_computed(tensors, config)
    yield from factors_alone(tensors, config)


def _base_of(stem: str, tensors: Tensors) -> str:
    """Return the name of the weight that the adapters of a module belong to, or ''."""
    names = (f"{stem}.{inner}{leaf}" for leaf in LEAVES for inner in _INNER)
    return next((name for name in names if name in tensors), "")


def factors_alone(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Weight]:
    """Yield the factors of LoRA that belong to no update, with the base that they change."""
    groups: dict[tuple[str, str], list[Tensor]] = {}
    for stem, tensor, reason in lone_factors(tensors, config):
        groups.setdefault((stem, reason), []).append(tensor)
    for (stem, reason), factors in groups.items():
        if name := _base_of(stem, tensors):
            yield not_measured(name, [tensors[name], *factors], reason)
        # Of a base that was merged with another adapter, the factors are left.
        yield from (not_measured(factor.name, [factor], reason) for factor in factors)


def updates_alone(group: list[Update]) -> Iterator[Weight]:
    """Yield the updates of one module as weights of their own."""
    for update in group:
        word = update.kind.lower().replace("adalora", "lora")
        name = f"{update.stem}.{word}_update".removeprefix(".")
        yield update_alone(update, f"{name}.{update.label}" if len(group) > 1 else name)


def why_not_merged(group: list[Update]) -> str:
    """Return why a base is not merged with its updates, or an empty string."""
    if len(group) > 1:
        return f"it has {len(group)} LoRA adapters, and the file does not tell which"
    if group[0].reason:  # which is that of all its tensors
        return ""
    if group[0].apart:
        return group[0].apart
    if group[0].factor is None and group[0].kind == "AdaLoRA":
        return "its AdaLoRA has a factor that is unknown, because its ranks are not in the file"
    if group[0].factor is None:
        return (
            "its LoRA has a factor that is unknown: put an adapter_config.json with lora_alpha "
            "beside it"
        )
    return ""
