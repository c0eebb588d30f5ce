"""Spectra and R² of many checkpoints -> whether the spectrum predicts R².

Checkpoints that are equal by design are not counted twice: the frozen children of a base have its
spectrum, and a base influences everything that was trained from it.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specdiag.dataset.schema.link import LINK, LINK_VERSION
from specdiag.dataset.schema.variable import labelled
from specdiag.dataset.spectra import check_whole_numbers
from specdiag.dataset.spectrum import (
    fingerprints,
    layer_counts,
    mean_over_fit_layers,
    mean_over_meaningful_layers,
    n_without_verdicts,
)
from specdiag.htsr.statistics import LEVEL, Array, mean
from specdiag.transfer import rank_correlation as ranks
from specdiag.transfer.collection import check_variables

if TYPE_CHECKING:
    import xarray as xr

# A two-sided p-value can be below 5 % only if there are more than 40 arrangements; after Holm's
# adjustment, only if there are more than 40 for each test.
MIN_ARRANGEMENTS = 40

# The labels in which checkpoints of one stratum agree.
STRATIFICATIONS: dict[str, tuple[str, ...]] = {
    "overall": (),
    "within arm": ("scale", "arm"),
    "data size removed": ("scale", "task", "arm"),
    "alike": ("scale", "entry"),
}

QUANTITIES = {
    "mean alpha": "mean of alpha over the layers whose alpha means something",
    "distance from 2": "mean of |alpha - 2| over these layers",
    "alpha-hat": "mean of alpha_hat over these layers",
    "ROPE fraction": "mean of rope_probability over these layers",
    "stable rank": "mean of stable_rank over fit layers",
    "fit fraction": "fit layers over fit and degenerate ones",
    "log condition number": "log10 of condition_number",
    "effective rank": "effective_rank of the features",
    "participation ratio": "participation_ratio of the features",
    "top-1 fraction": "top1_fraction of the features",
}
_OF_FEATURES = ("log condition number", "effective rank", "participation ratio", "top-1 fraction")

ALL_TASKS = "all tasks"


def link(dataset: "xr.Dataset", *, n_resamples: int = 1999, seed: int = 0) -> "xr.Dataset":
    """Return the rank correlations of spectral quantities with test R² over a collection.

    There are four stratifications: `overall`, all arms together; `within arm`; `data size removed`,
    within task and arm; and `alike`, among checkpoints of one entry, which differ only in their
    seed. Each is computed for all tasks together and for every single task. Only `alike` is free of
    the effects of task, arm, session and data on both quantity and R², and its p-values hold their
    level in simulations (docs/link.md).

    Parameters
    ----------
    dataset : xarray.Dataset
        A collection: `SCHEMA` and, over checkpoint, r2, the scalars of the features and the
        coordinates entry, parent, task, arm, scale, seed and train_fraction.
    n_resamples : int
        Number of permutations, and of bootstrap samples. With 1999 the smallest p, 0.0005, is below
        5 % after Holm's adjustment for 100 tests.
    seed : int
        Random seed for permutations and bootstrap.

    Returns
    -------
    xarray.Dataset
        As in `specdiag.dataset.schema.LINK`. A quantity that is missing for a checkpoint is NaN in
        `value`; such a checkpoint, or one without R², is not counted in any n.

    Raises
    ------
    ValueError
        If the dataset is not a collection, or an argument is not a whole number.

    Examples
    --------
    >>> linked = specdiag.link(specdiag.open_spectra("spectra.nc"))
    >>> linked.rho.sel(quantity="mean alpha", stratification="alike")
    """
    import xarray as xr

    check_whole_numbers(n_resamples=(n_resamples, 1), seed=(seed, 0))
    check_variables(dataset, _NEEDED)
    values, design = quantities(dataset), Design(dataset)
    tasks = sorted(set(design.labels["task"]) - {""})
    columns: dict[str, Any] = {
        "quantity": list(QUANTITIES),
        "part": [ALL_TASKS, *tasks],
        "stratification": list(STRATIFICATIONS),
        "checkpoint": design.labels["checkpoint"],
        "ci_bound": ["lower", "upper"],
        "value": values,
        "r2": design.r2,
    }
    settings = {"n_resamples": n_resamples, "seed": seed}
    parts = (None, *tasks)
    rows = [
        [correlations(x, design, t, is_feature=name in _OF_FEATURES, **settings) for t in parts]
        for name, x in zip(QUANTITIES, values, strict=True)
    ]
    columns |= {key: [[part[key] for part in row] for row in rows] for key in rows[0][0]}
    columns["same_order_as"] = _repeated(columns.pop("order"))
    p = np.where(columns["same_order_as"] == "", columns["p"], np.nan)
    columns["p_holm"] = _adjusted(p, np.array(columns["arrangements"]))
    predictions = [prediction_errors(x, design, tasks) for x in values]
    columns |= {key: [row[key] for row in predictions] for key in predictions[0]}
    attributes = {
        "schema_version": LINK_VERSION,
        "n_checkpoints": dataset.sizes["checkpoint"],
        "n_without_r2": int(np.isnan(design.r2).sum()),
        "n_without_spectrum": int((~design.has_spectrum).sum()),
        "n_without_alpha": int(np.isnan(values[0]).sum()),
        "n_without_verdicts": n_without_verdicts(dataset),
        "n_without_counterpart": rows[0][0]["n_without_counterpart"][-1],
        "n_spectra": len(set(design.spectrum[np.isfinite(values[0])].tolist())),
        **settings,
    }
    return xr.Dataset(labelled(LINK, columns), attrs=attributes)


def quantities(dataset: "xr.Dataset") -> Array:
    """Return the quantities of each checkpoint, of shape (n_quantities, n_checkpoints)."""
    counts = layer_counts(dataset)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [  # in the order of QUANTITIES
            mean_over_meaningful_layers(dataset, "alpha"),
            mean_over_meaningful_layers(dataset, abs(dataset.alpha - 2)),
            mean_over_meaningful_layers(dataset, "alpha_hat"),
            mean_over_meaningful_layers(dataset, "rope_probability"),
            mean_over_fit_layers(dataset, "stable_rank"),
            counts["fit"] / (counts["fit"] + counts["degenerate"]),
            np.log10(dataset.condition_number.values),
            dataset.effective_rank.values,
            dataset.participation_ratio.values,
            dataset.top1_fraction.values,
        ]
    values = np.array(columns, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


class Design:
    """The labels of the checkpoints, and which of them depend on each other.

    `spectrum` and `family` are numbers, equal for checkpoints with the same spectrum, and for those
    of the same base and seed.
    """

    def __init__(self, dataset: "xr.Dataset") -> None:
        names = ("checkpoint", *_LABELS)
        self.labels = {name: [str(value) for value in dataset[name].values] for name in names}
        self.r2 = np.asarray(dataset.r2.values, dtype=float)
        fraction = np.asarray(dataset.train_fraction.values, dtype=float)
        self.log_fraction = np.log10(np.where(fraction > 0, fraction, np.nan))
        norms = fingerprints(dataset)
        self.has_spectrum = np.asarray(np.isfinite(norms).any(axis=(1, 2)))
        self.spectrum = ranks.codes(
            one.tobytes() if has else i
            for i, (one, has) in enumerate(zip(norms, self.has_spectrum, strict=True))
        )
        runs = list(zip(self.labels["scale"], self.labels["seed"], strict=True))
        self.family = ranks.codes(_roots(runs, self.labels["entry"], self.labels["parent"]))

    def strata(self, names: tuple[str, ...]) -> ranks.Codes:
        """Return a number for each checkpoint, equal where all these labels are equal."""
        return ranks.codes(tuple(self.labels[n][i] for n in names) for i in range(len(self.r2)))


def _roots(
    runs: Sequence[Hashable], entries: Sequence[str], parents: Sequence[str]
) -> list[Hashable]:
    """Return the run and the first ancestor of each checkpoint; parents are in the same run."""
    parent = {(run, entry): p for run, entry, p in zip(runs, entries, parents, strict=True)}
    roots: list[Hashable] = []
    for run, entry in zip(runs, entries, strict=True):
        name, seen = entry, set[str]()
        while parent.get((run, name)) and name not in seen:
            seen.add(name)
            name = parent[run, name]
        roots.append((run, name))
    return roots


def correlations(
    x: Array, design: Design, task: str | None, *, is_feature: bool, n_resamples: int, seed: int
) -> dict[str, Any]:
    """Return the correlations of one quantity with R² in one task or all, by stratification."""
    there = np.isfinite(x) & np.isfinite(design.r2)
    if task is not None:
        there &= np.array(design.labels["task"]) == task
    sources = np.arange(len(x)) if is_feature else design.spectrum  # features are never shared
    rows = []
    for name, labels in STRATIFICATIONS.items():
        is_partial = name == "data size removed"
        known = there & np.isfinite(design.log_fraction) if is_partial else there
        z = design.log_fraction[known] if is_partial else None
        strata, source = design.strata(labels)[known], ranks.codes(sources[known])
        n_without_counterpart = 0
        if name == "alike":
            clusters = ranks.families(ranks.codes(design.family[known]), strata)
            # Ranked only among counterparts: a family without any then contributes nothing.
            group = clusters.group[clusters.cluster]
            strata = ranks.codes(zip(strata, group, strict=True))
            n_without_counterpart = int((np.bincount(clusters.group)[group] == 1).sum())
        else:
            clusters = ranks.shared_values(source, strata)
        # Rows in a stratum with more than one measurement.
        informative = np.array([len({*source[strata == s]}) > 1 for s in strata], dtype=bool)
        row = _correlation(x[known], design.r2[known], strata, clusters, z, n_resamples, seed)
        row |= {
            "n": int(informative.sum()),
            "n_units": len({*source[informative]}),
            "n_without_counterpart": n_without_counterpart,
            "order": (is_feature, known.tobytes(), ranks.within(x[known], strata).tobytes()),
        }
        rows.append(row)
    return {key: [row[key] for row in rows] for key in rows[0]}


def _adjusted(p: Array, arrangements: Array) -> Array:
    """Return p after Holm's adjustment, by stratification.

    The tests over all tasks are one family, those within single tasks another. A test with too few
    arrangements for an adjusted p below 5 % is NaN, and not in the family.
    """
    adjusted = np.empty_like(p)
    for s in range(p.shape[2]):
        for part in (slice(0, 1), slice(1, None)):
            family = p[:, part, s]
            can = _testable(arrangements[:, part, s], np.isfinite(family))
            adjusted[:, part, s] = ranks.holm(np.where(can, family, np.nan))
    return adjusted


def _testable(arrangements: Array, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the most tests that have MIN_ARRANGEMENTS each, chosen without their p-values."""
    for least in np.unique(arrangements[known]):
        chosen = known & (arrangements >= least)
        if least > MIN_ARRANGEMENTS * chosen.sum():
            return chosen
    return np.zeros_like(known)


