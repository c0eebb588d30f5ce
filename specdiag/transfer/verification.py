"""A lock and its replicates -> the figures that the claims about it ask for, and the findings.

Claims lie beside the lock, in recipes/_claims.py, because they are about what its recipes make: `CLAIMS`, a sequence
of `specdiag.transfer.claims.Claim`, and, where they need more than QUANTITIES, `measures(dataset)`, which returns further ones
by name. Like recipes they are programs of whoever wrote the lock.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.dataset.spectrum import mean_over_fit_layers
from specdiag.lock.entry import Lock, Scale
from specdiag.lock.lockfile import find, load
from specdiag.lock.recipe import load_recipe
from specdiag.obtain.state import state
from specdiag.transfer.claims import Claim, Figure, Finding, judge, needed
from specdiag.transfer.collection import collect
from specdiag.transfer.factors import factors

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]

TINY = 1e-3  # of the noise floor: what is below is rounding, and the sign has no meaning
_MEASURED = ("fit", "degenerate")


def claims_of(root: Path) -> ModuleType:
    """Return the module of the claims beside a lock in the folder `root`.

    Raises
    ------
    FileNotFoundError
        When there is none.
    RuntimeError
        When importing it fails, or it declares no claims.
    """
    module = load_recipe(root, "_claims")
    found = getattr(module, "CLAIMS", None)
    if not found or not all(isinstance(claim, Claim) for claim in found):
        raise RuntimeError(
            "recipes/_claims.py: CLAIMS is no sequence of specdiag.transfer.claims.Claim; declare them there"
        )
    return module


def findings(path: Path, scale: Scale, figures: Sequence[Figure]) -> list[Finding]:
    """Return what becomes of every claim about the lock at `path`, given our figures."""
    published = reported(load(path))
    return [judge(claim, scale, published, figures) for claim in claims_of(path.parent).CLAIMS]


def reported(lock: Lock) -> dict[tuple[str, str], float]:
    """Return the published figures of a lock by (entry, quantity).

    Where one stands several times, as rounded on a card and whole in a file, the one with the most digits.

    Raises
    ------
    ValueError
        When that does not round to the others, so that they are not the same figure.
    """
    found: dict[tuple[str, str], float] = {}
    for entry in lock.entries:
        for figure in entry.reported:
            if isinstance(figure.value, int | float):
                key, value = (entry.name, figure.quantity), float(figure.value)
                short, long = sorted((found.get(key, value), value), key=lambda x: len(repr(x)))
                if not _rounds_to(long, short):
                    raise ValueError(
                        f"{entry.name} has {figure.quantity} {short!r} and {long!r} among its reported figures; "
                        "expected one, or the same one rounded: take the other out of the lock"
                    )
                found[key] = long
    return found


def _rounds_to(long: float, short: float) -> bool:
    """Return whether a number is another with more digits."""
    unit = Decimal(repr(short)).normalize().as_tuple().exponent
    return abs(Decimal(repr(long)) - Decimal(repr(short))) <= Decimal(1).scaleb(int(unit)) / 2


def locks_of(path: Path) -> list[Path]:
    """Return a lock and its replicates from other seeds, which lie beside it."""
    return [path, *sorted(path.parent.glob(f"{path.stem}.seed-*.lock"))]


def measured(
    path: Path, scale: Scale, progress: Callable[[int, int], object] | None = None
) -> list[Figure]:
    """Return the figures that the claims about a lock ask for, of all its seeds.

    What is missing is left out. An entry whose params have no `training.seed` is no replicate and left out, too.

    Raises
    ------
    ValueError
        When nothing is trained yet, or a claim names an entry that is not in the lock.
    """
    module = claims_of(path.parent)
    asked = _with_counts(needed(module.CLAIMS))
    dataset = collect(
        *locks_of(path), names={entry for entry, _ in asked}, scale=scale, progress=progress
    )
    columns = quantities(dataset)
    if hasattr(module, "measures"):
        columns |= module.measures(dataset)
    origins = _origins(path, scale)
    figures = []
    for i, (entry, seed) in enumerate(zip(dataset.entry.values, dataset.seed.values, strict=True)):
        if (entry, seed) not in origins:
            continue
        file, parent, is_published = origins[entry, seed]
        for quantity in (q for name, q in asked if name == entry):
            if quantity == "n_changed":
                value = _n_changed(dataset.isel(checkpoint=i), file, parent)
            else:
                value = float(_column(columns, quantity)[i])
            if math.isfinite(value) or (quantity == "condition_number" and value == math.inf):
                figures.append(Figure(scale, int(seed), str(entry), quantity, value, is_published))
    return figures


def _with_counts(asked: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what is asked for, with the numbers of layers behind every mean over layers."""
    counted = [
        (entry, count)
        for entry, quantity in asked
        if quantity in ("mean_alpha", "rope_fraction")
        for count in ("n_fit", "n_degenerate")
    ]
    return list(dict.fromkeys([*asked, *counted]))


