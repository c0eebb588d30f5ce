"""Adapter and the checkpoint of its base -> the weights of the base with the updates merged.

Names of modules differ by what wraps them: peft writes ``base_model.model.`` before the name, a
pipeline the name of its component, kohya also ``_`` for each dot. One prefix of the adapter's names
is removed, and one added, for all weights of a component.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.tensor import shape_text
from specdiag.checkpoint.weights.adapters.adapted import (
    LEAVES,
    factors_alone,
    updates,
    updates_alone,
    why_not_merged,
)
from specdiag.checkpoint.weights.adapters.lora import COMPONENT
from specdiag.checkpoint.weights.adapters.lycoris import not_computed, tokens
from specdiag.checkpoint.weights.adapters.update import Update, merged, shaper_of
from specdiag.checkpoint.weights.evidence import json_beside
from specdiag.checkpoint.weights.weight import Tensors, Weight, not_measured, plain
from specdiag.files import confine, limit_of
from specdiag.wording import counted, shown

REPLACED = "of the adapter, which replaces that of the base"
_STACK = "its LoRA updates a stack of matrices: not computed"
_CHECKPOINTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")


def adapter_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the settings of an adapter, from its metadata or from the file beside it.

    Raises
    ------
    ValueError
        If they are invalid.
    """
    if checkpoint.metadata.get("general.type") == "adapter":  # of llama.cpp
        alpha = checkpoint.metadata.get("adapter.lora.alpha")
        tokens_after = checkpoint.metadata.get("adapter.alora.invocation_tokens")
        settings = {"lora_alpha": alpha, "alora_invocation_tokens": tokens_after}
        return {key: value for key, value in settings.items() if value}
    config = json_beside(checkpoint, "adapter_config.json")
    text = checkpoint.metadata.get("lora_adapter_metadata")  # of diffusers
    if config or not isinstance(text, str):
        return config
    config = parse_json(text.encode(), f"{checkpoint.name}: lora_adapter_metadata")
    return config if isinstance(config, dict) else {}


def base_beside(adapter: Checkpoint) -> tuple[Path | None, str]:
    """Return the path of an adapter's base and an empty string, or None and a note.

    The base is a checkpoint in the folder of the adapter, or the local folder that its
    adapter_config.json names, if it lies beside the adapter's folder. A folder elsewhere is not
    opened, because the file may come from a stranger: a note names it.
    """
    config = adapter_config(adapter) if adapter.path else {}
    if not adapter.path or "peft_type" not in config:
        return None, ""
    folder = adapter.path if adapter.path.is_dir() else adapter.path.parent
    for name in _CHECKPOINTS:
        if (folder / name).is_file() and adapter.path.name != name:
            return folder / name, ""
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named or "\0" in named or len(named) > 1000:
        return None, ""
    around, root = folder.resolve().parent, limit_of(folder)
    for path in (folder / named, Path(named)):
        real = Path(os.path.realpath(path))
        if real != folder.resolve() and real.is_dir():
            if around in real.parents and (root is None or real.is_relative_to(root)):
                if root:
                    confine(real, root)
                return path, ""
            return None, f"the updates alone; --base {shown(named)} merges them with their base"
    return None, f"the updates alone; --base FILE merges them with their base, {shown(named)}"


