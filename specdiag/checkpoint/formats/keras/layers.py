"""Files of Keras (.keras, .weights.h5, .h5) -> tensors, without those of the optimizer."""

import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from specdiag.checkpoint.formats.hdf5.read import Opener, read_hdf5
from specdiag.checkpoint.formats.keras.names import named
from specdiag.checkpoint.model import not_of_the_model
from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.torchfile import archive
from specdiag.checkpoint.torchfile.archive import Record
from specdiag.files import File, open_file
from specdiag.wording import some

WEIGHTS = "model.weights.h5"  # in a .keras archive
MAX_CONFIG = 16 * 2**20
_CONFIG = "config.json"
_OF_KERAS = re.compile(r"(^|/)(vars/\d+|kernel|bias|gamma|beta|\w*embeddings?)(:\d+)?$")
_ASIDE = ("optimizer", "optimizer_weights", "_optimizer")


def read_h5(file: File) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    """Return the tensors of an HDF5 file by their names in Keras, its metadata, and notes.

    Raises
    ------
    ValueError
        If the file is damaged, or a netCDF file.
    """
    return _read(lambda: open_file(file), file.size, file.name, b"")


def read_keras(file: File) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    """Return the tensors of a .keras archive by their names in Keras, its metadata, and notes.

    Raises
    ------
    ValueError
        If the archive, or the HDF5 file in it, is damaged.
    """
    with open_file(file) as stream:
        records = archive.read_directory(stream, file.size, file.name)
        config = b""
        if _CONFIG in records:
            config = archive.read_small(stream, records[_CONFIG], MAX_CONFIG, file.name)
    record = records[WEIGHTS]

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with open_file(file) as stream:
            if record.deflated:
                yield io.BytesIO(archive.read_record(stream, record, file.name).tobytes())
            else:
                yield io.BufferedReader(_Window(stream, record))

    return _read(opened, record.size, f"{file.name}: {WEIGHTS}", config)


class _Window(io.RawIOBase):
    """The bytes of a record that is not compressed, as a file."""

    def __init__(self, stream: BinaryIO, record: Record) -> None:
        self._stream, self._start, self._size = stream, record.offset, record.size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._size - self._at))
        self._stream.seek(self._start + self._at)
        count: int = self._stream.readinto(view[:length])  # type: ignore[attr-defined]
        self._at += count
        return count


def _read(
    opened: Opener, size: int, where: str, config: bytes
) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    content = read_hdf5(opened, size, where)
    if content.is_netcdf:
        raise ValueError(
            f"{where}: a netCDF file, such as a Dataset of spectra, not a checkpoint; give it to "
            "`specdiag report`, `figures` or `link`"
        )
    text = content.texts.get(((), "model_config"), "")
    model = _configuration(config or (text.encode() if isinstance(text, str) else b""), where)
    kept = [t for t in content.datasets if _top(t) not in _ASIDE]
    aside = Counter(top for top in map(_top, content.datasets) if top in _ASIDE)
    notes = not_of_the_model(aside)
    if kept and not any(_OF_KERAS.search(tensor.name) for tensor in kept):
        notes.append("not written by Keras, by its names: every array in it is read as a weight")
    if content.links:
        notes.append(f"links that are not followed: {some(content.links, 4)}")
    version = content.texts.get(((), "keras_version"))
    metadata = ({"config": model} if model else {}) | (
        {"keras_version": version} if version else {}
    )
    return named(kept, content, model), metadata, notes


def _top(tensor: Tensor) -> str:
    return tensor.name.partition("/")[0]


def _configuration(data: bytes, where: str) -> dict[str, Any]:
    """Return the configuration of a model; an empty dict if there is none."""
    config = parse_json(data, f"{where}: the configuration") if data else {}
    return config if isinstance(config, dict) else {}
