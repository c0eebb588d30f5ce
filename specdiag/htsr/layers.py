"""Checkpoint -> one measured record for each weight matrix.

Every tensor with two or more axes gets exactly one status, and a reason unless it is `fit`:

- fit: a power law was fitted to its tail;
- degenerate: fewer than `min_eigenvalues` eigenvalues above the rank gate, or all of them equal;
- skipped: not measured, by a rule of `skip_reason`;
- failed: it could not be read, or has NaN or infinite values.
"""

import fnmatch
import functools
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from specdiag.checkpoint.reader import Checkpoint
from specdiag.checkpoint.tensor import Tensor, ties
from specdiag.htsr import esd, weightwatcher
from specdiag.htsr.null.ladder import null_test
from specdiag.htsr.repeat import repeat_sd
from specdiag.htsr.tail.goodness_of_fit import goodness_of_fit, likelihood_ratios
from specdiag.htsr.tail.kind import NO_KIND, Kind, tail_kind
from specdiag.htsr.tail.posterior import NO_POSTERIOR, Posterior, alpha_posterior
from specdiag.htsr.tail.power_law import NO_FIT, Array, TailFit, fit_alpha
from specdiag.wording import counted

Job = TypeVar("Job")
Result = TypeVar("Result")

MIN_EIGENVALUES = 50
LARGEST_KERNEL = 32  # sides of a convolution kernel; longer trailing axes are stacks of matrices

# Names of lookup tables: that of the parameter, or of the module that owns its `weight`.
_EMBEDDING = re.compile(
    r"(^|_)emb(ed(ding)?)?s?$|[a-z]Emb(ed(ding)?)?s?$"
    r"|^(embed_tokens|embed_positions|embed_in|embedding_table|wte|wpe|shared)$"
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One weight matrix and its measured values, which are NaN unless `status` is `fit`.

    A degenerate matrix also has the values that need no power law.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    status: str
    reason: str = ""
    eigenvalues: Array = field(default_factory=lambda: np.empty(0), repr=False)
    rank: float = math.nan
    stable_rank: float = math.nan
    spectral_norm: float = math.nan
    frobenius_norm: float = math.nan
    entropy: float = math.nan
    mp_edge: float = math.nan
    n_spikes: float = math.nan
    tail: TailFit = NO_FIT
    posterior: Posterior = field(default=NO_POSTERIOR, repr=False)
    alpha_repeat_sd: float = math.nan
    gaussian_p: float = math.nan
    gaussian_q: float = math.nan
    scales_p: float = math.nan
    initialisation_p: float = math.nan
    null_p: float = math.nan
    null_q: float = math.nan
    row_scale_sd: float = math.nan
    column_scale_sd: float = math.nan
    offset_share: float = math.nan
    kind: Kind = NO_KIND
    gof_p: float = math.nan
    likelihood_ratios: dict[str, tuple[float, float]] = field(default_factory=dict)
    verdict: str = ""

    @property
    def alpha(self) -> float:
        """Posterior mean of the tail's exponent; by the method `weightwatcher`, its estimate."""
        return self.posterior.mean

    @property
    def alpha_hat(self) -> float:
        """Alpha times log10 of the squared spectral norm; WeightWatcher calls it alpha_weighted."""
        has_alpha = not math.isnan(self.alpha)
        return self.alpha * 2 * math.log10(self.spectral_norm) if has_alpha else math.nan


def matrices(checkpoint: Checkpoint, pattern: str | None = None) -> tuple[Tensor, ...]:
    """Return the tensors with two or more axes whose name matches the shell pattern.

    Raises
    ------
    ValueError
        If there are none.
    """
    all_matrices = tuple(t for t in checkpoint.tensors if len(t.shape) >= 2)
    if not all_matrices:
        raise ValueError(
            f"{checkpoint.path.name if checkpoint.path else checkpoint.name}: no weight matrix: "
            f"{counted(len(checkpoint.tensors), 'tensor')}, none with two axes or more"
        )
    chosen = tuple(
        t for t in all_matrices if pattern is None or fnmatch.fnmatchcase(t.name, pattern)
    )
    if not chosen:
        names = ", ".join(t.name for t in all_matrices[:3])
        raise ValueError(
            f"no matrix of {checkpoint.name} matches {pattern!r}; it has {len(all_matrices)}, "
            f"such as {names}"
        )
    return chosen


def skip_reason(tensor: Tensor, min_eigenvalues: int, include_embeddings: bool) -> str:
    """Return why a tensor is not measured, or an empty string if it is.

    Embedding tables are lookup tables: each row is trained only as often as its token occurs. They
    have two axes and are recognised by name. The name of the module that owns the `weight`, or of
    the parameter itself, ends in the word emb, embed, embedding or their plurals (`unit_emb`,
    `session_emb`, `word_embeddings`), or is embed_tokens, embed_positions, embed_in,
    embedding_table, wte, wpe or shared.
    """
    if tensor.problem:
        return tensor.problem
    if not tensor.dtype.startswith(("float", "bfloat")):
        return f"{tensor.dtype} values, not real weights"
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
    method: str = "specdiag",
    repeats: bool = False,
    **options: Any,
) -> Iterator[Layer]:
    """Yield one record for each tensor, in order; `verdict.with_verdicts` adds the verdicts.

    Matrices are measured in parallel, with one BLAS thread each: more threads for one matrix change
    the last bits of its eigenvalues, and are slow on a busy machine. Together, the matrices that
    are being measured use at most four times the memory of the largest one in float64, or 256 MiB
    if that is more.

    The settings are those of `specdiag.alpha`.
    """
    tensors = list(tensors)
    reasons = {t.name: skip_reason(t, min_eigenvalues, include_embeddings) for t in tensors}
    tied = ties(t for t in tensors if not reasons[t.name])
    reasons |= {name: f"tied to {first}, measured once" for name, first in tied.items()}
    jobs = [t for t in tensors if not reasons[t.name]]
    budget = max(4 * max((8 * math.prod(t.shape) for t in jobs), default=0), 2**28)
    function = functools.partial(
        measure_tensor,
        min_eigenvalues=min_eigenvalues,
        method=method,
        repeats=repeats,
        **options,
    )
    measured = in_parallel(function, [(t, _peak_bytes(t, repeats)) for t in jobs], budget)
    for tensor in tensors:
        reason = reasons[tensor.name]
        yield _record(tensor, status="skipped", reason=reason) if reason else next(measured)


