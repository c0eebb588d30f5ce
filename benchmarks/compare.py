"""Coverage, false alarms and power of `specdiag compare`, by simulation.

    python -m benchmarks.compare [--full] [--only STAGE ...] [--write-docs]

Prints a table a stage; `--write-docs` writes them into docs/compare.md. Seeds are fixed: the same
counts give the same numbers. Fast takes about two minutes on one core, full about fifteen.
"""

import argparse
import functools
import itertools

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import _simulate as simulate
from benchmarks._networks import KINDS, alphas
from benchmarks._pages import DOCS, table_of, write_tables
from specdiag.comparison.conclusion import block
from specdiag.comparison.matrices import alpha_difference
from specdiag.comparison.means import ASSUMED_CORRELATION, layers_difference
from specdiag.htsr.tail.posterior import alpha_posterior

PAIRS = ((2.0, 2.0), (2.0, 2.5), (1.5, 3.0), (3.0, 2.0), (2.5, 3.5), (3.5, 3.5))
BODIES = (("none", 1.0), ("uniform", 0.5), ("bulk", 0.25), ("lognormal", 0.5))
SHARED = (0.0, 0.1, 0.2, 0.3, 0.5)

# Recipes of small networks; those with strong weight decay differ most from seed to seed.
RECIPES = {
    "MLP": ("mlp", {"steps": 600, "lr": 3e-3}),
    "MLP, 3 blocks": ("mlp", {"steps": 600, "lr": 3e-3, "depth": 3}),
    "MLP, 10 blocks": ("mlp", {"steps": 400, "lr": 3e-3, "depth": 10}),
    "MLP, width 128": ("mlp", {"steps": 400, "lr": 3e-3, "depth": 4, "width": 128, "hidden": 256}),
    "MLP, decay 0.3": ("mlp", {"steps": 600, "lr": 1e-2, "weight_decay": 0.3}),
    "MLP, long, decay 0.1": ("mlp", {"steps": 1500, "lr": 1e-2, "weight_decay": 0.1}),
    "MLP, SGD": ("mlp", {"steps": 800, "lr": 0.05, "weight_decay": 1e-3, "optimizer": "sgd"}),
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
    ("transformer", "transformer, short"),
    ("transformer", "transformer, decay 0.3"),
)


def differences(full):
    """Measure the coverage of the interval of a layer's difference of alpha; the truth is known."""
    count = 400 if full else 30
    rows = []
    for n, (first, second), (body, share) in itertools.product((128, 512), PAIRS, BODIES):
        rng = np.random.default_rng([n, int(10 * first), int(10 * second), len(body)])
        spectra = [
            simulate.draw_spectra(rng, n, alpha, body, share, count)[0] for alpha in (first, second)
        ]
        measured = [
            alpha_difference(alpha_posterior(a), alpha_posterior(b))
            for a, b in zip(*spectra, strict=True)
        ]
        low, high = np.array([d.interval for d in measured]).T
        truth = second - first
        rows.append(
            {
                "eigenvalues": n,
                "alpha": f"{first:g}, {second:g}",
                "body": body,
                "in the tail": f"{share * n:.0f}",
                "coverage": f"{np.mean((low <= truth) & (truth <= high)):.1%}",
                "mean width": f"{np.mean(high - low):.2f}",
                "bias": f"{np.mean([d.value for d in measured]) - truth:+.3f}",
            }
        )
    return rows