def quantities(dataset: "xr.Dataset") -> dict[str, Array]:
    """Return what claims can ask of every checkpoint of a collection, by name; NaN where there is no value.

    - r2, effective_rank, participation_ratio, top1_fraction, trace: as in the Dataset;
    - condition_number: infinite where a lower bound is all that is known, by the noise floor;
    - above_floor: the smallest eigenvalue of the feature covariance over the noise floor; of a covariance that has
      none or, by rounding, a negative one, TINY, as ratios have logarithms;
    - mean_alpha, rope_fraction: means of posterior mean and ROPE probability over the layers that are fit;
    - n_fit, n_degenerate, and n_matrices, their sum: NaN where there are no spectra.
    """
    has_spectra = (dataset.status.values != "absent").any(axis=1)
    counts = {
        name: np.where(has_spectra, dataset[name].values, math.nan)
        for name in ("n_fit", "n_degenerate")
    }
    eigenvalues = np.where(np.isnan(e := dataset.feature_eigenvalue.values), math.inf, e)
    smallest = eigenvalues.min(axis=1, initial=math.inf)
    condition = dataset.condition_number.values
    names = ("r2", "effective_rank", "participation_ratio", "top1_fraction", "trace")
    return {
        **{name: dataset[name].values for name in names},
        **counts,
        "n_matrices": counts["n_fit"] + counts["n_degenerate"],
        "condition_number": np.where(
            dataset.condition_number_is_bound.values & ~np.isnan(condition), math.inf, condition
        ),
        "above_floor": np.maximum(
            np.where(np.isfinite(smallest), smallest, math.nan) / dataset.noise_floor.values, TINY
        ),
        "mean_alpha": mean_over_fit_layers(dataset, "alpha_mean"),
        "rope_fraction": mean_over_fit_layers(dataset, "rope_probability"),
    }


def _column(columns: Mapping[str, Array], quantity: str) -> Array:
    if quantity not in columns:
        raise ValueError(
            f"a claim asks for {quantity!r}; expected one of {', '.join(columns)}, or n_changed; or let "
            "measures() in recipes/_claims.py return it"
        )
    return columns[quantity]


def _origins(path: Path, scale: Scale) -> dict[tuple[str, float], tuple[Path, Path | None, bool]]:
    """Return, by name and seed, the file of an entry, that of its parent, and whether it was fetched."""
    found = {}
    for lock_path in locks_of(path):
        lock, root = load(lock_path), lock_path.parent
        for entry in (e for e in lock.entries if e.scale == scale):
            parent = find(lock, entry.parent.name, scale) if entry.parent else None
            receipt = state(root, lock, entry).receipt
            found[entry.name, factors(entry, parent)["seed"]] = (
                root / entry.path,
                root / parent.path if parent else None,
                receipt is not None and receipt.how == "fetched",
            )
    return found


def _n_changed(row: "xr.Dataset", file: Path, parent: Path | None) -> float:
    """Return how many measured matrices of a checkpoint have not the bits that they have in its parent.

    NaN where nothing was measured or the parent is not there.
    """
    names = row.layer.values[np.isin(row.status.values, _MEASURED)]
    if parent is None or not parent.is_file() or not len(names):
        return math.nan
    ours, theirs = ({t.name: t for t in open_checkpoint(p).tensors} for p in (file, parent))
    return float(
        sum(name not in theirs or not _is_same(ours[name], theirs[name]) for name in names)
    )


def _is_same(a: Any, b: Any) -> bool:
    same_kind: bool = (a.dtype, a.shape) == (b.dtype, b.shape)
    return same_kind and a.read().tobytes() == b.read().tobytes()


def dumps_figures(figures: Iterable[Figure]) -> str:
    """Return figures as CSV, sorted, every digit kept."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Figure._fields)
    writer.writerows([*f[:-1], int(f.is_published)] for f in sorted(figures))
    return text.getvalue()


def read_figures(path: Path) -> list[Figure]:
    """Return the figures that `dumps_figures` wrote.

    Raises
    ------
    ValueError
        When the file is no such table, or holds figures of several scales.
    """
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    try:
        figures = [
            Figure(
                scale=row["scale"],  # type: ignore[arg-type]  # checked below
                seed=int(row["seed"]),
                entry=row["entry"],
                quantity=row["quantity"],
                value=float(row["value"]),
                is_published=row["is_published"] == "1",
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError):
        figures = []
    if {figure.scale for figure in figures} not in ({"desk"}, {"paper"}):
        raise ValueError(
            f"{path} is no table of figures of one scale; expected what `specdiag verify -o "
            "figures.csv` wrote"
        )
    return figures
