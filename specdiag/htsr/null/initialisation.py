"""Layers, and those of untrained networks of the same recipe -> the last rung of the null."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from specdiag.checkpoint.tensor import Tensor
from specdiag.htsr.layers import Layer
from specdiag.htsr.null.ladder import LEVEL, initialisation_p
from specdiag.htsr.sameness import distinct_networks
from specdiag.wording import counted

MIN_UNTRAINED = round(1 / LEVEL) - 1  # with fewer untrained networks, no p-value can reach 0.05

Untrained = Mapping[str, Sequence[float]]  # name of a layer -> its alphas


def untrained_alphas(
    networks: Sequence[Sequence[Layer]],
) -> tuple[dict[str, list[float]], str]:
    """Return the alphas of each layer over untrained networks, of those that have one, and a note.

    Networks that are the same count once (`sameness.is_one_network`). The note says so, and whether
    more networks are needed; it is empty if neither is the case.
    """
    distinct = distinct_networks(networks)
    alphas: dict[str, list[float]] = {}
    for layers in distinct:
        for layer in layers:
            if not math.isnan(layer.alpha):
                alphas.setdefault(layer.name, []).append(layer.alpha)
    return alphas, _note(len(networks), len(distinct))


def _note(n_given: int, n: int) -> str:
    given = counted(n_given, "untrained network")
    if n < n_given:
        given = f"{n} different of {given} (one that is given again counts once)"
    if 0 < n < MIN_UNTRAINED:
        return (
            f"{given}: initialisation_p is at least {1 / (1 + n):.2f}, and not part of null_p; "
            f"{MIN_UNTRAINED} are needed"
        )
    return given if n < n_given else ""


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
