"""Any checkpoint file -> named tensors, read one at a time.

Nothing in a file is ever executed: pickles are interpreted by an inert reader that imports and
calls nothing, so a stranger's checkpoint is as safe to open as a picture. No torch is needed.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from specdiag.checkpoint import memory
from specdiag.checkpoint.metadata import MAX_NODES, Plainer
from specdiag.checkpoint.model import Model, find_model, strip_wrappers
from specdiag.checkpoint.safetensors import RECORD, parse_json, read_header, restore
from specdiag.checkpoint.tensor import Tensor, combined_hash, elements_hash, read_values
from specdiag.checkpoint.torchfile.legacy import read_legacy, starts_legacy
from specdiag.checkpoint.torchfile.tensors import TorchFile, read_zip, torch_tensor
from specdiag.files import File, find_file, open_file, read_bytes
from specdiag.notebook import record_html
from specdiag.wording import shown

if TYPE_CHECKING:
    import torch

MAX_INDEX = 100_000_000
MAX_FOREIGN_SHOWN = 8
MAX_NOTES = 50


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a model, in the order of their file, and what was stored beside them.

    Attributes
    ----------
    name : str
        Stem of the file, name of the folder, or ``'model'`` for a model in memory.
    path : Path or None
    tensors : tuple of Tensor
    metadata : dict
        Plain values, fit for JSON: hyper-parameters, entries of the state dict that are no
        tensors, epoch and the like. What is not plain is named in angle brackets.
    notes : tuple of str
        What was left aside.
    """

    name: str
    path: Path | None
    tensors: tuple[Tensor, ...]
    metadata: dict[str, Any]
    notes: tuple[str, ...]

    _repr_html_ = record_html


