"""One named tensor of a checkpoint: dtype, shape, digest, and how to read it."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from specdiag.wording import shown

# Bytes per element of the dtypes that NumPy has, and of those that ml_dtypes adds.
PLAIN_DTYPES = (
    {"float64": 8, "float32": 4, "float16": 2, "complex64": 8, "complex128": 16, "bool": 1}
    | {"int8": 1, "int16": 2, "int32": 4, "int64": 8}
    | {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8}
)
UNKNOWN = "unknown"  # dtype of tensors whose shape is not known either
_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
ML_DTYPES = {"bfloat16": 2} | dict.fromkeys(_FLOAT8, 1)
ITEMSIZE = PLAIN_DTYPES | ML_DTYPES
MAX_DIMENSIONS = 64  # NumPy's own limit
MAX_BYTES = 2**63 - 1
MAX_NAME = 1000  # characters of a name
MAX_TENSORS = 30_000  # of one file, or one for each 8 KiB of it if that is more
MAX_LEVELS = 100  # parts of a name, between dots or slashes
MAX_NAMES = 20_000_000  # characters of all names in a tree
NAMES_OF_FILE = 4_000_000  # characters of the names of one file, or one for each 50 bytes of it
_SEPARATORS = re.compile("[./]")


def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype that holds elements of the dtype called `name`."""
    if name in ML_DTYPES:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


class TensorNameError(ValueError):
    """A name of a tensor is too long or has too many levels."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One named tensor of a checkpoint.

    Attributes
    ----------
    name : str
        Name in the state dict, without the prefixes of wrapper modules.
    shape : tuple of int
    dtype : str
        Stored dtype: ``'float32'``, ``'bfloat16'``, ``'float8_e4m3fn'``, ...
    problem : str or None
        Why the values cannot be read, such as ``'sparse tensor'``.
    role : str
        What the class of its module says, if a file or module in memory tells it: ``'buffer'``,
        ``'operand'`` for a constant of an ONNX model that no layer multiplies with, or the kind of
        module that owns it as its weight: ``'embedding'`` for a lookup table, ``'linear'``,
        ``'convolution'``, ``'bilinear'``, ``'norm'``, ``'attention'`` or ``'recurrent'``. In ONNX
        models also ``'computed'``, if a weight is computed from it. Letters for all axes, as
        ``--split`` takes them, where a file tells them: ``'axes:src'``. Empty if unknown.
    facts : dict
        The attributes of its module that are whole numbers, such as ``groups`` and ``num_heads``.
    rule : str
        How the values are computed from what the file holds, such as ``'dequantised from Q4_K'``;
        empty if it holds them as they are.
    identity : tuple or None
        Equal for two tensors if and only if they are the same elements of the same memory.
        None if the tensor is empty, cannot be read, or is known not to be tied.
    read : callable
        Returns the values as a C-contiguous array of the stored dtype (ml_dtypes for bfloat16 and
        float8). Raises ValueError or OSError if they cannot be read or do not match their checksum.
    read_rows : callable or None
        Returns the elements `start` to `stop` of the first axis, and reads no others. None if only
        the whole can be read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    problem: str | None = None
    role: str = ""
    facts: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    rule: str = ""
    identity: tuple[object, ...] | None = None
    read: Callable[[], np.ndarray] = field(repr=False)
    read_rows: Callable[[int, int], np.ndarray] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise TensorNameError if the name is too long or too deep, in a file of any format."""
        if len(self.name) > MAX_NAME or len(_SEPARATORS.findall(self.name)) >= MAX_LEVELS:
            raise TensorNameError(
                f"{shown(self.name)}: a name of {len(self.name):,} characters; at most "
                f"{MAX_NAME:,} are read, of at most {MAX_LEVELS} levels"
            )

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape))}"


