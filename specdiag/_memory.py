"""Tensors that are already in memory: NumPy arrays, torch tensors and modules.

torch is never imported here: whoever passes a tensor has imported it.
"""

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from specdiag._files import ITEMSIZE, ML_DTYPES, Values, numpy_dtype, unreadable


def is_module(value: object) -> bool:
    """Tell whether a value has a ``state_dict()``, as torch modules do."""
    return callable(getattr(value, "state_dict", None)) and not isinstance(value, type)


def is_array(value: object) -> bool:
    """Tell whether a value is a NumPy array or a torch tensor."""
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def is_table(value: object) -> bool:
    """Tell whether a value is a mapping."""
    return isinstance(value, Mapping)


def children(value: object) -> Iterable[tuple[str, Any]] | None:
    """Return the named parts of a mapping, list or tuple, or None for a leaf."""
    if isinstance(value, Mapping):
        return ((str(key), item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return ((str(index), item) for index, item in enumerate(value))
    return None


def memory_tree(source: object) -> object:
    """Return the tree of a module, or of a mapping of modules and tensors."""
    if is_module(source):
        return source.state_dict()  # type: ignore[attr-defined]
    if isinstance(source, Mapping):
        return {k: v.state_dict() if is_module(v) else v for k, v in source.items()}
    return source


def array_values(array: Any) -> Values:
    """Return shape, dtype and values of a NumPy array or torch tensor."""
    return _numpy_values(array) if isinstance(array, np.ndarray) else _torch_values(array)


def _numpy_values(array: np.ndarray) -> Values:
    dtype = array.dtype.name
    if dtype not in ITEMSIZE:
        return unreadable(array.shape, dtype, f"dtype {dtype} is not supported")
    if isinstance(array, np.ma.MaskedArray):
        return unreadable(array.shape, dtype, "masked array")
    if _expanded(array.shape, array.strides):
        return unreadable(array.shape, dtype, "expanded (stride 0)")
    place = array.__array_interface__["data"][0]
    identity = (place, dtype, array.shape, array.strides) if array.size else None
    return Values(
        shape=array.shape, dtype=dtype, read=partial(_read_numpy, array), identity=identity
    )


def _read_numpy(array: np.ndarray) -> np.ndarray:
    native = array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype=native).reshape(array.shape).view(np.ndarray)


def _expanded(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    steps = zip(shape, strides, strict=True)
    return 0 not in shape and any(size > 1 and step == 0 for size, step in steps)


def _torch_values(tensor: Any) -> Values:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return unreadable((), dtype, "nested tensor")
    shape = tuple(int(size) for size in tensor.shape)
    if problem := _torch_problem(tensor, dtype, shape):
        return unreadable(shape, dtype, problem)
    place = (tensor.data_ptr(), dtype, shape, tuple(tensor.stride()))
    flips = (tensor.is_conj(), tensor.is_neg(), str(tensor.device))
    identity = (*place, *flips) if 0 not in shape else None
    return Values(
        shape=shape, dtype=dtype, read=partial(_read_torch, tensor, dtype), identity=identity
    )


def _torch_problem(tensor: Any, dtype: str, shape: tuple[int, ...]) -> str | None:
    if callable(getattr(tensor, "to_local", None)):
        return "distributed or wrapped tensor"
    if str(tensor.layout) != "torch.strided":
        return "sparse tensor"
    if tensor.is_quantized:
        return "quantised tensor"
    if tensor.is_meta:
        return "meta tensor: it has no values"
    if dtype not in ITEMSIZE:
        return f"dtype {dtype} is not supported"
    if _expanded(shape, tuple(tensor.stride())):
        return "expanded (stride 0)"
    return None


def _read_torch(tensor: Any, dtype: str) -> np.ndarray:
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    if dtype in ML_DTYPES:
        torch = sys.modules["torch"]
        integer = torch.int16 if ML_DTYPES[dtype] == 2 else torch.uint8
        # Through one dimension: a view to another dtype is not defined for every shape.
        flat: np.ndarray = tensor.reshape(-1).view(integer).numpy()
        return flat.view(numpy_dtype(dtype)).reshape(tensor.shape).copy()
    values: np.ndarray = tensor.numpy().copy()
    return values
