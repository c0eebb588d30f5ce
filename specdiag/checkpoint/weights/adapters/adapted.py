"""Tensors of adapters -> updates, and weights with their updates."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from specdiag.checkpoint.weights.adapters.lora import lora_updates
from specdiag.checkpoint.weights.adapters.lycoris import lycoris_updates, not_computed
from specdiag.checkpoint.weights.adapters.update import Update, alone, fitted, merged
from specdiag.checkpoint.weights.weight import Tensors, Weight, plain


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
    for stem, group in updates(tensors, config).items():
        names = (f"{stem}.base_layer.weight", f"{stem}.weight")
        bases = (tensors[name] for name in names if name in tensors)
        base = next((w if isinstance(w, Weight) else plain(w) for w in bases), None)
        if base and not fitted(group[0], base.shape):
            base = None
        if base and group[0].factor is not None and len(group) == 1 and len(base.shape) >= 2:
            yield merged(group[0], base, f"{stem}.weight")
            continue
        if base:
            yield replace(base, name=f"{stem}.weight", reason=unknown(group))
        yield from lone(group)
    yield from not_computed(tensors, config)


def lone(group: list[Update]) -> Iterator[Weight]:
    """Yield the updates of one module as weights of their own."""
    for update in group:
        word = update.kind.lower().replace("adalora", "lora")
        name = f"{update.stem}.{word}_update".removeprefix(".")
        yield alone(update, f"{name}.{update.label}" if len(group) > 1 else name)


def unknown(group: list[Update]) -> str:
    """Return why a base is not merged with its updates."""
    if len(group) > 1:
        return f"it has {len(group)} LoRA adapters, and the file does not tell which"
    if group[0].kind == "AdaLoRA":
        return "its AdaLoRA has a factor that is unknown, because its ranks are not in the file"
    return "its LoRA has a factor that is unknown: put adapter_config.json beside it"