def check_count(count: int, n_bytes: int, where: str) -> None:
    """Raise ValueError if a file of `n_bytes` bytes has more tensors than are read from it."""
    most = max(MAX_TENSORS, n_bytes // 2**13)
    if count > most:
        raise ValueError(
            f"{where}: {count:,} tensors in {n_bytes:,} bytes; at most {most:,} are read from a "
            "file of that size"
        )


def check_names(tensors: Iterable["Tensor"], n_bytes: int, where: str) -> None:
    """Raise ValueError if a file of `n_bytes` bytes has longer names than are read from it."""
    count, most = sum(len(t.name) for t in tensors), max(NAMES_OF_FILE, n_bytes // 50)
    if count > most:
        raise ValueError(
            f"{where}: names of {count:,} characters in {n_bytes:,} bytes; at most {most:,} are "
            "read from a file of that size"
        )


def read_values(tensor: Tensor) -> np.ndarray:
    """Return the values of a tensor.

    Raises
    ------
    ValueError
        If they cannot be read for any reason; the message names the tensor.
    """
    try:
        return tensor.read()
    except (ValueError, OSError, MemoryError) as error:
        raise ValueError(f"{shown(tensor.name)}: {error or 'not enough memory'}") from error


def ties(tensors: Iterable[Tensor]) -> dict[str, str]:
    """Return the names of tensors tied to an earlier one: the same elements of the same memory.

    The value is the name of the first tensor with these elements.
    """
    first: dict[object, str] = {}
    names = [(t.name, first.setdefault(t.identity, t.name)) for t in tensors if t.identity]
    return {name: other for name, other in names if name != other}


def elements_hash(values: np.ndarray) -> str:
    """Return the SHA-256 of the bytes of an array's elements."""
    return hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()


def combined_hash(tensors: Iterable[Tensor], hashes: Mapping[str, str]) -> str:
    """Return the digest of all tensors, from the SHA-256 of each tensor's elements by name."""
    rows = sorted((t.name, t.dtype, t.shape, hashes[t.name]) for t in tensors)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def unknown(name: str, problem: str) -> Tensor:
    """Return a tensor whose shape is not known, because it cannot be read."""
    return unreadable(name, (), UNKNOWN, problem)


def unreadable(name: str, shape: tuple[int, ...], dtype: str, problem: str) -> Tensor:
    """Return a tensor that is listed, but whose `read` raises ValueError with the problem."""

    def read() -> np.ndarray:
        raise ValueError(f"the values cannot be read: {problem}")

    return Tensor(name=name, shape=shape, dtype=dtype, problem=problem, read=read)


def check_bytes(data: np.ndarray, dtype: str, where: str) -> None:
    """Raise ValueError if bytes are invalid elements of `dtype`: a bool is 0 or 1."""
    if dtype == "bool" and data.size and data.max() > 1:
        raise ValueError(f"{where}: a bool tensor holds bytes other than 0 and 1; it is damaged")


def checked_shape(shape: object, itemsize: int, where: str) -> tuple[int, ...]:
    """Return `shape` as a tuple of sizes.

    Raises
    ------
    ValueError
        If a size is invalid, or if there are more than 64 dimensions or 2**63 bytes.
    """
    if isinstance(shape, list | tuple) and len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where}: {len(shape):,} dimensions; at most {MAX_DIMENSIONS} are read")
    if not isinstance(shape, list | tuple) or not all(type(size) is int for size in shape):
        raise ValueError(f"{where}: the shape is not a sequence of whole numbers")
    if any(not 0 <= size < 2**63 for size in shape):
        raise ValueError(f"{where}: a size in the shape is negative or beyond 63 bits")
    if prod(size for size in shape if size) * itemsize > MAX_BYTES:
        raise ValueError(f"{where}: the shape {shape_text(shape)} needs more than 2**63 bytes")
    return tuple(shape)


def shape_text(shape: list[int] | tuple[int, ...]) -> str:
    """Return a shape as text for a message."""
    return shown(str(tuple(shape)), quote=False)


def unpacked(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Return the first `count` codes of each row of packed integers, lowest bits first.

    Codes follow each other without gaps, so those of 3, 5, 6 or 7 bits may begin in one integer
    and end in the next.

    Parameters
    ----------
    words : ndarray of shape (..., n)
        Integers of any size.
    bits : int
        Bits of a code, 1 to 8.
    count : int
        Codes in a row, at most those that n integers hold.
    """
    words = np.ascontiguousarray(words, words.dtype.newbyteorder("<"))
    data = words.view(np.uint8)
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = data[..., np.newaxis] >> shifts & np.uint8(2**bits - 1)
        return codes.reshape(*data.shape[:-1], data.shape[-1] * len(shifts))[..., :count]
    flags = np.unpackbits(data, axis=-1, count=count * bits, bitorder="little")
    flags = flags.reshape(*data.shape[:-1], count, bits)
    return np.packbits(flags, axis=-1, bitorder="little")[..., 0]
