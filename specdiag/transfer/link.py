"""Spectra and R² of many checkpoints -> whether the spectrum predicts R².

Datasets in, Datasets out. What is alike by design is not counted twice: the frozen children of a base
share its spectrum, and a base moves all that was trained from it.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specdiag.dataset.schema import LINK, labelled
from specdiag.dataset.spectra import check_whole_numbers
from specdiag.dataset.spectrum import fingerprints, layer_counts, mean_over_fit_layers
from specdiag.htsr.statistics import LEVEL
from specdiag.transfer import rank_correlation as ranks
from specdiag.transfer.collection import check_variables

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]

# Two-sided, so a p-value can only be below 5 % when there are more than 40 arrangements; and after Holm's
# adjustment, when there are more than 40 for each of the tests.
MIN_ARRANGEMENTS = 40
N_RESAMPLES = 1999

# What is compared with what: the labels in which checkpoints of one stratum agree.
COMPARISONS: dict[str, tuple[str, ...]] = {
    "overall": (),
    "within arm": ("scale", "arm"),
    "data size removed": ("scale", "task", "arm"),
    "alike": ("scale", "entry"),
}

_WEIGHTS: dict[str, tuple[str, Callable[["xr.Dataset"], Any]]] = {
    "mean alpha": ("posterior mean of alpha, mean over fit layers", lambda d: d.alpha_mean),
    "distance from 2": (
        "mean of |posterior mean - 2| over fit layers",
        lambda d: abs(d.alpha_mean - 2),
    ),
    "alpha-hat": ("mean of alpha_hat over fit layers", lambda d: d.alpha_hat),
    "ROPE fraction": ("mean of rope_probability over fit layers", lambda d: d.rope_probability),
    "stable rank": ("mean of stable_rank over fit layers", lambda d: d.stable_rank),
}
_FEATURES: dict[str, tuple[str, Callable[["xr.Dataset"], Any]]] = {
    "log condition number": ("log10 of condition_number", lambda d: np.log10(d.condition_number)),
    "effective rank": ("effective_rank of the features", lambda d: d.effective_rank),
    "participation ratio": ("participation_ratio of the features", lambda d: d.participation_ratio),
    "top-1 fraction": ("top1_fraction of the features", lambda d: d.top1_fraction),
}
COVERAGE = "fit fraction"
QUANTITIES = {name: about for name, (about, _) in _WEIGHTS.items()}
QUANTITIES[COVERAGE] = "fit layers over fit and degenerate ones"
QUANTITIES |= {name: about for name, (about, _) in _FEATURES.items()}

ALL_TASKS = "all tasks"


def link(dataset: "xr.Dataset", *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> "xr.Dataset":
    """Return how the quantities of spectra go with test R² over the checkpoints of a collection.

    Every quantity is correlated with R² in ranks (`rank_correlation.correlation`): `overall`, over all
    arms together; `within arm`; with the `data size removed`, within task and arm; and among checkpoints
    that are `alike`, of one entry and so different in their seed alone. Each in all tasks, and in
    every single one. Only `alike` is free of what task, arm, session and data do to both, and its
    p-values hold their level in simulations (docs/link.md).

    Parameters
    ----------
    dataset : xarray.Dataset
        A collection: `SCHEMA` and, over checkpoint, r2, the scalars of the features and the coordinates
        entry, parent, task, arm, scale, seed and train_fraction.
    n_resamples : int
        Permutations, and bootstrap samples. 1999: the smallest p, 0.0005, is below 5 % after Holm's
        adjustment for 100 tests.
    seed : int

    Returns
    -------
    xarray.Dataset
        As in `LINK`. A quantity that a checkpoint lacks is NaN in `value`; such a checkpoint, or
        one without R², is not counted in any n.

    Raises
    ------
    ValueError
        When the dataset lacks what a collection has, or an argument is no whole number.

    Examples
    --------
    >>> found = specdiag.link(specdiag.open_spectra("spectra.nc"))
    >>> found.rho.sel(quantity="mean alpha", comparison="alike")
    """
    import xarray as xr

    check_whole_numbers(n_resamples=(n_resamples, 1), seed=(seed, 0))
    check_variables(dataset, _NEEDED)
    values, design = quantities(dataset), Design(dataset)
    tasks = sorted(set(design.labels["task"]) - {""})
    columns: dict[str, Any] = {
        "quantity": list(QUANTITIES),
        "part": [ALL_TASKS, *tasks],
        "comparison": list(COMPARISONS),
        "checkpoint": design.labels["checkpoint"],
        "ci_bound": ["lower", "upper"],
        "value": values,
        "r2": design.r2,
    }
    rows = [
        [compared(x, design, task, name in _FEATURES, n_resamples, seed) for task in (None, *tasks)]
        for name, x in zip(QUANTITIES, values, strict=True)
    ]
    columns |= {key: [[part[key] for part in row] for row in rows] for key in rows[0][0]}
    columns["same_order_as"] = _repeated(columns.pop("order"))
    p = np.where(columns["same_order_as"] == "", columns["p"], np.nan)
    columns["p_holm"] = _adjusted(p, np.array(columns["arrangements"]))
    predictions = [predicted(x, design, tasks) for x in values]
    columns |= {key: [row[key] for row in predictions] for key in predictions[0]}
    counts = {
        "n_checkpoints": dataset.sizes["checkpoint"],
        "n_without_r2": int(np.isnan(design.r2).sum()),
        "n_without_spectrum": int((~_measured(dataset).any(axis=1)).sum()),
        "n_without_fit": int(np.isnan(values[0]).sum()),
        "n_without_counterpart": rows[0][0]["n_without_counterpart"][-1],
        "n_spectra": len(set(design.spectrum[np.isfinite(values[0])].tolist())),
        "n_resamples": n_resamples,
        "seed": seed,
    }
    return xr.Dataset(labelled(LINK, columns), attrs=counts)


def quantities(dataset: "xr.Dataset") -> Array:
    """Return the quantities of each checkpoint, of shape (n_quantities, n_checkpoints)."""
    counts = layer_counts(dataset)
    total = counts["fit"] + counts["degenerate"]
    found = {name: mean_over_fit_layers(dataset, of(dataset)) for name, (_, of) in _WEIGHTS.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        found[COVERAGE] = counts["fit"] / total
        found |= {name: of(dataset).values for name, (_, of) in _FEATURES.items()}
    values = np.array([found[name] for name in QUANTITIES], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


class Design:
    """What the checkpoints are: labels, and which of them are not independent."""

    def __init__(self, dataset: "xr.Dataset") -> None:
        self.labels = {
            name: [str(value) for value in dataset[name].values]
            for name in ("checkpoint", *_LABELS)
        }
        self.r2 = np.asarray(dataset.r2.values, dtype=float)
        fraction = np.asarray(dataset.train_fraction.values, dtype=float)
        self.log_fraction = np.log10(np.where(fraction > 0, fraction, np.nan))
        self.spectrum = ranks.codes(_spectra(dataset))
        runs = list(zip(self.labels["scale"], self.labels["seed"], strict=True))
        self.family = ranks.codes(_roots(runs, self.labels["entry"], self.labels["parent"]))
        self.entry = ranks.codes(list(zip(self.labels["scale"], self.labels["entry"], strict=True)))

    def strata(self, names: tuple[str, ...]) -> ranks.Codes:
        """Return a number for each checkpoint, the same where all these labels are."""
        return ranks.codes([tuple(self.labels[n][i] for n in names) for i in range(len(self.r2))])


def _spectra(dataset: "xr.Dataset") -> list[Hashable]:
    """Return what tells a spectrum from others; a checkpoint without one is its own."""
    numbers, measured = fingerprints(dataset), _measured(dataset)
    return [
        numbers[i].tobytes() if measured[i].any() else int(i)
        for i in range(dataset.sizes["checkpoint"])
    ]


def _measured(dataset: "xr.Dataset") -> NDArray[np.bool_]:
    return np.asarray(dataset.status.isin(["fit", "degenerate"]).values, dtype=bool)


def _roots(
    runs: Sequence[Hashable], entries: Sequence[str], parents: Sequence[str]
) -> list[Hashable]:
    """Return the run and the entry from which each checkpoint descends, parents in the same run."""
    parent = {(run, entry): p for run, entry, p in zip(runs, entries, parents, strict=True)}
    roots: list[Hashable] = []
    for run, entry in zip(runs, entries, strict=True):
        name, seen = entry, set[str]()
        while parent.get((run, name)) and name not in seen:
            seen.add(name)
            name = parent[run, name]
        roots.append((run, name))
    return roots


def compared(
    x: Array, design: Design, task: str | None, feature: bool, n_resamples: int, seed: int
) -> dict[str, Any]:
    """Return the correlations of one quantity with R² in every comparison, in one task or all."""
    there = np.isfinite(x) & np.isfinite(design.r2)
    if task is not None:
        there &= np.array(design.labels["task"]) == task
    rows = []
    for name, labels in COMPARISONS.items():
        z = design.log_fraction if name == "data size removed" else None
        known = there if z is None else there & np.isfinite(z)
        strata, unit = design.strata(labels)[known], _units(design, feature, known)
        if name == "alike":
            family, entry = (ranks.codes(a[known].tolist()) for a in (design.family, design.entry))
            units = ranks.families(family, entry)
            # Ranked among what they are exchanged with: a family like no other then says nothing.
            group = units.group[units.unit]
            strata = ranks.codes(list(zip(strata.tolist(), group.tolist(), strict=True)))
            n_without_counterpart = int((np.bincount(units.group)[group] == 1).sum())
        else:
            units, n_without_counterpart = ranks.shared_values(unit, strata), 0
        informative = _informative(unit, strata)
        found = _correlated(
            *(x[known], design.r2[known], strata, units),
            *(None if z is None else z[known], n_resamples, seed),
        )
        found |= {
            "n": int(informative.sum()),
            "n_units": len(set(unit[informative].tolist())),
            "n_without_counterpart": n_without_counterpart,
            "order": (feature, known.tobytes(), ranks.within(x[known], strata).tobytes()),
        }
        rows.append(found)
    return {key: [row[key] for row in rows] for key in rows[0]}


def _adjusted(p: Array, arrangements: Array) -> Array:
    """Return p after Holm's adjustment, by comparison: all tasks are one family, single ones another.

    NaN, and not in the family, where there are too few arrangements for an adjusted p below 5 %.
    """
    adjusted = np.empty_like(p)
    for c in range(p.shape[2]):
        for part in (slice(0, 1), slice(1, None)):
            family = p[:, part, c]
            can = _testable(arrangements[:, part, c], np.isfinite(family))
            adjusted[:, part, c] = ranks.holm(np.where(can, family, np.nan))
    return adjusted


def _testable(arrangements: Array, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the most tests that together have more than MIN_ARRANGEMENTS for each; the p-values have no say."""
    for least in np.unique(arrangements[known]):
        chosen = known & (arrangements >= least)
        if least > MIN_ARRANGEMENTS * chosen.sum():
            return chosen
    return np.zeros_like(known)


