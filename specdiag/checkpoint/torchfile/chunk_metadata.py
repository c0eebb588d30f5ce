"""The file .metadata of torch's distributed checkpoints -> tensors, their chunks, and values.

It is a pickle of torch.distributed.checkpoint.metadata.Metadata: for each tensor its shape, dtype
and chunks, and for each chunk the file, position and length of the archive that holds it.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from specdiag.checkpoint.tensor import ITEMSIZE, checked_shape
from specdiag.checkpoint.torchfile.pickle_reader import interpret
from specdiag.checkpoint.torchfile.tensors import dtype_name, plain_size
from specdiag.checkpoint.tree import Global, Object, path_of
from specdiag.files import File, find_file, is_plain_name, open_file
from specdiag.wording import shown

TIMES = 8  # the usual limits of a pickle: a tensor has one chunk for each process
MAX_CHUNKS = 2_000_000


class Part(NamedTuple):
    """The archive of one chunk, or of one value: `length` bytes of a file from `start`."""

    file: File
    start: int
    length: int
    transform: str


class Entry(NamedTuple):
    """A tensor as the metadata describe it, and its chunks; each has offsets, sizes and archive."""

    shape: tuple[int, ...]
    dtype: str
    chunks: dict[tuple[int, ...], tuple[tuple[int, ...], Part]]


class MetadataReader:
    """Reads one file of metadata."""

    def __init__(self, folder: Path, where: str, files: dict[str, File]) -> None:
        self.folder, self.where, self.files = folder, where, files
        self.left = MAX_CHUNKS

    def read(self, file: File) -> tuple[dict[str, Entry], dict[str, Part], dict[Any, Any]]:
        """Return tensors and values by their keys, and the path of each key in the state dict.

        Raises
        ------
        ValueError
            If the file is damaged, or names a file outside of the folder.
        FileNotFoundError
            If a file that it names is missing.
        """
        with open_file(file) as stream:
            root = interpret(stream, file.size, self.where, times=TIMES)
        fields = self.state(root, "torch.distributed.checkpoint.metadata.Metadata")
        described, stored = fields.get("state_dict_metadata"), fields.get("storage_data")
        if type(described) is not dict or type(stored) is not dict:
            raise self.damaged("it lists no tensors")
        parts = dict(self.parts(stored))
        entries: dict[str, Entry] = {}
        values: dict[str, Part] = {}
        for key, node in described.items():
            if type(key) is not str:
                raise self.damaged("the name of a tensor is not text")
            if not path_of(node).endswith(".BytesStorageMetadata"):
                entries[key] = self.entry(key, node, parts)
            elif (key, None) in parts:
                values[key] = parts[key, None]
        planned = fields.get("planner_data")
        return entries, values, planned if type(planned) is dict else {}

    def damaged(self, fault: str) -> ValueError:
        """Return the error of damaged metadata."""
        return ValueError(f"{self.where}: {fault}; the file is damaged")

    def state(self, node: Any, cls: str) -> dict[Any, Any]:
        """Return the fields of an object of the class `cls`."""
        if (
            path_of(node).rpartition(".")[2] != cls.rpartition(".")[2]
            or type(node.state) is not dict
        ):
            raise self.damaged(f"a {cls.rpartition('.')[2]} is expected")
        fields: dict[Any, Any] = node.state
        return fields

    def parts(
        self, stored: Mapping[Any, Any]
    ) -> Iterator[tuple[tuple[str, tuple[int, ...] | None], Part]]:
        """Yield the archive of each chunk by the key and the offsets of the chunk."""
        seen = set()
        for index, info in stored.items():
            fields = self.state(index, "MetadataIndex")
            key, offsets = fields.get("fqn"), fields.get("offset")
            if type(key) is not str:
                raise self.damaged("the name of a chunk is not text")
            at = None if offsets is None else self.sizes(offsets, key)
            if (key, at) in seen:
                raise self.damaged(f"a chunk of {shown(key)} is stored twice")
            seen.add((key, at))
            yield (key, at), self.part(self.state(info, "_StorageInfo"), key)

    def part(self, fields: Mapping[Any, Any], key: str) -> Part:
        """Return where the archive of a chunk lies."""
        name, start, length = (fields.get(f) for f in ("relative_path", "offset", "length"))
        if type(name) is not str or not is_plain_name(name):
            raise self.damaged(f"the file of {shown(key)} is not a plain file name")
        if name not in self.files:
            path = self.folder / name
            if not path.exists():
                raise FileNotFoundError(f"{self.where}: {shown(name)} is missing; copy it, too")
            self.files[name] = find_file(path)
        file = self.files[name]
        if type(start) is not int or type(length) is not int or min(start, length) < 0:
            raise self.damaged(f"the position of {shown(key)} is invalid")
        if start + length > file.size:
            raise ValueError(
                f"{self.where}: {shown(key)} ends behind {shown(name)}, which has {file.size:,} "
                "bytes; copy or download it again"
            )
        transforms = fields.get("transform_descriptors") or []
        text = ""
        if transforms:
            first = transforms[0] if isinstance(transforms, list | tuple) else None
            text = shown(first, quote=False) if type(first) is str else "unknown"
        return Part(file, start, length, text)

    def entry(
        self, key: str, node: Any, parts: Mapping[tuple[str, tuple[int, ...] | None], Part]
    ) -> Entry:
        """Return a tensor with its chunks."""
        fields = self.state(node, "TensorStorageMetadata")
        properties, chunks = fields.get("properties"), fields.get("chunks")
        kind = properties.state if type(properties) is Object else None
        if type(kind) is not tuple or not kind or type(kind[0]) is not Global:
            raise self.damaged(f"the dtype of {shown(key)} is invalid")
        if type(chunks) is not list:
            raise self.damaged(f"the chunks of {shown(key)} are not a list")
        self.left -= len(chunks)
        if self.left < 0:
            raise self.damaged(f"more than {MAX_CHUNKS:,} chunks")
        dtype = dtype_name(kind[0])
        found = {}
        for chunk in {id(chunk): chunk for chunk in chunks}.values():
            box = self.state(chunk, "ChunkStorageMetadata")
            offsets, sizes = (self.sizes(box.get(f), key) for f in ("offsets", "sizes"))
            # The first versions of the format give no offsets to a tensor of one chunk.
            part = parts.get((key, offsets)) or parts.get((key, None))
            if part is None or 0 in sizes:
                continue  # a tensor with a hole is reported by `assembled`
            n_bytes = prod(sizes) * ITEMSIZE.get(dtype, 0)
            if n_bytes > part.length and not part.transform:
                raise self.damaged(f"a chunk of {shown(key)} has more elements than bytes")
            found[offsets] = (sizes, part)
        return Entry(self.sizes(fields.get("size"), key), dtype, found)

    def sizes(self, node: Any, key: str) -> tuple[int, ...]:
        """Return a torch.Size as a tuple."""
        return checked_shape(plain_size(node), 1, f"{self.where}: {shown(key)}")
