"""Model that trains -> its matrices -> readings of them."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import read_values, ties
from specdiag.checkpoint.weights.weight import Weight
from specdiag.compute.parallel import in_parallel
from specdiag.htsr.esd import (
    divided,
    eigenvalues,
    exponent_beyond_range,
    resolved_eigenvalues,
    stable_rank,
)
from specdiag.htsr.layers import peak_bytes
from specdiag.htsr.measure import is_alone
from specdiag.htsr.selection import EMBEDDING, matrices, skip_reason
from specdiag.htsr.tail.posterior import NO_POSTERIOR, alpha_posterior
from specdiag.training.readings import Reading

_BLOCK = 2**16  # values whose squares are added at once
_SHARDED = ("_fsdp_flattened", "_is_flat_param", "to_local", "ds_tensor")  # of their parameters


def measurable(model: Any, pattern: str | None, min_eigenvalues: int) -> list[Weight]:
    """Return the matrices of a torch module or state dict that `specdiag alpha` measures.

    Of tied weights it is the first, and none of those that share their values with an embedding
    table.
    """
    weights = matrices(open_checkpoint(model), pattern)
    reasons = {w.name: skip_reason(w, min_eigenvalues, include_embeddings=False) for w in weights}
    tables = {w.identity for w in weights if reasons[w.name].startswith(EMBEDDING)} - {None}
    chosen = [w for w in weights if not reasons[w.name] and w.identity not in tables]
    tied = ties(chosen)
    return [w for w in chosen if w.name not in tied]


def is_sharded(model: Any) -> bool:
    """Return whether a process has only parts of the parameters: FSDP 1 and 2, DeepSpeed's stage 3.

    Their state dict is not asked for, which in FSDP 1 waits for all processes.
    """
    if not callable(getattr(model, "modules", None)):
        return False
    if any(type(part).__name__ == "FullyShardedDataParallel" for part in model.modules()):
        return True
    return any(hasattr(p, name) for p in model.parameters() for name in _SHARDED)


def read_spectra(
    step: int, weights: Sequence[Weight], min_eigenvalues: int
) -> Iterator[tuple[Weight, Reading, float]]:
    """Yield each matrix, its reading and the seconds that it took, in the order of completion.

    They are measured in parallel, within the cores and the memory that `compute.machine` allows.
    """

    def timed(weight: Weight) -> tuple[Reading, float]:
        start = time.perf_counter()
        return reading(step, weight, min_eigenvalues), time.perf_counter() - start

    jobs = [(weight, peak_bytes(weight, repeats=False)) for weight in weights]
    for i, (found, seconds) in in_parallel(timed, jobs, alone=is_alone):
        yield weights[i], found, seconds


def reading(step: int, weight: Weight, min_eigenvalues: int) -> Reading:
    """Return the reading of one matrix after a step."""
    W = read_values(weight)
    exponent = exponent_beyond_range(W)
    try:
        spectrum = eigenvalues(divided(W, exponent))
    except ValueError:  # some values are not finite
        return Reading(step=step, name=weight.name)
    except MemoryError:
        return norm_reading(step, weight)
    resolved = resolved_eigenvalues(spectrum, weight.shape, weight.dtype)
    posterior = alpha_posterior(resolved) if len(resolved) >= min_eigenvalues else NO_POSTERIOR
    norm = math.sqrt(max(weight.shape[:2]) * spectrum.sum())
    return Reading(
        step=step,
        name=weight.name,
        norm=norm * 2.0**exponent,
        rank=len(resolved),
        stable_rank=stable_rank(spectrum),
        alpha=posterior.mean,
        alpha_low=posterior.interval[0],
        alpha_high=posterior.interval[1],
    )


def norm_reading(step: int, weight: Weight) -> Reading:
    """Return the reading of one matrix with its norm alone, which takes little time."""
    values = read_values(weight).reshape(-1)
    exponent, square = exponent_beyond_range(values), 0.0
    with np.errstate(invalid="ignore"):
        for start in range(0, len(values), _BLOCK):
            block = divided(values[start : start + _BLOCK].astype(np.float64), exponent)
            square += float(np.einsum("i,i", block, block))  # BLAS would start threads
    norm = math.sqrt(square) * 2.0**exponent if math.isfinite(square) else math.nan
    return Reading(step=step, name=weight.name, norm=norm)
