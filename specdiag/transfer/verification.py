"""A collection and claims -> the values that the claims ask for, and one finding for each claim.

The claims about a lock are in recipes/_claims.py beside it, because they are about the entries of
its recipes: `CLAIMS`, a sequence of `specdiag.transfer.claims.Claim`, and, if they need more than
the `quantities` below, a function `measures(dataset)` that returns further ones by name. That file
is a program by the author of the lock, as recipes are.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from specdiag.dataset.spectrum import (
    WITHOUT_VERDICTS,
    mean_over_meaningful_layers,
    meaningful_layers,
    n_without_verdicts,
)
from specdiag.htsr.statistics import Array
from specdiag.lock.entry import Lock
from specdiag.lock.lockfile import load, select
from specdiag.lock.recipe import FOLDER, explained, load_recipe
from specdiag.transfer.claims import Claim, Finding, Key, Measured, Values, decide_claim, needed
from specdiag.transfer.collection import check_variables
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr

_log = logging.getLogger(__name__)

Measures = Callable[["xr.Dataset"], Mapping[str, Array]]

_FROM_DATASET = ("r2", "effective_rank", "participation_ratio", "top1_fraction", "trace")
_MEANS = ("mean_alpha", "mean_alpha_ks", "rope_fraction")  # over layers
_COUNTS = ("n_fit", "n_degenerate")
_OF_MEANS = ("n_meaningful", *_COUNTS)
_NEEDED = (
    *("entry", "seed", "scale", "how", "n_changed", "status", "verdict"),
    *("alpha", "alpha_ks", "rope_probability"),
    *(*_FROM_DATASET, *_COUNTS, "condition_number", "condition_number_is_bound"),
    *("feature_eigenvalue", "noise_floor"),
)


def verify(
    dataset: "xr.Dataset",
    claims: Sequence[Claim],
    *,
    published: Values | None = None,
    measures: Measures | None = None,
) -> list[Finding]:
    """Return one finding for each claim: published and measured values, and the outcome.

    A claim is a function of values, applied to the published values and to those of each training
    seed. An interval over at least three seeds decides the outcome.

    Parameters
    ----------
    dataset : xarray.Dataset
        A collection of one scale, of `specdiag.collect` or `specdiag.open_spectra`. Checkpoints
        without a seed are left out.
    claims : sequence of Claim
    published : mapping of (entry, quantity) to float, optional
        The published values. For a lock, `reported` returns them.
    measures : callable, optional
        Takes the dataset and returns more quantities: arrays over its checkpoints, by name.

    Raises
    ------
    ValueError
        If a claim asks for an unknown quantity, or the dataset is not a collection of one scale.

    Examples
    --------
    >>> from specdiag.transfer.claims import Claim
    >>> gain = lambda get: get("tuned", "r2") - get("base", "r2")
    >>> dataset = specdiag.open_spectra("spectra.nc")
    >>> [finding] = specdiag.verify(dataset, [Claim(text="Tuning helps", value=gain)])
    >>> finding.outcome
    'direction only'
    """
    measured = measure(dataset, claims, measures)
    return [decide_claim(claim, published or {}, measured) for claim in claims]


def measure_for_lock(path: Path, dataset: "xr.Dataset") -> Measured:
    """Return the values that the claims about the lock at `path` ask for.

    Raises
    ------
    ValueError
        As `verify`, and if a claim names an entry that is not in the lock.
    RuntimeError
        If recipes/_claims.py fails: in one line that begins with the place in it.
    """
    module = claims_of(path.parent)
    with _explained(path.parent):
        measured = measure(dataset, module.CLAIMS, getattr(module, "measures", None))
    select([(path, load(path))], {entry for entry, _ in needed(module.CLAIMS)}, measured.scale)
    return measured


def findings_of_lock(path: Path, measured: Measured) -> list[Finding]:
    """Return one finding for each claim about the lock at `path`."""
    published = reported(load(path))
    claims = claims_of(path.parent).CLAIMS
    with _explained(path.parent):
        return [decide_claim(claim, published, measured) for claim in claims]


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Put the place in recipes/_claims.py before the message of an error of a claim."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(explained(error, root / FOLDER, "_claims")) from error


def claims_of(root: Path) -> ModuleType:
    """Return the module of the claims about a lock in the folder `root`.

    Raises
    ------
    FileNotFoundError
        If it is missing.
    RuntimeError
        If its import fails, or it declares no claims.
    """
    if not (root / FOLDER / "_claims.py").is_file():
        raise FileNotFoundError(
            "no claims: recipes/_claims.py is missing; docs/lockfile.md shows how to write it"
        )
    module = load_recipe(root, "_claims")
    claims = getattr(module, "CLAIMS", None)
    if (
        not isinstance(claims, Sequence)
        or not claims
        or not all(isinstance(claim, Claim) for claim in claims)
    ):
        raise RuntimeError(
            "recipes/_claims.py: CLAIMS must be a sequence of specdiag.transfer.claims.Claim; "
            "declare them there"
        )
    return module


def reported(lock: Lock) -> dict[Key, float]:
    """Return the published values of a lock by (entry, quantity).

    A value may be in the lock several times, such as rounded on a card and in full in a file. The
    one with the most digits is returned.

    Raises
    ------
    ValueError
        If the value with the most digits does not round to the others.
    """
    values: dict[Key, float] = {}
    for entry in lock.entries:
        for item in entry.reported:
            if isinstance(item.value, int | float):
                key, value = (entry.name, item.quantity), float(item.value)
                short, long = sorted((values.get(key, value), value), key=lambda x: len(repr(x)))
                if not _rounds_to(long, short):
                    raise ValueError(
                        f"{entry.name} has {item.quantity} {short!r} and {long!r} among its "
                        "reported values; expected one, or the same one rounded: remove the "
                        "other from the lock"
                    )
                values[key] = long
    return values


def _rounds_to(long: float, short: float) -> bool:
    """Return whether `short` is `long` with fewer digits."""
    unit = Decimal(repr(short)).normalize().as_tuple().exponent
    return abs(Decimal(repr(long)) - Decimal(repr(short))) <= Decimal(1).scaleb(int(unit)) / 2


def measure(
    dataset: "xr.Dataset", claims: Iterable[Claim], measures: Measures | None = None
) -> Measured:
    """Return the values of a collection that claims ask for; the arguments are those of `verify`.

    The numbers of meaningful, fit and degenerate layers are added for every mean over layers.
    """
    check_variables(dataset, _NEEDED)
    scales = sorted({str(scale) for scale in dataset.scale.values})
    if len(scales) != 1:
        raise ValueError(
            f"the dataset has checkpoints of {' and '.join(scales) or 'no'} scale; claims are "
            "decided at one scale: select its checkpoints (--scale)"
        )
    if n := n_without_verdicts(dataset):
        _log.warning("%s %s", counted(n, "checkpoint"), WITHOUT_VERDICTS)
    columns = {**quantities(dataset), **(_further(dataset, measures) if measures else {})}
    asked = needed(claims)
    for _, quantity in asked:
        if quantity not in columns:
            raise ValueError(
                f"a claim asks for {quantity!r}; expected one of {', '.join(columns)}; or let "
                "measures() in recipes/_claims.py return it"
            )
    of_means = [entry for entry, quantity in asked if quantity in _MEANS]
    asked += [(entry, count) for entry in of_means for count in _OF_MEANS]
    seeds: dict[str, dict[int, dict[Key, float]]] = {"trained": {}, "fetched": {}}
    for i, (entry, seed) in enumerate(zip(dataset.entry.values, dataset.seed.values, strict=True)):
        source = seeds["fetched" if dataset.how.values[i] == "fetched" else "trained"]
        for quantity in (q for name, q in asked if name == entry and math.isfinite(seed)):
            value = float(columns[quantity][i])
            if math.isfinite(value) or (quantity == "condition_number" and value == math.inf):
                source.setdefault(int(seed), {})[str(entry), quantity] = value
    return Measured(scale=scales[0], **seeds)  # type: ignore[arg-type]  # desk or paper


def _further(dataset: "xr.Dataset", measures: Measures) -> dict[str, Array]:
    """Return the quantities of `measures`; an error of it raises RuntimeError in one line."""
    try:
        columns = {k: np.asarray(v, dtype=np.float64) for k, v in measures(dataset).items()}
    except (Exception, SystemExit) as error:  # a user's program
        text = f"measures(): {type(error).__name__}: {error}"
        raise RuntimeError(text).with_traceback(error.__traceback__) from error
    n = dataset.sizes["checkpoint"]
    for name, values in columns.items():
        if values.shape != (n,):
            raise RuntimeError(
                f"measures(): {name} has the shape {values.shape}; expected a number for each of "
                f"{counted(n, 'checkpoint')}"
            )
    return columns


def quantities(dataset: "xr.Dataset") -> dict[str, Array]:
    """Return the quantities that claims can ask for, of every checkpoint of a collection, by name.

    A missing value is NaN.

    - r2, effective_rank, participation_ratio, top1_fraction, trace, n_changed: as in the Dataset;
    - condition_number: infinite where the noise floor allows only a lower bound;
    - above_floor: the smallest eigenvalue of the feature covariance divided by the noise floor; 1
      if the eigenvalue lies below the floor, where it depends on rounding;
    - mean_alpha, mean_alpha_ks, rope_fraction: means of alpha (posterior means), of alpha_ks
      (Clauset's rule) and of rope_probability over the layers whose alpha means something; NaN for
      fewer than four;
    - n_meaningful, their number; NaN without spectra;
    - n_fit, n_degenerate, and n_matrices, their sum: NaN without spectra.
    """
    has_spectra = (dataset.status.values != "absent").any(axis=1)
    counts = {name: np.where(has_spectra, dataset[name].values, math.nan) for name in _COUNTS}
    smallest = np.fmin.reduce(dataset.feature_eigenvalue.values, axis=1, initial=math.nan)
    condition = dataset.condition_number.values
    is_bound = dataset.condition_number_is_bound.values & ~np.isnan(condition)
    return {
        **{name: dataset[name].values for name in _FROM_DATASET},
        "n_meaningful": np.where(has_spectra, meaningful_layers(dataset).sum("layer"), math.nan),
        **counts,
        "n_matrices": counts["n_fit"] + counts["n_degenerate"],
        "condition_number": np.where(is_bound, math.inf, condition),
        "above_floor": np.maximum(smallest / dataset.noise_floor.values, 1.0),
        "mean_alpha": mean_over_meaningful_layers(dataset, "alpha"),
        "mean_alpha_ks": mean_over_meaningful_layers(dataset, "alpha_ks"),
        "rope_fraction": mean_over_meaningful_layers(dataset, "rope_probability"),
        "n_changed": dataset.n_changed.values,
    }
