"""Weight and spectral normalisation, masks of pruning, and torch's parametrizations -> weights.

The names are those of torch.nn.utils: `weight_norm`, `spectral_norm`, `prune`, and their successors
in `torch.nn.utils.parametrizations`; and those of the spectral norm of BigGAN and of the splines of
efficient-kan. A rule applies only if the shapes of the tensors fit it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.weights.weight import Tensors, Weight, composed, not_measured

WEIGHT_NORM = "weight norm: g v / |v|"
LIKE_WEIGHT_NORM = f"{WEIGHT_NORM}, as the shapes of original0 and original1 suggest"
SPECTRAL_NORM = "spectral norm: W / sigma"
MASKED = "weight times mask"
SPLINES = "splines: a column for each input and basis function"

_PARAMETRISED = re.compile(r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<leaf>[^.]+)\.(?P<part>.+)")


def normalised(tensors: Tensors) -> Iterator[Weight]:
    """Yield the weights that torch's normalisations, parametrizations and pruning compute.

    A part of a normalisation may itself be pruned.
    """
    pruned = dict(_pruned(tensors))
    parts = {name: tensor for name, tensor in tensors.items() if name not in pruned} | pruned
    yield from parametrised(parts)
    yield from suffixed(parts)
    yield from _of_biggan(parts)
    yield from _of_splines(parts)
    yield from pruned.values()  # those that are no part of another weight


def _pruned(tensors: Tensors) -> Iterator[tuple[str, Weight]]:
    for name, tensor in tensors.items():
        stem = name.removesuffix("_orig")
        mask = tensors.get(f"{stem}_mask")
        if stem != name and mask and stem not in tensors and (w := masked(stem, tensor, mask)):
            yield stem, w


def parametrised(tensors: Tensors) -> Iterator[Weight]:
    """Yield the weights under torch's ``parametrizations``, such as ``fc.parametrizations.weight``.

    Weight norm, spectral norm, and the spectral norm of a weight norm are computed. Of other
    parametrizations, orthogonal ones included, a state dict does not tell the function. Any other
    of two parts is taken for a weight norm if its shapes fit; the rule says that.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _PARAMETRISED.fullmatch(name):
            groups.setdefault(match["owner"] + match["leaf"], {})[match["part"]] = tensor
    for name, parts in groups.items():
        weight = _known(name, parts)
        if weight and name not in tensors:
            yield weight
        elif not _is_left_over(parts):
            reason = "a parametrization whose function the file does not tell"
            yield not_measured(name, list(parts.values()), reason)


def _is_left_over(parts: Mapping[str, Tensor]) -> bool:
    """Return whether these are the parts of a pruned tensor, which stands for them already."""
    return all(part.endswith(("_orig", "_mask")) for part in parts)


def _known(name: str, parts: Mapping[str, Tensor]) -> Weight | None:
    """Return the weight of a parametrization whose parts tell its function, or None."""
    keys = {key for key in parts if not key.endswith(("_orig", "_mask"))}
    if keys == {"original0", "original1"}:
        weight = weight_norm(name, parts["original0"], parts["original1"])
        return weight and replace(weight, rule=LIKE_WEIGHT_NORM)
    if keys == {"original", "0._u", "0._v"}:
        return spectral_norm(name, *(parts[key] for key in ("original", "0._u", "0._v")))
    if keys == {"original0", "original1", "1._u", "1._v"}:
        inner = weight_norm(name, parts["original0"], parts["original1"])
        weight = inner and spectral_norm(name, inner, parts["1._u"], parts["1._v"])
        return weight and replace(weight, rule=f"{SPECTRAL_NORM}, W by {LIKE_WEIGHT_NORM}")
    return None


def suffixed(tensors: Tensors) -> Iterator[Weight]:
    """Yield the weights of torch's older normalisations, and of pruning."""
    for name in tensors:
        stem, _, suffix = name.rpartition("_")
        if not stem or suffix not in ("g", "orig", "bar"):
            continue
        first, u, v, mask = (tensors.get(f"{stem}_{key}") for key in (suffix, "u", "v", "mask"))
        weight = None
        if first and suffix == "g" and v:
            weight = weight_norm(stem, first, v)
        elif first and mask and suffix == "orig":
            weight = masked(stem, first, mask)
        elif first and u and v:
            weight = spectral_norm(stem, first, u, v)
        if weight and stem in tensors and not isinstance(tensors[stem], Weight):
            yield not_measured(name, weight_parts(tensors, weight), f"a part of {stem}")
        elif weight and stem not in tensors:
            yield weight


def with_masks(tensors: Tensors) -> Iterator[Weight]:
    """Yield the weights beside a mask of their shape, ``fc.mask`` or ``fc.weight_mask``.

    The network multiplies by the mask, or did so when it was saved: the product is right for both.
    """
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        names = (f"{name}_mask", f"{owner}.mask") if leaf == "weight" and owner else ()
        mask = next((tensors[key] for key in names if key in tensors), None)
        if mask and (weight := masked(name, tensor, mask)):
            yield weight


def weight_parts(tensors: Tensors, weight: Weight) -> list[Tensor]:
    """Return the tensors that a weight is composed of."""
    return [tensors[name] for name in weight.tensors]


