"""Any checkpoint -> named tensors, whose values are read one tensor at a time.

Nothing in a file is ever executed: the reader of pickles is inert. It imports nothing and calls
nothing, so checkpoints from strangers are safe to open. torch is not needed.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from specdiag.checkpoint.formats.content import (
    Content,
    head_of,
    looks_like_safetensors,
    metadata_of,
    network_alone,
    only,
    open_single,
)
from specdiag.checkpoint.formats.folder import Found, checkpoint_in, several, shard_notes
from specdiag.checkpoint.formats.placeholders import placeholders
from specdiag.checkpoint.metadata import Converter
from specdiag.checkpoint.model import NoNetworkError, find_model
from specdiag.checkpoint.names import strip_wrappers
from specdiag.checkpoint.remote.places import place
from specdiag.checkpoint.safetensors import parse_json
from specdiag.checkpoint.tensor import (
    Tensor,
    TensorNameError,
    combined_hash,
    elements_hash,
    read_values,
)
from specdiag.checkpoint.tree import is_tensor
from specdiag.checkpoint.weights.weight import Weight
from specdiag.files import DistantPath, File, find_file, is_plain_name, open_file, read_bytes
from specdiag.notebook import record_html
from specdiag.wording import counted, shown

if TYPE_CHECKING:
    import torch

MAX_INDEX = 100_000_000
MAX_NOTES = 50
MAX_OPENED = 20  # files of a folder that are opened to find the network among them


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a model, in the order of their file, and the metadata stored beside them.

    Attributes
    ----------
    name : str
        Stem of the file, name of the folder, or ``'model'`` for a model in memory.
    path : Path or None
    tensors : tuple of Tensor
    metadata : dict
        Plain values that JSON can hold: hyper-parameters, entries of the state dict that are not
        tensors, epoch and the like. Other objects are replaced by their name in angle brackets.
    notes : tuple of str
        The entries that were left out or replaced, one sentence each.
    computed : tuple of Weight
        The weights that a module in memory computes from its tensors, as its forward pass does.
    """

    name: str
    path: Path | None
    tensors: tuple[Tensor, ...]
    metadata: dict[str, Any]
    notes: tuple[str, ...]
    computed: tuple[Weight, ...] = ()

    _repr_html_ = record_html


Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | torch.nn.Module | Checkpoint"