def _repeated(orders: Sequence[Sequence[Sequence[Hashable]]]) -> NDArray[np.object_]:
    """Return the first quantity with the same order of the same rows, '' for itself."""
    names = list(QUANTITIES)
    first_names = np.full((len(orders), len(orders[0]), len(STRATIFICATIONS)), "", dtype=object)
    for part, s in np.ndindex(first_names.shape[1:]):
        column = [row[part][s] for row in orders]
        first = [column.index(order) for order in column]
        first_names[:, part, s] = ["" if k == i else names[k] for i, k in enumerate(first)]
    return first_names


def _correlation(
    x: Array,
    y: Array,
    strata: ranks.Codes,
    clusters: ranks.Clusters,
    z: Array | None,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Return a correlation with its interval, its p-value and its number of arrangements."""
    rng = np.random.default_rng(seed)
    rho = float(ranks.correlation(x, y, strata, z)[0]) if len(x) else np.nan
    row = {"rho": rho, "rho_ci": [np.nan, np.nan], "p": np.nan}
    n_arrangements = float(np.exp(min(ranks.log_arrangements(clusters), 700)))
    if np.isfinite(rho) and n_arrangements > 1:
        chance = ranks.correlation(x[ranks.arrangements(clusters, count, rng)], y, strata, z)
        row["p"] = ranks.permutation_p(rho, chance)
        samples = ranks.resamples(clusters, count, rng)
        resampled = ranks.correlation(x, y, strata, z, samples)
        tail = (1 - LEVEL) / 2
        if np.isfinite(resampled).any():
            row["rho_ci"] = np.nanquantile(resampled, [tail, 1 - tail]).tolist()
    return row | {"arrangements": n_arrangements}


def prediction_errors(x: Array, design: Design, tasks: list[str]) -> dict[str, list[float]]:
    """Return the errors of R² in each task, predicted from the other tasks, with and without x.

    The prediction is by least squares from the arm, log10 of the train fraction, and the quantity
    x. An arm that is missing in the other tasks is predicted as their mean. The first value is the
    mean over tasks.
    """
    known = np.isfinite(x) & np.isfinite(design.r2) & np.isfinite(design.log_fraction)
    arms = np.array(design.labels["arm"])
    base = np.column_stack([arms[:, None] == np.unique(arms), design.log_fraction]).astype(float)
    errors: dict[str, list[float]] = {"error": [], "baseline_error": [], "n_error": []}
    for task in tasks:
        here = known & (np.array(design.labels["task"]) == task)
        there = known & ~here
        n = int(here.sum()) if len(set(x[there])) > 2 else 0
        errors["n_error"].append(n)
        for key, columns in (("baseline_error", base), ("error", np.column_stack([base, x]))):
            errors[key].append(_mean_error(columns, design.r2, there, here) if n else np.nan)
    for key in ("error", "baseline_error"):
        errors[key].insert(0, mean(errors[key]))
    errors["n_error"].insert(0, sum(errors["n_error"]))
    return errors


def _mean_error(
    columns: Array, y: Array, there: NDArray[np.bool_], here: NDArray[np.bool_]
) -> float:
    """Return the mean |error| of rows `here`, with the shortest least-squares fit to `there`."""
    center, spread = columns[there].mean(axis=0), columns[there].std(axis=0)
    varies = spread > 1e-12
    scaled = (columns[:, varies] - center[varies]) / spread[varies]
    level = y[there].mean()
    slope = np.linalg.lstsq(scaled[there], y[there] - level)[0]
    return float(np.abs(level + scaled[here] @ slope - y[here]).mean())


_LABELS = ("entry", "parent", "task", "arm", "scale", "seed")
_NEEDED = (
    *_LABELS,
    *("train_fraction", "r2", "status", "verdict", "alpha", "alpha_hat", "rope_probability"),
    *("stable_rank", "frobenius_norm", "spectral_norm", "condition_number", "effective_rank"),
    *("participation_ratio", "top1_fraction"),
)
