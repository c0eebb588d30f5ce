"""A file of features -> its arrays, and the one that is meant."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.safetensors import read_header
from specdiag.checkpoint.tensor import MAX_DIMENSIONS
from specdiag.features.files.array import NAMELESS, Array, is_features, of_tensor
from specdiag.files import File, find_file
from specdiag.wording import shown, some

_FILES = (".npy", ".npz", ".safetensors", ".nc", ".h5", ".hdf5", ".pt", ".pth")
ALONE = "tensor"  # name of a tensor that was saved by itself
SUFFIXES = (*_FILES, ".zarr")


def open_arrays(path: Path) -> list[Array]:
    """Return the arrays of a file, without reading their values yet.

    Raises
    ------
    ValueError
        If its format is not one of those read, or it is damaged.
    OSError
        If it cannot be read.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        if suffix != ".zarr" and not any((path / n).is_file() for n in (".zgroup", "zarr.json")):
            raise ValueError(f"{path}: a folder; name a file of features, or a folder .zarr")
        from specdiag.features.files.zarr_folder import read_zarr

        return read_zarr(path)
    readers = _readers()
    if suffix not in readers:
        raise ValueError(f"{path}: expected a file of features: {', '.join(SUFFIXES)}")
    return readers[suffix](find_file(path))


def _readers() -> dict[str, Callable[[File], list[Array]]]:
    from specdiag.features.files.hdf5 import read_nc
    from specdiag.features.files.npy import read_npy, read_npz

    readers = [read_npy, read_npz, _read_safetensors, *3 * [read_nc], *2 * [_read_torch]]
    return dict(zip(_FILES, readers, strict=True))


def _read_safetensors(file: File) -> list[Array]:
    tensors, _ = read_header(file)
    return [of_tensor(tensor) for tensor in tensors]


def _read_torch(file: File) -> list[Array]:
    """Return the tensors of a file of torch.save, whose pickle is read and never run."""
    arrays = [of_tensor(tensor) for tensor in open_checkpoint(file.path).tensors]
    if len(arrays) == 1 and arrays[0].name == ALONE:
        return [arrays[0]._replace(name=NAMELESS)]
    return arrays


def chosen(arrays: Sequence[Array], names: Sequence[str], groups: str, where: str) -> list[Array]:
    """Return the arrays of a file whose features are measured.

    Parameters
    ----------
    arrays : sequence of Array
    names : sequence of str
        Names or patterns; without any, the only array of numbers with at least two axes.
    groups : str
        Name of the array that holds the groups, which is none of them.
    where : str
        Name of the file for messages.

    Raises
    ------
    ValueError
        If there is none, or several and no name; or if one of them has no rows of features.
    """
    listed = some([shown(str(array), quote=False) for array in arrays], 8) or "nothing"
    if not names:
        found = [a for a in arrays if is_features(a) and not a.problem and a.name != groups]
        if len(found) > 1:
            listed = some([shown(str(array), quote=False) for array in found], 8)
            raise ValueError(
                f"{where}: several arrays ({listed}); --name NAME tells which, --name '*' all"
            )
    else:
        found = [a for a in arrays if any(_matches(a, name) for name in names) and a.name != groups]
    if not found:
        named = f" {shown(names[0])}" if names else " with features: numbers with two axes or more"
        raise ValueError(f"{where}: no array{named}; it has {listed}")
    for array in found:
        _check(array, where)
    return found


def _matches(array: Array, name: str) -> bool:
    """Return whether a name is meant: a pattern means arrays that can hold features alone."""
    return array.name == name or (is_features(array) and fnmatchcase(array.name, name))


def _check(array: Array, where: str) -> None:
    name = f"{where}: {shown(array.name)}"
    if array.problem:
        raise ValueError(f"{name} cannot be read: {array.problem}")
    if not is_features(array) or len(array.shape) > MAX_DIMENSIONS:
        raise ValueError(
            f"{name} is {shown(str(array), quote=False)}: features are numbers of shape "
            "(samples, d) or (trials, tokens, d)"
        )
    if 0 in array.shape:
        raise ValueError(f"{name} is empty: its shape is {array.shape}")
