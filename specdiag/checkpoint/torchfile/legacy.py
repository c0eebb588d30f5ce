"""The older format of torch files: five pickles, then the storages."""

import struct
from typing import Any, BinaryIO

from specdiag.checkpoint.tensor import ITEMSIZE
from specdiag.checkpoint.torchfile.pickle_reader import interpret
from specdiag.checkpoint.torchfile.tensors import storage_id
from specdiag.checkpoint.torchfile.views import Storage, TorchFile
from specdiag.checkpoint.tree import Reference
from specdiag.files import File, open_file
from specdiag.wording import shown

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def starts_legacy(file: File) -> bool:
    """Return whether the file starts with the pickled number that marks the older format."""
    with open_file(file) as stream:
        try:
            return bool(interpret(stream, min(file.size, 64), file.name) == MAGIC)
        except ValueError:
            return False


def read_legacy(file: File) -> tuple[Any, TorchFile]:
    """Return the object that a file of the older format describes, and its storages.

    Raises
    ------
    ValueError
        If the file is damaged, cut short or was written on a big-endian machine.
    """
    with open_file(file) as stream:
        references: list[Reference] = []
        parts = [
            interpret(stream, file.size, f"{file.name}: {part}", references)
            for part in ("magic number", "protocol", "system", "object", "storage keys")
        ]
        _, protocol, system, root, keys = parts
        if type(protocol) is not int or protocol != PROTOCOL:
            raise ValueError(f"{file.name}: its protocol is not {PROTOCOL}")
        if type(system) is not dict or system.get("little_endian") is not True:
            raise ValueError(
                f"{file.name}: not little-endian; save it again on a little-endian machine"
            )
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise ValueError(f"{file.name}: the list of storage keys is damaged")
        storages = _storages(stream, file, references, keys)
    return root, TorchFile(file=file, storages=storages)


def _storages(
    stream: BinaryIO, file: File, references: list[Reference], keys: list[str]
) -> dict[str, Storage]:
    sizes: dict[str, tuple[int, int]] = {}
    for reference in references:
        # References to classes of modules, which torch stores with their source code.
        if type(reference.id) is tuple and reference.id[:1] == ("module",):
            continue
        key, dtype, numel = storage_id(reference, file.name)
        itemsize = ITEMSIZE.get(dtype, 1)
        if sizes.setdefault(key, (itemsize, numel)) != (itemsize, numel):
            raise ValueError(f"{file.name}: storage {shown(key)} has two different descriptions")
    if len(set(keys)) != len(keys) or set(keys) != set(sizes):
        raise ValueError(f"{file.name}: the storages in the file are not those described")
    storages = {}
    position = stream.tell()
    for key in keys:
        where = f"{file.name}: storage {shown(key)}"
        stream.seek(position)
        head = stream.read(8)
        itemsize, numel = sizes[key]
        if len(head) != 8 or struct.unpack("<q", head)[0] != numel:
            raise ValueError(f"{where}: its length is missing or wrong; the file is damaged")
        storages[key] = Storage(numel * itemsize, position + 8, None)
        position += 8 + numel * itemsize
        if position > file.size:
            raise ValueError(f"{where}: the file ends before it does; copy or download it again")
    if position != file.size:
        raise ValueError(f"{file.name}: {file.size - position:,} bytes follow the last storage")
    return storages
