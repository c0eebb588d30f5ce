"""How far seeds of one recipe differ, and how often `specdiag compare` calls them different.

`groups` and `power` are simulations with a known intraclass correlation; `networks` trains small
networks, whose alphas `recipes` and `contrasts` compare.
"""

import functools
import itertools
import math

import numpy as np

from benchmarks import _results
from benchmarks._networks import KINDS, measured
from specdiag.comparison.conclusion import block
from specdiag.comparison.means import (
    ASSUMED_CORRELATION,
    intraclass_correlation,
    layers_difference,
    seeds_difference,
)
from specdiag.htsr.null.verdicts import MEANINGFUL
from specdiag.htsr.statistics import MIN_LAYERS

CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
SIZES = ((2, 2), (3, 3), (5, 5), (2, 5), (1, 5))
N_LAYERS = 6
SD = 0.25  # of log(alpha - 1) of a layer over seeds
N_SEEDS = 16

# Recipes of small networks; those with strong weight decay or early stopping differ most from seed
# to seed.
RECIPES = {
    "MLP": ("mlp", {"steps": 600, "lr": 3e-3}),
    "MLP, 3 blocks": ("mlp", {"steps": 600, "lr": 3e-3, "depth": 3}),
    "MLP, 10 blocks": ("mlp", {"steps": 400, "lr": 3e-3, "depth": 10}),
    "MLP, width 128": ("mlp", {"steps": 400, "lr": 3e-3, "depth": 4, "width": 128, "hidden": 256}),
    "MLP, decay 0.3": ("mlp", {"steps": 600, "lr": 1e-2, "weight_decay": 0.3}),
    "MLP, long, decay 0.1": ("mlp", {"steps": 1500, "lr": 1e-2, "weight_decay": 0.1}),
    "MLP, SGD": ("mlp", {"steps": 800, "lr": 0.05, "weight_decay": 1e-3, "optimizer": "sgd"}),
    "MLP, early stopping": (
        "mlp",
        {"steps": 800, "lr": 2e-2, "weight_decay": 0.3, "patience": 2},
    ),
    "transformer": ("transformer", {"steps": 600, "lr": 3e-3}),
    "transformer, short": ("transformer", {"steps": 150, "lr": 3e-3}),
    "transformer, decay 0.3": ("transformer", {"steps": 600, "lr": 1e-2, "weight_decay": 0.3}),
    "transformer, 2 blocks": ("transformer", {"steps": 600, "lr": 1e-3, "depth": 2}),
}
# Pairs of recipes of one architecture whose networks do differ.
CONTRASTS = (
    ("MLP", "MLP, decay 0.3"),
    ("MLP", "MLP, long, decay 0.1"),
    ("MLP", "MLP, SGD"),
    ("MLP, decay 0.3", "MLP, early stopping"),
    ("transformer", "transformer, short"),
    ("transformer", "transformer, decay 0.3"),
)


