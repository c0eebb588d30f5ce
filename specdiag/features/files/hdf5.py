"""netCDF-4 and HDF5 files -> arrays that are read in pieces, without following a link out of them.

Texts, such as the names of trials, are read only of a file whose texts are all where they should be
(`specdiag.checkpoint.formats.hdf5.flat`).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from specdiag.checkpoint.formats.hdf5.flat import check_flat
from specdiag.checkpoint.formats.hdf5.read import errors, read_hdf5
from specdiag.checkpoint.tensor import UNKNOWN, Tensor
from specdiag.features.files.array import PACKING, Array, of_tensor, unpacked
from specdiag.files import File, open_file
from specdiag.wording import shown


def read_nc(file: File) -> list[Array]:
    """Return the arrays of a netCDF-4 or HDF5 file, by their names with slashes.

    Raises
    ------
    ValueError
        If the file is damaged, or of netCDF before 4.
    """
    with open_file(file) as stream:
        if stream.read(3) == b"CDF":
            raise ValueError(
                f"{file.name}: netCDF of version 3, which is not read; write netCDF-4, in xarray "
                "with to_netcdf(path, engine='h5netcdf')"
            )
    content = read_hdf5(partial(open_file, file), file.size, file.name)
    return [_array(file, tensor) for tensor in content.datasets]


def _array(file: File, tensor: Tensor) -> Array:
    if tensor.dtype in ("object", UNKNOWN) or tensor.dtype.startswith(("bytes", "str")):
        return Array(tensor.name, tensor.shape, "text", partial(_texts, file, tensor.name))
    array = of_tensor(tensor)

    def pieces(n: int) -> Iterator[np.ndarray]:
        packing = _packing(file, tensor.name)
        return (unpacked(values, packing) for values in array.pieces(n))

    return array._replace(pieces=pieces)


def _packing(file: File, name: str) -> dict[str, float]:
    """Return the attributes of an array that change what its numbers stand for."""
    import h5py

    found = {}
    with open_file(file) as stream, errors(file.name), h5py.File(stream, "r") as content:
        attributes = content[name].attrs
        for key in PACKING:
            if key in attributes and attributes.get_id(key).dtype.kind in "fiu":
                found[key] = float(np.ravel(attributes[key])[0])
    return found


def _texts(file: File, name: str, n: int) -> Iterator[np.ndarray]:
    """Yield the texts of an array, n at a time."""
    import h5py

    with open_file(file) as stream:
        try:
            check_flat(stream, file.size, file.name)
        except ValueError as error:
            raise ValueError(
                f"{error}; texts such as {shown(name)} are read only of a file of arrays alone: "
                "write them to another file"
            ) from None
        with errors(file.name), h5py.File(stream, "r") as content:
            found: Any = content[name]
            values = np.asarray(found.asstr()[()], dtype=object)
    yield from (values[i : i + n] for i in range(0, len(values), n))
