"""Measured layers -> one labelled xarray Dataset.

`schema.SCHEMA` lists its variables. Layers have different numbers of eigenvalues, so these are a CF
contiguous ragged array: one long `eigenvalue(sample)`, and `row_size(checkpoint, layer)` with the
number of eigenvalues of each layer, in order (CF conventions 1.12, section 9.3.3). `row_start` is
the index of a layer's first eigenvalue; with it, `spectrum` finds a layer after layers were
selected or reordered.
"""

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.checkpoint.reader import Checkpoint
from specdiag.compute.device import Device, of_shape
from specdiag.dataset.schema.beside import BESIDE
from specdiag.dataset.schema.layers import SCHEMA, SCHEMA_VERSION, layer_value
from specdiag.dataset.schema.variable import labelled
from specdiag.htsr.layers import Layer
from specdiag.htsr.tail.alternatives import ALTERNATIVES
from specdiag.wording import numbered

if TYPE_CHECKING:
    import xarray as xr


def build(
    checkpoints: Sequence[Checkpoint],
    measured: Sequence[Sequence[Layer]],
    settings: Mapping[str, Any],
) -> "xr.Dataset":
    """Return the Dataset of the measured layers of each checkpoint.

    The settings of the measurement are stored in the attribute `provenance`.
    """
    import xarray as xr

    names = list(dict.fromkeys(layer.name for layers in measured for layer in layers))
    tables = [{layer.name: layer for layer in layers} for layers in measured]
    absent = Layer(name="", shape=(), dtype="", status="absent", reason="no such tensor")
    cells = [table.get(name, absent) for table in tables for name in names]
    columns: dict[str, Any] = {
        "checkpoint": unique_names(checkpoints),
        "layer": names,
        "ci_bound": ["lower", "upper"],
        "alternative": list(ALTERNATIVES),
        "eigenvalue": np.concatenate([cell.eigenvalues for cell in cells] or [np.empty(0)]),
    }
    sizes = {"checkpoint": len(tables)} | {
        dim: len(columns[dim]) for dim in ("layer", "ci_bound", "alternative")
    }
    ends = np.cumsum([len(cell.eigenvalues) for cell in cells])
    columns["row_start"] = (ends - np.diff(ends, prepend=0)).reshape(len(tables), len(names))
    for name in SCHEMA.keys() - columns.keys():
        column = np.array([layer_value(cell, name) for cell in cells], dtype=object)
        columns[name] = column.reshape([sizes[dim] for dim in SCHEMA[name].dims])
    data = labelled(SCHEMA, columns) | _of_packages(cells, (sizes["checkpoint"], sizes["layer"]))
    data["row_size"].attrs["sample_dimension"] = "sample"
    solved = [x.shape for layers in measured for x in layers if x.status in ("fit", "degenerate")]
    attributes = _attributes(checkpoints, settings, {of_shape(shape) for shape in solved} - {None})
    return xr.Dataset(data, attrs=attributes).set_coords(
        ["status", "reason", "verdict", "shape", "stored_dtype"]
    )


def _of_packages(cells: Sequence[Layer], shape: tuple[int, int]) -> dict[str, Any]:
    """Return the variables of packages that were asked beside specdiag."""
    names = [name for name in BESIDE if any(name in cell.beside for cell in cells)]
    columns = {}
    for name in names:
        missing = "" if BESIDE[name].dtype == "O" else math.nan
        column = np.array([cell.beside.get(name, missing) for cell in cells], dtype=object)
        columns[name] = column.reshape(shape)
    return labelled({name: BESIDE[name] for name in names}, columns)


def unique_names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return a different name for each checkpoint.

    It is the first of these that no other checkpoint has: the name of the checkpoint, the name of
    its file, its name with its folder, and that with a number.
    """
    names = [c.name for c in checkpoints]
    files = [c.path.name if c.path else c.name for c in checkpoints]
    folders = [
        f"{c.path.resolve().parent.name}/{c.name}" if c.path else c.name for c in checkpoints
    ]
    chosen = [
        next((options[i] for options in (names, files) if options.count(options[i]) == 1), folder)
        for i, folder in enumerate(folders)
    ]
    return numbered(chosen)


def _attributes(
    checkpoints: Sequence[Checkpoint], settings: Mapping[str, Any], devices: Set[Device | None]
) -> dict[str, Any]:
    from importlib.metadata import version

    provenance = {
        "specdiag": version("specdiag"),
        "numpy": np.__version__,
        "blas_threads_per_matrix": 1,
        "settings": dict(settings),
        "checkpoints": [
            {"name": name, "path": str(c.path or ""), "notes": list(c.notes)}
            for name, c in zip(unique_names(checkpoints), checkpoints, strict=True)
        ],
    }
    if devices:
        provenance |= {"device": ", ".join(map(str, devices)), "torch": version("torch")}
    return {
        "Conventions": "CF-1.12",
        "title": "Eigenvalue spectra of weight matrices",
        "schema_version": SCHEMA_VERSION,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