def _repeated(orders: Sequence[Sequence[Sequence[Hashable]]]) -> NDArray[np.object_]:
    """Return the first quantity that orders the same rows in the same way, '' for the first itself."""
    names = list(QUANTITIES)
    found = np.full((len(orders), len(orders[0]), len(COMPARISONS)), "", dtype=object)
    for part, c in np.ndindex(found.shape[1:]):
        column = [row[part][c] for row in orders]
        first = [column.index(order) for order in column]
        found[:, part, c] = ["" if k == i else names[k] for i, k in enumerate(first)]
    return found


def _units(design: Design, feature: bool, known: NDArray[np.bool_]) -> ranks.Codes:
    """Return which checkpoints are one measurement: weights shared; features are each one's own."""
    labels = np.arange(len(known)) if feature else design.spectrum
    return ranks.codes(labels[known].tolist())


def _informative(unit: ranks.Codes, strata: ranks.Codes) -> NDArray[np.bool_]:
    """Return which rows are in a stratum of more than one unit."""
    return np.array([len(set(unit[strata == s].tolist())) > 1 for s in strata], dtype=bool)


def _correlated(
    x: Array,
    y: Array,
    strata: ranks.Codes,
    units: ranks.Units,
    z: Array | None,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Return a correlation with its interval, its p-value and how many arrangements that has."""
    rng = np.random.default_rng(seed)
    rho = float(ranks.correlation(x, y, strata, z)[0]) if len(x) else np.nan
    found = {"rho": rho, "rho_ci": [np.nan, np.nan], "p": np.nan}
    n_arrangements = float(np.exp(min(ranks.log_arrangements(units), 700)))
    if np.isfinite(rho) and n_arrangements > 1:
        chance = ranks.correlation(x[ranks.arrangements(units, count, rng)], y, strata, z)
        found["p"] = ranks.permutation_p(rho, chance)
        samples = ranks.resamples(units, count, rng)
        again = ranks.correlation(x, y, strata, z, samples)
        tail = (1 - LEVEL) / 2
        if np.isfinite(again).any():
            found["rho_ci"] = np.nanquantile(again, [tail, 1 - tail]).tolist()
    return found | {"arrangements": n_arrangements}


def predicted(x: Array, design: Design, tasks: list[str]) -> dict[str, list[float]]:
    """Return the errors of R² in each task, predicted from the others with and without the quantity.

    Least squares from arm (an arm that the other tasks lack is predicted as their mean), log10 of the
    train fraction, and the quantity. The first value is the mean over tasks.
    """
    known = np.isfinite(x) & np.isfinite(design.r2) & np.isfinite(design.log_fraction)
    arms = np.array(design.labels["arm"])
    base = np.column_stack([arms[:, None] == np.unique(arms), design.log_fraction]).astype(float)
    found: dict[str, list[float]] = {"error": [], "baseline_error": [], "n_error": []}
    for task in tasks:
        here = known & (np.array(design.labels["task"]) == task)
        there = known & ~here
        n = int(here.sum()) if len(set(x[there])) > 2 else 0
        found["n_error"].append(n)
        for key, columns in (("baseline_error", base), ("error", np.column_stack([base, x]))):
            found[key].append(_mean_error(columns, design.r2, there, here) if n else np.nan)
    for key in ("error", "baseline_error"):
        told = [value for value in found[key] if np.isfinite(value)]
        found[key].insert(0, float(np.mean(told)) if told else np.nan)
    found["n_error"].insert(0, sum(found["n_error"]))
    return found


def _mean_error(
    columns: Array, y: Array, there: NDArray[np.bool_], here: NDArray[np.bool_]
) -> float:
    """Return the mean |error| of rows, predicted by the shortest least-squares fit of others."""
    centre, spread = columns[there].mean(axis=0), columns[there].std(axis=0)
    varies = spread > 1e-12
    scaled = (columns[:, varies] - centre[varies]) / spread[varies]
    mean = y[there].mean()
    slope = np.linalg.lstsq(scaled[there], y[there] - mean)[0]
    return float(np.abs(mean + scaled[here] @ slope - y[here]).mean())


_LABELS = ("entry", "parent", "task", "arm", "scale", "seed")
_NEEDED = (
    *_LABELS,
    *("train_fraction", "r2", "status", "alpha_mean", "alpha_hat", "rope_probability"),
    *("stable_rank", "frobenius_norm", "spectral_norm", "condition_number", "effective_rank"),
    *("participation_ratio", "top1_fraction"),
)
