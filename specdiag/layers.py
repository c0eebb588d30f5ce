"""Checkpoint -> one measured record a weight matrix. No labels, no files: see spectra and checkpoint.

Every tensor with two axes or more is walked and ends in exactly one bucket, with its reason:

- fit: a power law was fitted to its tail;
- degenerate: fewer than `min_eigenvalues` eigenvalues above the rank gate, or all of them equal;
- skipped: not measured, by rule (`skip_reason`);
- failed: it could not be read, or holds NaN or infinite values.
"""

import fnmatch
import itertools
import math
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from specdiag import esd
from specdiag.checkpoint import Checkpoint, Tensor
from specdiag.tail import NO_FIT, TailFit, fit_alpha

MIN_EIGENVALUES = 50
WELL_TRAINED = (2.0, 6.0)  # the range of alpha that Martin & Mahoney (2021) call well trained
LARGEST_KERNEL = 32  # sides of a convolution kernel; longer trailing axes are stacks of matrices

# A lookup table is known by the name of the parameter, or of the module that owns its `weight`.
_EMBEDDING = re.compile(
    r"(^|_)(emb|embs|embed|embeds|embedding|embeddings)(_|$)|^(wte|wpe)$|_embedder$", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One weight matrix and what was measured of it; NaN where `status` says that nothing was."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    status: str
    reason: str = ""
    eigenvalues: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    tail: TailFit = NO_FIT
    rank: int = 0
    stable_rank: float = math.nan
    spectral_norm: float = math.nan
    frobenius_norm: float = math.nan
    entropy: float = math.nan
    mp_edge: float = math.nan
    n_spikes: int = 0

    @property
    def alpha_hat(self) -> float:
        """Alpha * log10 of the squared spectral norm, WeightWatcher's alpha_weighted."""
        return (
            self.tail.alpha * 2 * math.log10(self.spectral_norm) if self.tail.n_tail else math.nan
        )


def matrices(checkpoint: Checkpoint, pattern: str | None = None) -> tuple[Tensor, ...]:
    """Return the tensors that are walked: two axes or more, name matching the shell pattern.

    Raises
    ------
    ValueError
        When there are none.
    """
    found = tuple(t for t in checkpoint.tensors if len(t.shape) >= 2)
    if not found:
        raise ValueError(
            f"{checkpoint.name} holds no weight matrix: {len(checkpoint.tensors)} tensors, "
            "none with two axes"
        )
    chosen = tuple(t for t in found if pattern is None or fnmatch.fnmatchcase(t.name, pattern))
    if not chosen:
        names = ", ".join(t.name for t in found[:3])
        raise ValueError(
            f"no matrix of {checkpoint.name} matches {pattern!r}: its {len(found)} matrices begin "
            f"with {names}"
        )
    return chosen


def skip_reason(tensor: Tensor, *, min_eigenvalues: int, include_embeddings: bool) -> str:
    """Return why a tensor is not measured, or an empty string when it is.

    Embedding tables are lookup tables, whose rows are trained as often as their token occurs. They
    are known by name: the module that owns the `weight`, or the parameter itself, is called emb,
    embed or embedding, alone or as a word of a name in snake case (`unit_emb`, `session_emb`,
    `word_embeddings`, `embed_tokens`), or wte or wpe; and by shape: two axes.
    """
    if tensor.problem:
        return tensor.problem
    if not tensor.dtype.startswith(("float", "bfloat")):
        return f"{tensor.dtype} values, not real weights"
    if tensor.tied_to is not None:
        return f"tied to {tensor.tied_to}, measured once"
    if not include_embeddings and is_embedding(tensor):
        return "embedding table, by its name"
    kernel = tensor.shape[2:]
    if any(side > LARGEST_KERNEL for side in kernel):
        return f"{len(tensor.shape)} axes, not a convolution kernel (a side of {max(kernel)})"
    size = min(tensor.shape[:2]) * math.prod(kernel)
    if size < min_eigenvalues:
        return f"too few eigenvalues: {size} of at least {min_eigenvalues}"
    return ""


def is_embedding(tensor: Tensor) -> bool:
    """Return whether `skip_reason` takes a tensor for an embedding table."""
    *owners, leaf = tensor.name.split(".")
    name = owners[-1] if owners and leaf == "weight" else leaf
    return len(tensor.shape) == 2 and _EMBEDDING.search(name) is not None


def measure(
    tensors: Iterable[Tensor],
    *,
    min_eigenvalues: int = MIN_EIGENVALUES,
    include_embeddings: bool = False,
) -> Iterator[Layer]:
    """Yield one record a tensor, in order, as they are measured.

    Matrices are measured in parallel, one BLAS thread each (more threads a matrix change the last
    bits of eigenvalues and stall on a busy machine), as long as those in flight fit into four
    times the memory of the largest in float64, or 256 MiB.
    """
    tensors = list(tensors)
    reasons = [
        skip_reason(t, min_eigenvalues=min_eigenvalues, include_embeddings=include_embeddings)
        for t in tensors
    ]
    jobs = (t for t, reason in zip(tensors, reasons, strict=True) if not reason)
    sizes = [8 * math.prod(t.shape) for t, r in zip(tensors, reasons, strict=True) if not r]
    budget = max(4 * max(sizes, default=0), 2**28)
    measured = _in_parallel(lambda t: measure_tensor(t, min_eigenvalues), jobs, budget)
    for tensor, reason in zip(tensors, reasons, strict=True):
        yield _record(tensor, status="skipped", reason=reason) if reason else next(measured)


def _peak_bytes(tensor: Tensor) -> float:
    """Return the memory that measuring takes, within 5 %: BLAS has buffers of its own.

    The matrix as stored and in float64; then in float64 with its Gram matrix; then the Gram matrix
    with LAPACK's copy of it.
    """
    values = math.prod(tensor.shape)
    grams = min(tensor.shape[:2]) ** 2 * math.prod(tensor.shape[2:])
    return 8 * 1.05 * max(1.5 * values, values + grams, 2 * grams)


def _in_parallel(
    function: Callable[[Tensor], Layer], jobs: Iterable[Tensor], budget: int
) -> Iterator[Layer]:
    """Yield the function of each job, in order, with as many in flight as fit into the budget."""
    in_flight: deque[tuple[Future[Layer], float]] = deque()
    pool = ThreadPoolExecutor(os.cpu_count())
    with threadpool_limits(1, user_api="blas"):
        try:
            for job in jobs:
                need = _peak_bytes(job)
                while in_flight and need + sum(size for _, size in in_flight) > budget:
                    yield in_flight.popleft()[0].result()
                in_flight.append((pool.submit(function, job), need))
            while in_flight:
                yield in_flight.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)