def weight_norm(name: str, g: Tensor, v: Tensor) -> Weight | None:
    """Return g v / |v|, or None if the shapes do not fit.

    The norm is over all axes but one, whose size g has, or over all of them. Salimans & Kingma
    (2016), NeurIPS.
    """
    shape = g.shape or (1,) * len(v.shape)
    kept = [axis for axis, size in enumerate(shape) if size != 1]
    fits = len(shape) == len(v.shape) >= 2 and all(shape[axis] == v.shape[axis] for axis in kept)
    if not fits or len(kept) > 1:
        return None
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)

    def values(length: np.ndarray, direction: np.ndarray) -> np.ndarray:
        norm = np.sqrt(np.square(direction).sum(axis=axes, keepdims=True))
        return direction * (length.reshape(shape) / norm)

    return composed(name, (g, v), WEIGHT_NORM, values, like=v)


def spectral_norm(name: str, W: Tensor, u: Tensor, v: Tensor) -> Weight | None:
    """Return W / sigma with sigma = u' W v, or None if the shapes do not fit.

    u belongs to one axis of W and v to all the others: to the first axis of a matrix. Of a kernel
    with as many inputs as outputs, the axis is the one with the larger sigma, because u and v are
    close to the leading singular vectors. Miyato et al. (2018), ICLR.
    """
    possible = (0, 1) if len(W.shape) > 2 else (0,) if len(W.shape) == 2 else ()
    axes = [axis for axis in possible if _fits(W.shape, axis, u, v)]
    if not axes:
        return None

    def values(weight: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        sigmas = [
            left @ np.moveaxis(weight, axis, 0).reshape(len(left), -1) @ right for axis in axes
        ]
        return weight / max(sigmas, key=abs)

    return composed(name, (W, u, v), SPECTRAL_NORM, values, like=W)


def _of_biggan(tensors: Tensors) -> Iterator[Weight]:
    """Yield the weights of layers with the spectral norm of BigGAN, buffers `u0` and `sv0`.

    Their forward pass makes one power iteration from u0, along the first axis, and divides by its
    sigma; sv0 is that of the last pass. Brock, Donahue & Simonyan (2019), ICLR, and their code.
    """
    for name, u in tensors.items():
        owner, dot, leaf = name.rpartition(".")
        W, sigma = (tensors.get(f"{owner}{dot}{key}") for key in ("weight", "sv0"))
        if leaf != "u0" or not (W and sigma and len(W.shape) >= 2 and sigma.shape in ((), (1,))):
            continue
        if u.shape == (1, W.shape[0]):
            yield composed(W.name, (W, u, sigma), SPECTRAL_NORM, _iterated, like=W)


def _iterated(W: np.ndarray, u: np.ndarray, _: np.ndarray) -> np.ndarray:
    rows = W.reshape(len(W), -1)
    v = u @ rows
    return W / np.linalg.norm(rows @ (v / np.linalg.norm(v)).T)


def _of_splines(tensors: Tensors) -> Iterator[Weight]:
    """Yield the weights of spline layers, which multiply the basis functions of all inputs.

    The names are those of efficient-kan: `spline_weight`, (out, in, basis functions), beside
    `base_weight`, (out, in). The forward pass multiplies its values by those of `spline_scaler`,
    (out, in), if there is one, and takes the last two axes as one. Liu et al. (2024),
    arXiv:2404.19756.
    """
    for name, W in tensors.items():
        owner, dot, leaf = name.rpartition(".")
        base, scaler = (
            tensors.get(f"{owner}{dot}{key}") for key in ("base_weight", "spline_scaler")
        )
        if leaf != "spline_weight" or len(W.shape) != 3 or not base or base.shape != W.shape[:2]:
            continue
        shape = (W.shape[0], W.shape[1] * W.shape[2])
        if scaler is None:
            yield composed(
                name, (W,), SPLINES, lambda w: w.reshape(len(w), -1), like=W, shape=shape
            )
        elif scaler.shape == base.shape:
            rule = f"{SPLINES}; times spline_scaler"
            yield composed(name, (W, scaler), rule, _scaled_splines, like=W, shape=shape)


def _scaled_splines(W: np.ndarray, scaler: np.ndarray) -> np.ndarray:
    return (W * scaler[..., None]).reshape(len(W), -1)


def _fits(shape: tuple[int, ...], axis: int, u: Tensor, v: Tensor) -> bool:
    rest = int(np.prod(shape)) // max(shape[axis], 1)
    return u.shape == (shape[axis],) and v.shape == (rest,)


def masked(name: str, W: Tensor, mask: Tensor) -> Weight | None:
    """Return W times its mask, or None if the shapes do not fit.

    Its `read` raises ValueError if the mask has values other than 0 and 1.
    """
    if W.shape != mask.shape or len(W.shape) < 2:
        return None

    def values(weight: np.ndarray, zeros: np.ndarray) -> np.ndarray:
        if not np.isin(zeros, (0, 1)).all():
            raise ValueError("its mask has values other than 0 and 1")
        return weight * zeros

    return composed(name, (W, mask), MASKED, values, like=W)
