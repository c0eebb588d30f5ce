"""Arrays, torch tensors and modules in memory -> named tensors.

This module never imports torch: if a caller passes a torch tensor, torch is imported already.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from specdiag.checkpoint.metadata import Converter
from specdiag.checkpoint.tensor import ITEMSIZE, ML_DTYPES, Tensor, numpy_dtype, unknown, unreadable
from specdiag.checkpoint.torchfile.roles import Role, kind_of, roles_in


def is_module(value: object) -> bool:
    """Return whether a value has a ``state_dict()``, as torch modules do."""
    return callable(getattr(value, "state_dict", None)) and not isinstance(value, type)


def memory_tree(source: object) -> tuple[object, list[tuple[Any, Mapping[str, Any]]]]:
    """Return the tree of a source in memory, and its modules with their state dicts.

    The source is a module or array, or a mapping or sequence of them.
    """
    states: list[tuple[Any, Mapping[str, Any]]] = []

    def part(value: Any) -> Any:
        if not is_module(value):
            return value
        states.append((value, value.state_dict()))
        return states[-1][1]

    if isinstance(source, Mapping):
        return {key: part(value) for key, value in source.items()}, states
    if isinstance(source, list | tuple):
        return [part(value) for value in source], states
    return part(source), states


def memory_config(source: object) -> dict[str, Any]:
    """Return the configuration of a model of transformers as ``config``; {} for anything else."""
    to_dict = getattr(getattr(source, "config", None), "to_dict", None)
    config = to_dict() if is_module(source) and callable(to_dict) else None
    return {"config": Converter().convert(config)} if isinstance(config, dict) else {}


def memory_roles(
    states: Sequence[tuple[Any, Mapping[str, Any]]], names: Mapping[int, str]
) -> dict[str, Role]:
    """Return the roles of the tensors and computed weights of torch modules, by name.

    `states` are the modules with their state dicts, and `names` the names of the values of these by
    their id.
    """
    roles: dict[str, Role] = {}
    for module, state in states:
        known = ((key, names[id(value)]) for key, value in state.items() if id(value) in names)
        key, name = next(known, ("", ""))
        if not name.endswith(key) or not callable(getattr(module, "named_modules", None)):
            continue
        for prefix, part in module.named_modules():
            start = name.removesuffix(key) + (f"{prefix}." if prefix else "")
            found = {leaf: role for leaf, _, role in roles_in(vars(part))}
            found.setdefault("weight", Role(kind_of(vars(part))))  # computed by a parametrization
            roles |= {start + leaf: role for leaf, role in found.items()}
    return roles


def memory_tensor(name: str, values: Any) -> Tensor:
    """Return the named tensor of a torch tensor, or of an array of NumPy or another library."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        return _torch_tensor(name, values)
    try:
        return _numpy_tensor(name, values if isinstance(values, np.ndarray) else np.asarray(values))
    except Exception as error:  # noqa: BLE001 - code of another library
        return unknown(name, f"NumPy cannot read it: {error}")


def _numpy_tensor(name: str, array: np.ndarray) -> Tensor:
    dtype = array.dtype.name
    if dtype not in ITEMSIZE:
        return unreadable(name, array.shape, dtype, f"dtype {dtype} is not supported")
    if isinstance(array, np.ma.MaskedArray):
        return unreadable(name, array.shape, dtype, "masked array")
    if _expanded(array.shape, array.strides):
        return unreadable(name, array.shape, dtype, "expanded (stride 0)")

    def read() -> np.ndarray:
        native = array.dtype.newbyteorder("=")
        return np.ascontiguousarray(array, dtype=native).reshape(array.shape).view(np.ndarray)

    def read_rows(start: int, stop: int) -> np.ndarray:
        return _numpy_tensor(name, array[start:stop]).read()

    place = array.__array_interface__["data"][0]
    identity = (place, array.dtype.str, dtype, array.shape, array.strides) if array.size else None
    return Tensor(
        name=name,
        shape=array.shape,
        dtype=dtype,
        identity=identity,
        read=read,
        read_rows=read_rows if array.ndim else None,
    )


def _expanded(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    steps = zip(shape, strides, strict=True)
    return 0 not in shape and any(size > 1 and step == 0 for size, step in steps)


def _torch_tensor(name: str, tensor: Any) -> Tensor:
    if type(tensor).__name__.startswith("Uninitialized"):
        return unknown(name, "a parameter that is not initialised yet")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return unknown(name, "nested tensor")
    shape = tuple(int(size) for size in tensor.shape)
    if problem := _torch_problem(tensor, dtype, shape):
        return unreadable(name, shape, dtype, problem)
    place = (tensor.data_ptr(), dtype, shape, tuple(tensor.stride()))
    flips = (tensor.is_conj(), tensor.is_neg(), str(tensor.device))
    identity = (*place, *flips) if 0 not in shape else None
    read = partial(_read_torch, tensor, dtype)
    return Tensor(
        name=name,
        shape=shape,
        dtype=dtype,
        identity=identity,
        read=read,
        read_rows=(lambda start, stop: _read_torch(tensor[start:stop], dtype)) if shape else None,
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
        flat = tensor.reshape(-1).view(integer).numpy()
        return flat.view(numpy_dtype(dtype)).reshape(tensor.shape).copy()
    return tensor.numpy().copy()
