"""Weight matrix -> one record with its measured values.

Every weight with two or more axes gets exactly one status, and a reason unless it is `fit`:

- fit: a power law was fitted to its tail;
- degenerate: fewer than `min_eigenvalues` eigenvalues above the rank gate, or too few distinct;
- skipped: not measured, by a rule of `skip_reason`;
- failed: it could not be read, or has NaN or infinite values.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from specdiag.checkpoint.weights.values import reason_by_values
from specdiag.checkpoint.weights.weight import Weight
from specdiag.compute import device
from specdiag.compute.eigenvalues import solver_bytes
from specdiag.compute.gram import gram_bytes
from specdiag.htsr import esd
from specdiag.htsr.bulk import marchenko_pastur, tracy_widom
from specdiag.htsr.bulk.localisation import NO_LOCALISATION, Localisation, localisation
from specdiag.htsr.bulk.traps import NO_TRAPS, Traps, permuted_traps
from specdiag.htsr.null.ladder import null_test
from specdiag.htsr.others.methods import fit_by
from specdiag.htsr.repeat import SHARE, repeat_sd
from specdiag.htsr.selection import MIN_EIGENVALUES
from specdiag.htsr.tail.alternatives import likelihood_ratios
from specdiag.htsr.tail.change_points import MIN_SPACINGS
from specdiag.htsr.tail.goodness_of_fit import goodness_of_fit
from specdiag.htsr.tail.kind import NO_KIND, Kind, tail_kind
from specdiag.htsr.tail.posterior import NO_POSTERIOR, Posterior, alpha_posterior
from specdiag.htsr.tail.power_law import NO_FIT, Array, TailFit, fit_alpha

KEPT_BYTES = 2**24  # float64 values of smaller weights stay in memory: they are read only once


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One weight matrix and its measured values, which are NaN unless `status` is `fit`.

    A degenerate matrix also has the values that need no power law. The weight was divided by
    2^exponent, which is not 0 only if its squares leave the range of float64; then the eigenvalues
    and xmin are those of the divided weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    status: str
    reason: str = ""
    exponent: int = 0
    eigenvalues: Array = field(default_factory=lambda: np.empty(0), repr=False)
    leading: Array = field(default_factory=lambda: np.empty((0, 0)), repr=False)  # if asked for
    rank: float = math.nan
    stable_rank: float = math.nan
    spectral_norm: float = math.nan
    frobenius_norm: float = math.nan
    entropy: float = math.nan
    mp_edge: float = math.nan
    mp_distance: float = math.nan
    n_spikes: float = math.nan
    spike_p: float = math.nan
    erg_count: float = math.nan
    traps: Traps = NO_TRAPS
    localisation: Localisation = NO_LOCALISATION
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
    beside: dict[str, Any] = field(default_factory=dict)  # of other packages, if they were asked

    @property
    def alpha(self) -> float:
        """Posterior mean of the tail's exponent; by methods without a posterior, its estimate."""
        return self.posterior.mean

    @property
    def alpha_hat(self) -> float:
        """Alpha times log10 of the squared spectral norm; WeightWatcher calls it alpha_weighted."""
        has_alpha = not math.isnan(self.alpha)
        return self.alpha * 2 * math.log10(self.spectral_norm) if has_alpha else math.nan


