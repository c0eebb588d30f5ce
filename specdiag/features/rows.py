"""Features, mask and groups of one call -> the rows that count, in float64, and the group of each.

Rows stay where the features are: NumPy arrays for those on the CPU, tensors of their device for
others. Labels and masks are read on the CPU; of features elsewhere, only 8 bytes a row go there.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specdiag.features.conditioning import EPS

LARGEST = 1e150  # whose square is within the range of float64


def float64(features: Any) -> tuple[Any, str]:
    """Return features of shape (..., d) in float64, and the name of their dtype.

    Tensors stay on their device if it has float64 (Apple's `mps` has none).

    Raises
    ------
    ValueError
        If they have no axes, no width or no floating-point dtype.
    """
    on_torch = hasattr(features, "detach")
    if np.ma.isMaskedArray(features):
        raise ValueError("features are a masked array: give the values, and mask= for rows to keep")
    features = features.detach() if on_torch else np.asarray(features)
    name = str(features.dtype).removeprefix("torch.")
    if name not in EPS:
        raise ValueError(f"features are {name}: expected float64, float32, float16 or bfloat16")
    if features.ndim == 0 or 0 in features.shape[-1:]:
        raise ValueError(f"features have shape {tuple(features.shape)}: expected (..., d)")
    if on_torch and features.device.type in {"cpu", "mps"}:
        features = features.cpu()  # NumPy has no bfloat16, and converts with one thread
        features = (features.double() if name == "bfloat16" else features).numpy()
    elif on_torch:
        return (features.double() if features.ndim > 1 else features.double()[None]), name
    return np.atleast_2d(np.asarray(features, dtype=np.float64)), name


def on_host(values: Any) -> Any:
    """Return a tensor as a NumPy array, and anything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def placed(values: Any, like: Any) -> Any:
    """Return an array where another one is: as a NumPy array, or a tensor on its device."""
    if isinstance(like, np.ndarray):
        return on_host(values)
    import torch

    return torch.as_tensor(values, device=like.device)


def joined(parts: list[Any]) -> Any:
    """Return arrays of one place, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)


def of_samples(x: Any, mask: Any) -> Any:
    """Return features of shape (batch * tokens, d) in shape (batch, tokens, d), as their mask."""
    shape = tuple(getattr(mask, "shape", ()))
    if x.ndim == 2 and len(shape) == 2 and shape[1] > 1 and x.shape[0] == shape[0] * shape[1]:
        return x.reshape(*shape, x.shape[-1])
    return x


def kept(mask: Any, lead: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return for each row whether it counts, in the shape of the leading axes.

    Raises
    ------
    ValueError
        If the mask is neither bool nor integers 0 and 1, or its shape does not fit.
    """
    if mask is None:
        return np.ones(lead, dtype=bool)
    keep = np.asarray(on_host(mask))
    if not keep.ndim:
        raise ValueError(f"mask is {mask!r}: expected an array of shape {lead}, true to keep")
    expected = f"expected bool or 0 and 1, of shape {lead}, true to keep"
    if keep.dtype.kind not in "biu":
        raise ValueError(f"mask is {keep.dtype} of shape {keep.shape}: {expected}")
    other = keep[(keep != 0) & (keep != 1)] if keep.dtype != bool else keep[:0]
    if other.size:
        raise ValueError(f"mask holds {other[0]}: {expected}")
    fitted = fit(keep.astype(bool), lead)
    if fitted is None:
        raise ValueError(f"mask is {keep.dtype} of shape {keep.shape}: {expected}")
    return fitted


def of_layer(mask: Any, tokens: Any, features: Any) -> Any:
    """Return the mask for features of a layer.

    Parameters
    ----------
    mask : array, torch.Tensor or None
        As given to `expect`.
    tokens : torch.Tensor or None
        Of shape (batch, tokens), True for tokens, if the features are sequences of unequal length.
    features : torch.Tensor of shape (batch, ..., d)
    """
    if mask is None:
        return tokens
    shape = tuple(np.shape(on_host(mask)))
    if len(shape) != 2 or (tokens is None and (features.ndim, shape[0]) != (2, len(features))):
        return mask
    keep = kept(mask, shape)
    if tokens is None:  # a row a sample
        return keep.any(axis=1)
    keep = keep[:, : tokens.shape[1]]
    if keep.shape != tuple(tokens.shape):
        raise ValueError(f"mask has shape {shape}: expected {tuple(tokens.shape)}, true to keep")
    return keep & tokens.numpy()


def fit(values: NDArray[Any], lead: tuple[int, ...]) -> NDArray[Any] | None:
    """Return values of samples, or of samples and tokens, for each row; None if none fit.

    The shape is that of the leading axes, the first of them, or (batch, tokens) where exactly one
    axis after the first has the length `tokens`, such as (batch, heads, tokens).
    """
    if values.shape == lead:
        return values
    if values.ndim == 1 and values.size == np.prod(lead) and len(lead) == 2:
        return values.reshape(lead)
    if values.ndim == 1 and values.shape == lead[:1]:
        where = [0]
    elif values.ndim == 2 and values.shape[0] == lead[0]:
        where = [axis for axis in range(1, len(lead)) if lead[axis] == values.shape[1]]
        where = [0, *where] if len(where) == 1 else []
    else:
        where = [*range(values.ndim)] if values.ndim and values.shape == lead[: values.ndim] else []
    if not where:
        return None
    shape = [length if axis in where else 1 for axis, length in enumerate(lead)]
    return np.broadcast_to(values.reshape(shape), lead)


def by_label(groups: Any, lead: tuple[int, ...]) -> NDArray[np.uint64]:
    """Return a hash of the label of each row, in the shape of the leading axes.

    Raises
    ------
    ValueError
        If these are no labels, or their shape does not fit.
    """
    groups = on_host(groups)
    if isinstance(groups, np.ndarray) and groups.ndim > 1:
        shape, labels = groups.shape, groups.ravel().tolist()
    elif isinstance(groups, str) or not isinstance(groups, Iterable):
        raise ValueError(f"groups is {groups!r}: expected one label for every entry of {lead[:1]}")
    else:
        labels = list(groups)
        shape = (len(labels),)
    # 3, numpy.int64(3) and torch.tensor(3) are the same label.
    texts = [repr(label.item() if hasattr(label, "item") else label) for label in labels]
    hashes = {text: _hash(text.encode()) for text in set(texts)}
    keys = fit(np.array([hashes[text] for text in texts], dtype=np.uint64).reshape(shape), lead)
    if keys is None:
        expected = " or ".join(map(str, dict.fromkeys((lead[:1], lead))))
        raise ValueError(f"groups have shape {shape}: expected {expected}")
    return keys


def by_content(rows: Any, keep: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return a hash of the window of each of the kept rows (n, d).

    A window is an entry of the first axis of `keep`, or all of it if there are no further axes. Of
    rows that are not on the CPU, a hash of each is copied there.
    """
    counts = keep.reshape(len(keep), -1).sum(axis=1) if keep.ndim > 1 else np.array([len(rows)])
    content = rows if isinstance(rows, np.ndarray) else on_host(hash_of_rows(rows))
    windows = np.split(content, np.cumsum(counts)[:-1])
    return np.repeat(np.array([_hash(w.tobytes()) for w in windows], dtype=np.uint64), counts)


def hash_of_rows(rows: Any) -> Any:
    """Return sum_j c_j y_j modulo 2^64 of each row of a tensor; y are the bits of values, mixed.

    A multilinear hash (Carter & Wegman 1979, J. Comput. Syst. Sci. 18) of integers, which has no
    rounding, so the order of the sum does not matter. The upper half of the bits is added to the
    lower one, which is zero for values that were float32.
    """
    import torch

    bits = rows.contiguous().view(torch.int64)
    mixed = bits >> 32
    mixed &= 0xFFFFFFFF
    mixed ^= bits
    mixed *= placed(odd_numbers(rows.shape[-1]), rows)
    return mixed.sum(-1)


@functools.lru_cache(maxsize=16)
def odd_numbers(count: int) -> NDArray[np.int64]:
    """Return random odd numbers, always the same."""
    numbers = np.random.Generator(np.random.PCG64(0)).integers(2**63, size=count, dtype=np.int64)
    return numbers | 1


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
