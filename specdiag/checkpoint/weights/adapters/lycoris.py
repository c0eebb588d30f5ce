"""Names of LoHa, LoKr and differences -> the updates of weights; names of others -> a reason.

LoHa is the elementwise product (A1 B1) * (A2 B2), LoKr the Kronecker product of two matrices. Each
factor may itself be a product, also with a core for the positions of a kernel. Yeh et al. (2024),
ICLR; peft's `get_delta_weight` is the oracle. A tensor `diff` of LyCORIS, kohya and ComfyUI is the
whole difference to the base.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any, TypeAlias

import numpy as np

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.adapters.lora import COMPONENT
from specdiag.checkpoint.weights.adapters.update import Array, Update, factor_of, pattern_not_read
from specdiag.checkpoint.weights.weight import Tensors, Weight, not_measured

# Shape, largest rank, and the function of the values by name.
_Product: TypeAlias = tuple[tuple[int, ...], int, Callable[[dict[str, Array]], Array]]

_PART = re.compile(
    r"(?P<stem>.+)\.(?P<kind>hada|lokr)_(?P<part>(?:w1|w2)(?:_[ab])?|t1|t2)"
    r"(?:\.(?!weight$)(?P<adapter>[^.]+))?(?:\.weight)?"
)
_OTHER = re.compile(
    r"(.+\.)?(lora_mid|(hada|lokr|vera|randlora|hra|ia3|b?oft)_(?!proj|norm)\w+)"
    r"(\.[^.]+)?(\.weight)?"
)
_TOKENS = re.compile(
    r"(?P<stem>.+?)(\.token_adapter)?\.trainable_tokens_(delta|original)(\.[^.]+)?"
)
_PARAMETER = re.compile(
    r"(?P<stem>.+?)\.(?!base_layer)\w+_\w+\.(?!(weight|bias|\d+)(\.|$))[^.]+(\.weight)?"
)
_COMPUTED = ("LORA", "ADALORA", "LOHA", "LOKR")


def lycoris_updates(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Update]:
    """Yield the updates of LoHa and LoKr; `config` is that of the adapter, or empty."""
    groups: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _PART.fullmatch(name):
            key = match["stem"], match["kind"], match["adapter"] or ""
            groups.setdefault(key, {})[match["part"]] = tensor
    for (stem, kind, label), parts in groups.items():
        product = (_hadamard if kind == "hada" else _kronecker)(parts)
        if product:
            alpha, magnitude = (tensors.get(f"{stem}.{leaf}") for leaf in ("alpha", "dora_scale"))
            update = _update((kind, stem, label), parts, alpha, product, config)
            yield replace(update, magnitude=magnitude)
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "diff" and len(tensor.shape) > 1 and COMPONENT.match(stem):
            yield Update(
                kind="Full",
                stem=stem,
                parts=(tensor,),
                product=lambda values: values,
                formula="D",
                factor=1.0,
                shape=tensor.shape,
            )


def _update(
    key: tuple[str, str, str],
    parts: Mapping[str, Tensor],
    alpha: Tensor | None,
    found: _Product,
    config: Mapping[str, Any],
) -> Update:
    kind, stem, label = key
    shape, rank, product = found
    ranks = {parts[name].shape[0] for name in ("w1_b", "w2_b") if name in parts}
    r = next(iter(ranks), config.get("r") if not config.get("rank_pattern") else None)
    r = r if type(r) is int and r > 0 else 0
    is_alpha = alpha is not None and prod(alpha.shape) == 1

    def values(*arrays: Array) -> Array:
        update = product(dict(zip(parts, arrays, strict=False)))
        # Without a rank, LyCORIS has no factor.
        return update * (float(arrays[-1].item()) / r) if is_alpha and r else update

    factor = 1.0 if is_alpha else factor_of(config, "alpha", stem, r)
    return Update(
        kind="LoHa" if kind == "hada" else "LoKr",
        stem=stem,
        label=label,
        parts=(*parts.values(), *([alpha] if alpha else [])),
        product=values,
        formula="(A1 B1) * (A2 B2)" if kind == "hada" else "A kron B",
        factor=factor,
        apart=pattern_not_read(factor, config),
        shape=shape,
        rank=rank,
    )


def _hadamard(parts: Mapping[str, Tensor]) -> _Product | None:
    shapes = {name: tensor.shape for name, tensor in parts.items()}
    names = {"w1_a", "w1_b", "w2_a", "w2_b"}
    if shapes.keys() not in (names, names | {"t1", "t2"}):
        return None
    first, second = (_matrix(shapes, w, t) for w, t in (("w1", "t1"), ("w2", "t2")))
    if first is None or second is None or first[0] != second[0]:
        return None

    def product(values: dict[str, Array]) -> Array:
        return _value(values, "w1", "t1") * _value(values, "w2", "t2")

    return first[0], first[1] * second[1], product


def _kronecker(parts: Mapping[str, Tensor]) -> _Product | None:
    shapes = {name: tensor.shape for name, tensor in parts.items()}
    first, second = (_matrix(shapes, w, t) for w, t in (("w1", ""), ("w2", "t2")))
    if first is None or second is None or len(first[0]) != 2 or "t1" in shapes:
        return None
    (a, b), (c, d, *kernel) = first[0], second[0]

    def product(values: dict[str, Array]) -> Array:
        W1, W2 = _value(values, "w1", ""), _value(values, "w2", "t2")
        return np.einsum("ab,cd...->acbd...", W1, W2).reshape(a * c, b * d, *kernel)

    return (a * c, b * d, *kernel), first[1] * second[1], product


def _matrix(shapes: Mapping[str, tuple[int, ...]], w: str, t: str) -> tuple[Any, int] | None:
    """Return the shape of a factor and its largest rank, or None if its tensors do not fit."""
    if w in shapes:
        whole = shapes[w]
        return (whole, min(whole[:2])) if len(whole) >= 2 and f"{w}_a" not in shapes else None
    A, B, core = (shapes.get(name, ()) for name in (f"{w}_a", f"{w}_b", t))
    if not len(A) == len(B) == 2:
        return None
    if not core:
        return ((A[0], B[1]), B[0]) if A[1] == B[0] else None
    fits = len(core) >= 3 and core[:2] == (A[0], B[0])
    return ((A[1], B[1], *core[2:]), B[0]) if fits else None


def _value(values: Mapping[str, Array], w: str, t: str) -> Array:
    if w in values:
        return values[w]
    A, B = values[f"{w}_a"], values[f"{w}_b"]
    return np.einsum("ij...,ip,jr->pr...", values[t], A, B) if t in values else A @ B


def not_computed(tensors: Tensors, config: Mapping[str, Any]) -> Iterator[Weight]:
    """Yield the tensors of adapters of other kinds, which are not computed."""
    kind = str(config.get("peft_type") or "LORA").upper()
    word = f"{kind.lower()}_"
    for name, tensor in tensors.items():
        stem = name.removesuffix(".a1.weight")
        factors = [tensors.get(f"{stem}.{leaf}.weight") for leaf in ("a1", "a2", "b1", "b2")]
        if kind not in _COMPUTED and (word in f"{name.lower()}_" or "prompt_embeddings" in name):
            yield not_measured(name, [tensor], f"an adapter of the kind {kind[:40]}: not computed")
        elif stem != name and all(factors):
            parts = [part for part in factors if part]
            yield not_measured(
                f"{stem}.glora_update", parts, "an adapter of the kind GLoRA: not computed"
            )
        elif _OTHER.fullmatch(name):
            reason = "an adapter of another kind than LoRA, DoRA, LoHa and LoKr: not computed"
            yield not_measured(name, [tensor], reason)


def wrapped(tensors: Tensors, known: Collection[str]) -> Iterator[Weight]:
    """Yield the layers of peft with tensors of unknown adapters, and what these share.

    Peft calls the layer below its adapters `base_layer`, and a parameter `word_A.NAME` or
    `word_A.NAME.weight`, where NAME is that of the adapter. `known` are the modules whose updates
    are known.
    """
    reason = "an adapter of another kind than LoRA, DoRA, LoHa and LoKr: not computed"
    inside: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        match = _PARAMETER.fullmatch(name)
        if match and f"{match['stem']}.base_layer.weight" in tensors:
            inside.setdefault(match["stem"], []).append(tensor)
        elif match and match["stem"] == "base_model" and not name.endswith(".weight"):
            yield not_measured(name, [tensor], reason)
    for stem in inside.keys() - known:
        parts = [tensors[f"{stem}.base_layer.weight"], *inside[stem]]
        name = f"{stem}.weight"
        yield not_measured(parts[0].name if name in tensors else name, parts, reason)


def tokens(tensors: Tensors) -> Iterator[tuple[str, Weight]]:
    """Yield the module of each table of which peft trains rows, and its tensors with a reason."""
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _TOKENS.fullmatch(name):
            groups.setdefault(match["stem"], []).append(tensor)
    for stem, parts in groups.items():
        bases = (f"{stem}.base_layer.weight", f"{stem}.token_adapter.base_layer.weight")
        parts += [tensors[name] for name in bases if name in tensors]
        reason = "a table of which trainable tokens replace rows: not computed"
        yield stem, not_measured(parts[0].name, parts, reason)