def peak_bytes(weight: Weight, repeats: bool, traps: bool = False) -> float:
    """Return how much memory measuring a weight takes; 5 % are added for the buffers of BLAS.

    It is the largest of these steps: all that is read for it, in float32, and a copy; the matrix as
    stored, a part of it in repeats, or a permuted copy, and its Gram matrix; for the null test, two
    copies in float32 if it is sparse, with their squares, or while the Gram matrix of one is
    solved. Small matrices stay in memory as they are stored.
    """
    values, (n, m) = math.prod(weight.shape), weight.shape[:2]
    if weight.factors and weight.rank and not traps:
        return 4 * 8 * weight.rank * (n + values // n)
    stored = values * (8 if weight.dtype == "float64" else 4)
    kept = stored * (8 * values <= KEPT_BYTES)
    beside = max(SHARE * repeats, traps)
    formed = stored * (1 + beside) + gram_bytes(n, m, weight.dtype)
    null = max(4 * values, 4 * min(n, m) ** 2 + solver_bytes(min(n, m)))
    return 1.05 * max(4 * (weight.n_read + values), formed, kept + 8 * values + null)


@device.by_device
def measure_weight(
    weight: Weight,
    *,
    min_eigenvalues: int = MIN_EIGENVALUES,
    method: str = "specdiag",
    null: str = "ladder",
    gof: bool = False,
    repeats: bool = False,
    traps: bool = False,
    seed: int = 0,
    n_vectors: int = 0,
    floor: float = 0.0,
) -> Layer:
    """Return the measured values of one weight; its status is `failed` if it cannot be measured.

    The settings are those of `specdiag.alpha`. Only the method 'specdiag' has a null and a kind of
    tail, both left out if `null` is 'none', a goodness of fit (`gof`), and repeats. A weight of
    known low rank, such as the update of a LoRA, has none of them: the null of its shape is not
    that of a product of two matrices. Every method has `traps` and localisation. `n_vectors`
    leading vectors are kept, see `esd.eigenvalues_and_vectors`. The rank gate is at least `floor`.
    """
    is_small = 8 * math.prod(weight.shape) <= KEPT_BYTES
    read = functools.cache(weight.read) if is_small else weight.read
    try:
        read, exponent = _in_range(weight, read)
        # No variable keeps large values.
        spectrum, leading = _spectrum(weight, read, n_vectors)
        gate = max(esd.rank_gate(spectrum, weight.shape, weight.dtype), floor)
        resolved = spectrum[spectrum > gate]
        width = esd.separation(spectrum, weight.shape, weight.dtype)
        common = _describe(weight, spectrum, resolved, exponent) | {"leading": leading}
        common |= _traps(read, spectrum, seed) if traps else {}
        if reason := _few_values(resolved, width):
            fit: dict[str, Any] = {"status": "degenerate", "reason": reason}
        elif method == "specdiag":
            fit = _fit(resolved, width, min_eigenvalues)
        else:
            fit = fit_by(method, weight.shape, spectrum, read)
        has_null = weight.rank is None  # that of a product of two matrices is another one
        if fit["status"] == "fit" and method == "specdiag" and has_null:
            fit |= _tests(weight, read, resolved, fit, null=null, gof=gof, seed=seed)
            if repeats:
                alpha = fit["posterior"].mean
                fit["alpha_repeat_sd"] = repeat_sd(read(), weight.dtype, alpha=alpha, seed=seed)
    except NoWeight as error:
        return record_of(weight, status="skipped", reason=str(error))
    except MemoryError:
        size = peak_bytes(weight, repeats, traps) / 1e9
        return record_of(weight, status="failed", reason=f"not enough memory: needs {size:.1f} GB")
    except (ValueError, OSError, np.linalg.LinAlgError) as error:
        return record_of(weight, status="failed", reason=str(error))
    except Exception as error:  # noqa: BLE001 - one layer never costs the others
        return record_of(weight, status="failed", reason=f"{type(error).__name__}: {error}")
    return record_of(weight, **(common | fit))


def _spectrum(
    weight: Weight, read: Callable[[], np.ndarray], n_vectors: int
) -> tuple[Array, Array]:
    if weight.factors and not n_vectors and weight.dtype != "float64":
        left, right, _ = weight.factors()
        positions = math.prod(weight.shape[2:])
        return esd.eigenvalues_of_product(left, right, positions), np.empty((0, 0))
    return esd.eigenvalues_and_vectors(_values(weight, read), n_vectors)


class NoWeight(Exception):  # noqa: N818 - it is no error
    """Values that are known to be no weight; the message is the reason."""


def _in_range(
    weight: Weight, read: Callable[[], np.ndarray]
) -> tuple[Callable[[], np.ndarray], int]:
    """Return what reads a weight, divided by 2^exponent if its squares leave float64."""
    exponent = esd.exponent_beyond_range(read()) if weight.dtype == "float64" else 0
    return (lambda: esd.divided(weight.read(), exponent)) if exponent else read, exponent


def _values(weight: Weight, read: Callable[[], np.ndarray]) -> np.ndarray:
    values = read()
    if reason := reason_by_values(weight, values):
        raise NoWeight(reason)
    return values


def _describe(weight: Weight, spectrum: Array, resolved: Array, exponent: int) -> dict[str, Any]:
    N = max(weight.shape[:2])
    with np.errstate(over="ignore"):
        norms = np.ldexp(np.sqrt([N * spectrum[0], N * spectrum.sum()]), exponent)
    spectral, frobenius = np.where(np.isfinite(norms), norms, math.nan).tolist()
    factors = f"divided by 2^{exponent}: multiply eigenvalues and xmin by 2^{2 * exponent}"
    reason = factors if exponent else ""
    bulk: dict[str, float] = {}
    if len(resolved) > len(spectrum) / 2:  # else the median, and so the edge, is only rounding
        bulk = _describe_bulk(spectrum, weight.shape)
    return bulk | {
        "exponent": exponent,
        "reason": reason,
        "eigenvalues": spectrum,
        "rank": len(resolved),
        "stable_rank": esd.stable_rank(spectrum),
        "spectral_norm": spectral,
        "frobenius_norm": frobenius,
        "entropy": esd.spectral_entropy(resolved),
        "erg_count": esd.erg_count(spectrum) if len(resolved) else math.nan,
    }


def _describe_bulk(spectrum: Array, shape: tuple[int, ...]) -> dict[str, float]:
    variance = marchenko_pastur.bulk_variance(spectrum, shape)
    return {
        "mp_edge": marchenko_pastur.marchenko_pastur_edge(variance, shape),
        "mp_distance": marchenko_pastur.marchenko_pastur_distance(spectrum, variance, shape),
        "n_spikes": tracy_widom.count_spikes(spectrum, variance, shape),
        "spike_p": float(tracy_widom.spike_p(spectrum[0], variance, shape)),
    }


def _traps(read: Callable[[], np.ndarray], spectrum: Array, seed: int) -> dict[str, Any]:
    return {
        "traps": permuted_traps(read(), spectrum, seed=seed),
        "localisation": localisation(read()),
    }


def _few_values(resolved: Array, width: float) -> str:
    """Return why so many equal eigenvalues have no exponent, or an empty string."""
    n = esd.count_distinct(resolved, width, MIN_SPACINGS + 1)
    is_fit = n == 1 or n > MIN_SPACINGS or len(resolved) <= MIN_SPACINGS  # or has other reasons
    return "" if is_fit else f"its eigenvalues are only {n} values, to rounding"


def _fit(resolved: Array, width: float, min_eigenvalues: int) -> dict[str, Any]:
    if len(resolved) < min_eigenvalues:
        reason = f"rank {len(resolved)}: fewer than {min_eigenvalues} eigenvalues above rounding"
        return {"status": "degenerate", "reason": reason}
    tail = fit_alpha(resolved)
    # If rounding moves two singular values apart by the width, then their squares by at most 2 s_1
    # times half of it each, s_1 the largest one.
    spread = resolved[0] - resolved[tail.n_tail - 1] if tail.n_tail else 0.0
    if spread <= math.sqrt(resolved[0]) * width:
        reason = "the eigenvalues of its tail differ by no more than rounding"
        return {"status": "degenerate", "reason": reason}
    return {"status": "fit", "tail": tail, "posterior": alpha_posterior(resolved)}


def _tests(
    weight: Weight,
    read: Callable[[], np.ndarray],
    resolved: Array,
    fit: dict[str, Any],
    *,
    null: str,
    gof: bool,
    seed: int,
) -> dict[str, Any]:
    tests: dict[str, Any] = {}
    if null != "none":
        mean = fit["posterior"].mean
        tests = asdict(null_test(mean, weight.shape, read, weight.dtype, seed=seed))
        tests["kind"] = tail_kind(resolved, weight.shape)
    if gof:
        tail = fit["tail"]
        tests["gof_p"] = goodness_of_fit(resolved, seed=seed)
        tests["likelihood_ratios"] = likelihood_ratios(resolved[: tail.n_tail], tail.xmin)
    return tests


def record_of(weight: Weight, *, status: str, **values: Any) -> Layer:
    """Return the record of a weight with this status and these values."""
    return Layer(name=weight.name, shape=weight.shape, dtype=weight.dtype, status=status, **values)