def has_adapter(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has tensors of an adapter."""
    tensors, config = {t.name: t for t in checkpoint.tensors}, adapter_config(checkpoint)
    return any((*updates(tensors, config), *_others(tensors, config)))


def _others(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Weight]:
    """Yield the adapters that are not computed."""
    return chain(not_computed(tensors, config), factors_alone(tensors, config))


def with_base(
    adapter: Checkpoint, base: Checkpoint, whole: Iterable[Weight]
) -> tuple[list[Weight], str]:
    """Return the weights of the base with the updates of the adapter, and a note.

    Parameters
    ----------
    adapter, base : Checkpoint
    whole : iterable of Weight
        The weights of the base.

    Raises
    ------
    ValueError
        If an update does not fit the base, or if its factor or its kind is unknown.
    """
    whole, config = list(whole), adapter_config(adapter)
    tensors = {tensor.name: tensor for tensor in adapter.tensors}
    found = updates(tensors, config)
    if other := next(_others(_without(tensors, found), config), None):
        raise ValueError(f"{adapter.name}: no base can be merged: {other.reason}")
    if config.get("layer_replication"):
        raise ValueError(f"{adapter.name}: no base can be merged: it repeats layers of the base")
    fits, prefixes = _fit(found, whole, adapter.name, base.name)
    new = {w.name: replace(w, reason=_STACK) for w in whole if _is_stack(w, config)}
    for stem, target in fits.items():
        update, weight = found[stem][0], target
        if own := tensors.pop(f"{stem}.base_layer.weight", None):  # of a table, which peft saves
            weight = plain(own, name=weight.name, tensors=(*weight.tensors, own.name))
        if why := why_not_merged(found[stem]):
            raise ValueError(f"{adapter.name}: {shown(stem)} is not merged: {why}")
        new[weight.name] = merged(update, weight, weight.name)
    others: list[Weight] = [
        w for stem in found.keys() - fits.keys() for w in updates_alone(found[stem])
    ]
    by_key = {_key(weight.name): weight for weight in whole}
    for stem, rows in tokens(tensors):
        old = next((by_key[k] for k in _moved(f"{stem}.weight", prefixes) if k in by_key), None)
        if old:
            new[old.name] = not_measured(old.name, [old, rows], rows.reason)
        else:
            others.append(rows)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in rows.tensors}
    for name, tensor in _without(tensors, found).items():
        old = next((by_key[key] for key in _moved(name, prefixes) if key in by_key), None)
        if old and len(old.shape) == len(tensor.shape):
            parts = (*old.tensors, name)
            new[old.name] = plain(tensor, name=old.name, tensors=parts, rule=REPLACED)
        else:
            others.append(plain(tensor))
    n_replaced = len(new) - len(fits)
    note = (
        f"merged with the base {shown(base.name)}: {counted(len(fits), 'weight')} with updates, "
        + (f"{n_replaced:,} of the adapter alone, " if n_replaced else "")
        + f"{len(whole) - len(new):,} as in the base"
    )
    return [*(new.get(weight.name, weight) for weight in whole), *others], note


def _is_stack(weight: Weight, config: Mapping[str, Any]) -> bool:
    """Return whether a weight of the base is one of peft's `target_parameters`."""
    names = config.get("target_parameters")
    return isinstance(names, list) and any(
        isinstance(name, str) and f".{weight.name}".endswith(f".{name}") for name in names
    )


def _without(tensors: Tensors, found: Mapping[str, Sequence[Update]]) -> dict[str, Any]:
    used = {part.name for group in found.values() for update in group for part in update.tensors}
    return {name: tensor for name, tensor in tensors.items() if name not in used}


def _key(name: str) -> str:
    """Return a name as kohya writes it, without what diffusers adds for its processors."""
    return re.sub(r"[._]+", "_", name.replace(".processor.", ".").replace(".base_layer.", "."))


def _module_key(name: str) -> str:
    """Return the key of a module; older files of diffusers call `to_out.0` by its first word."""
    return re.sub(r"_to_out_0$", "_to_out", _key(name))


def _fit(
    found: Mapping[str, Sequence[Update]], whole: Iterable[Weight], adapter: str, base: str
) -> tuple[dict[str, Weight], list[tuple[str, str]]]:
    """Return the weight of the base for each module, and prefixes to remove and to add.

    A component of a pipeline of which the base has nothing is left out.
    """
    table = _by_module(whole)
    components: dict[str, list[str]] = {}
    for stem in found:
        match = COMPONENT.match(stem)
        components.setdefault(match[0] if match else "", []).append(stem)
    fits: dict[str, Weight] = {}
    prefixes: list[tuple[str, str]] = []
    missing: list[str] = []
    for stems in components.values():
        tried = [
            ({s: w for s in stems if (w := _at(table, s, found[s][0], move))}, move)
            for move in _moves(stems, table)
        ]
        best, move = max(tried, key=lambda item: len(item[0]), default=({}, ("", "")))
        fits |= best
        prefixes.append(move)
        if best or len(components) == 1:
            missing += [s for s in stems if s not in best and not found[s][0].reason]
    if missing or not fits:
        stem = (missing or list(found))[0]
        raise ValueError(
            f"{base}: {len(missing) or len(found):,} of {len(found):,} weights that {adapter} "
            f"updates are not in it with their shape, such as {shown(stem)}, "
            f"{shape_text(found[stem][0].shape)}"
        )
    return fits, prefixes


def _by_module(whole: Iterable[Weight]) -> dict[str, Weight]:
    """Return the matrices by the keys of their modules, without keys that occur twice."""
    keyed = [(_module_key(_of_module(w.name)), w) for w in whole if len(w.shape) >= 2]
    count = Counter(key for key, _ in keyed)
    return {key: w for key, w in keyed if count[key] == 1}


def _of_module(name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    return owner if leaf in LEAVES else name


def _moves(stems: Sequence[str], table: Mapping[str, Weight]) -> Iterator[tuple[str, str]]:
    """Yield the prefixes to remove and to add that give the name of a weight of the base."""
    tried: set[tuple[str, str]] = set()
    for stem in (stems[0], stems[-1]):
        key = _module_key(stem)
        for start in (0, *(match.end() for match in re.finditer("_", key))):
            rest = key[start:]
            for other in table:
                if other == rest or other.endswith(f"_{rest}"):
                    tried.add((key[:start], other.removesuffix(rest)))
    yield from sorted(tried, key=lambda move: (len(move[1]), len(move[0])))


def _at(
    table: Mapping[str, Weight], stem: str, update: Update, move: tuple[str, str]
) -> Weight | None:
    key = _module_key(stem)
    if not key.startswith(move[0]):
        return None
    weight = table.get(move[1] + key.removeprefix(move[0]))
    return weight if weight and shaper_of(update, weight.shape) else None


def _moved(name: str, prefixes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the keys that a tensor of the adapter can have in the base, the likely ones first."""
    key = _key(name)
    for removed, added in prefixes:
        if key.startswith(removed):
            yield added + key.removeprefix(removed)
    words = key.split("_")
    for start in range(len(words) - 1):
        yield "_".join(words[start:])
