"""Any checkpoint -> one safetensors file that holds all of it, and a JSON file beside it.

The safetensors file has one metadata key. Its text holds everything except the values of the
tensors: their original order, hashes and ties, vocabularies, hyper-parameters and notes.
`open_checkpoint` reads everything from that file alone. The JSON file is a copy of the text for
people and other programs; specdiag does not read it, so the two files cannot disagree.
"""

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

from specdiag.checkpoint.reader import Checkpoint, Source, open_checkpoint
from specdiag.checkpoint.safetensors import CODES, RECORD, make_header, parse_json, sort_key
from specdiag.checkpoint.tensor import (
    ITEMSIZE,
    Tensor,
    combined_hash,
    elements_hash,
    read_values,
    ties,
)
from specdiag.checkpoint.weights.bounds import stored_bytes
from specdiag.outputs import is_input, sync, whole_file
from specdiag.wording import is_text, printable_json, shown, some

MAX_LISTED = 5
MAX_GROWTH = 2  # times the size of the source, without `overwrite`
ALWAYS = 2**16  # bytes
_NO_DIGEST = "0" * 64


def export(source: Source, target: str | os.PathLike[str], *, overwrite: bool = False) -> str:
    """Write a checkpoint as safetensors and JSON, and return its tensor digest.

    The tensors keep their bits and have the names that `open_checkpoint` gives them: those of the
    state dict, without the prefixes of wrapper modules such as ``model.``. Tied tensors are stored
    once. Only one tensor is in memory at a time.

    Parameters
    ----------
    source : path, mapping, torch module or Checkpoint
        Any source that `open_checkpoint` reads.
    target : path
        A name that ends in ``.safetensors``; the JSON file gets the same name with ``.json``.
    overwrite : bool
        Whether to replace existing files of these names, and to write more than twice as many
        bytes as the checkpoint has: shared elements are stored one by one, quantised ones widened.

    Raises
    ------
    ValueError
        If `target` has another extension or is part of the checkpoint, or if a tensor cannot be
        read or cannot be stored in a safetensors file, or if the export would be more than twice
        as large and `overwrite` is false. Nothing is written then.
    FileExistsError
        If one of the two files exists and `overwrite` is false.
    OSError
        If the files cannot be written. Then, or if the process is killed, the old files or the
        new ones exist, or one of the two safetensors files without its JSON.
    """
    checkpoint = open_checkpoint(source)
    where = shown(checkpoint.path.name if checkpoint.path else checkpoint.name, quote=False)
    safe = Path(target)
    side = _json_beside(safe, checkpoint, overwrite)
    _refuse_obstacles(checkpoint, where)
    tied = ties(checkpoint.tensors)
    record = {
        "version": 1,
        "tensor_digest": _NO_DIGEST,
        "sha256": dict.fromkeys((t.name for t in checkpoint.tensors), _NO_DIGEST),
        "tied": tied,
        "metadata": checkpoint.metadata,
        "notes": list(checkpoint.notes),
    }
    if not overwrite:
        _refuse_growth(checkpoint, tied, where)
    stored = sorted((t for t in checkpoint.tensors if t.name not in tied), key=sort_key)
    # The hashes are known after all tensors are written: leave space for a header of that size.
    header = make_header(stored, {RECORD: _as_json(record, where)}, where)
    try:
        with whole_file(side) as table, whole_file(safe) as file:
            file.seek(len(header))
            written = {t.name: _write_tensor(file, t, where) for t in stored}
            hashes = {t.name: written[tied.get(t.name, t.name)] for t in checkpoint.tensors}
            digest = combined_hash(checkpoint.tensors, hashes)
            record |= {"tensor_digest": digest, "sha256": hashes}
            file.seek(0)
            file.write(make_header(stored, {RECORD: _as_json(record, where)}, where))
            text = printable_json(json.dumps(record, ensure_ascii=False, indent=1))
            table.write(text.encode() + b"\n")
            sync(file)
            sync(table)
            _json_beside(safe, checkpoint, overwrite)  # again: writing can take long
            side.unlink(missing_ok=True)  # an old JSON never lies beside new tensors
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{target} could not be written: {reason}") from error
    return digest


def _json_beside(safe: Path, checkpoint: Checkpoint, overwrite: bool) -> Path:
    """Return the path of the JSON file; raise an error if a file must not be written."""
    if safe.suffix != ".safetensors":
        raise ValueError(f"{safe}: the name must end in .safetensors")
    if not safe.parent.is_dir():
        raise FileNotFoundError(f"{safe}: there is no folder {safe.parent}; make it first")
    side = safe.with_suffix(".json")
    for file in filter(os.path.lexists, (safe, side)):
        if file.is_symlink() or not file.is_file():
            raise ValueError(f"{file} is not a regular file; choose another name")
        if checkpoint.path and is_input(file, checkpoint.path):
            raise ValueError(f"{file} is part of the checkpoint to export; choose another name")
        if not overwrite:
            raise FileExistsError(
                f"{file} exists; choose another name, or replace it (--force, overwrite=True)"
            )
    return side


def _refuse_obstacles(checkpoint: Checkpoint, where: str) -> None:
    tensors = checkpoint.tensors
    refused = [f"{shown(t.name)} ({reason})" for t in tensors if (reason := _obstacle(t))]
    if refused:
        raise ValueError(
            f"{where}: {len(refused):,} of {len(tensors):,} tensors cannot be exported: "
            f"{some(refused, MAX_LISTED)}; an export must hold all of them"
        )
    if not tensors:
        raise ValueError(f"{where}: there are no tensors to export")


def _refuse_growth(checkpoint: Checkpoint, tied: Mapping[str, str], where: str) -> None:
    """Raise ValueError if the tensors take much more than the files that store them."""
    source = stored_bytes(checkpoint.path) if checkpoint.path else None
    tensors = [t for t in checkpoint.tensors if t.name not in tied]
    size = sum(prod(t.shape) * ITEMSIZE[t.dtype] for t in tensors)
    if source is not None and size > max(MAX_GROWTH * source, ALWAYS):
        raise ValueError(
            f"{where}: an export of {size:,} bytes, from {source:,} that are stored; --force, "
            "overwrite=True, writes it"
        )


def _obstacle(tensor: Tensor) -> str | None:
    """Return why a safetensors file cannot hold a tensor, or None."""
    if tensor.problem:
        return tensor.problem
    if tensor.name == "__metadata__":
        return "the format reserves this name"
    if not is_text(tensor.name):
        return "its name is not valid Unicode"
    return None if tensor.dtype in CODES else f"the format has no {tensor.dtype}"


def _as_json(record: Mapping[str, Any], where: str) -> str:
    """Return the record as JSON that is equal to the record when it is read again."""
    try:
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if not is_text(text):
            reason = "a text is not valid Unicode"
        elif parse_json(text.encode(), where) == record:
            return text
        else:
            reason = "it would change"
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error)
    raise ValueError(f"{where}: its metadata cannot be written as JSON: {reason}")


def _write_tensor(file: IO[bytes], tensor: Tensor, where: str) -> str:
    """Write the elements of a tensor and return their SHA-256."""
    try:
        values = read_values(tensor)
    except ValueError as error:
        if where in str(error):
            raise
        raise ValueError(f"{where}: {error}") from error
    file.write(values.reshape(-1).view("u1").data)
    return elements_hash(values)
