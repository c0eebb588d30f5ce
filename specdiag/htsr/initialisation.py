"""Layers, and those of untrained networks of the same recipe -> the last rung of the null."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from specdiag.checkpoint.tensor import Tensor
from specdiag.htsr.layers import Layer
from specdiag.htsr.null.ladder import LEVEL, initialisation_p

MIN_UNTRAINED = round(1 / LEVEL) - 1  # with fewer untrained networks, no p-value can reach 0.05

Untrained = Mapping[str, Sequence[float]]  # name of a layer -> its alphas


def untrained_alphas(networks: Iterable[Iterable[Layer]]) -> dict[str, list[float]]:
    """Return the alphas of each layer over untrained networks, of those that have one."""
    alphas: dict[str, list[float]] = {}
    for layers in networks:
        for layer in layers:
            if not math.isnan(layer.alpha):
                alphas.setdefault(layer.name, []).append(layer.alpha)
    return alphas


def check_recipe(untrained: Iterable[Tensor], trained: Iterable[Tensor]) -> None:
    """Raise ValueError if no matrix of an untrained network has name and shape of a trained one.

    If there is no trained one, nothing is raised.
    """
    wanted = {(tensor.name, tensor.shape) for tensor in trained}
    if wanted and wanted.isdisjoint((tensor.name, tensor.shape) for tensor in untrained):
        raise ValueError(
            "it has no matrix of the name and shape of one to be measured: give untrained networks "
            "of the same recipe as initialisation"
        )


def with_initialisation(layers: Iterable[Layer], untrained: Untrained) -> list[Layer]:
    """Return the layers with `initialisation_p`, before their verdicts.

    It is NaN without an untrained alpha of the layer, and becomes part of `null_p` where there are
    at least 19.
    """
    return [_tested(layer, untrained.get(layer.name, ())) for layer in layers]


def _tested(layer: Layer, alphas: Sequence[float]) -> Layer:
    if math.isnan(layer.null_p):
        return layer
    p = initialisation_p(layer.alpha, alphas)
    is_enough = len(alphas) >= MIN_UNTRAINED
    return replace(
        layer, initialisation_p=p, null_p=max(layer.null_p, p) if is_enough else layer.null_p
    )
