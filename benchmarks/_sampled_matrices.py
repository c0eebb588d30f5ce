"""Coverage of the 95 % intervals of alpha on the spectra of sampled covariance matrices.

The population values are those of `_bodies`: a power law above xmin and a body below it, drawn anew
with every matrix; N samples of M features are drawn from them. Their eigenvalues repel each other,
and the more so the smaller N/M, the further they lie from the population values.
"""

import logging

import numpy as np

from benchmarks import _bodies as bodies
from benchmarks._coverage import summary
from benchmarks._results import write
from specdiag.htsr.esd import resolved_eigenvalues
from specdiag.htsr.tail.posterior import alpha_posterior

COUNTS = {64: 200, 128: 200, 256: 150, 512: 60}  # matrices a cell, by M
ASPECTS = (1, 2, 4, 16)
POPULATIONS = ("none", "uniform", "lognormal", "power-0.9", "mp-4")
CELLS = 2  # of each population and M

_log = logging.getLogger(__name__)


def sampled_matrices(full):
    """Write coverage and width of the intervals on sampled covariance matrices."""
    rows = []
    for index, (body, M, alpha, share) in enumerate(cells()):
        count = COUNTS[M] if full else 4
        for aspect in ASPECTS:
            rng = np.random.default_rng([3, index, aspect])
            population, _ = bodies.draw(rng, body, M, alpha, share, count)
            posteriors = [sampled_posterior(rng, x, aspect * M) for x in population]
            cell = {"body": body, "M": M, "aspect": aspect, "alpha": alpha, "share": share}
            rows.append({**cell, "tail": M * share, **summary(posteriors, alpha, M * share)})
            _log.info("matrices %s %d %d %.3f", body, M, aspect, rows[-1]["coverage"])
    write("sampled_matrices", rows)


def cells():
    sizes = tuple(COUNTS)
    return bodies.cells(POPULATIONS, CELLS * len(sizes), sizes=sizes)


def sampled_posterior(rng, population, N):
    """Return the posterior of a sampled covariance, of which rounding is left out."""
    eigenvalues = bodies.sample_covariance(rng, population, N)
    shape = (N, len(population))
    return alpha_posterior(resolved_eigenvalues(eigenvalues, shape, "float32"))
