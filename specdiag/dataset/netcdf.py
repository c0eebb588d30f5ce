"""A Dataset <-> a netCDF file: validate, save, open."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from specdiag.checkpoint.formats.hdf5.flat import check_flat
from specdiag.dataset.checks import check_layout, check_type, check_values
from specdiag.dataset.escaped import escaped
from specdiag.dataset.schema.collection import ADDED
from specdiag.dataset.schema.layers import SCHEMA
from specdiag.dataset.schema.variable import labelled
from specdiag.dataset.versions import (
    check_dataset,
    check_has_weights,
    check_version,
    completed,
    former_names,
    latest_version,
    schema_of,
    upgraded,
)
from specdiag.files import find_file, open_file
from specdiag.outputs import write_output
from specdiag.wording import one_line

if TYPE_CHECKING:
    import xarray as xr


_ANOTHER = "name one that specdiag wrote with -o"
_AGAIN = "remove it to have it measured again"


def validate(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return the Dataset, after checking its variables, dims and dtypes against its schema.

    If the Dataset is opened lazily, only labels, `row_start` and `row_size` are read.

    Raises
    ------
    ValueError
        If a variable is missing or different, or a label occurs twice; the message names the first
        one.
    """
    check_dataset(dataset)
    check_version(dataset.attrs)
    version, latest = dataset.attrs["schema_version"], latest_version(dataset.attrs)
    if version < latest:
        raise ValueError(f"schema_version is {version}, not {latest}: use specdiag.open_spectra")
    for name, spec in schema_of(dataset).items():
        if name not in dataset.variables:
            raise ValueError(f"variable {name} is missing")
        check_type(dataset, name, spec)
    check_layout(dataset)
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

    Its texts are those of `escaped`. It is made in memory: HDF5 crashes the process if the disk
    fills while it writes.
    """
    dataset = escaped(validate(dataset))
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

    Nothing in the file leads to another file. `load_spectra` also checks the values.

    Raises
    ------
    ValueError
        If the file is not such a Dataset.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    with _open(path) as file:
        stream = io.BufferedReader(_Shared(file))
    try:
        return _opened(path, stream)
    except BaseException:
        stream.close()
        raise


def load_spectra(path: str | os.PathLike[str], *, eigenvalues: bool = True) -> "xr.Dataset":
    """Return a Dataset that `save_spectra` wrote, in memory, with checked values.

    Without `eigenvalues`, these are read when they are used. Raises as `open_spectra`, and
    ValueError if it has features and no weights, or if a value is one that no measurement gives
    (`specdiag.dataset.checks`).
    """
    path = Path(path)
    dataset = open_spectra(path)
    try:
        with _errors(path):
            check_has_weights(dataset)
            schema = schema_of(dataset)
            names = [name for name in schema if eigenvalues or name != "eigenvalue"]
            check_values(dataset, {name: schema[name] for name in names})
            return dataset.load() if eigenvalues else dataset
    finally:
        if eigenvalues:
            dataset.close()


def _open(path: Path, remedy: str = _ANOTHER) -> BinaryIO:
    """Return the regular file at `path`, open, whose content leads to no other file."""
    try:
        file = find_file(path)
        stream = open_file(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    with _errors(path, remedy):
        try:
            check_flat(stream, file.size, "")
        except BaseException:
            stream.close()
            raise
    return stream


class _Shared(io.FileIO):
    """An open file that several Datasets read; the last one closes it without a warning."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(os.dup(file.fileno()), closefd=False)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            number = self.fileno()
            super().close()
            os.close(number)


def _opened(path: Path, stream: BinaryIO) -> "xr.Dataset":
    import xarray as xr

    with _errors(path):
        # Times are not decoded: a Dataset has none, and strange ones take long.
        stored = xr.open_dataset(stream, engine="h5netcdf", decode_times=False)
        check_version(stored.attrs)
        dataset = validate(upgraded(stored))

        def close() -> None:
            stored.close()
            stream.close()

        dataset.set_close(close)
        return dataset


@contextmanager
def _errors(path: Path, remedy: str = _ANOTHER) -> Iterator[None]:
    """Turn the errors of xarray and HDF5, of many types, into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        text = one_line(error).removeprefix(": ")
        raise ValueError(f"{path} is not a spectra file: {text}; {remedy}") from error


def read_spectra(path: Path) -> "xr.Dataset":
    """Return the whole Dataset of one checkpoint that `save_spectra` wrote, in memory.

    h5py reads it, because xarray takes ten times as long to open such a small file, and a
    collection may have a thousand of them.

    Raises
    ------
    ValueError
        If the file is not such a Dataset; the message is one line that begins with the path.
    OSError
        If the file cannot be read.
    """
    import h5py

    with _open(path, _AGAIN) as stream, _errors(path, _AGAIN), h5py.File(stream) as file:
        return _loaded(file)


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
    if dataset.sizes["checkpoint"] != 1:
        raise ValueError("it holds several checkpoints")
    check_values(dataset, SCHEMA)
    return dataset
