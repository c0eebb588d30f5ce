"""One file of any format -> its tensors, metadata and notes."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from specdiag.checkpoint.formats.foreign import refuse_foreign, refuse_foreign_zip
from specdiag.checkpoint.metadata import Converter
from specdiag.checkpoint.model import (
    Model,
    NoNetworkError,
    find_model,
    no_network,
    not_of_the_model,
)
from specdiag.checkpoint.names import optimizer_tensors, strip_wrappers
from specdiag.checkpoint.safetensors import RECORD, read_header, restore
from specdiag.checkpoint.tensor import Tensor, check_count, check_names
from specdiag.checkpoint.twins import flat_twins, names_under
from specdiag.files import File, open_file
from specdiag.wording import counted, shown, some

if TYPE_CHECKING:  # readers of formats are imported when a file of the format is opened
    from specdiag.checkpoint.torchfile.archive import Record
    from specdiag.checkpoint.torchfile.views import TorchFile

MAX_FOREIGN_SHOWN = 8
MAX_INSIDE = 20  # files inside a zip archive that are looked into
# torch.export keeps examples of inputs beside the state dict.
_INSIDE = re.compile(
    r"(?!.*(sample_inputs|constants)/|serialized_(constants|example))"
    r"(.*/)?([^/]+\.(pt|pth|ckpt|bin|safetensors)|serialized_state_dict\.json)"
)

# Returns the tensors of a file, its metadata, and notes.
Reader: TypeAlias = Callable[[File], tuple[list[Tensor], dict[str, Any], list[str]]]


class Content(NamedTuple):
    """The content of a file; the names in an export are final and keep their prefixes."""

    tensors: list[Tensor]
    metadata: dict[str, Any]
    notes: list[str]
    is_export: bool = False


def head_of(file: File) -> bytes:
    """Return the first bytes of a file, which tell its format."""
    with open_file(file) as stream:
        return stream.read(512)


def looks_like_safetensors(head: bytes, file: File) -> bool:
    """Return whether a file has the header of a safetensors file, as far as its length tells."""
    return head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= file.size


def open_single(file: File, which: str | None = None) -> Content:
    """Return the content of one file of tensors of any kind.

    Raises
    ------
    ValueError
        If the file is not a checkpoint, is damaged, has too many tensors, or no network `which`.
    """
    content = _open_single(file, which)
    check_count(len(content.tensors), file.size, file.name)
    check_names(content.tensors, file.size, file.name)
    return content


def _open_single(file: File, which: str | None) -> Content:
    head = head_of(file)
    if not head:
        raise ValueError(f"{file.name}: the file is empty; copy or download it again")
    is_metadata = head[:1] == b"\x80" and b"torch.distributed.checkpoint.metadata" in head
    if file.path.suffix == ".distcp" or is_metadata:
        raise ValueError(
            f"{file.name}: a part of a distributed checkpoint of torch: name its folder"
        )
    if looks_like_safetensors(head, file):
        return only(_open_safetensors(file), which, file.name)
    if head.startswith(b"PK\x03\x04"):
        return _open_archive(file, which)
    refuse_foreign(head, file.name)
    suffix = "" if head.startswith(b"\x80\x02") else file.path.suffix.lower()
    for start, named, opener in _FORMATS:
        if start.match(head) or (named and named == suffix):
            return opener(file, which)
    from specdiag.checkpoint.torchfile.legacy import read_legacy, starts_legacy

    if starts_legacy(file):
        return _open_torch(*read_legacy(file), which)
    if head[8:9] == b"{":
        return _open_safetensors(file)  # raises an error about its length
    if re.match(rb"\x80[\x02-\x05]|[(\]}lcd].*\n", head):
        raise ValueError(
            f"{file.name}: a pickle, but not written by torch.save; load it with the program that "
            "wrote it, and save the weights with torch.save or safetensors"
        )
    raise ValueError(
        f"{file.name}: not a checkpoint: it starts with {head[:8]!r}; expected a file of "
        "torch, safetensors, GGUF, ONNX, Keras, Flax or NumPy, or an index of shards"
    )


def _open_archive(file: File, which: str | None) -> Content:
    """Return the content of a zip archive."""
    from specdiag.checkpoint.formats.arrays import is_npz
    from specdiag.checkpoint.torchfile.archive import read_directory
    from specdiag.checkpoint.torchfile.exported import is_exported, read_exported

    with open_file(file) as stream:
        records = read_directory(stream, file.size, file.name)
    if is_npz(records):
        return _open_npz(file, which)
    if "model.weights.h5" in records:
        return _open_keras(file, which)
    if is_exported(records):
        return only(Content(read_exported(file), {}, []), which, file.name)
    inside = [record for name, record in records.items() if _INSIDE.fullmatch(name)]
    if inside and not any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in records):
        return _open_inside(file, inside, which)
    refuse_foreign_zip(records, file.name)
    return _open_zip(file, which)


def _open_flat(reader: Reader, file: File, which: str | None) -> Content:
    """Return what a reader finds in a file, its metadata as values that JSON can hold."""
    tensors, metadata, notes = reader(file)
    names = Counter(tensor.name for tensor in tensors)
    if len(names) != len(tensors):
        raise ValueError(f"{file.name}: the name {shown(names.most_common(1)[0][0])} occurs twice")
    converter = Converter()
    metadata = {key: converter.convert(value) for key, value in metadata.items()}
    return only(Content(tensors, metadata, notes), which, file.name)


def _open_inside(file: File, records: Sequence["Record"], which: str | None) -> Content:
    """Return the content of the only network among the torch files in a zip archive."""
    readable, unknown = [], []
    for record in records[:MAX_INSIDE]:
        has_matrix = _has_matrix(file, record)
        if has_matrix is None:
            unknown.append(record)
        elif has_matrix:
            readable.append(record)
    if len(readable) == 1 and not unknown:
        content = _open_zip(file, which, readable[0].offset, readable[0].size)
        note = f"read from {shown(readable[0].name)} in the archive"
        return content._replace(notes=[*content.notes, note])
    named = [*readable, *unknown] or records
    listed = some([shown(record.name, quote=False) for record in named])
    raise ValueError(f"{file.name}: a zip archive of files ({listed}); unpack it and name one")


def _has_matrix(file: File, record: "Record") -> bool | None:
    """Return whether a torch file in an archive has a matrix; None if it cannot be read there."""
    try:
        if record.deflated:
            return None
        content = _open_zip(file, None, record.offset, record.size)
    except NoNetworkError:
        return False
    except ValueError:
        return None
    return any(len(tensor.shape) > 1 for tensor in content.tensors)


def only(content: Content, which: str | None, where: str) -> Content:
    """Return the tensors whose names lie in the part `which`; all of them if it is None."""
    if which is None:
        return content
    kept = set(names_under([t.name for t in content.tensors], which))
    tensors = [t for t in content.tensors if t.name in kept]
    if not tensors:
        raise ValueError(f"{where}: no name of a tensor starts with {shown(which + '.')}")
    n_others = len(content.tensors) - len(tensors)
    notes = [*content.notes, f"{counted(n_others, 'tensor')} outside of {shown(which)} left out"]
    return content._replace(tensors=tensors, notes=notes)


def _open_safetensors(file: File) -> Content:
    tensors, texts = read_header(file)
    if RECORD not in texts:
        return Content(tensors, dict(texts), [])
    tensors, metadata, notes = restore(file, tensors, texts[RECORD])
    converter = Converter()
    metadata = {name: converter.convert(value) for name, value in metadata.items()}
    return Content(tensors, metadata, notes, is_export=True)


def _open_torch(root: Any, source: "TorchFile", which: str | None) -> Content:
    from specdiag.checkpoint.torchfile.roles import Role, module_roles
    from specdiag.checkpoint.torchfile.tensors import torch_tensor

    model = find_model(root, source.file.name, which)
    roles = module_roles(root)
    tensors = [
        roles.get(id(node), Role()).of(torch_tensor(source, name, node))
        for name, node in model.tensors
    ]
    return Content(tensors, *metadata_of(model))


def _open_zip(file: File, which: str | None, *place: int) -> Content:
    from specdiag.checkpoint.torchfile.tensors import read_zip

    return _open_torch(*read_zip(file, *place), which)


def _open_gguf(file: File, which: str | None) -> Content:
    from specdiag.checkpoint.formats.gguf import read_gguf

    return _open_flat(read_gguf, file, which)


def _open_h5(file: File, which: str | None) -> Content:
    from specdiag.checkpoint.formats.keras.layers import read_h5

    return _open_flat(read_h5, file, which)


def _open_keras(file: File, which: str | None) -> Content:
    from specdiag.checkpoint.formats.keras.layers import read_keras

    return _open_flat(read_keras, file, which)


def _open_onnx(file: File, which: str | None) -> Content:
    from specdiag.checkpoint.formats.onnx.model import read_onnx

    return _open_flat(read_onnx, file, which)


def _open_flax(file: File, which: str | None) -> Content:
    from specdiag.checkpoint.formats.flax import read_flax

    return _open_tree(read_flax(file), file.name, which)


def _open_npy(file: File, which: str | None) -> Content:
    from specdiag.checkpoint.formats.arrays import read_npy

    return _open_flat(read_npy, file, which)


def _open_npz(file: File, which: str | None) -> Content:
    """Return the arrays of a .npz file; names with slashes are those of a tree of Flax."""
    from specdiag.checkpoint.formats.arrays import read_npz
    from specdiag.checkpoint.formats.flax import nested, parameters_first

    tensors = read_npz(file)[0]
    tree = nested(tensors) if any("/" in tensor.name for tensor in tensors) else None
    if tree is None:
        return _open_flat(read_npz, file, which)
    return _open_tree(parameters_first(tree), file.name, which)


def _open_tree(root: Mapping[str, Any], where: str, which: str | None) -> Content:
    """Return the content of a tree of dicts, whose arrays are Tensors."""
    model = find_model(root, where, which)
    tensors = [replace(tensor, name=name) for name, tensor in model.tensors]
    return Content(tensors, *metadata_of(model))


def network_alone(tensors: list[Tensor], where: str) -> tuple[list[Tensor], list[str]]:
    """Return the tensors without moments of an optimizer and averages of the network, and notes.

    Raises
    ------
    NoNetworkError
        If there are moments, and nothing else but numbers.
    """
    moments = optimizer_tensors(tensor.name for tensor in tensors)
    tensors = [tensor for tensor in tensors if tensor.name not in moments]
    if moments and not any(tensor.shape for tensor in tensors):
        raise NoNetworkError(no_network(where))
    strip = strip_wrappers([tensor.name for tensor in tensors])
    twins = flat_twins({strip(tensor.name): tensor.shape for tensor in tensors})
    left_out = {name for _, names in twins.values() for name in names}
    notes = not_of_the_model(Counter(moments.values()))
    notes += _twin_notes({twin: read for twin, (read, _) in twins.items()})
    return [t for t in tensors if strip(t.name) not in left_out], notes


def _twin_notes(twins: Mapping[str, str]) -> list[str]:
    return [
        f"{shown(twin)} has the same names and shapes as {shown(read) if read else 'the others'}; "
        f"only {shown(read) if read else 'the others'} {'is' if read else 'are'} read "
        f"(--which {shown(twin, quote=False)} reads the other)"
        for twin, read in twins.items()
    ]


def metadata_of(model: Model) -> tuple[dict[str, Any], list[str]]:
    """Return the entries beside the tensors as plain values, and notes on everything left out."""
    notes = [*not_of_the_model(model.aside), *_twin_notes(model.twins)]
    metadata: dict[str, Any] = {}
    converter = Converter()
    holders: dict[str, list[str]] = {}  # names of entries, by the objects in them
    for name, node in [*model.entries, *model.top]:
        if converter.left < 0:
            notes.append(f"entries from {shown(name)} on were left out: there are too many")
            break
        converter.foreign.clear()
        metadata.setdefault(name, converter.convert(node))
        if converter.foreign:
            holders.setdefault(_listed(converter.foreign), []).append(shown(name, quote=False))
    notes += [
        f"{some(names)} {'holds' if len(names) == 1 else 'each hold'} objects that were not "
        f"rebuilt: {listed}"
        for listed, names in holders.items()
    ]
    return metadata, notes


def _listed(foreign: Mapping[str, int]) -> str:
    named = [f"{name} ({count:,})" for name, count in list(foreign.items())[:MAX_FOREIGN_SHOWN]]
    more = len(foreign) - len(named)
    return ", ".join(named) + (f" and {more:,} more kinds" if more else "")


# How a file of each format begins; its suffix, where the first bytes are not certain. ONNX: its
# version, and the field that follows. Flax: a dict whose first key is text.
_FORMATS: tuple[tuple[re.Pattern[bytes], str, Callable[[File, str | None], Content]], ...] = (
    (re.compile(rb"\x93NUMPY"), "", _open_npy),
    (re.compile(b"GGUF"), "", _open_gguf),
    (re.compile(rb"\x89HDF\r\n\x1a\n"), "", _open_h5),
    (re.compile(rb"\x08[\x03-\x1f][\x12\x1a\x22\x32\x3a\x42\x72]"), ".onnx", _open_onnx),
    (
        re.compile(rb"(?s)([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.)[\w/.-]"),
        ".msgpack",
        _open_flax,
    ),
)
