"""A Dataset -> a drawing on your own axes, or on new ones.

    fig, (left, right) = plt.subplots(1, 2)
    specdiag.plot.esd(dataset, "encoder.layer.0.weight", ax=left)
    specdiag.plot.alpha_by_layer(dataset, ax=right)

Every function returns the axes that it drew on. Without `ax`, it makes a figure with pyplot, which
a notebook shows. Colours and fonts are those of your matplotlib settings. `specdiag figures` draws
the same, with captions.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdiag.dataset.versions import check_dataset, check_has_weights
from specdiag.drawing import alpha_and_r2 as _alpha_and_r2
from specdiag.drawing import alpha_by_layer as _alpha_by_layer
from specdiag.drawing import condition_and_r2 as _condition_and_r2
from specdiag.drawing import difference as _difference
from specdiag.drawing import esd as _esd
from specdiag.drawing import features as _features
from specdiag.drawing import seeds as _seeds
from specdiag.drawing import trajectory as _trajectory

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from specdiag.features.conditioning import FeatureSpectrum
    from specdiag.training.trajectory import Trajectory

__all__ = ["alpha_and_r2", "alpha_by_layer", "condition_and_r2", "depth", "difference", "esd"]
__all__ += ["feature_spectrum", "trajectory"]


def esd(
    dataset: "xr.Dataset", layer: str, checkpoint: str | None = None, *, ax: "Axes | None" = None
) -> "Axes":
    """Draw the eigenvalue density of one layer with its power law, xmin and Marchenko-Pastur edge.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.alpha`, `compare` or `collect`.
    layer, checkpoint : str
        Coordinate values; the checkpoint may be omitted if there is only one.
    ax : matplotlib.axes.Axes, optional

    Raises
    ------
    ValueError
        If there is no such layer or checkpoint.
    """
    _check_weights(dataset)
    (ax,) = _axes(ax, _esd.SIZE)
    _esd.draw(ax, dataset, layer, checkpoint)
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def alpha_by_layer(
    dataset: "xr.Dataset", checkpoint: str | None = None, *, ax: "Axes | None" = None
) -> "Axes":
    """Draw alpha of every fitted layer of a checkpoint with its interval and verdict.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.alpha`, `compare` or `collect`.
    checkpoint : str, optional
        By default the first one.
    ax : matplotlib.axes.Axes, optional

    Raises
    ------
    ValueError
        If there is no such checkpoint.
    """
    _check_weights(dataset)
    (ax,) = _axes(ax, _alpha_by_layer.SIZE)
    _alpha_by_layer.draw(ax, dataset, checkpoint)
    ax.legend(fontsize="small", frameon=False)
    return ax


def difference(
    dataset: "xr.Dataset", comparison: str | None = None, *, ax: "Sequence[Axes] | None" = None
) -> "Sequence[Axes]":
    """Draw alpha of two checkpoints by layer on the first axes, and its difference on the second.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.compare`.
    comparison : str, optional
        Name of the second checkpoint or group; by default that of the first comparison.
    ax : two matplotlib.axes.Axes, optional

    Raises
    ------
    ValueError
        If the Dataset is no comparison, or `ax` is not two axes.
    """
    _check(_difference, dataset)
    axes = _axes(ax, _difference.SIZE, _difference.PANELS)
    _difference.draw(axes, dataset, comparison)
    for one in axes:
        one.legend(fontsize="small", frameon=False)
    return axes


def alpha_and_r2(dataset: "xr.Dataset", *, ax: "Axes | None" = None) -> "Axes":
    """Draw mean alpha and test R² of every entry of a collection, with bars over seeds.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.collect`.
    ax : matplotlib.axes.Axes, optional

    Raises
    ------
    ValueError
        If fewer than two checkpoints have both.
    """
    return _with_r2(_alpha_and_r2, dataset, ax)


def condition_and_r2(dataset: "xr.Dataset", *, ax: "Axes | None" = None) -> "Axes":
    """Draw the condition number of the features and test R² of every entry of a collection.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.collect`.
    ax : matplotlib.axes.Axes, optional

    Raises
    ------
    ValueError
        If fewer than two checkpoints have both.
    """
    return _with_r2(_condition_and_r2, dataset, ax)


def depth(
    spectra: "Mapping[str, FeatureSpectrum]", *, ax: "Sequence[Axes] | None" = None
) -> "Sequence[Axes]":
    """Draw the effective rank of the features of layers on the first axes, and below conditioning.

    Parameters
    ----------
    spectra : mapping of str to FeatureSpectrum
        By layer, in the order of the forward pass: the `result()` of `specdiag.attach` with
        several layers.
    ax : two matplotlib.axes.Axes, optional

    Raises
    ------
    ValueError
        If there are no layers, or `ax` is not two axes.
    """
    if not isinstance(spectra, Mapping) or hasattr(spectra, "data_vars"):
        raise ValueError(
            f"spectra is a {type(spectra).__name__}: expected the result of attach with several "
            "layers; feature_spectrum draws a Dataset of features, and `specdiag features --plot` "
            "the layers of a file by depth"
        )
    if not spectra:
        raise ValueError("no layers: expected the result of attach with several layers")
    axes = _axes(ax, _features.DEPTH_SIZE, _features.PANELS)
    _features.draw_depth(axes, spectra)
    for one in axes:
        one.legend(fontsize="small", frameon=False)
    return axes


def feature_spectrum(
    dataset: "xr.Dataset", layer: str | None = None, *, ax: "Sequence[Axes] | None" = None
) -> "Sequence[Axes]":
    """Draw the eigenvalues of features on the first axes, and the cumulative variance beside them.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.measure_features`, or of a file of `specdiag features -o`.
    layer : str, optional
        By default the first of each checkpoint.
    ax : two matplotlib.axes.Axes, optional

    Raises
    ------
    ValueError
        If the Dataset has no features or no such layer, or `ax` is not two axes.
    """
    check_dataset(dataset)
    if dataset.attrs.get("kind") != "features":
        raise ValueError("expected a Dataset of specdiag.measure_features")
    if layer is not None and layer not in dataset.layer.values.ravel():
        raise ValueError(f"no layer {layer!r} in the Dataset")
    axes = _axes(ax, _features.SPECTRUM_SIZE, _features.PANELS, beside=True)
    _features.draw_spectrum(axes, dataset, layer)
    axes[0].legend(fontsize="small", frameon=False)
    return axes


def trajectory(
    source: "str | PathLike[str] | Trajectory", *, ax: "Sequence[Axes] | None" = None
) -> "Sequence[Axes]":
    """Draw alpha, norm and rank of the matrices of a training by step, each on axes of its own.

    Parameters
    ----------
    source : path or specdiag.training.trajectory.Trajectory
        The table of a monitor, `.spectra.csv` or `metrics.csv` of Lightning, or its content.
    ax : three matplotlib.axes.Axes, optional

    Raises
    ------
    ValueError
        If the file is no such table, if there are no readings, or if `ax` is not three axes.
    OSError
        If it cannot be read.
    """
    found = _trajectory.read(Path(source)) if isinstance(source, str | PathLike) else source
    if not found.histories:
        raise ValueError("no readings: expected those of at least one matrix")
    axes = _axes(ax, _trajectory.SIZE, _trajectory.PANELS)
    _trajectory.draw(axes, found)
    axes[0].legend(fontsize="xx-small", frameon=False, ncols=1 + len(found.histories) // 12)
    return axes


def _with_r2(module: Any, dataset: "xr.Dataset", ax: "Axes | None") -> "Axes":
    _check(module, dataset)
    (ax,) = _axes(ax, _seeds.SIZE)
    ax.legend(handles=module.draw(ax, dataset), fontsize="small", frameon=False)
    return ax


def _check_weights(dataset: "xr.Dataset") -> None:
    """Raise an error if this is no Dataset of weights."""
    check_dataset(dataset)
    check_has_weights(dataset)
    if not {"layer", "checkpoint", "status"} <= set(dataset.variables):
        raise ValueError("expected a Dataset of specdiag.alpha, compare or collect")


def _check(module: Any, dataset: "xr.Dataset") -> None:
    _check_weights(dataset)
    if reason := module.reason_not_drawn(dataset):
        raise ValueError(reason)


def _axes(
    given: Any, size: tuple[float, float], n: int = 1, *, beside: bool = False
) -> "Sequence[Axes]":
    """Return the given axes as a list, or those of a new figure: below or beside each other."""
    from matplotlib.axes import Axes

    if given is None:
        from matplotlib import pyplot as plt

        figure = plt.figure(figsize=size, layout="constrained")
        shape = (1, n) if beside else (n, 1)
        return list(figure.subplots(*shape, sharex=True, squeeze=False).flat)
    axes = [given] if n == 1 else list(given) if hasattr(given, "__iter__") else [given]
    if len(axes) != n or not all(isinstance(one, Axes) for one in axes):
        expected = "matplotlib axes" if n == 1 else f"a list of {n} matplotlib axes"
        raise ValueError(f"ax is {given!r}: expected {expected}")
    return axes
