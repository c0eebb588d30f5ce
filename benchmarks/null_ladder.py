"""The ladder of nulls: false alarms on matrices in which nothing was learned, and power.

    python -m benchmarks.null_ladder [--fast | --full] [--part K/N] [--write-docs]

Writes ladder.csv into benchmarks/results, one row a kind and shape, and the tables of
docs/calibration.md. Every matrix gets the p-values of both rungs, although the tool leaves out the
second where the first is above 0.05. A cell of unlearned matrices with more than 6 % of false
alarms is measured again, with five times as many new matrices. Full takes about half an hour on one
core.
"""

import logging

import numpy as np

from benchmarks import _ladder_families as families
from specdiag.htsr import esd
from specdiag.htsr.null import law
from specdiag.htsr.null.ladder import scales_p
from specdiag.htsr.null.scales import balanced
from specdiag.htsr.tail.posterior import alpha_posterior

SHAPES = ((128, 128), (384, 96), (300, 310), (256, 1024))
AGAIN = 0.06
TEXT = ("group", "kind", "shape")

_log = logging.getLogger(__name__)


def p_values(W):
    """Return the p-values of the Gaussian rung and of the scales rung; 1 without an alpha."""
    W = np.asarray(W, dtype=np.float32)
    values = esd.resolved_eigenvalues(esd.eigenvalues(W), W.shape, W.dtype)
    first = law.p_value(alpha_posterior(values).mean, W.shape)
    second = scales_p(balanced(W).slices, W.dtype)
    return np.nan_to_num([first, second], nan=1.0)


def cells():
    """Yield (group, kind, shape, draw): draw takes a generator."""
    groups = {"unlearned": families.UNLEARNED, "learned": families.LEARNED, "both": families.BOTH}
    for group, kinds in groups.items():
        for kind, draw in kinds.items():
            for n, m in SHAPES:
                yield group, kind, (n, m), lambda rng, f=draw, n=n, m=m: f(rng, n, m)
    for kind, draw in families.KERNELS.items():
        for shape in families.KERNEL_SHAPES:
            yield "unlearned", kind, shape, lambda rng, f=draw, shape=shape: f(rng, shape)


def ladder(count, first=0, step=1):
    """Return the rates at 5 % of every step-th cell, from the first on."""
    rows = []
    for index, (group, kind, shape, draw) in enumerate(cells()):
        if index % step != first:
            continue
        size = count if group == "unlearned" else count // 2
        p = _measure(draw, [8, index], size)
        if group == "unlearned" and np.mean(p.max(axis=1) <= 0.05) > AGAIN:
            p = _measure(draw, [9, index], 5 * size)
        names = {"group": group, "kind": kind, "shape": "x".join(map(str, shape)), "count": len(p)}
        rates = {
            name: float(np.mean(x <= 0.05))
            for name, x in (("gaussian", p[:, 0]), ("scales", p[:, 1]), ("both", p.max(axis=1)))
        }
        rows.append(names | rates)
        _log.info("%s %s %s", group, kind, rows[-1])
    return rows


def _measure(draw, seed, count):
    rng = np.random.default_rng(seed)
    return np.array([p_values(draw(rng)) for _ in range(count)])


if __name__ == "__main__":
    pass
