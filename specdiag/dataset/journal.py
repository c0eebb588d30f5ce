"""The finished layers of a command that measures -> a journal beside its output, and back.

A run that was killed, or that ran out of disk, is gone on with by the next run of the same command:
it takes the layers that are in the journal, `.NAME.journal.specdiag`, and measures the others. The
journal is removed when the output is written. A full disk ends the journal, not the measurement.

The journal is text. After its first line, which is its mark, each line has the SHA-256 of its rest,
the key of the layer and the layer in JSON. The key is a digest of all that the values depend on:
the versions of specdiag and NumPy, the settings, the files (path, size, time and inode) and the
weight. Lines with another key are no results of this command. A line that was cut short, or that
is damaged, is left out. Layers that failed are not kept, because the reason may be gone.
"""

import base64
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any, get_args, get_origin, get_type_hints

import numpy as np

from specdiag.checkpoint.weights.weight import Weight
from specdiag.files import File
from specdiag.htsr.layers import Layer
from specdiag.outputs import UNFINISHED, lock_open

_log = logging.getLogger(__name__)

MARK = b"specdiag journal 1\n"
_KEY = 64  # characters of a key
MAX_LINE = 2**28  # bytes; a layer of 65,536 eigenvalues takes about 4 million


class Journal:
    """The journal beside an output, which this process alone writes.

    Parameters
    ----------
    output : Path
        A link is followed, as it is when the output is written.

    Attributes
    ----------
    problem : str
        Why finished layers are not kept; empty if they are.
    """

    def __init__(self, output: Path) -> None:
        self.path = journal_path(output)
        self.problem = ""
        self._places: dict[str, tuple[int, int]] = {}  # start and end of a layer's JSON, by key
        self._file: IO[bytes] | None = None
        self._end, self._mutex = 0, Lock()
        if os.path.lexists(self.path):
            self._open()

    def _open(self) -> None:
        try:
            file = _opened(self.path)
            try:
                self._read(file)
            except (OSError, ValueError):
                file.close()
                raise
            self._file = file
        except (OSError, ValueError) as error:
            self._stop(error)

    def _read(self, file: IO[bytes]) -> None:
        """Take the whole lines, and cut off the rest of one that a killed writer left."""
        head = file.read(len(MARK))
        if not MARK.startswith(head):
            raise ValueError(f"{self.path} is no journal of specdiag; remove it")
        if head == MARK:
            self._end = len(MARK)
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                digest, _, rest = line[:-1].partition(b" ")
                if hashlib.sha256(rest).hexdigest().encode() == digest:
                    start = self._end + len(digest) + 1 + _KEY + 1
                    key = rest[:_KEY].decode(errors="replace")
                    self._places[key] = start, self._end + len(line) - 1
                self._end += len(line)
        file.truncate(self._end)
        if not self._end:
            try:
                self._append(file, MARK)
            except OSError:
                self.path.unlink(missing_ok=True)
                raise

    def of(self, files: Iterable[File], settings: Mapping[str, Any]) -> "Network":
        """Return the part of the journal for a network in these files, measured with settings."""
        return Network(self, _common_key(files, settings))

    def layer(self, key: str, weight: Weight) -> Layer | None:
        """Return the finished layer of a weight, or None if there is none, or no valid one."""
        start, end = self._places.get(key, (0, 0))
        try:
            with self._mutex:  # `keep` moves the position of the file, and may close it
                if self._file is None or not end:
                    return None
                os.lseek(self._file.fileno(), start, os.SEEK_SET)
                text = os.read(self._file.fileno(), end - start)
            layer: Layer = _decoded(Layer, json.loads(text))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        told = (weight.name, weight.shape, weight.dtype)
        return layer if (layer.name, layer.shape, layer.dtype) == told else None

    def has(self, key: str) -> bool:
        """Return whether there is a line with this key."""
        return key in self._places

    def keep(self, key: str, layer: Layer) -> None:
        """Write a finished layer; threads can do so at the same time."""
        text = f"{key} {json.dumps(_encoded(layer), separators=(',', ':'))}".encode()
        digest = hashlib.sha256(text).hexdigest().encode()
        with self._mutex:
            if self._file is None and not self.problem:
                self._open()
            if self._file is None:
                return
            try:
                self._append(self._file, digest + b" " + text + b"\n")
            except OSError as error:
                with suppress(OSError):
                    self._file.truncate(self._end)
                self._stop(error)

    def _append(self, file: IO[bytes], line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(file.fileno(), view) :]
        self._end += len(line)

    def _stop(self, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else None
        self.problem = reason or str(error) or type(error).__name__
        _log.warning("finished layers are not kept for another run: %s", self.problem)
        self.close()

    def close(self, *, remove: bool = False) -> None:
        """Close the journal; remove it if the output is written, or if it has no layers."""
        if self._file:
            if remove or self._end <= len(MARK):
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


class Network:
    """The finished layers of one network in a journal: `through` of `htsr.measure.measure`."""

    def __init__(self, journal: Journal, common: str) -> None:
        self._journal, self._common = journal, common

    def count(self, weights: Iterable[Weight]) -> int:
        """Return how many of the weights have a finished layer."""
        return sum(self._journal.has(self._key(weight)) for weight in weights)

    def __call__(self, function: Callable[[Weight], Layer], weight: Weight) -> Layer:
        """Return the layer of a weight from the journal, or else that of the function."""
        key = self._key(weight)
        layer = self._journal.layer(key, weight)
        if layer is None:
            layer = function(weight)
            if layer.status != "failed":
                self._journal.keep(key, layer)
        return layer

    def _key(self, weight: Weight) -> str:
        told = [repr(getattr(weight, f.name)) for f in fields(weight) if f.name not in _NOT_TOLD]
        return _digest([self._common, *told])


# Functions, addresses in memory, and what the other attributes tell.
_NOT_TOLD = {"read", "read_rows", "identity", "factors", "added", "adapter"}


def journal_path(output: Path) -> Path:
    """Return the path of the journal beside an output."""
    target = output.resolve()
    name = os.fsencode(target.name)[:100].decode(errors="ignore")  # file systems allow 255 bytes
    return target.with_name(f".{name}.journal{UNFINISHED}")


def _opened(path: Path) -> IO[bytes]:
    """Open the file for reading and writing, and lock it until it is closed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    file = os.fdopen(os.open(path, flags, 0o666), "r+b")
    status = os.fstat(file.fileno())
    with suppress(FileNotFoundError):  # another process has removed it just now
        is_locked = stat.S_ISREG(status.st_mode) and lock_open(file, wait=False)
        if is_locked and os.path.samestat(path.stat(), status):
            return file
    file.close()
    raise ValueError(f"another command writes {path}, or its file system has no locks")


def _common_key(files: Iterable[File], settings: Mapping[str, Any]) -> str:
    from importlib.metadata import version

    identities = sorted(
        (
            str(file.path.absolute()),
            file.size,
            *file.stamp[:2],  # the number of a device can change when the system starts
        )
        for file in files
    )
    told = {name: repr(value) for name, value in sorted(settings.items())}
    return _digest([version("specdiag"), np.__version__, told, identities])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode(errors="surrogatepass")).hexdigest()


def _encoded(value: Any) -> Any:
    """Return what JSON can hold, exactly: a float or an array as its bytes."""
    if is_dataclass(value):
        return {field.name: _encoded(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, float):
        return np.float64(value).tobytes().hex()
    if isinstance(value, np.ndarray):
        return base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return [_encoded(item) for item in value]
    if isinstance(value, dict):
        return {name: _encoded(item) for name, item in value.items()}
    return value


def _decoded(hint: Any, value: Any) -> Any:
    """Return the value of a type that `_encoded` wrote; raise an error for another one."""
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise ValueError("other fields")
        made: Any = hint  # a class
        return made(**{name: _decoded(hints[name], value[name]) for name in hints})
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin is np.ndarray:
        (dtype,) = get_args(arguments[1])
        return np.frombuffer(base64.b64decode(value, validate=True), dtype).copy()
    if origin is float and isinstance(value, str):
        return float(np.frombuffer(bytes.fromhex(value), np.float64)[0])
    if origin is tuple and isinstance(value, list):
        if arguments[1:] == (...,):
            arguments = arguments[:1] * len(value)
        return tuple(_decoded(one, item) for one, item in zip(arguments, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: _decoded(arguments[1], item) for name, item in value.items()}
    if type(value) is (int if origin is float else origin):
        return value
    raise ValueError(f"{value!r} is no {origin.__name__}")
