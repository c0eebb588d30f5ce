"""Torch modules in memory -> the weights that their forward passes compute.

A module with a parametrization (`torch.nn.utils.parametrize`), with a weight that a hook computes
before each forward pass (`weight_norm`, `spectral_norm`, `prune`), of quantisation-aware training,
or with adapters of peft does not multiply with the tensors of its state dict. Its weight is
computed as in evaluation mode, on a copy: values and modes of the module do not change, and the
power iteration of a spectral norm does not step. Code of the module runs, no other.
"""

import copy
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from specdiag.checkpoint.memory import memory_tensor
from specdiag.checkpoint.tensor import Tensor, unreadable
from specdiag.checkpoint.torchfile.roles import Role, kind_of, roles_in
from specdiag.checkpoint.weights.computed.normalised import MASKED, SPECTRAL_NORM, WEIGHT_NORM
from specdiag.checkpoint.weights.weight import Weight, plain

_RULES = {"WeightNorm": WEIGHT_NORM, "SpectralNorm": SPECTRAL_NORM}
_BASE_LAYER = re.compile(r"(?<![^.])base_layer\.")
_SUFFIXES = r"(_(g|v|u|orig|mask))+"


class _Computed(NamedTuple):
    """A weight of a module: its name, its rule, the function, and which tensors it is made of.

    `is_part` tells it from the name of a tensor in the state dict of the module. `role` is that of
    the layer that adapters are wrapped around.
    """

    name: str
    rule: str
    compute: Callable[[], Any]
    is_part: Callable[[str], object]
    role: Role | None = None


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
        for found in _of(part):
            keys = [
                key
                for key in state
                if key.startswith(start) and found.is_part(key.removeprefix(start))
            ]
            parts = [names[id(state[key])] for key in keys if id(state[key]) in names]
            if parts and len(parts) == len(keys):
                # The name in the checkpoint may begin with the name of the module's entry.
                name = parts[0].removesuffix(keys[0]) + start + found.name
                if found.role is not None:
                    name = _BASE_LAYER.sub("", name)
                yield _weight(name, part, found, parts, tuple(state[keys[0]].shape))


def _of(part: Any) -> Iterator[_Computed]:
    for rule in (_parametrised, _hooked, _rounded, _of_loralib, _adapted):
        yield from rule(part)


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
    if found.role is not None:
        about |= {"role": found.role.kind, "facts": found.role.facts}
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


def _rounded(module: Any) -> Iterator[_Computed]:
    """Yield the weight of a layer of torch's quantisation-aware training, as its forward rounds it.

    Layers that are fused with a norm also scale it before; their weight is left as it is.
    """
    rounding = getattr(module, "weight_fake_quant", None)
    if callable(rounding) and not hasattr(module, "bn"):
        yield _Computed(
            "weight",
            "rounded as in quantisation-aware training",
            lambda: _copy(rounding).eval()(module.weight),
            re.compile("weight").fullmatch,
        )


def _of_loralib(module: Any) -> Iterator[_Computed]:
    """Yield the weight of a layer of loralib or LitGPT, merged with its update on a copy.

    A layer of loralib merges when it changes to evaluation mode, a layer of LitGPT by its method.
    """
    libraries = {kind.__module__ for kind in type(module).__mro__}
    if not hasattr(module, "lora_A") or not libraries & {"loralib.layers", "litgpt.lora"}:
        return
    inner = next((name for name in ("conv", "linear") if name in module._modules), "")
    owner, path = (getattr(module, inner), f"{inner}.weight") if inner else (module, "weight")

    def compute() -> Any:
        twin = copy.deepcopy(module)
        twin.merge_weights = True
        twin.merge() if hasattr(twin, "merge") else twin.train(False)
        return getattr(twin, inner).weight if inner else twin.weight

    is_part = re.compile(rf"lora_[AB]|{re.escape(path)}").fullmatch
    yield _Computed("weight", "with its LoRA", compute, is_part, _role(owner, "weight"))


