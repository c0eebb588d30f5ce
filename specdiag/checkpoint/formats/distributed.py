"""Folder of a distributed checkpoint of torch -> the tree of its state dict, and its tensors.

torch.distributed.checkpoint writes `.metadata`, a pickle that names the chunks of every tensor and
the file, position and length of each, and files `__0_0.distcp`, in which each chunk is an archive
as torch.save writes it. Nothing is unpickled: the reader of pickles is inert.
Source: filesystem.py, metadata.py and planner_helpers.py of torch.distributed.checkpoint.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from specdiag.checkpoint.formats.chunks import Chunk, assembled
from specdiag.checkpoint.formats.content import Content, metadata_of
from specdiag.checkpoint.formats.folder import METADATA
from specdiag.checkpoint.model import find_model
from specdiag.checkpoint.tensor import Tensor, unreadable
from specdiag.checkpoint.torchfile.chunk_metadata import Entry, MetadataReader, Part
from specdiag.checkpoint.torchfile.tensors import read_zip, torch_tensor
from specdiag.checkpoint.torchfile.views import TorchFile
from specdiag.checkpoint.tree import Global, Object, is_table, is_tensor, table_items
from specdiag.files import File, find_file
from specdiag.wording import shown, some

# Beside the chunks, trainers keep what is no tensor: Lightning in meta.pt, Megatron in common.pt.
_BESIDE = ("meta.pt", "common.pt")
_OPTIMIZER = re.compile(r"(chained_\d+\.)?(optim(?:izer)?s?(?:_\d+)?)\.(.+)", re.DOTALL)
# The nodes of tensors and values; those of a file are never these objects.
_TENSOR = Global("torch.distributed._rebuild_from_chunks")
_VALUE = Global("torch.distributed.checkpoint.metadata.BytesStorageMetadata")
MAX_LEVELS = 64
MAX_VALUE, MAX_VALUES = 2**20, 2**24  # bytes of one entry that is no tensor, and of all


@dataclass(kw_only=True, slots=True)
class Distributed:
    """An open distributed checkpoint.

    Attributes
    ----------
    root : dict
        The state dict as a tree of nodes, as a file of torch.save gives it. Its tensors and values
        are nodes that `tensor` and `value` open.
    """

    where: str
    root: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    values: dict[str, Part] = field(default_factory=dict)
    beside: TorchFile | None = None
    own: set[int] = field(default_factory=set)  # ids of the dicts and lists of the tree
    left: int = MAX_VALUES  # bytes of values that may still be read

    def tensor(self, name: str, node: Object) -> Tensor:
        """Return the tensor that a node of the tree stands for."""
        if node.cls is not _TENSOR:
            assert self.beside is not None  # noqa: S101
            return torch_tensor(self.beside, name, node)
        shape, dtype, chunks = self.entries[node.args[0]]
        transforms = sorted({part.transform for _, part in chunks.values() if part.transform})
        if transforms:
            return unreadable(
                name, shape, dtype, f"stored as {some(transforms)}, which is not read"
            )
        where = f"{self.where}: {shown(name)}"
        return assembled(
            name,
            shape,
            dtype,
            [
                Chunk(offsets, sizes, partial(_open_chunk, part, where))
                for offsets, (sizes, part) in chunks.items()
            ],
        )

    def value(self, node: Any) -> Any:
        """Return a node of the tree with the values of its entries that are no tensors."""
        if id(node) in self.own:
            if type(node) is list:
                return [self.value(child) for child in node]
            return {key: self.value(child) for key, child in node.items()}
        if type(node) is not Object or node.cls is not _VALUE:
            return node
        part = self.values[node.args[0]]
        self.left -= part.length
        if not part.transform and part.length <= MAX_VALUE and self.left >= 0:
            with suppress(ValueError):
                return read_zip(part.file, part.start, part.length)[0]
        return Global("an entry that cannot be read")


def _open_chunk(part: Part, where: str) -> Tensor:
    root, source = read_zip(part.file, part.start, part.length)
    if not is_tensor(root):
        raise ValueError(f"{where}: a chunk in {part.file.name} is no tensor; it is damaged")
    return torch_tensor(source, "chunk", root)


def open_distributed(folder: Path, where: str, which: str | None = None) -> Content:
    """Return the content of a distributed checkpoint; its rules are those of a state dict.

    Raises
    ------
    ValueError, FileNotFoundError
        As `read_distributed`, and if there is no network `which`.
    """
    opened = read_distributed(folder, where)
    model = find_model(opened.root, where, which)
    model.entries = [(name, opened.value(node)) for name, node in model.entries]
    model.top = [(name, opened.value(node)) for name, node in model.top]
    metadata, notes = metadata_of(model)
    tensors = [opened.tensor(name, node) for name, node in model.tensors]
    return Content(tensors, metadata, notes)


def read_distributed(folder: Path, where: str) -> Distributed:
    """Return the distributed checkpoint in a folder, whose chunks are not opened yet.

    Raises
    ------
    ValueError
        If the metadata are damaged, or name a file outside of the folder.
    FileNotFoundError
        If a file that they name is missing.
    """
    opened = Distributed(where=where)
    paths: dict[Any, Any] = {}
    files: dict[str, File] = {}
    names = sorted(path.name for path in folder.iterdir() if METADATA.fullmatch(path.name))
    for name in names:
        reader = MetadataReader(folder, f"{where}: {name}", files)
        entries, values, planned = reader.read(find_file(folder / name))
        for key, entry in entries.items():
            known = opened.entries.setdefault(key, entry)
            if known[:2] != entry[:2]:
                raise ValueError(f"{where}: {name}: {shown(key)} is another tensor elsewhere")
            known.chunks.update(entry.chunks)
        opened.values |= values
        paths |= planned
    _refuse_shared(opened, where)
    for key in [*opened.entries, *opened.values]:
        path = paths.get(key) or (key,)
        if path == (key,) and (match := _OPTIMIZER.fullmatch(key)):
            path = (match[2], (match[1] or "") + match[3])
        _put(opened, path, key)
    opened.root = _with_lists(opened.root, opened.own)
    for name in _BESIDE:
        if (folder / name).is_file():
            root, opened.beside = read_zip(find_file(folder / name))
            if is_table(root):
                opened.root = dict(table_items(root)) | opened.root
            break
    return opened


def _refuse_shared(opened: Distributed, where: str) -> None:
    """Raise ValueError if two archives share bytes: a small file would give huge tensors."""
    parts = [part for entry in opened.entries.values() for _, part in entry.chunks.values()]
    parts += opened.values.values()
    spans = sorted((str(p.file.path), p.start, p.start + p.length) for p in parts if p.length)
    for (name, _, stop), (other, start, _) in pairwise(spans):
        if name == other and start < stop:
            raise ValueError(
                f"{where}: two entries share bytes of a file; the metadata are damaged"
            )


def _put(opened: Distributed, path: Any, key: str) -> None:
    """Put the node of a tensor or value into the tree of the state dict."""
    is_path = type(path) is tuple and 0 < len(path) <= MAX_LEVELS
    if not is_path or not {type(part) for part in path} <= {str, int}:
        raise ValueError(f"{opened.where}: the path of {shown(key)} is invalid; it is damaged")
    table: Any = opened.root
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if type(table) is not dict:
            raise ValueError(f"{opened.where}: {shown(key)} lies inside a tensor; it is damaged")
    if path[-1] in table:
        raise ValueError(f"{opened.where}: the name {shown(key)} occurs twice; it is damaged")
    entry = opened.entries.get(key)
    table[path[-1]] = Object(_TENSOR, (key, None, entry.shape)) if entry else Object(_VALUE, (key,))


def _with_lists(node: Any, own: set[int]) -> Any:
    """Return a tree with lists in place of the dicts that have the keys 0, 1, ..."""
    if type(node) is not dict:
        return node
    content: Any = {key: _with_lists(child, own) for key, child in node.items()}
    kinds = {type(key) for key in content}
    if kinds == {int} and (min(content), max(content)) == (0, len(content) - 1):
        content = [content[index] for index in range(len(content))]
    own.add(id(content))
    return content
