"""Dataset -> all its figures, from one module each, with captions.

A module has `TITLE`, `plot(dataset, ...)`, which returns a matplotlib Figure, and
`caption(dataset, ...)`, which says what is drawn and of how many. `reason_not_drawn(dataset)`
returns '' if the Dataset has values for the figure. Modules of a study lie in a folder `figures/`
beside its lock, and follow the same rules; `TABLE` marks those that draw a CSV file instead.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specdiag.dataset.spectrum import fingerprints
from specdiag.drawing import alpha_by_layer, esd, trajectory
from specdiag.drawing.style import save_figure, short_title, slug, style
from specdiag.lock.recipe import explained, load_module
from specdiag.outputs import check_output_path, write_output
from specdiag.training.trajectory import Trajectory
from specdiag.wording import counted, printable, some

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FOLDER = "figures"
WHOLE = ("difference", "alpha_and_r2", "condition_and_r2")  # one figure a Dataset, in this order
CAPTIONS = "captions.txt"
# The names of files begin so, but for those of figures of a study.
NAMES = ("alpha_by_layer", "esd_", *WHOLE, "trajectory_")
_PARTS = ("TITLE", "plot", "caption", "reason_not_drawn")


class Drawing(NamedTuple):
    """A figure, with its title and caption; `figure` is None if it cannot be drawn."""

    name: str  # of its files
    title: str
    caption: str  # or the reason why there is no figure
    figure: "Figure | None"


def drawings(
    dataset: "xr.Dataset | None",
    tables: Mapping[str, Trajectory] | None = None,
    *,
    spectra_of: Sequence[str] | None = None,
    most: int | None = None,
    study: Path | None = None,
) -> Iterator[Drawing]:
    """Yield every figure of a Dataset, and for those that cannot be drawn the reason.

    Parameters
    ----------
    dataset : xarray.Dataset, optional
        Of `specdiag.alpha`, `specdiag.compare` or `specdiag.collect`.
    tables : mapping of str to Trajectory, optional
        Of `trajectory.read`, by the name of the training.
    spectra_of : sequence of str, optional
        Checkpoints whose layers are drawn one by one; by default the first that was measured.
    most : int, optional
        At most so many checkpoints with alpha by layer, and so many layers of a checkpoint with
        their spectrum: those with the least `null_q`.
    study : Path, optional
        A folder with the modules of a study, beside its lock.

    Raises
    ------
    ValueError
        If the Dataset has no checkpoint of a name in `spectra_of`.
    RuntimeError
        If a module of the study fails: in one line that begins with its file.
    """
    if dataset is not None:
        check_names(dataset, spectra_of or ())
    modules = study_modules(study) if study else {}
    with style():
        for i, (name, table) in enumerate((tables or {}).items()):
            title = f"{trajectory.TITLE}: {short_title(name)}"
            figure = trajectory.plot(table)
            yield Drawing(f"trajectory_{i:02d}", title, trajectory.caption(table), figure)
        if dataset is not None:
            yield from _of_weights(dataset, spectra_of, most)
            yield from of_whole(dataset, modules)


def of_whole(dataset: "xr.Dataset", modules: Mapping[str, Any]) -> Iterator[Drawing]:
    """Yield the figures of a whole Dataset: those of specdiag, then those of a study."""
    for name in WHOLE:
        yield drawing(name, import_module(f"specdiag.drawing.{name}"), dataset)
    for name, module in modules.items():
        if hasattr(module, "TABLE"):
            continue
        try:
            one = drawing(name, module, dataset)
        except (Exception, SystemExit) as error:  # a program of the user: it may raise anything
            raise RuntimeError(explained(error, Path(module.__file__).parent, name)) from error
        yield one


def study_modules(folder: Path) -> dict[str, Any]:
    """Return the modules of a study by name, but for those that begin with an underscore.

    Raises
    ------
    RuntimeError
        If one cannot be imported, or has no `plot`, `caption`, `TITLE` or `reason_not_drawn`.
    """
    names = sorted(path.stem for path in folder.glob("[!_]*.py"))
    modules = {name: load_module(folder, name) for name in names}
    for name, module in modules.items():
        for part in _PARTS:
            if not hasattr(module, part):
                raise RuntimeError(
                    f"{folder.name}/{name}.py: no {part}; add it, or begin the file's name with an "
                    "underscore"
                )
    return modules


def drawing(name: str, module: Any, data: Any) -> Drawing:
    """Return the figure that a module draws of a Dataset, or of the rows of a table.

    A result of `plot` that is not a matplotlib Figure raises RuntimeError.
    """
    from matplotlib.figure import Figure

    if reason := module.reason_not_drawn(data):
        return Drawing(name, module.TITLE, reason, None)
    figure = module.plot(data)
    if not isinstance(figure, Figure):
        text = f"plot() returned {figure!r}; expected a matplotlib Figure"
        raise RuntimeError(text)  # noqa: TRY004 - an error of a study's module
    return Drawing(name, module.TITLE, module.caption(data), figure)


def _of_weights(
    dataset: "xr.Dataset", spectra_of: Sequence[str] | None, most: int | None
) -> Iterator[Drawing]:
    """Yield alpha by layer of every distinct spectrum, and spectra of layers."""
    shown = measured(dataset)
    several = len(shown) > 1
    for i, *others in list(_with_equal_spectra(dataset).values())[:most]:
        name = shown[i]
        more = f" Also of {counted(len(others), 'other checkpoint')}, whose spectrum is the same."
        yield Drawing(
            "alpha_by_layer" + f"_{i:02d}_{slug(name)}" * several,
            alpha_by_layer.TITLE + f": {short_title(name)}" * several,
            alpha_by_layer.caption(dataset, name) + more * bool(others),
            alpha_by_layer.plot(dataset, name),
        )
    names = [str(name) for name in dataset.checkpoint.values]
    for name in list(shown.values())[:1] if spectra_of is None else spectra_of:
        for j in esd.chosen(dataset, name, most):
            layer = str(dataset.layer.values[j])
            place = f"{names.index(name):02d}_" * several + f"{j:03d}_{slug(layer)}"
            yield Drawing(
                f"esd_{place}",
                f"{esd.TITLE}: {short_title(layer)}",
                esd.caption(dataset, layer, name),
                esd.plot(dataset, layer, name),
            )


def _with_equal_spectra(dataset: "xr.Dataset") -> dict[Any, list[int]]:
    """Return the positions of measured checkpoints, those with the same spectra in one list."""
    norms = fingerprints(dataset)
    groups: dict[Any, list[int]] = {}
    for i in measured(dataset):
        groups.setdefault(norms[i].tobytes() if (norms[i] > 0).any() else i, []).append(i)
    return groups


def measured(dataset: "xr.Dataset") -> dict[int, str]:
    """Return the measured checkpoints by position, without evaluations: they add no weights."""
    present = (dataset.status.values != "absent").any(axis=1)
    if "arm" in dataset.coords:
        present &= dataset.arm.values != "evaluation"
    return {i: str(dataset.checkpoint.values[i]) for i in present.nonzero()[0]}


def first_of_each(dataset: "xr.Dataset") -> Any:
    """Return by checkpoint and layer whether no earlier checkpoint has the same spectrum there.

    Layers of a frozen core are the parent's: one matrix in many checkpoints.
    """
    is_first = np.zeros(dataset.status.shape, dtype=bool)
    norms, seen = fingerprints(dataset), set()
    for i in measured(dataset):
        for j, pair in enumerate(norms[i]):
            key = j, pair.tobytes()
            is_first[i, j] = key not in seen or not np.isfinite(pair).all()
            seen.add(key)
    return is_first


def check_names(dataset: "xr.Dataset", names: Iterable[str]) -> None:
    """Raise ValueError if a Dataset has no checkpoint of one of the names."""
    known = [str(name) for name in dataset.checkpoint.values]
    for name in names:
        if name not in known:
            raise ValueError(f"no checkpoint {name!r}; the Dataset has {some(known, 5)}")


def draw_all(dataset: "xr.Dataset", folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write alpha by layer, and the spectrum of every layer that was fit; return the files.

    Several checkpoints get a folder each. Files are named after the position of the layer and the
    part of its name that is safe on every file system, since names of layers may hold anything.
    """
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
            save_figure(figure, path, overwrite=overwrite)
            written.append(path)
    return written


def write(
    figures: Iterable[Drawing], folder: Path, *, overwrite: bool = False
) -> tuple[list[Path], dict[str, str]]:
    """Write every figure as SVG and PDF, and captions.txt, also if a later figure fails.

    Returns
    -------
    written : list of Path
    reasons : dict of str to str
        Why a figure is not drawn, by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    list_of_captions = folder / CAPTIONS
    check_output_path(list_of_captions, overwrite=overwrite)
    written, reasons, captions = [], {}, ["Captions of figures, written by specdiag\n"]
    try:
        for one in figures:
            if one.figure is None:
                reasons[one.name] = one.caption
                continue
            for kind in ("svg", "pdf"):
                path = folder / f"{one.name}.{kind}"
                save_figure(one.figure, path, overwrite=overwrite)
                written.append(path)
            title = one.title.replace(r"\$", "$")
            captions.append(f"{one.name}\n{printable(f'{title}. {one.caption}')}\n")
    finally:
        write_output(list_of_captions, "\n".join(captions).encode(), overwrite=overwrite)
    return [*written, list_of_captions], reasons
