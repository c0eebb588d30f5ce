"""A Dataset -> one spectrum, fingerprints of spectra, and means over measured layers."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specdiag.dataset.versions import check_dataset, check_has_weights
from specdiag.htsr.null.verdicts import MEANINGFUL
from specdiag.htsr.statistics import MIN_LAYERS
from specdiag.wording import some

if TYPE_CHECKING:
    import xarray as xr


WITHOUT_VERDICTS = (  # after a number of checkpoints
    "without verdicts (files of an earlier version, or methods of others): means of alpha are over "
    "all of their fit layers, which were not compared with random entries of any row and column "
    "scales; measure them again"
)


def spectrum(
    dataset: "xr.Dataset", layer: str, checkpoint: str | None = None
) -> NDArray[np.float64]:
    """Return the eigenvalues of one layer, descending.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `alpha` or `open_spectra`; layers and checkpoints may be selected or reordered.
    layer, checkpoint : str
        Coordinate values; the checkpoint may be omitted if there is only one.

    Raises
    ------
    ValueError
        If there is no such layer or checkpoint, or the eigenvalues of the Dataset were cut or
        joined by hand, so that those of the layer are not where `row_start` says.
    """
    check_dataset(dataset)
    check_has_weights(dataset)
    labels = _labels(dataset, "checkpoint")
    if checkpoint is None and len(labels) > 1:
        raise ValueError(f"several checkpoints: name one of {', '.join(labels)}")
    wanted = {"checkpoint": labels[0] if checkpoint is None else checkpoint, "layer": layer}
    for dim, label in wanted.items():
        check_label(dataset, dim, label)
    at = [
        _labels(dataset, dim).index(label) if dim in dataset.dims else 0
        for dim, label in wanted.items()
    ]
    return row_of(dataset, *at)


def row_of(dataset: "xr.Dataset", i: int, j: int) -> NDArray[np.float64]:
    """Return the eigenvalues of layer j of checkpoint i, descending; see `spectrum`."""
    names = ("row_start", "row_size", "stable_rank")
    places = {dim: k for dim, k in (("checkpoint", i), ("layer", j)) if dim in dataset.dims}
    start, size, stable_rank = (dataset[name].isel(places).values for name in names)
    if dataset.eigenvalue.dims != ("sample",) or start.ndim:
        raise ValueError(
            "the Dataset was joined with xarray, which mixes up the eigenvalues: join Datasets "
            "with specdiag.concat"
        )
    values = np.asarray(dataset.eigenvalue[int(start) : int(start) + int(size)].values)
    # The stable rank is the sum of a spectrum over its largest value: no other values have it.
    is_whole = len(values) == size and not np.any(np.diff(values) > 0)
    if is_whole and size and np.isfinite(stable_rank):
        is_whole = bool(np.isclose(values.sum(), stable_rank * values[0], rtol=1e-6, atol=0))
    if not is_whole:
        raise ValueError(
            "the eigenvalues of the Dataset were cut or joined by hand, so row_start points to "
            "others: select layers and checkpoints alone, and join Datasets with specdiag.concat"
        )
    return values


def check_label(dataset: "xr.Dataset", dim: str, label: str) -> None:
    """Raise ValueError if the dataset has no layer, or checkpoint, of that name."""
    known = _labels(dataset, dim)
    if label not in known:
        raise ValueError(f"no {dim} {label!r} in the dataset: it has {some(known, 3)}")


def fingerprints(dataset: "xr.Dataset") -> NDArray[np.float64]:
    """Return the two norms of each layer, which distinguish its spectrum from others.

    They have the digits of float32, since a matrix measured on another machine differs in the last
    bits of float64, but the range of float64.

    Returns
    -------
    ndarray of shape (n_checkpoints, n_layers, 2)
        Frobenius and spectral norm; NaN for layers that were not measured.
    """
    both = np.stack([dataset.frobenius_norm.values, dataset.spectral_norm.values], axis=-1)
    measured = dataset.status.isin(["fit", "degenerate"]).values
    digits, exponents = np.frexp(np.where(measured[..., None], both, np.nan))
    with np.errstate(over="ignore"):
        return np.ldexp(digits.astype(np.float32).astype(np.float64), exponents)


def mean_over_fit_layers(
    dataset: "xr.Dataset", values: "str | xr.DataArray"
) -> NDArray[np.float64]:
    """Return the mean of a quantity over the fit layers of each checkpoint.

    Layers whose value is NaN are left out, as in `specdiag.htsr.statistics.mean`. For alpha and
    what depends on it, use `mean_over_meaningful_layers`.

    Parameters
    ----------
    dataset : xarray.Dataset
    values : str or xarray.DataArray
        The name of a variable of the dataset, or values with its dimensions checkpoint and layer.

    Returns
    -------
    ndarray of shape (n_checkpoints,)
        NaN for a checkpoint without a fit layer that has a value.
    """
    values = dataset[values] if isinstance(values, str) else values
    return np.asarray(values.where(dataset.status == "fit").mean("layer").values)


def meaningful_layers(dataset: "xr.Dataset") -> "xr.DataArray":
    """Return for each layer whether its alpha means something; see `verdict.is_meaningful`."""
    return (dataset.status == "fit") & dataset.verdict.isin([*MEANINGFUL, ""])


def mean_over_meaningful_layers(
    dataset: "xr.Dataset", values: "str | xr.DataArray"
) -> NDArray[np.float64]:
    """Return the mean of a quantity over the layers of each checkpoint whose alpha means something.

    The parameters are those of `mean_over_fit_layers`. The result, of shape (n_checkpoints,), is
    NaN for a checkpoint with fewer than `MIN_LAYERS` such layers.
    """
    values = dataset[values] if isinstance(values, str) else values
    chosen = values.where(meaningful_layers(dataset))
    return np.asarray(chosen.mean("layer").where(chosen.count("layer") >= MIN_LAYERS).values)


def n_without_verdicts(dataset: "xr.Dataset") -> int:
    """Return how many checkpoints have fit layers and no verdict, as those of earlier versions."""
    fit = dataset.status == "fit"
    has_verdict = (fit & (dataset.verdict != "")).any("layer")
    return int((fit.any("layer") & ~has_verdict).sum())


def layer_counts(dataset: "xr.Dataset") -> dict[str, NDArray[np.int64]]:
    """Return the number of layers of each checkpoint by status, as arrays (n_checkpoints,)."""
    statuses = ("fit", "degenerate", "skipped", "failed")
    return {s: np.asarray((dataset.status == s).sum("layer").values) for s in statuses}


def _labels(dataset: "xr.Dataset", dim: str) -> list[str]:
    return [str(label) for label in np.atleast_1d(dataset[dim].values)]
