"""Layers, and those of untrained networks of the same recipe -> the last rung of the null."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

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


def with_initialisation(layers: Iterable[Layer], untrained: Untrained) -> list[Layer]:
    """Return the layers with `initialisation_p`, before their verdicts.

    It becomes part of `null_p` where there are at least 19 untrained alphas of a layer.

    Raises
    ------
    ValueError
        If there are untrained alphas, but none of a layer that was fit.
    """
    layers = list(layers)
    fit = [layer.name for layer in layers if layer.status == "fit"]
    if untrained and fit and untrained.keys().isdisjoint(fit):
        raise ValueError(
            "the untrained networks have no layer of this one that was fit: give networks of its "
            "recipe as initialisation"
        )
    return [_tested(layer, untrained.get(layer.name, ())) for layer in layers]


def _tested(layer: Layer, alphas: Sequence[float]) -> Layer:
    if math.isnan(layer.null_p):
        return layer
    p = initialisation_p(layer.alpha, alphas)
    is_enough = len(alphas) >= MIN_UNTRAINED
    return replace(
        layer, initialisation_p=p, null_p=max(layer.null_p, p) if is_enough else layer.null_p
    )
