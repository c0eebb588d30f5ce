"""Torch modules in memory -> the weights that their forward passes compute.

A module with a parametrization (`torch.nn.utils.parametrize`), with a weight that a hook computes
before each forward pass (`weight_norm`, `spectral_norm`, `prune`), or with adapters of peft does
not multiply with the tensors of its state dict. Its weight is computed as in evaluation mode, on a
copy: values and modes of the module do not change, and the power iteration of a spectral norm does
not step. Code of the module runs, no other.
"""

import copy
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from specdiag.checkpoint.memory import memory_tensor
from specdiag.checkpoint.tensor import Tensor, unreadable
from specdiag.checkpoint.weights.computed.normalised import MASKED, SPECTRAL_NORM, WEIGHT_NORM
from specdiag.checkpoint.weights.weight import Weight, plain

_RULES = {"WeightNorm": WEIGHT_NORM, "SpectralNorm": SPECTRAL_NORM}
_SUFFIXES = r"(_(g|v|u|orig|mask))+"


class _Computed(NamedTuple):
    """A weight of a module: its name, its rule, the function, and which tensors it is made of.

    `is_part` tells it from the name of a tensor in the state dict of the module.
    """

    name: str
    rule: str
    compute: Callable[[], Any]
    is_part: Callable[[str], object]


def live_weights(
    states: Iterable[tuple[Any, Mapping[str, Any]]], names: Mapping[int, str]
) -> tuple[Weight, ...]:
    """Return the weights that modules compute from the tensors of their state dicts.

    Parameters
    ----------
    states : iterable of (module, state dict)
    names : dict
        Names of the tensors of the state dicts, by id; weights of other tensors are left out.
    """
    found: list[Weight] = []
    for module, state in states:
        if callable(getattr(module, "named_modules", None)):
            found += _of_module(module, state, names)
    return tuple(found)


def _of_module(module: Any, state: Mapping[str, Any], names: Mapping[int, str]) -> Iterator[Weight]:
    for prefix, part in module.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for found in (*_parametrised(part), *_hooked(part), *_adapted(part)):
            keys = [
                key
                for key in state
                if key.startswith(start) and found.is_part(key.removeprefix(start))
            ]
            parts = [names[id(state[key])] for key in keys if id(state[key]) in names]
            if parts and len(parts) == len(keys):
                # The name in the checkpoint may begin with the name of the module's entry.
                name = parts[0].removesuffix(keys[0]) + start + found.name
                yield _weight(name, part, found, parts, tuple(state[keys[0]].shape))


def _weight(
    name: str, module: Any, found: _Computed, parts: list[str], shape: tuple[int, ...]
) -> Weight:
    """Return a weight that is computed when it is read; it has the given shape if that fails."""

    def compute() -> Tensor:
        torch = sys.modules["torch"]
        try:
            with torch.no_grad():
                return memory_tensor(name, found.compute())
        except Exception as error:  # noqa: BLE001 - code of a user's module can raise anything
            problem = f"the module cannot compute it: {type(error).__name__}: {error}"
            return unreadable(name, shape, "unknown", problem)

    def read() -> np.ndarray:
        return compute().read()

    tensor = compute()
    about = {"identity": ("computed", id(module), found.name), "read": read, "read_rows": None}
    return plain(tensor, tensors=tuple(parts), rule=found.rule, **about)


def _parametrised(module: Any) -> Iterator[_Computed]:
    """Yield the parametrized weights of a module, whose property computes them at each access."""
    lists: Any = getattr(module, "parametrizations", {})
    for leaf, functions in lists.items() if hasattr(lists, "items") else ():
        kinds = [type(function).__name__.removeprefix("_") for function in functions]
        rule = _RULES.get(kinds[0]) if len(kinds) == 1 else None

        def compute(functions: Any = functions) -> Any:
            return _copy(functions).eval()()

        yield _Computed(
            leaf,
            rule or f"as the parametrization {', then '.join(kinds)} computes it",
            compute,
            re.compile(rf"parametrizations\.{re.escape(leaf)}\..*").fullmatch,
        )


def _copy(module: Any) -> Any:
    """Return a copy of a module that shares its parameters, and has buffers of its own.

    A tensor that autograd computed, such as a pruned one, can only be copied without its history.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        memo |= {id(tensor): tensor for tensor in part.parameters(recurse=False)}
        others = (value for value in vars(part).values() if hasattr(value, "grad_fn"))
        memo |= {id(value): value.detach() for value in others}
    return copy.deepcopy(module, memo)


def _hooked(module: Any) -> Iterator[_Computed]:
    """Yield the weights that hooks compute before the forward pass.

    Hooks of torch, and others of their form, have the name of the weight and a function that
    computes it: `compute_weight`, or `apply_mask` of pruning.
    """
    hooks: dict[str, list[Any]] = {}
    for hook in getattr(module, "_forward_pre_hooks", {}).values():
        leaf = getattr(hook, "_tensor_name", None) or getattr(hook, "name", None)
        if isinstance(leaf, str) and (
            hasattr(hook, "compute_weight") or hasattr(hook, "apply_mask")
        ):
            hooks.setdefault(leaf, []).append(hook)
    everything = [hook for group in hooks.values() for hook in group]
    for leaf, group in hooks.items():

        def compute(leaf: str = leaf) -> Any:
            twin = copy.copy(module)
            twin.training = False
            for slot in ("_parameters", "_buffers"):
                vars(twin)[slot] = dict(vars(module)[slot])
            for hook in everything:
                hook(twin, ())
            return getattr(twin, leaf)

        kinds = [type(hook).__name__ for hook in group]
        pruned = all(hasattr(hook, "apply_mask") for hook in group)
        yield _Computed(
            leaf,
            MASKED if pruned else _RULES.get(kinds[0], f"as the hook {kinds[0]} computes it"),
            compute,
            re.compile(re.escape(leaf) + _SUFFIXES).fullmatch,
        )


def _adapted(module: Any) -> Iterator[_Computed]:
    """Yield the weight of a layer with adapters of peft: with the active ones merged into it."""
    if not all(hasattr(module, name) for name in ("base_layer", "merge", "active_adapters")):
        return
    weight: Any = getattr(module.base_layer, "weight", None)
    if weight is None or not weight.is_floating_point():
        return

    def compute() -> Any:
        twin = copy.deepcopy(module).eval()
        if twin.disable_adapters and twin.merged:
            twin.unmerge()
        elif not twin.disable_adapters and not twin.merged:
            twin.merge()
        return twin.get_base_layer().weight

    active = (
        [] if module.disable_adapters else list(module.merged_adapters or module.active_adapters)
    )
    kind = f"with its adapters of peft: {', '.join(active)}" if active else "without its adapters"
    yield _Computed(
        "weight",
        kind,
        compute,
        lambda key: key == "base_layer.weight" or not key.startswith("base_layer."),
    )