def groups(full):
    """Count false alarms and coverage for seeds whose layers have a known correlation.

    log(alpha - 1) of a layer is normal over seeds. In the false alarms both groups are of one
    recipe; for the coverage the second has half the mean of alpha - 1, and so half its scatter.
    """
    count = 4000 if full else 200
    rows = []
    for r in CORRELATIONS:
        rng = np.random.default_rng([1, int(10 * r)])
        pairs = [(_drawn(rng, 1, r)[0], _drawn(rng, 1, r)[0]) for _ in range(count // 4)]
        blocks = range(N_LAYERS)
        assumed = [layers_difference(a, b, blocks, ASSUMED_CORRELATION)[1] for a, b in pairs]
        row = {"correlation": f"{r:g}", "two networks": f"{_excluding_0(assumed):.1%}"}
        for n in SIZES:
            same = [_interval(rng, n, r, 1.0) for _ in range(count)]
            row[f"{n[0]} and {n[1]} seeds"] = f"{_excluding_0(same):.1%}"
        for n in SIZES:
            truth = -0.5 * _true_mean()
            other = np.array([_interval(rng, n, r, 0.5) for _ in range(count // 4)])
            hit = np.mean((other[:, 0] <= truth) & (truth <= other[:, 1]))
            row[f"coverage, {n[0]} and {n[1]}"] = f"{hit:.1%}"
        rows.append(row)
    return rows


def power(full):
    """Count how often groups of seeds are called different whose recipes do differ.

    The difference is given in standard deviations of the mean alpha of a network over seeds.
    """
    count = 1000 if full else 100
    rng = np.random.default_rng(2)
    r = 0.5
    sd = np.mean([_drawn(rng, 200, r).mean(axis=1).std(ddof=1) for _ in range(50)])
    rows = []
    for distance in (1, 2, 3, 5, 8):
        row = {"true difference": f"{distance} sd"}
        for n in (2, 3, 5, 10):
            drawn = [
                [_drawn(rng, n, r).mean(axis=1) + shift for shift in (0, distance * sd)]
                for _ in range(count)
            ]
            found = _excluding_0([seeds_difference(*pair)[1] for pair in drawn])
            row[f"{n} and {n} seeds"] = f"{found:.0%}"
        rows.append(row)
    return rows


def _drawn(rng, n_seeds, r, scale=1.0):
    """Return alphas of seeds, of shape (n_seeds, N_LAYERS), with intraclass correlation r."""
    shared, own = rng.standard_normal((n_seeds, 1)), rng.standard_normal((n_seeds, N_LAYERS))
    z = math.sqrt(r) * shared + math.sqrt(1 - r) * own
    return 1 + scale * np.linspace(1.0, 3.0, N_LAYERS) * np.exp(SD * z)


def _true_mean():
    return 2.0 * math.exp(SD**2 / 2)


def _interval(rng, n, r, scale):
    first, second = _drawn(rng, n[0], r), _drawn(rng, n[1], r, scale)
    return seeds_difference(first.mean(axis=1), second.mean(axis=1))[1]


def _excluding_0(intervals):
    low, high = np.array(intervals).T
    return np.mean((low > 0) | (high < 0))


def networks(full):
    """Train the networks of all recipes; write alpha of their layers into compare_networks.csv."""
    rows = []
    for name, (kind, recipe) in RECIPES.items():
        for seed, weights in enumerate(KINDS[kind](N_SEEDS if full else 10, **recipe)):
            rows += [
                {
                    "networks": name,
                    "seed": seed,
                    "layer": layer.name,
                    "alpha": layer.posterior.mean,
                    "meaningful": int(layer.verdict in MEANINGFUL),
                }
                for layer in measured(weights)
            ]
        _results.write("compare_networks", rows, digits=5)
    _read.cache_clear()


@functools.cache
def _read():
    return _results.read("compare_networks", text=("networks", "layer"))


def _trained(name):
    """Return the layers of a recipe, their alphas by seed, and which of these mean something."""
    rows = [row for row in _read() if row["networks"] == name]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    shape = -1, len(layers)
    alpha = np.array([row["alpha"] for row in rows]).reshape(shape)
    return layers, alpha, np.array([row["meaningful"] for row in rows]).reshape(shape) > 0


def recipes(full):
    """Count false alarms: how often seeds of one recipe are reported to differ."""
    rows = []
    for name in RECIPES:
        layers, alpha, meaningful = _trained(name)
        chosen = _chosen(alpha, meaningful)
        blocks = [block(x) for x in np.array(layers)[chosen]]
        r, (low, high) = intraclass_correlation([alpha[:, chosen]], blocks)
        one = layers, alpha, meaningful
        pairs = itertools.combinations(range(len(alpha)), 2)
        alarms, refused = _pairs_found(one, one, pairs)
        row = {
            "networks": name,
            "blocks": len({block(x) for x in layers}),
            "mean alpha": f"{np.mean(alpha[:, chosen]):.2f}" if chosen.any() else "–",
            "correlation": f"{r:.2f} ({low:.2f} to {high:.2f})" if chosen.any() else "–",
            "two networks": f"{alarms:.1%}",
            "refused": f"{refused:.0%}",
        }
        for n in (2, 3, 5):
            found = _groups_found(one, one, n, 400 if full else 50)
            row[f"{n} and {n} seeds"] = f"{found:.1%}"
        rows.append(row)
    return rows


def contrasts(full):
    """Count how often networks of different recipes are reported to differ."""
    rows = []
    for first, second in CONTRASTS:
        a, b = _trained(first), _trained(second)
        chosen = _chosen(*a[1:]) & _chosen(*b[1:])
        # One seed has one initialisation in both.
        pairs = itertools.permutations(range(len(a[1])), 2)
        found, refused = _pairs_found(a, b, pairs)
        row = {
            "first": first,
            "second": second,
            "mean difference": f"{np.mean(b[1][:, chosen]) - np.mean(a[1][:, chosen]):+.2f}"
            if chosen.any()
            else "–",
            "two networks": f"{found:.0%}",
            "refused": f"{refused:.0%}",
        }
        for n in (2, 3, 5):
            row[f"{n} and {n} seeds"] = f"{_groups_found(a, b, n, 400 if full else 50):.0%}"
        rows.append(row)
    return rows


def _chosen(alpha, meaningful):
    """Return which layers enter the means of a group: those that mean something in most seeds."""
    return (2 * meaningful.sum(axis=0) > len(meaningful)) & np.isfinite(alpha).all(axis=0)


def _pairs_found(first, second, pairs):
    """Return the shares of pairs of networks that are called different, and that are refused."""
    found = refused = total = 0
    for i, j in pairs:
        total += 1
        (layers, a, known_a), (_, b, known_b) = first, second
        chosen = known_a[i] & known_b[j]
        blocks = [block(x) for x in np.array(layers)[chosen]]
        _, (low, high) = layers_difference(a[i, chosen], b[j, chosen], blocks, ASSUMED_CORRELATION)
        is_refused = chosen.sum() < MIN_LAYERS or math.isnan(low)
        refused += is_refused
        found += not is_refused and (low > 0 or high < 0)
    return found / total, refused / total


def _groups_found(first, second, n, count):
    """Return the share of pairs of groups, drawn without replacement, that are called different."""
    rng = np.random.default_rng(n)
    (_, a, known_a), (_, b, known_b) = first, second
    found = 0
    for _ in range(count):
        drawn = rng.permutation(len(a))
        i, j = drawn[:n], drawn[n : 2 * n]
        chosen = _chosen(a[i], known_a[i]) & _chosen(b[j], known_b[j])
        if not chosen.any():
            continue
        _, (low, high) = seeds_difference(
            a[np.ix_(i, chosen)].mean(axis=1), b[np.ix_(j, chosen)].mean(axis=1)
        )
        found += low > 0 or high < 0
    return found / count