def measure_tensor(tensor: Tensor, min_eigenvalues: int = MIN_EIGENVALUES) -> Layer:
    """Return what one tensor's spectrum says; a tensor that cannot be measured gives `failed`."""
    try:
        spectrum = esd.eigenvalues(tensor.read())  # nobody else holds the values: memory
    except MemoryError:
        size = _peak_bytes(tensor) / 1e9
        return _record(tensor, status="failed", reason=f"not enough memory: needs {size:.1f} GB")
    except (ValueError, OSError, np.linalg.LinAlgError) as error:
        return _record(tensor, status="failed", reason=str(error))
    N = max(tensor.shape[:2])
    resolved = spectrum[spectrum > esd.rank_gate(spectrum, tensor.shape, tensor.dtype)]
    common = {
        "eigenvalues": spectrum,
        "rank": len(resolved),
        "stable_rank": esd.stable_rank(spectrum),
        "spectral_norm": math.sqrt(N * spectrum[0]),
        "frobenius_norm": math.sqrt(N * spectrum.sum()),
        "entropy": esd.spectral_entropy(resolved),
    }
    if len(resolved) < min_eigenvalues:
        reason = f"rank {len(resolved)}: fewer than {min_eigenvalues} eigenvalues above rounding"
        return _record(tensor, status="degenerate", reason=reason, **common)
    common |= {
        "mp_edge": esd.marchenko_pastur_edge(spectrum, tensor.shape),
        "n_spikes": esd.count_spikes(spectrum, tensor.shape),
    }
    tail = fit_alpha(resolved)
    if not tail.n_tail or _all_equal(resolved, spectrum, tensor.shape, tensor.dtype):
        reason = "all eigenvalues are equal: there is no tail"
        return _record(tensor, status="degenerate", reason=reason, **common)
    return _record(tensor, status="fit", tail=tail, **common)


def _all_equal(
    resolved: NDArray[np.float64],
    spectrum: NDArray[np.float64],
    shape: tuple[int, ...],
    dtype: str,
) -> bool:
    """Return whether rounding alone can explain the spread: |change of lambda| <= 2 s_1 |error|.

    Weyl's inequality for singular values, with the error that the rank gate allows.
    """
    gate = esd.rank_gate(spectrum, shape, dtype)
    return bool(resolved[0] - resolved[-1] <= 2 * math.sqrt(resolved[0] * gate))


def _record(tensor: Tensor, *, status: str, **values: Any) -> Layer:
    return Layer(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, status=status, **values)


def summarise(layers: Iterable[Layer]) -> dict[str, Any]:
    """Return the summary of a checkpoint: alphas over the layers that were fit, and the accounting.

    Returns
    -------
    dict
        n_walked = n_fit + n_degenerate + n_skipped + n_failed; mean_alpha, median_alpha,
        fraction_below_2, fraction_2_to_6, fraction_above_6 over fit layers (NaN when there are
        none); `reasons`, a mapping of (status, reason) to the names of the layers.
    """
    layers = list(layers)
    count = Counter(layer.status for layer in layers)
    alpha = np.array([layer.tail.alpha for layer in layers if layer.status == "fit"])
    low, high = WELL_TRAINED
    shares = {
        "mean_alpha": alpha,
        "median_alpha": alpha,
        "fraction_below_2": alpha < low,
        "fraction_2_to_6": (alpha >= low) & (alpha <= high),
        "fraction_above_6": alpha > high,
    }
    unmeasured = sorted((x for x in layers if x.reason), key=lambda x: (x.status, x.reason))
    return {
        "n_walked": len(layers),
        **{f"n_{status}": count[status] for status in ("fit", "degenerate", "skipped", "failed")},
        **{
            name: float(np.median(values) if name == "median_alpha" else values.mean())
            if len(alpha)
            else math.nan
            for name, values in shares.items()
        },
        "reasons": [
            {"status": status, "reason": reason, "layers": [layer.name for layer in group]}
            for (status, reason), group in itertools.groupby(
                unmeasured, key=lambda x: (x.status, x.reason)
            )
        ],
    }
