"""Time of measuring matrices, over forming their Gram matrices and bare `numpy.linalg.eigvalsh`.

    python -m benchmarks.engine model.safetensors

Fit, interval, null and kind of tail against the least that any of it can be computed from.
"""

import argparse

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._made_files import gaussian, heavy
from benchmarks._timing import as_table, one_core, processor_time, ratio_of
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.measure import measure
from specdiag.htsr.selection import MIN_EIGENVALUES, matrices, skip_reason

# Side of the matrices -> how many at once, and the bar.
SIZES = {384: (16, 1.15), 1024: (4, 1.05), 2048: (2, 0.75), 4096: (1, 0.65)}
KINDS = {"heavy-tailed": heavy, "Gaussian": gaussian}
SLOW = 2048  # from here on three pairs are enough


def chosen_weights(path):
    """Return the matrices of a file that are measured, by name."""
    weights = matrices(open_checkpoint(path))
    return {w.name: w.read() for w in weights if not skip_reason(w, MIN_EIGENVALUES, False)}


def gram(W):
    """Return the smaller Gram matrix in float64, formed the plain way."""
    A = W.astype(np.float64)
    return A.T @ A if A.shape[0] >= A.shape[1] else A @ A.T


def over_bare(what, weights, pairs, **fields):
    """Return the row of the engine over the Gram matrices and their eigenvalues alone."""
    chosen = matrices(open_checkpoint(weights))

    def ours():
        return processor_time(lambda: list(measure(chosen)))

    def bare():
        return processor_time(lambda: [np.linalg.eigvalsh(gram(W)) for W in weights.values()])

    with one_core(), threadpool_limits(1):
        return ratio_of(f"engine over bare Gram + eigvalsh, {what}", ours, bare, pairs, **fields)


def rows(model, pairs):
    """Yield the row of each size."""
    real = chosen_weights(model)
    yield over_bare(f"{len(real)} layers of MiniLM", real, pairs, bar=SIZES[384][1])
    for side, (count, bar) in SIZES.items():
        for kind, draw in KINDS.items():
            rng = np.random.default_rng([0, side])  # no more rejected by chance than 1 of 16
            made = {f"layer{i}.weight": draw(rng, side, side) for i in range(count)}
            what = f"{count} {kind} {side} x {side}"
            few = min(pairs, 3) if side >= SLOW else pairs
            yield over_bare(what, made, few, warm=side < SLOW, bar=bar)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    print(as_table(list(rows(options.file, options.pairs))))


if __name__ == "__main__":
    main()
