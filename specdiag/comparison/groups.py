"""Two groups of checkpoints, seeds of two recipes -> a record for each tensor name, as in `pairs`.

A layer of a group stands for the layers of its seeds: its alpha is their mean, and the differences
are those of `means.seeds_difference`.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from specdiag.checkpoint.reader import Checkpoint
from specdiag.comparison import matrices, means
from specdiag.comparison.conclusion import all_measured
from specdiag.comparison.pairs import NOT_WALKED, Pair, relate, unchanged
from specdiag.htsr.layers import Layer
from specdiag.htsr.sameness import is_one_network
from specdiag.htsr.statistics import mean
from specdiag.htsr.tail.posterior import Posterior
from specdiag.htsr.tail.power_law import Array
from specdiag.htsr.verdict import is_meaningful
from specdiag.wording import some

# From the relation that says most about two networks to the one that says least. The relation of
# two groups is the last one that any network has with the first network.
_ORDER = (
    "identical",
    "equal",
    "rounded",
    "different",
    "unreadable",
    "other shape",
    "only in first",
    "only in second",
)


def check_distinct(
    checkpoints: Sequence[Checkpoint], measured: Sequence[Sequence[Layer]], names: Sequence[str]
) -> None:
    """Raise ValueError if two networks, of one group or of two, are one network.

    As two seeds, they would have no scatter, and the interval over seeds would be too narrow.
    """
    for i, j in itertools.combinations(range(len(measured)), 2):
        if not is_one_network(measured[i], measured[j]):
            continue
        tensors = [{t.name: t for t in checkpoints[k].tensors} for k in (i, j)]
        tables = [{x.name for x in measured[k] if x.status == "fit"} for k in (i, j)]
        fit = sorted(tables[0] & tables[1])
        related = [relate(name, *(table.get(name) for table in tensors)) for name in fit]
        are = {pair.relation for pair in related} == {"identical"}
        same = "bit-identical" if are else "the same up to rounding and scale"
        raise ValueError(
            f"{names[i]} and {names[j]} are one network, not two seeds: "
            f"{all_measured(len(fit))} {same}; give each network once"
        )


def pair_up_groups(
    groups: tuple[Sequence[Checkpoint], Sequence[Checkpoint]],
    layers: tuple[Sequence[Layer], Sequence[Layer]],
    alphas: tuple[Mapping[str, Array], Mapping[str, Array]],
) -> list[Pair]:
    """Return a pair for every tensor name of two groups of seeds.

    Parameters
    ----------
    groups : tuple of sequence of Checkpoint
    layers : tuple of sequence of Layer
        `group_layers` of each group.
    alphas : tuple of mapping of str to ndarray
        `seed_alphas` of each group.
    """
    tensors = [{t.name: t for t in checkpoint.tensors} for group in groups for checkpoint in group]
    tables = [{layer.name: layer for layer in side} for side in layers]
    last = tensors[len(groups[0])]
    pairs = []
    for name in dict.fromkeys([*tensors[0], *last]):
        related = [relate(name, tensors[0].get(name), other.get(name)) for other in tensors[1:]]
        pair = max(related, key=lambda pair: _ORDER.index(pair.relation))
        first, second = (table.get(name, NOT_WALKED) for table in tables)
        pair = replace(pair, distance=math.nan, first=first, second=second)
        has_alpha = pair.is_fit and not math.isnan(first.posterior.mean + second.posterior.mean)
        if pair.relation == "different" and has_alpha:
            value, interval = means.seeds_difference(*(side[name] for side in alphas))
            alpha = matrices.Difference(value=value, interval=interval, below_0=math.nan)
            rope = second.posterior.rope - first.posterior.rope
            pair = replace(pair, alpha=alpha, rope_difference=rope)
        elif pair.relation in ("identical", "equal", "rounded"):
            pair = unchanged(pair)
        pairs.append(pair)
    return pairs


def group_layers(measured: Sequence[Sequence[Layer]], names: Sequence[str]) -> list[Layer]:
    """Return one layer for the layers of each name in a group of seeds.

    Its status is `fit` if it is so in all of them. Then the posterior has the mean of the alphas,
    their standard deviation over seeds, and the mean probability of the ROPE. The verdict is the
    most frequent one, among those that mean something if most of the seeds have such a verdict.

    Parameters
    ----------
    measured : sequence of sequence of Layer
        The layers of each network.
    names : sequence of str
        The name of each network, for the error.

    Raises
    ------
    ValueError
        If two networks do not have the same measured matrices.
    """
    shapes = [{x.name: x.shape for x in layers if x.status != "skipped"} for layers in measured]
    for name, other in zip(names[1:], shapes[1:], strict=True):
        differing = sorted({layer for layer, _ in shapes[0].items() ^ other.items()})
        if differing:
            raise ValueError(
                f"{names[0]} and {name} are no seeds of one recipe: they differ in the name or "
                f"shape of {some(differing, 3)}; give networks of one recipe as a group"
            )
    tables = [{layer.name: layer for layer in layers} for layers in measured]
    return [
        _group_layer([table[layer.name] for table in tables if layer.name in table])
        for layer in measured[0]
    ]


def _group_layer(layers: Sequence[Layer]) -> Layer:
    one = next((layer for layer in layers if layer.status != "fit"), layers[0])
    common = Layer(
        name=one.name, shape=one.shape, dtype=one.dtype, status=one.status, reason=one.reason
    )
    if one.status != "fit":
        return replace(common, verdict=one.verdict)
    alphas = np.array([layer.posterior.mean for layer in layers])
    verdicts = [layer.verdict for layer in layers]
    meaningful = [verdict for verdict in verdicts if is_meaningful("fit", verdict)]
    others = [verdict for verdict in verdicts if not is_meaningful("fit", verdict)]
    chosen = meaningful if 2 * len(meaningful) > len(layers) else others
    return replace(
        common,
        posterior=Posterior(
            mean=float(alphas.mean()),
            sd=float(alphas.std(ddof=1)) if len(alphas) > 1 else math.nan,
            rope=mean([layer.posterior.rope for layer in layers]),
        ),
        verdict=Counter(chosen).most_common(1)[0][0],
    )


def seed_alphas(measured: Sequence[Sequence[Layer]]) -> dict[str, Array]:
    """Return alpha of each layer over the seeds of a group, of shape (n_seeds,)."""
    columns: dict[str, list[float]] = {}
    for layers in measured:
        for layer in layers:
            columns.setdefault(layer.name, []).append(layer.posterior.mean)
    return {name: np.array(column) for name, column in columns.items()}