def _peak_bytes(tensor: Tensor, repeats: bool) -> float:
    """Return how much memory measuring a tensor takes; 5 % are added for the buffers of BLAS.

    It is the largest of three steps: the matrix as stored and in float64, or two copies in float32;
    the matrix in float64 and its Gram matrix; a copy in float32, which the null test keeps, the
    Gram matrix, and LAPACK's copy of that. In repeats, the stored matrix and a part of it are kept.
    """
    values = math.prod(tensor.shape)
    grams = min(tensor.shape[:2]) ** 2 * math.prod(tensor.shape[2:])
    kept = 0.5 * values * repeats
    return 8 * 1.05 * (kept + max(1.5 * values, values + grams, 0.5 * values + 2 * grams))


def in_parallel(
    function: Callable[[Job], Result], jobs: Iterable[tuple[Job, float]], budget: int
) -> Iterator[Result]:
    """Yield the result of the function for each job, in order, computed in threads.

    A job comes with the number of bytes that it takes. As many run at once as fit into the budget,
    with one BLAS thread each.
    """
    in_flight: deque[tuple[Future[Result], float]] = deque()
    if hasattr(os, "sched_getaffinity"):
        n_cores = len(os.sched_getaffinity(0))  # the cores that this process may use
    else:
        n_cores = os.cpu_count() or 1
    pool = ThreadPoolExecutor(n_cores)
    with threadpool_limits(1, user_api="blas"):
        try:
            for job, need in jobs:
                while in_flight and need + sum(size for _, size in in_flight) > budget:
                    yield in_flight.popleft()[0].result()
                in_flight.append((pool.submit(function, job), need))
            while in_flight:
                yield in_flight.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)


def measure_tensor(
    tensor: Tensor,
    *,
    min_eigenvalues: int = MIN_EIGENVALUES,
    method: str = "specdiag",
    gof: bool = False,
    repeats: bool = False,
    seed: int = 0,
) -> Layer:
    """Return the measured values of one tensor; its status is `failed` if it cannot be measured.

    The settings are those of `specdiag.alpha`. Only the method 'specdiag' has a null, a kind of
    tail, a goodness of fit (`gof`), which takes about as long as computing the eigenvalues, and
    repeats.
    """
    try:
        spectrum = esd.eigenvalues(tensor.read())  # no variable keeps the values in memory
        resolved = esd.resolved_eigenvalues(spectrum, tensor.shape, tensor.dtype)
        common = _describe(tensor, spectrum, resolved)
        if method == "wwj":
            fit = _fit_wwj(tensor)
        elif method == "weightwatcher":
            fit = _fit_weightwatcher(tensor, spectrum)
        else:
            fit = _fit(tensor, spectrum, resolved, min_eigenvalues)
        if fit["status"] == "fit" and method == "specdiag":
            fit |= _tests(tensor, resolved, fit, gof=gof, seed=seed)
            if repeats:
                fit["alpha_repeat_sd"] = repeat_sd(tensor.read(), tensor.dtype, seed=seed)
    except MemoryError:
        size = _peak_bytes(tensor, repeats) / 1e9
        return _record(tensor, status="failed", reason=f"not enough memory: needs {size:.1f} GB")
    except (ValueError, OSError, np.linalg.LinAlgError) as error:
        return _record(tensor, status="failed", reason=str(error))
    return _record(tensor, **(common | fit))