def open_checkpoint(
    source: "str | os.PathLike[str] | Mapping[str, Any] | torch.nn.Module | Checkpoint",
) -> Checkpoint:
    """Return the named tensors of a checkpoint, without reading their values yet.

    Parameters
    ----------
    source : path, mapping, torch module or Checkpoint
        A file written by torch (Lightning checkpoints, state dicts, whole modules, TorchScript,
        the older format) or safetensors, the index of a sharded checkpoint, a folder that holds
        one of these; or a state dict or module in memory; a Checkpoint is returned as it is.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not a checkpoint, or is damaged or malformed in any way.
    TypeError
        If `source` is none of the above.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _open_folder(path) if path.is_dir() else _open_path(path)
    if isinstance(source, Mapping) or memory.is_module(source):
        model = find_model(memory.memory_tree(source), "model")
        found = [memory.memory_tensor(name, values) for name, values in model.tensors]
        return _assemble("model", None, _Opened(found, *_metadata(model)))
    raise TypeError(f"a path, state dict or module is expected, not {type(source).__name__}")


def tensor_digest(
    source: "str | os.PathLike[str] | Mapping[str, Any] | torch.nn.Module | Checkpoint",
) -> str:
    """Return the SHA-256 of all tensors, the identity of the weights whatever they are stored in.

    It is taken over the JSON list of [name, dtype, shape, SHA-256 of the little-endian elements] of
    every tensor, sorted by name, in ASCII and without spaces.

    Raises
    ------
    ValueError
        If a tensor cannot be read.
    """
    tensors = open_checkpoint(source).tensors
    return combined_hash(tensors, {t.name: elements_hash(read_values(t)) for t in tensors})


# Files are recognised by their content; their extension says nothing.
_FOREIGN = (
    (rb"version https://git-lfs", "a Git LFS pointer: fetch the content with 'git lfs pull'"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page: download the file itself"),
    (rb"\x1f\x8b", "compressed by gzip: decompress it first"),
    (rb"BZh", "compressed by bzip2: decompress it first"),
    (rb"\xfd7zXZ", "compressed by xz: decompress it first"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd: decompress it first"),
    (rb"(?s).{257}ustar", "a tar archive: unpack it first"),
    (rb"\x89HDF", "an HDF5 file: export the model with safetensors or torch.save"),
    (rb"GGUF", "a GGUF file: export the model with safetensors or torch.save"),
    (rb"\x93NUMPY", "a NumPy array: pass a dict of arrays instead"),
    (rb"PK\x05\x06", "an empty zip archive"),
)


def _open_path(path: Path) -> Checkpoint:
    file = find_file(path)
    head = _head(file)
    if re.match(rb"\s*\{", head) and not _looks_like_safetensors(head, file):
        return _open_index(file)
    return _assemble(path.stem, path, _open_single(file, head))


class _Opened(NamedTuple):
    """What a file holds; an export holds names that are to stay as they are."""

    tensors: list[Tensor]
    metadata: dict[str, Any]
    notes: list[str]
    is_export: bool = False


def _head(file: File) -> bytes:
    with open_file(file) as stream:
        return stream.read(512)


def _looks_like_safetensors(head: bytes, file: File) -> bool:
    return head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= file.size


def _open_single(file: File, head: bytes) -> _Opened:
    """Open one file of tensors, whatever its kind."""
    if not head:
        raise ValueError(f"{file.name}: the file is empty; copy or download it again")
    if _looks_like_safetensors(head, file):
        return _open_safetensors(file)
    if head.startswith(b"PK\x03\x04"):
        return _open_torch(*read_zip(file))
    for pattern, kind in _FOREIGN:
        if re.match(pattern, head):
            raise ValueError(f"{file.name}: {kind}")
    if starts_legacy(file):
        return _open_torch(*read_legacy(file))
    if head[8:9] == b"{":
        return _open_safetensors(file)  # says what is wrong with its length
    if re.match(rb"\x80[\x02-\x05]|[(\]}lcd].*\n", head):
        raise ValueError(f"{file.name}: a pickle, but not written by torch.save")
    raise ValueError(
        f"{file.name}: not a checkpoint: it starts with {head[:8]!r}; torch and safetensors files "
        "and sharded indexes are read"
    )


def _open_safetensors(file: File) -> _Opened:
    found, metadata = read_header(file)
    if RECORD not in metadata:
        return _Opened(found, dict(metadata), [])
    found, about, notes = restore(file, found, metadata[RECORD])
    plainer = Plainer()
    about = {name: plainer.convert(value) for name, value in about.items()}
    return _Opened(found, about, notes, is_export=True)


def _open_torch(root: Any, source: TorchFile) -> _Opened:
    model = find_model(root, source.file.name)
    found = [torch_tensor(source, name, node) for name, node in model.tensors]
    return _Opened(found, *_metadata(model))


def _metadata(model: Model) -> tuple[dict[str, Any], list[str]]:
    """Return the plain entries beside the tensors, and notes about everything left out."""
    notes = [
        f"{_tensors(count)} under {shown(key)} {'is' if count == 1 else 'are'} not part of the model"
        for key, count in model.aside.items()
    ]
    metadata: dict[str, Any] = {}
    plainer = Plainer()
    for name, node in [*model.entries, *model.top]:
        if plainer.left < 0:
            notes.append(f"entries from {shown(name)} on were left out: there are too many")
            break
        plainer.foreign.clear()
        metadata.setdefault(name, plainer.convert(node))
        if plainer.foreign:
            listed = _listed(plainer.foreign)
            notes.append(
                f"{shown(name, quote=False)} holds objects that were not rebuilt: {listed}"
            )
    return metadata, notes


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'s' * (count != 1)}"


def _listed(foreign: Mapping[str, int]) -> str:
    named = [f"{name} ({count:,})" for name, count in list(foreign.items())[:MAX_FOREIGN_SHOWN]]
    more = len(foreign) - len(named)
    return ", ".join(named) + (f" and {more:,} more kinds" if more else "")


def _assemble(name: str, path: Path | None, opened: _Opened) -> Checkpoint:
    tensors, metadata, notes, is_export = opened
    if not is_export:
        strip = strip_wrappers([tensor.name for tensor in tensors])
        tensors = [replace(tensor, name=strip(tensor.name)) for tensor in tensors]
        metadata = {strip(key): value for key, value in metadata.items()}
    if not tensors:
        notes = ["there are no tensors", *notes]
    if len(notes) > MAX_NOTES:
        notes = [*notes[:MAX_NOTES], f"and {len(notes) - MAX_NOTES:,} more notes"]
    return Checkpoint(
        name=name, path=path, tensors=tuple(tensors), metadata=metadata, notes=tuple(notes)
    )


# What a folder may hold, the preferred kind first. Trainers leave the last line's files beside
# the weights.
_KINDS = (
    r".*\.safetensors\.index\.json",
    r".*\.safetensors",
    r".*\.(bin|pt|pth)\.index\.json",
    r".*\.(ckpt|pt|pth|bin)",
)
_NOT_WEIGHTS = re.compile(
    r"training_args\.bin|(optimizer|scheduler|scaler|rng_state).*\.(pt|bin|pth)"
)


def _open_folder(path: Path) -> Checkpoint:
    names = sorted(
        entry.name
        for entry in path.iterdir()
        if entry.is_file() and not _NOT_WEIGHTS.fullmatch(entry.name)
    )
    for kind in _KINDS:
        candidates = [name for name in names if re.fullmatch(kind, name)]
        if len(candidates) > 1:
            listed = ", ".join(shown(name, quote=False) for name in candidates[:10])
            raise ValueError(
                f"{shown(path.name, quote=False)}: {len(candidates)} checkpoints in the folder "
                f"({listed}); name one of them"
            )
        if candidates:
            return replace(_open_path(path / candidates[0]), name=path.resolve().name, path=path)
    raise FileNotFoundError(
        f"{shown(path.name, quote=False)}: no checkpoint in the folder "
        "(.safetensors, .ckpt, .pt, .pth, .bin or an index of shards)"
    )


def _open_index(file: File) -> Checkpoint:
    """Open the shards that an index names, and check that each key is where it should be."""
    if file.size > MAX_INDEX:
        raise ValueError(f"{file.name}: {file.size:,} bytes are too many for an index")
    with open_file(file) as stream:
        index = parse_json(read_bytes(stream, 0, file.size, file.name), file.name)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{file.name}: JSON without a weight_map, not an index of shards")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _is_plain_name(shard):
            name = shown(shard) if isinstance(shard, str) else "a shard's name"
            raise ValueError(f"{file.name}: {name} is not a plain file name")
    expected: dict[str, set[str]] = {}
    for key, shard in weight_map.items():
        expected.setdefault(shard, set()).add(key)
    found: list[Tensor] = []
    notes: list[str] = []
    for shard, keys in expected.items():
        tensors, _, more, _ = _open_shard(file, shard)
        present = {tensor.name for tensor in tensors}
        extra = present - keys
        for missing, fault in (
            (keys - present, "is not in"),
            (extra & weight_map.keys(), "is also in"),
        ):
            if missing:
                raise ValueError(
                    f"{file.name}: {shown(min(missing))} {fault} {shown(shard)}; fetch both again"
                )
        if extra:
            notes.append(
                f"{_tensors(len(extra))} in {shown(shard)} left out: the index does not list "
                f"{shown(min(extra))}{' and others' * (len(extra) > 1)}"
            )
        found += [tensor for tensor in tensors if tensor.name in keys]
        notes += more
    about = Plainer(MAX_NODES).convert(index.get("metadata") or {})
    metadata = about if isinstance(about, dict) else {}
    return _assemble(file.path.name.split(".")[0], file.path, _Opened(found, metadata, notes))


def _is_plain_name(name: str) -> bool:
    return name not in ("", ".", "..") and not re.search(r"[/\\:\x00-\x1f]", name)


def _open_shard(index: File, shard: str) -> _Opened:
    path = index.path.parent / shard
    if not path.exists():
        raise FileNotFoundError(f"{index.name}: the shard {shown(shard)} is missing; fetch it too")
    file = find_file(path)
    return _open_single(file, _head(file))
