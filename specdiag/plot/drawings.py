"""Figures, one module each: `plot(dataset, ...)` reads a Dataset and returns a matplotlib Figure.

Beside it, `caption` says in words what is drawn and of how many, and `lacks` why there is nothing to
draw ('' when there is). `drawings` goes through all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from specdiag.files import write_whole
from specdiag.plot.style import save_figure, short_title, slug, style
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


# Of a whole Dataset, in the order in which they are shown.
WHOLE = (
    "difference",
    "pretrained_and_scratch",
    "alpha_and_r2",
    "data_efficiency",
    "condition_and_r2",
    "feature_spectra",
    "chronic",
)


class Drawing(NamedTuple):
    """A figure and what goes with it; `figure` is None when there is nothing to draw."""

    name: str  # of its files
    title: str
    caption: str  # or why there is no figure
    figure: "Figure | None"


def drawings(
    dataset: "xr.Dataset",
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    spectra_of: Sequence[str] | None = None,
    most: int | None = None,
) -> Iterator[Drawing]:
    """Yield every figure of a Dataset, and those that have no data with the reason.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `specdiag.alpha`, `specdiag.compare` or `specdiag.collect`.
    tables : mapping of str to table, optional
        Of `trajectory.read`, by the name of the training.
    spectra_of : sequence of str, optional
        Checkpoints whose layers are drawn one by one: the first that has any, by default.
    most : int, optional
        Alpha by layer of only that many checkpoints, and spectra of that many layers of a checkpoint:
        those whose alpha is least like a random matrix's.
    """
    from specdiag.plot import trajectory

    check_names(dataset, spectra_of or ())
    with style():
        yield from _of_weights(dataset, spectra_of, most)
        for name in WHOLE:
            module: Any = import_module(f"specdiag.plot.{name}")
            reason = module.lacks(dataset)
            if reason:
                yield Drawing(name, module.TITLE, reason, None)
            else:
                yield Drawing(name, module.TITLE, module.caption(dataset), module.plot(dataset))
        for i, (name, table) in enumerate((tables or {}).items()):
            title = f"{trajectory.TITLE}: {short_title(name)}"
            figure = trajectory.plot(table)
            yield Drawing(f"trajectory_{i:02d}", title, trajectory.caption(table), figure)


def _of_weights(
    dataset: "xr.Dataset", spectra_of: Sequence[str] | None, most: int | None
) -> Iterator[Drawing]:
    """Yield alpha by layer of every distinct spectrum, and spectra of layers."""
    from specdiag.dataset.spectrum import fingerprints
    from specdiag.plot import alpha_by_layer, esd

    shown = measured(dataset)
    several = len(shown) > 1
    alike: dict[Any, list[int]] = {}
    norms = fingerprints(dataset)
    for i in shown:
        alike.setdefault(norms[i].tobytes() if (norms[i] > 0).any() else i, []).append(i)
    for i, *others in list(alike.values())[:most]:
        name = shown[i]
        yield Drawing(
            "alpha_by_layer" + f"_{i:02d}_{slug(name)}" * several,
            alpha_by_layer.TITLE + f": {short_title(name)}" * several,
            alpha_by_layer.caption(dataset, name)
            + f" Also of {counted(len(others), 'other checkpoint')}, whose spectrum is the same."
            * bool(others),
            alpha_by_layer.plot(dataset, name),
        )
    names = [str(name) for name in dataset.checkpoint.values]
    for name in list(shown.values())[:1] if spectra_of is None else spectra_of:
        for j in esd.chosen(dataset, name, most):
            layer = str(dataset.layer.values[j])
            yield Drawing(
                f"esd_{names.index(name):02d}_" * several
                + "esd_" * (not several)
                + f"{j:03d}_{slug(layer)}",
                f"{esd.TITLE}: {short_title(layer)}",
                esd.caption(dataset, layer, name),
                esd.plot(dataset, layer, name),
            )


def measured(dataset: "xr.Dataset") -> dict[int, str]:
    """Return the checkpoints with weights of their own that were measured, by position.

    An evaluation has those of its parent.
    """
    present = (dataset.status.values != "absent").any(axis=1)
    if "arm" in dataset.coords:
        present &= dataset.arm.values != "evaluation"
    return {i: str(dataset.checkpoint.values[i]) for i in present.nonzero()[0]}


def first_of_each(dataset: "xr.Dataset") -> Any:
    """Return by checkpoint and layer whether no checkpoint before has the same spectrum there.

    Layers of a frozen core are the parent's: they are one matrix, in many checkpoints.
    """
    import numpy as np

    from specdiag.dataset.spectrum import fingerprints

    is_first = np.zeros(dataset.status.shape, dtype=bool)
    norms, seen = fingerprints(dataset), set()
    for i in measured(dataset):
        for j, pair in enumerate(norms[i]):
            key = j, pair.tobytes()
            is_first[i, j] = key not in seen or not np.isfinite(pair).all()
            seen.add(key)
    return is_first


def check_names(dataset: "xr.Dataset", names: Iterable[str]) -> None:
    """Raise ValueError when a Dataset has no checkpoint of one of the names."""
    known = [str(name) for name in dataset.checkpoint.values]
    for name in names:
        if name not in known:
            raise ValueError(f"no checkpoint {name!r}; there are {', '.join(known[:5])}")


def draw_all(dataset: "xr.Dataset", folder: Path) -> list[Path]:
    """Write alpha by layer, and the spectrum of every layer that was fit; return the files.

    Several checkpoints get a folder each. Names of layers may hold anything, so a file is named by
    the position of the layer and what of its name is safe on every file system.
    """
    from specdiag.plot import alpha_by_layer, esd

    written = []
    for i, checkpoint in enumerate(dataset.checkpoint.values):
        home = folder / f"{i:02d}_{slug(checkpoint)}" if dataset.sizes["checkpoint"] > 1 else folder
        home.mkdir(parents=True, exist_ok=True)
        figures = {"alpha_by_layer": alpha_by_layer.plot(dataset, checkpoint)}
        for j, layer in enumerate(dataset.layer.values):
            if dataset.status.values[i, j] == "fit":
                figures[f"esd_{j:03d}_{slug(layer)}"] = esd.plot(dataset, layer, checkpoint)
        for name, figure in figures.items():
            path = home / f"{name}.png"
            save_figure(figure, path)
            written.append(path)
    return written


def write(found: Iterable[Drawing], folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Write every figure as SVG and PDF, and captions.txt; return the files, and why others lack."""
    folder.mkdir(parents=True, exist_ok=True)
    written, lacking, captions = [], {}, []
    for drawing in found:
        if drawing.figure is None:
            lacking[drawing.name] = drawing.caption
            continue
        for kind in ("svg", "pdf"):
            path = folder / f"{drawing.name}.{kind}"
            save_figure(drawing.figure, path)
            written.append(path)
        captions.append(f"{drawing.name}\n{drawing.title}. {drawing.caption}\n")
    write_whole(folder / "captions.txt", "\n".join(captions).encode())
    return [*written, folder / "captions.txt"], lacking
