"""Names of BLAS and LAPACK routines -> calls of those in the library that NumPy is linked to.

NumPy's wheels carry OpenBLAS with all of LAPACK, but `numpy.linalg` offers few of its routines and
copies every matrix before it calls them. Routines are looked for by name in the library that NumPy
has loaded: nothing is installed or compiled. Where it is not OpenBLAS (MKL, Accelerate), or has no
such routine, callers use the functions of NumPy.

LAPACK stores a matrix by columns, NumPy by rows, so LAPACK sees the transpose of an array: its 'L',
the lower triangle, is the upper triangle of the array.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Argument = bytes | int | NDArray[np.generic]

# A function that only OpenBLAS has, and how the same build spells a routine: NumPy's wheels from
# 2.0 with integers of 64 and of 32 bits, earlier ones, and the OpenBLAS of distributions.
SPELLINGS = {
    "scipy_openblas_get_config64_": "scipy_{}_64_",
    "scipy_openblas_get_config": "scipy_{}_",
    "openblas_get_config64_": "{}_64_",
    "openblas_get_config": "{}_",
}


@functools.cache
def routine(name: str) -> Callable[..., None] | None:
    """Return the routine of this name, such as 'dsterf', or None if there is none.

    Its arguments are those of Fortran, in order and without INFO: characters as bytes, integers,
    and arrays, whose first element is passed, and which it may change. It raises
    `numpy.linalg.LinAlgError` if INFO is not 0 afterwards. Other threads run during the call.

    Integers are passed by address as 64 bits. A library with integers of 32 bits reads the lower
    half, which comes first on a little-endian machine; on others, None is returned.
    """
    found = _openblas()
    if found is None or sys.byteorder != "little":
        return None
    library, spelling = found
    try:
        function = getattr(library, spelling.format(name))
    except AttributeError:
        return None
    function.restype = None
    return functools.partial(_call, name, function)


def routines(*names: str) -> list[Callable[..., None]]:
    """Return several routines; raise `LookupError` if one is missing."""
    found = [routine(name) for name in names]
    if missing := [name for name, one in zip(names, found, strict=True) if one is None]:
        raise LookupError(f"NumPy's LAPACK has no {', '.join(missing)}")
    return [one for one in found if one is not None]


def _call(name: str, function: Callable[..., None], *arguments: Argument) -> None:
    info = ctypes.c_int64(0)  # BLAS has no such argument, and does not look at one more
    passed = [_passed(value) for value in arguments]
    lengths = [ctypes.c_size_t(len(value)) for value in arguments if isinstance(value, bytes)]
    function(*passed, ctypes.byref(info), *lengths)
    if info.value:
        raise np.linalg.LinAlgError(f"{name} of LAPACK returned {info.value}")


def _passed(value: Argument) -> object:
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.byref(ctypes.c_int64(value))


@functools.cache
def _openblas() -> tuple[ctypes.CDLL, str] | None:
    """Return the OpenBLAS that NumPy has loaded and how it spells routines, or None."""
    for path in _paths():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for marker, spelling in SPELLINGS.items():
            if hasattr(library, marker):
                return library, spelling
    return None


def _paths() -> Iterator[str]:
    """Yield paths of libraries that NumPy has loaded.

    A name is looked for in a library and in what it is linked to, but on Windows in the library
    alone; there the wheel has OpenBLAS in a folder beside NumPy.
    """
    module = getattr(np.linalg._umath_linalg, "__file__", None)  # built into some Pythons
    if module:
        yield module
    if os.name == "nt":
        folder = Path(np.__file__).parent.with_name("numpy.libs")
        yield from (str(path) for path in sorted(folder.glob("*openblas*.dll")))