def means(full):
    """Measure the coverage of the interval of the mean over layers, with blocks as the unit."""
    count = 400 if full else 40
    rows = []
    for n_blocks, mean in itertools.product((3, 6, 12), (0.0, 0.5, -0.5)):
        rng = np.random.default_rng([n_blocks, int(10 * abs(mean)), mean < 0])
        hits = []
        for _ in range(count):
            of_block = mean + 0.3 * rng.standard_normal(n_blocks)
            truth = (of_block[:, None] + 0.2 * rng.standard_normal((n_blocks, 4))).ravel()
            first = 2.5 + 0.4 * rng.random(len(truth))
            alphas = [
                np.array([_estimated(rng, alpha) for alpha in side])
                for side in (first, first + truth)
            ]
            blocks = np.repeat(np.arange(n_blocks), 4).tolist()
            _, (low, high) = layers_difference(*alphas, blocks)
            hits.append(low <= mean <= high)
        rows.append(
            {
                "blocks of 4 layers": n_blocks,
                "true mean difference": f"{mean:+.1f}",
                "coverage": f"{np.mean(hits):.1%}",
            }
        )
    return rows


def _estimated(rng, alpha):
    spectrum = simulate.draw_spectra(rng, 128, max(alpha, 1.2), "uniform", 0.5, 1)[0][0]
    return alpha_posterior(spectrum).mean


def seeds(full):
    """Count false alarms: how often two seeds of one recipe are reported to differ."""
    rows = []
    for name in RECIPES:
        names, by_seed = _trained(name, full)
        pairs = list(itertools.combinations(range(len(by_seed)), 2))
        alarms = [[_alarm(by_seed[i], by_seed[j], names, r) for i, j in pairs] for r in SHARED]
        rows.append(
            {
                "networks": name,
                "blocks": len({block(n) for n in names}),
                "mean alpha": f"{np.nanmean(by_seed):.2f}",
                "shared": f"{_shared(by_seed, names):.2f}",
                **{f"r = {r:g}": f"{np.mean(a):.1%}" for r, a in zip(SHARED, alarms, strict=True)},
            }
        )
    return rows


def power(full):
    """Count how often two networks of different recipes are reported to differ."""
    rows = []
    for first, second in CONTRASTS:
        (names, a), (_, b) = _trained(first, full), _trained(second, full)
        pairs = itertools.permutations(range(len(a)), 2)  # one seed has one initialisation in both
        alarms = [_alarm(a[i], b[j], names, ASSUMED_CORRELATION) for i, j in pairs]
        rows.append(
            {
                "first": first,
                "second": second,
                "mean difference": f"{np.nanmean(b) - np.nanmean(a):+.2f}",
                "found": f"{np.mean(alarms):.0%}",
            }
        )
    return rows


@functools.cache
def _trained(name, full):
    kind, recipe = RECIPES[name]
    return alphas(KINDS[kind](40 if full else 8, **recipe))


def _alarm(first, second, names, shared):
    known = np.isfinite(first) & np.isfinite(second)
    blocks = [block(name) for name, k in zip(names, known, strict=True) if k]
    _, (low, high) = layers_difference(first[known], second[known], blocks, shared)
    return low > 0 or high < 0


def _shared(by_seed, names):
    """Return the intraclass correlation of block means over seeds.

    The variance components are those of a one-way layout.
    """
    labels = np.array([block(name) for name in names])
    means = np.array([np.nanmean(by_seed[:, labels == x], axis=1) for x in dict.fromkeys(labels)]).T
    means = means - means.mean(axis=0)
    n = means.shape[1]
    between = means.mean(axis=1).var(ddof=1)
    within = means.var(axis=1, ddof=1).mean() * len(means) / (len(means) - 1)
    shared = between - within / n
    return shared / (shared + within)


STAGES = {f.__name__: f for f in (differences, means, seeds, power)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the counts of the page")
    parser.add_argument("--only", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--write-docs", action="store_true", help="tables of docs/compare.md")
    options = parser.parse_args()
    tables = {}
    with threadpool_limits(1):
        for name in options.only:
            tables[name] = table_of(STAGES[name](options.full))
            print(f"\n{STAGES[name].__doc__}\n\n{tables[name]}", flush=True)
    if options.write_docs:
        write_tables(DOCS / "compare.md", tables)


if __name__ == "__main__":
    main()
