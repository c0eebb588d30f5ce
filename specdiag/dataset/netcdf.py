"""A Dataset <-> a netCDF file: validate, save, open."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.dataset.schema import ADDED, SCHEMA, labelled
from specdiag.dataset.versions import (
    check_version,
    completed,
    former_names,
    latest_version,
    schema_of,
    upgraded,
)
from specdiag.htsr.tail.goodness_of_fit import ALTERNATIVES
from specdiag.outputs import write_output
from specdiag.wording import one_line

if TYPE_CHECKING:
    import xarray as xr


def validate(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return the Dataset, after checking its variables, dims and dtypes against its schema.

    If the Dataset is opened lazily, only the values of `row_start` and `row_size` are read.

    Raises
    ------
    ValueError
        If a variable is missing or different; the message names the first one.
    """
    check_version(dataset.attrs)
    version, latest = dataset.attrs["schema_version"], latest_version(dataset.attrs)
    if version < latest:
        raise ValueError(f"schema_version is {version}, not {latest}: use specdiag.open_spectra")
    for name, spec in schema_of(dataset.attrs).items():
        if name not in dataset.variables:
            raise ValueError(f"variable {name} is missing")
        variable = dataset[name]
        kind = "O" if variable.dtype.kind in "OUST" else variable.dtype.kind
        if variable.dims != spec.dims or kind != spec.dtype.replace("b", "i"):
            raise ValueError(
                f"variable {name} has dims {variable.dims} and dtype {variable.dtype}: expected "
                f"{spec.dims} and kind {spec.dtype}"
            )
    starts = dataset.row_start.values
    ends = starts + dataset.row_size.values
    if np.any(starts < 0) or np.any(ends > dataset.sizes["sample"]):
        raise ValueError("row_start and row_size point outside of the eigenvalues")
    return dataset


def save_spectra(
    dataset: "xr.Dataset", path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a valid Dataset as netCDF-4. If writing fails, the path keeps its former content.

    A Dataset that specdiag wrote is replaced; any other file only with `overwrite`.

    Raises
    ------
    ValueError
        If the Dataset is invalid, or the path is that of a file beside a checkpoint, or not that of
        a regular file.
    FileExistsError
        If the path is that of another file, and `overwrite` is false.
    OSError
        If the file cannot be written.
    """
    content = as_netcdf(dataset)
    try:
        write_output(Path(path), content, overwrite=overwrite)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror or error}") from error


def as_netcdf(dataset: "xr.Dataset") -> memoryview:
    """Return a valid Dataset as the content of a netCDF-4 file.

    It is made in memory: HDF5 crashes the process if the disk fills while it writes.
    """
    validate(dataset)
    return memoryview(dataset.to_netcdf(engine="h5netcdf", encoding=_encoding(dataset)))


def _encoding(dataset: "xr.Dataset") -> dict[str, dict[str, Any]]:
    """Return how text is stored: in a collection, text by layer as compressed characters.

    Stored as strings, five variables of 100,000 cells need 27 times the space and open ten times as
    slowly.
    """
    if dataset.attrs.get("kind") != "collection":
        return {}
    characters = {"dtype": "S1", "zlib": True, "complevel": 1}
    return {
        str(name): characters if variable.ndim > 1 else {"dtype": str}
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in "OUT"
    }


def open_spectra(path: str | os.PathLike[str]) -> "xr.Dataset":
    """Return a Dataset that `save_spectra` wrote. Values are read from the file when they are used.

    `.load()` reads all values; `.close()`, or the end of a `with` block, closes the file. A file of
    an earlier version is returned as one of the latest: variables are renamed, those that it does
    not have are missing values (NaN or ''), and so are its verdicts, which had other meanings.

    Raises
    ------
    ValueError
        If the file is not such a Dataset.
    OSError
        If the file cannot be read.
    """
    import xarray as xr

    try:
        dataset = xr.open_dataset(path, engine="h5netcdf")
        try:
            check_version(dataset.attrs)
            latest = upgraded(dataset)
            if latest is not dataset:
                latest.set_close(dataset.close)
            return validate(latest)
        except (ValueError, OSError):
            dataset.close()
            raise
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (ValueError, OSError, KeyError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"{path} is not a spectra file: {message}") from error


def read_spectra(path: Path) -> "xr.Dataset":
    """Return the whole Dataset of one checkpoint that `save_spectra` wrote, in memory.

    h5py reads it, because xarray takes ten times as long to open such a small file, and a
    collection may have a thousand of them.

    Raises
    ------
    ValueError
        If the file is not such a Dataset; the message is one line that begins with the path.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            return _loaded(file)
    except (ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a spectra file: {one_line(error)}; remove it to have it measured again"
        ) from error


def _loaded(file: Any) -> "xr.Dataset":
    import xarray as xr

    names = ("schema_version", "provenance")
    attrs = {name: np.ravel(file.attrs.get(name))[0] for name in names}  # netCDF writes lists
    check_version(attrs)
    former = former_names(attrs)
    stored = {name: former.get(name, name) for name in SCHEMA}
    schema = {n: spec for n, spec in SCHEMA.items() if stored[n] in file or n not in ADDED}
    columns = {
        name: file[stored[name]].asstr()[()] if spec.dtype == "O" else file[stored[name]][()]
        for name, spec in schema.items()
    }
    provenance = json.loads(attrs["provenance"])
    provenance.pop("checkpoints")  # paths on the machine that measured
    attrs["provenance"] = json.dumps(provenance, sort_keys=True)
    dataset = validate(completed(xr.Dataset(labelled(schema, columns), attrs=attrs)))
    if dataset.sizes["checkpoint"] != 1 or not dataset.indexes["layer"].is_unique:
        raise ValueError("it holds several checkpoints, or a layer twice")
    if tuple(dataset.alternative.values) != ALTERNATIVES:
        raise ValueError(f"its alternatives are not {', '.join(ALTERNATIVES)}")
    return dataset