def _adapted(module: Any) -> Iterator[_Computed]:
    """Yield the weights of a layer with adapters of peft: with the active ones merged into them."""
    if "base_layer" not in getattr(module, "_modules", {}) or not hasattr(
        module, "active_adapters"
    ):
        return
    base = module.get_base_layer()
    leaves = {"weight": base}
    if hasattr(module, "parameter_name"):
        leaves = {module.parameter_name: base}
    elif hasattr(base, "in_proj_weight"):  # peft merges the output of an attention with its inputs
        leaves = {"in_proj_weight": base, "out_proj.weight": base.out_proj.get_base_layer()}
    kind = "without its adapters"
    if active := _active(module):
        kind = f"with its adapters of peft: {', '.join(active)}"
    for path, owner in leaves.items():
        start, _, leaf = path.rpartition(".")
        of_base = rf"(parametrizations\.)?{re.escape(leaf)}([._].*)?"
        if not hasattr(owner, leaf):  # a quantised layer: all but its bias
            of_base = r"(?!bias$|base_layer\.).*"
        parts = rf"(base_layer\.)+{of_base}|(?!base_layer\.).*"
        yield _Computed(
            path,
            kind,
            partial(_with_adapters, module, path),
            re.compile(rf"base_layer\.{start}\.({parts})" if start else parts).fullmatch,
            _role(owner, leaf),
        )


def _role(module: Any, leaf: str) -> Role:
    known = {name: role for name, _, role in roles_in(vars(module))}
    return known.get(leaf, Role(kind_of(vars(module))))


def _active(module: Any) -> list[str]:
    """Return the names of the adapters of a layer that its forward pass uses."""
    return [] if module.disable_adapters else [*(module.merged_adapters or module.active_adapters)]


def _with_adapters(module: Any, path: str) -> Any:
    """Return a weight of a layer of peft, with its adapters, computed on a copy.

    Peft merges into a parameter. A weight that is quantised, or computed by itself, stays as it is
    in the forward pass of LoRA, which adds the product with the update.
    """
    base, leaf = _base(module, path)
    stored = base._parameters.get(leaf)
    is_parameter = stored is not None and stored.is_floating_point() and stored.element_size() > 1
    twin = copy.deepcopy(module).eval() if is_parameter else _copy(module).eval()
    if twin.merged and twin.disable_adapters:
        twin.unmerge()
    names = [] if twin.merged else _active(twin)
    if not is_parameter:
        return _added(twin, names, _of_quantised(*_base(twin, path)), is_whole="." not in path)
    if names:
        twin.merge()
    return getattr(*_base(twin, path))


def _base(module: Any, path: str) -> tuple[Any, str]:
    """Return the layer below a layer of peft that has its weight, and the name of that."""
    layer, (*owners, leaf) = module.get_base_layer(), path.split(".")
    for owner in owners:
        layer = getattr(layer, owner).get_base_layer()
    return layer, leaf


def _added(module: Any, names: list[str], weight: Any, *, is_whole: bool) -> Any:
    """Return a weight with the updates of the named adapters of a layer of LoRA."""
    for name in names:
        variant = getattr(module, "lora_variant", {}).get(name)
        if not hasattr(module, "lora_variant") or not is_whole or (variant and len(names) > 1):
            raise NotImplementedError("these adapters on a weight that is no parameter")
        if variant:
            weight = variant.merge_safe(module, name, weight)
        elif name in module.lora_A:
            weight = weight + module.get_delta_weight(name).to(weight.dtype)
    return weight


def _of_quantised(layer: Any, leaf: str) -> Any:
    """Return a weight of a layer that is quantised, or computed by itself."""
    for found in (*_parametrised(layer), *_hooked(layer)):
        if found.name == leaf:
            return found.compute()
    dequantise = sys.modules["peft"].utils.integrations.dequantize_module_weight
    weight = dequantise(layer)
    if not weight.is_floating_point() or weight.element_size() == 1:
        raise NotImplementedError(f"its quantised base has the dtype {weight.dtype}")
    return weight.float()