def _describe(tensor: Tensor, spectrum: Array, resolved: Array) -> dict[str, Any]:
    N = max(tensor.shape[:2])
    bulk = len(resolved) > len(spectrum) / 2  # else the median, and so the edge, is only rounding
    return {
        "eigenvalues": spectrum,
        "rank": len(resolved),
        "stable_rank": esd.stable_rank(spectrum),
        "spectral_norm": math.sqrt(N * spectrum[0]),
        "frobenius_norm": math.sqrt(N * spectrum.sum()),
        "entropy": esd.spectral_entropy(resolved),
        "mp_edge": esd.marchenko_pastur_edge(spectrum, tensor.shape) if bulk else math.nan,
        "n_spikes": esd.count_spikes(spectrum, tensor.shape) if bulk else math.nan,
    }


def _fit(tensor: Tensor, spectrum: Array, resolved: Array, min_eigenvalues: int) -> dict[str, Any]:
    if len(resolved) < min_eigenvalues:
        reason = f"rank {len(resolved)}: fewer than {min_eigenvalues} eigenvalues above rounding"
        return {"status": "degenerate", "reason": reason}
    tail = fit_alpha(resolved)
    gate = esd.rank_gate(spectrum, tensor.shape, tensor.dtype)
    # Weyl's inequality: an error E of W moves no eigenvalue by more than 2 s_1 |E|, s_1 the largest
    # singular value of W; the gate allows errors up to |E| = sqrt(gate).
    spread = resolved[0] - resolved[tail.n_tail - 1] if tail.n_tail else 0.0
    if spread <= 2 * math.sqrt(resolved[0]) * math.sqrt(gate):
        reason = "the eigenvalues of its tail differ by no more than rounding"
        return {"status": "degenerate", "reason": reason}
    return {"status": "fit", "tail": tail, "posterior": alpha_posterior(resolved)}


def _tests(
    tensor: Tensor, resolved: Array, fit: dict[str, Any], *, gof: bool, seed: int
) -> dict[str, Any]:
    tests: dict[str, Any] = asdict(
        null_test(fit["posterior"].mean, tensor.shape, tensor.read, tensor.dtype, seed=seed)
    )
    tests["kind"] = tail_kind(resolved, tensor.shape)
    if gof:
        tail = fit["tail"]
        tests["gof_p"] = goodness_of_fit(resolved, seed=seed)
        tests["likelihood_ratios"] = likelihood_ratios(resolved[: tail.n_tail], tail.xmin)
    return tests


def _fit_weightwatcher(tensor: Tensor, spectrum: Array) -> dict[str, Any]:
    scale = float(max(tensor.shape[:2]))
    if len(tensor.shape) > 2:
        scale /= 2  # weightwatcher multiplies convolutions by sqrt(1/2)
    tail, posterior = weightwatcher.weightwatcher(spectrum * scale)
    if not tail.n_tail:
        reason = "weightwatcher finds no fit, and reports alpha -1"
        return {"status": "degenerate", "reason": reason}
    xmin = tail.xmin / scale
    fit = {"tail": replace(tail, xmin=xmin), "posterior": replace(posterior, xmin=xmin)}
    return {"status": "fit", **fit}


def _fit_wwj(tensor: Tensor) -> dict[str, Any]:
    if len(tensor.shape) > 2:
        return {"status": "skipped", "reason": "the published rules know matrices only"}
    tail, posterior, rank = weightwatcher.wwj(tensor.read())
    if not tail.n_tail:
        # The number itself depends on rounding: float32 resolves 1e-7 of the largest.
        needed = weightwatcher.WWJ_MIN_TAIL
        reason = f"fewer than {needed} eigenvalues above 1e-9 of the largest, or all equal"
        return {"status": "degenerate", "reason": reason, "rank": rank}
    return {"status": "fit", "tail": tail, "posterior": posterior, "rank": rank}


def _record(tensor: Tensor, *, status: str, **values: Any) -> Layer:
    return Layer(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, status=status, **values)
