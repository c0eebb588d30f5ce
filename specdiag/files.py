"""Regular files, dtype names, tensors and printable names: what every reader shares."""

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    import numpy as np  # not at run time: it takes longer to import than a lock to be listed

# Bytes an element. The second group has no NumPy dtype of its own and is read through ml_dtypes.
PLAIN_DTYPES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "complex64": 8,
    "complex128": 16,
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
}
ML_DTYPES = {
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
ITEMSIZE = PLAIN_DTYPES | ML_DTYPES

MAX_DIMENSIONS = 64  # NumPy's own limit
MAX_BYTES = 2**63 - 1


def numpy_dtype(name: str) -> "np.dtype":
    """Return the NumPy dtype that holds elements of the dtype called `name`."""
    import numpy as np

    if name in ML_DTYPES:
        import ml_dtypes

        dtype: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return dtype
    return np.dtype(name)


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
    identity : tuple or None
        Equal for two tensors exactly when they are the same elements of the same memory.
    read : callable
        Returns the values, C-contiguous, in the stored dtype (ml_dtypes for bfloat16 and float8).
        Raises ValueError or OSError if they cannot be read or fail their checksum.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    problem: str | None = None
    identity: tuple[object, ...] | None = None
    read: "Callable[[], np.ndarray]" = field(repr=False)


def elements_hash(values: "np.ndarray") -> str:
    """Return the SHA-256 of the bytes of an array's elements."""
    import numpy as np

    return hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()


def combined_hash(tensors: Iterable[Tensor], hashes: Mapping[str, str]) -> str:
    """Return the digest of tensors, given the SHA-256 of the elements of each by its name."""
    rows = sorted((t.name, t.dtype, t.shape, hashes[t.name]) for t in tensors)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def unreadable(name: str, shape: tuple[int, ...], dtype: str, problem: str) -> Tensor:
    """Return a tensor that is listed but cannot be read."""

    def read() -> "np.ndarray":
        raise ValueError(f"the values cannot be read: {problem}")

    return Tensor(name=name, shape=shape, dtype=dtype, problem=problem, read=read)


class File(NamedTuple):
    """A regular file as it was when it was opened."""

    path: Path
    size: int
    stamp: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The file's name, safe to print."""
        return shown(self.path.name, quote=False)


def find_file(path: Path) -> File:
    """Return the regular file at `path`; a pipe or device is refused without being opened."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{shown(path.name, quote=False)}: not a regular file; name a file")
    return File(path, status.st_size, (status.st_mtime_ns, status.st_ino, status.st_dev))


def open_file(file: File) -> BinaryIO:
    """Open `file` for reading, provided that it is still the one found before."""
    if find_file(file.path) != file:
        raise ValueError(f"{file.name}: changed since it was opened; open it again")
    # Without O_NONBLOCK a pipe put there in the meantime would block for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(file.path, flags), "rb")


def read_array(stream: BinaryIO, offset: int, n_bytes: int, where: str) -> "np.ndarray":
    """Return `n_bytes` bytes from `offset` as an array of uint8."""
    import numpy as np

    try:
        array = np.empty(n_bytes, dtype=np.uint8)
    except MemoryError:
        raise ValueError(f"{where}: {n_bytes:,} bytes do not fit in memory") from None
    stream.seek(offset)
    view, filled = array.data, 0
    while filled < n_bytes:
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"{where}: the file ends {n_bytes - filled:,} bytes too early")
        filled += count
    return array


def read_bytes(stream: BinaryIO, offset: int, n_bytes: int, where: str) -> bytes:
    """Return `n_bytes` bytes from `offset`."""
    return read_array(stream, offset, n_bytes, where).tobytes()


def check_bytes(data: "np.ndarray", dtype: str, where: str) -> None:
    """Raise ValueError if bytes are no elements of `dtype`: a bool is 0 or 1."""
    if dtype == "bool" and data.size and data.max() > 1:
        raise ValueError(f"{where}: a bool tensor holds bytes other than 0 and 1; it is damaged")


def checked_shape(shape: object, itemsize: int, where: str) -> tuple[int, ...]:
    """Return `shape` as a tuple of sizes whose bytes can be counted in 63 bits."""
    if not isinstance(shape, list | tuple) or not all(type(size) is int for size in shape):
        raise ValueError(f"{where}: the shape is not a sequence of whole numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where}: {len(shape):,} dimensions; at most {MAX_DIMENSIONS} are read")
    if any(not 0 <= size < 2**63 for size in shape):
        raise ValueError(f"{where}: a size in the shape is negative or beyond 63 bits")
    if prod(size for size in shape if size) * max(itemsize, 1) > MAX_BYTES:
        raise ValueError(f"{where}: the shape {shape_text(shape)} asks for more than 2**63 bytes")
    return tuple(shape)


def shape_text(shape: list[int] | tuple[int, ...]) -> str:
    """Return a short text for a shape."""
    return shown(str(tuple(shape)), quote=False)


def printable(text: str) -> str:
    """Return `text` on one line: whatever is not printable is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(text: str, *, quote: bool = True, limit: int = 80) -> str:
    """Return `text` printable and cut to `limit` characters, for a message."""
    short = printable(text if len(text) <= limit else text[: limit - 3] + "...")
    return f"'{short}'" if quote else short


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line; an error of the system names its file first."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return printable(f"{error.filename}: {error.strerror}")
    text = "not enough memory" if isinstance(error, MemoryError) else type(error).__name__
    return printable(str(error) or text)


def without_nan(value: Any) -> Any:
    """Return the value, or what is nested in it, with None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_text(text: str) -> bool:
    """Tell whether `text` can be encoded: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_whole(target: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is there whole under its name, or not at all."""
    with whole_file(target) as file:
        file.write(content)


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a file to write that is there whole under its name when the block ends, or not at all.

    Beside the target, synced, then renamed: a process that dies, a full disk or a second writer
    leave the old file or the new one. A link stays: what it points to is replaced. An error of the system that
    names no file, as of a full disk, is given the target's name.

    Raises
    ------
    ValueError
        When a pipe, a device or a folder has that name.
    """
    import tempfile

    check_target(target)
    named, target = target, target.resolve()
    with (
        _naming(named),  # also what closing the file raises
        tempfile.NamedTemporaryFile(
            prefix=f".{target.name}.", dir=target.parent, delete=False
        ) as file,
    ):
        temporary = Path(file.name)
        try:
            yield file
            sync(file)
            temporary.chmod(usual_mode())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(target)
        raise


def check_target(target: Path) -> None:
    """Raise ValueError when something else than a regular file has the name of a file to write."""
    if target.exists() and not target.is_file():
        raise ValueError(f"{target}: not a regular file; give the name of a file")


def usual_mode() -> int:
    """Return the permissions that a new file gets here."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def sync(file: IO[bytes]) -> None:
    """Bring what was written to a file onto the disk."""
    file.flush()
    os.fsync(file.fileno())