def open_checkpoint(source: Source, which: str | None = None) -> Checkpoint:
    """Return the named tensors of a checkpoint, without reading their values yet.

    Parameters
    ----------
    source : path, mapping, list, torch module, array or Checkpoint
        A file written by torch (Lightning checkpoint, state dict, whole module, TorchScript, the
        older format), safetensors, GGUF, ONNX, Keras, Flax or NumPy, the index of a sharded
        checkpoint, or a folder that holds one of these, all shards, or a distributed checkpoint of
        torch; the same at the Hugging Face hub (``hf://owner/repo[@revision][/file]``, or
        ``owner/repo`` if there is no such path) or behind a URL (``https://host/file``), of which
        only what is read is transferred; or a state dict, module, list of arrays or one array in
        memory. A Checkpoint is returned unchanged.
    which : str, optional
        Name of the entry that holds the network, where there are several, such as ``ema``.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not a checkpoint, or is damaged or invalid in any way.
    TypeError
        If `source` is of another type.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):  # Path("") is the current folder
            raise ValueError("the name of the checkpoint is empty")
        return _open_place(place(source), which)
    from specdiag.checkpoint.memory import is_module

    if isinstance(source, Mapping | list | tuple) or is_module(source) or is_tensor(source):
        return _open_memory(source, which)
    raise TypeError(f"expected a path, state dict, module or array, not {type(source).__name__}")


def _open_memory(source: Any, which: str | None) -> Checkpoint:
    from specdiag.checkpoint.memory import memory_config, memory_roles, memory_tensor, memory_tree
    from specdiag.checkpoint.torchfile.roles import Role
    from specdiag.checkpoint.weights.computed.live import live_weights

    tree, states = memory_tree(source)
    model = find_model(tree, "model", which)
    names = {id(values): name for name, values in model.tensors}
    roles = memory_roles(states, names)
    tensors = [
        roles.get(name, Role()).of(memory_tensor(name, values)) for name, values in model.tensors
    ]
    computed = tuple(
        replace(weight, role=roles[weight.name].kind, facts=roles[weight.name].facts)
        if weight.name in roles and not weight.role
        else weight
        for weight in live_weights(states, names)
    )
    metadata, notes = metadata_of(model)
    metadata |= memory_config(source)
    return _assemble("model", None, Content(tensors, metadata, notes), computed)


def _open_place(path: Path, which: str | None) -> Checkpoint:
    try:
        return _open_local_or_remote(path, which)
    except TensorNameError as error:
        raise ValueError(f"{shown(path.name, quote=False)}: {error}") from None


def _open_local_or_remote(path: Path, which: str | None) -> Checkpoint:
    if isinstance(path, DistantPath):
        from specdiag.checkpoint.remote.path import RemotePath

        if isinstance(path, RemotePath):
            pinned = path.pinned()
            opened = _open_any(pinned, which)
            return replace(opened, notes=(*opened.notes, path.origin(pinned)))
    return _open_any(path, which)


def _open_any(path: Path, which: str | None) -> Checkpoint:
    return _open_folder(path, which) if path.is_dir() else _open_path(path, which)


def tensor_digest(source: Source) -> str:
    """Return the SHA-256 of all tensors: the identity of the weights in any format of file.

    It is the SHA-256 of a JSON list, in ASCII and without spaces, that has [name, dtype, shape,
    SHA-256 of the little-endian elements] of every tensor, sorted by name.

    Raises
    ------
    ValueError
        If a tensor cannot be read.
    """
    tensors = open_checkpoint(source).tensors
    return combined_hash(tensors, {t.name: elements_hash(read_values(t)) for t in tensors})


def _open_path(path: Path, which: str | None) -> Checkpoint:
    file = find_file(path)
    head = head_of(file)
    if re.match(rb"\s*\{", head) and not looks_like_safetensors(head, file):
        return _open_index(file, which)
    try:
        content = open_single(file, which)
    except NoNetworkError as error:
        raise NoNetworkError("; ".join([str(error), *shard_notes(path)])) from error
    notes = [*placeholders(content), *shard_notes(path), *content.notes]
    return _assemble(path.stem, path, content._replace(notes=notes))


def _assemble(
    name: str, path: Path | None, content: Content, computed: tuple[Weight, ...] = ()
) -> Checkpoint:
    tensors, metadata, notes, is_export = content
    if not is_export:
        tensors, more = network_alone(tensors, name)
        notes = [*notes, *more]
        strip = strip_wrappers([tensor.name for tensor in tensors])
        tensors = [replace(tensor, name=strip(tensor.name)) for tensor in tensors]
        metadata = {strip(key): value for key, value in metadata.items()}
        computed = tuple(
            replace(w, name=strip(w.name), tensors=tuple(map(strip, w.tensors))) for w in computed
        )
    if not tensors:
        notes = ["there are no tensors", *notes]
    if len(notes) > MAX_NOTES:
        notes = [*notes[:MAX_NOTES], f"and {len(notes) - MAX_NOTES:,} more notes"]
    return Checkpoint(
        name=name,
        path=path,
        tensors=tuple(tensors),
        metadata=metadata,
        notes=tuple(notes),
        computed=computed,
    )


def _open_folder(path: Path, which: str | None) -> Checkpoint:
    where = shown(path.name, quote=False)
    found = checkpoint_in(path)
    if found.kind == "file":
        name, notes = _one_network(path, found.names, where)
        opened = _open_path(path / name, which)
    else:
        content = _open_parts(path, found, which, where)
        notes = placeholders(content)
        opened = _assemble(where, path, content)
    notes = [*opened.notes, *notes, *found.notes]
    return replace(opened, name=path.resolve().name, path=path, notes=tuple(notes))


def _one_network(folder: Path, names: Sequence[str], where: str) -> tuple[str, list[str]]:
    """Return the only file with a network among files whose names do not tell, and notes."""
    if len(names) == 1:
        return names[0], []
    if len(names) > MAX_OPENED:
        raise several(names, where)
    networks = [name for name in names if _holds_matrix(folder / name)]
    if len(networks) != 1:
        raise several(networks or names, where)
    others = [shown(name) for name in names if name not in networks]
    return networks[0], [f"not read, as it holds no matrix: {name}" for name in others]


def _holds_matrix(path: Path) -> bool:
    """Return whether a file could be a network: it has a matrix, or cannot be opened."""
    try:
        content = open_single(find_file(path))
    except NoNetworkError:
        return False
    except ValueError:
        return True
    return any(len(tensor.shape) > 1 for tensor in content.tensors)


def _open_parts(folder: Path, found: Found, which: str | None, where: str) -> Content:
    """Return the content of a folder whose files are parts of one network."""
    if found.kind == "distributed":
        from specdiag.checkpoint.formats.distributed import open_distributed

        return open_distributed(folder, where, which)
    files = [find_file(folder / name) for name in found.names]
    if found.kind == "chunks":
        from specdiag.checkpoint.formats.chunks import read_processes

        return only(read_processes(files), which, where)
    contents = [open_single(file) for file in files]
    tensors = [tensor for content in contents for tensor in content.tensors]
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{where}: {shown(twice)} is in two shards; download them again")
    metadata = {key: value for c in reversed(contents) for key, value in c.metadata.items()}
    notes = list(dict.fromkeys(note for content in contents for note in content.notes))
    return only(Content(tensors, metadata, notes), which, where)


def _open_index(file: File, which: str | None) -> Checkpoint:
    """Open the shards of an index, and check that each holds the tensors listed for it."""
    weight_map, metadata = _read_index(file)
    expected: dict[str, set[str]] = {}
    for key, shard in weight_map.items():
        expected.setdefault(shard, set()).add(key)
    tensors: list[Tensor] = []
    notes: list[str] = []
    for shard, keys in expected.items():
        content = _open_shard(file, shard)
        present = {tensor.name for tensor in content.tensors}
        extra = present - keys
        for missing, fault in (
            (keys - present, "is not in"),
            (extra & weight_map.keys(), "is also in"),
        ):
            if missing:
                raise ValueError(
                    f"{file.name}: {shown(min(missing))} {fault} {shown(shard)}; "
                    "download both again"
                )
        if extra:
            notes.append(
                f"{counted(len(extra), 'tensor')} in {shown(shard)} left out: "
                f"the index does not list {shown(min(extra))}{' and others' * (len(extra) > 1)}"
            )
        tensors += [tensor for tensor in content.tensors if tensor.name in keys]
        notes += content.notes
    content = only(Content(tensors, metadata, notes), which, file.name)
    return _assemble(file.path.name.split(".")[0], file.path, content)


def _read_index(file: File) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the shard of each tensor, and the metadata of an index."""
    if file.size > MAX_INDEX:
        raise ValueError(
            f"{file.name}: an index of {file.size:,} bytes; at most {MAX_INDEX:,} are read"
        )
    with open_file(file) as stream:
        index = parse_json(read_bytes(stream, 0, file.size, file.name), file.name)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{file.name}: JSON without a weight_map is not an index of shards")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not is_plain_name(shard):
            name = shown(shard) if isinstance(shard, str) else "a shard's name"
            raise ValueError(f"{file.name}: {name} is not a plain file name")
    value = Converter().convert(index.get("metadata") or {})
    return weight_map, value if isinstance(value, dict) else {}


def _open_shard(index: File, shard: str) -> Content:
    path = index.path.parent / shard
    if not path.exists():
        raise FileNotFoundError(
            f"{index.name}: the shard {shown(shard)} is missing; download it too"
        )
    return open_single(find_file(path))
