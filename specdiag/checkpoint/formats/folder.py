"""Folder -> the files of the checkpoint in it, and notes on other checkpoints below it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from specdiag.checkpoint.formats.foreign import NOT_READ
from specdiag.files import find_file, open_file
from specdiag.wording import counted, shown, some

# Metadata of a distributed checkpoint of torch: one file of all processes, or one of each.
METADATA = re.compile(r"(__\d+)?\.metadata")
GGUF_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
MAX_FOLDERS = 1000  # subfolders that are looked into
MAX_LEVELS = 3
# Files of networks, the preferred kind first. Trainers write other files of the same kinds beside
# the weights, and one network in several formats.
_KINDS = (
    r".*\.safetensors\.index\.json",
    r".*\.safetensors",
    r".*\.(bin|pt|pth)\.index\.json",
    r".*\.(ckpt|pt|pth|bin|th|ptl|torchscript|(pth|pt|ckpt)\.tar)",
    r".*\.(gguf|keras|h5|hdf5|msgpack|onnx|pt2|nemo)|checkpoint_\d+",
    r".*\.(npz|zip)",  # these are often data
    r".*\.npy",
    r".*\.(tflite|mlmodel|pte|pdparams|caffemodel|weights|mar|engine)",  # named, but not read
)
_NOT_WEIGHTS = re.compile(
    r"((training_)?args|dl_state_dict|openvino.*|"
    r"(scheduler|scaler|rng_state|random_state|sampler).*"
    r"|(.*[._-])?optim(izer)?s?(_states?|_group)?([._-]?\d[^.]*)?)"
    r"\.(pt|bin|pth|pkl|safetensors)(\.index\.json)?"
)
_SHARD = re.compile(r"(.*)-0*(\d{1,9})-of-0*(\d{1,9})\.(safetensors|bin|pt|pth)")
_PROCESS = re.compile(r"shard-\d{5,9}-model-\d{5,9}-of-\d{5,9}\.safetensors")
_PARALLEL = re.compile(r"consolidated\.\d\d\.pth|mp_rank_\d\d(_\d{3})?(_model_states\.pt)?")
_ZERO = re.compile(r"(\w+_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt")
_PIPELINE = re.compile(r"layer_\d+-model_\d+-model_states\.pt")
_CONVERT_ZERO = (
    "a checkpoint of DeepSpeed's ZeRO, whose weights are spread over its files; gather them with "
    "DeepSpeed's 'python zero_to_fp32.py FOLDER OUTPUT', where FOLDER has the file 'latest', and "
    "name OUTPUT"
)
# Files and folders that other programs write, and what they are.
_FOREIGN = (
    (r"saved_model\.pb(txt)?", "a TensorFlow SavedModel"),
    (r".*\.data-\d{5}-of-\d{5}", "a TensorFlow checkpoint"),
    (r"_CHECKPOINT_METADATA|manifest\.ocdbt|ocdbt\.process_\d+", "a checkpoint of Orbax (JAX)"),
    (r"com\.apple\.CoreML", "a Core ML package"),
    (r"openvino.*\.xml", "a model of OpenVINO"),
    (r"\.z(array|group|metadata)|zarr\.json", "a folder of Zarr arrays"),
)


class Found(NamedTuple):
    """The checkpoint in a folder.

    Attributes
    ----------
    kind : str
        ``'file'`` for one of the files `names`; ``'shards'`` if each of them has some of the
        tensors, ``'chunks'`` if each has a part of every tensor; ``'distributed'`` for a
        distributed checkpoint of torch.
    names : list of str
    notes : list of str
    """

    kind: str
    names: list[str]
    notes: list[str]


def checkpoint_in(folder: Path) -> Found:
    """Return which files of a folder are its checkpoint, and notes on checkpoints in subfolders.

    Raises
    ------
    ValueError
        If the folder holds parts of a network that another program must put together, or is of a
        format that is not read, or if only its subfolders hold checkpoints.
    FileNotFoundError
        If there is none.
    PermissionError
        If the folder may not be listed.
    """
    where = shown(folder.name, quote=False)
    next(folder.iterdir(), None)  # raises PermissionError if it may not be listed
    names = _names(folder)
    below = _subfolders(folder)
    notes = [f"not read: the checkpoints in the subfolders {some(below, 10)}"] if below else []
    if any(METADATA.fullmatch(name) for name in names):
        return Found("distributed", [], notes)
    if any(name.endswith(".distcp") for name in names):
        fault = "is missing; copy it, too"
        if ".metadata.tmp" in names:
            fault = "is missing: it was not written to its end (.metadata.tmp)"
        raise FileNotFoundError(
            f"{where}: the file '.metadata' of this distributed checkpoint {fault}"
        )
    parts = (_ZERO, _PARALLEL, _PIPELINE)
    found = choose([n for n in names if not any(part.fullmatch(n) for part in parts)], where)
    if found is None:
        _refuse_parts(names, folder, where)
        found = choose(names, where)
    if found:
        if any(_ZERO.fullmatch(name) for name in names):
            notes.append(
                "the master copy of the weights is in the files *_optim_states.pt of DeepSpeed: "
                "zero_to_fp32.py gathers it"
            )
        return found._replace(notes=[*found.notes, *notes])
    _refuse_foreign(folder, where)
    if below:
        raise ValueError(
            f"{where}: no checkpoint in the folder, but in its subfolders {some(below, 10)}; name "
            "one of them"
        )
    listed = f"only {some([shown(n, quote=False) for n in names], 3)}" if names else "no files"
    raise FileNotFoundError(
        f"{where}: no checkpoint in the folder, {listed}; expected .safetensors, .ckpt, .pt, .pth, "
        ".bin, .gguf, .onnx, .keras, .h5, .msgpack, .npz, .npy or an index of shards"
    )


def choose(names: Sequence[str], where: str) -> Found | None:
    """Return the files that could be the checkpoint among all names of a folder, or None.

    Raises
    ------
    ValueError
        If they are shards of a network, and some are missing.
    """
    names = [name for name in names if not _NOT_WEIGHTS.fullmatch(name)]
    for kind in _KINDS:
        candidates = [name for name in names if re.fullmatch(kind, name)]
        if not candidates:
            continue
        others = [n for n in names if any(re.fullmatch(kind, n) for kind in _KINDS[:5])]
        shards_of = tuple(n.removesuffix(".index.json")[-4:] for n in candidates if ".json" in n)
        others = [n for n in others if n not in candidates and not n.endswith(shards_of or "/")]
        listed = some([shown(name, quote=False) for name in others])
        notes = [f"not read: {listed} in the same folder"] if others else []
        if all(_PROCESS.fullmatch(name) for name in candidates):
            return Found("chunks", candidates, notes)
        shards = [match for name in candidates if (match := _SHARD.fullmatch(name))]
        if shards and len(shards) == len(candidates):
            return Found("shards", candidates, [*_all_shards(shards, where), *notes])
        if len({GGUF_SHARD.sub(r"\1", name) for name in candidates}) == 1:
            candidates = candidates[:1]  # a shard of GGUF has the names of the others
        return Found("file", candidates, notes)
    return None


def _all_shards(shards: Sequence[re.Match[str]], where: str) -> list[str]:
    """Return a note on the missing index of shards; raise ValueError if one is missing, too."""
    index = shown(f"{shards[0][1]}.{shards[0][4]}.index.json", quote=False)
    n_shards = int(shards[0][3])
    kinds = {(match[1], match[3], match[4]) for match in shards}
    if len(kinds) == 1 and {int(match[2]) for match in shards} == set(range(1, n_shards + 1)):
        return [f"the index {index} is missing: all {counted(n_shards, 'shard')} are read"]
    listed = some([shown(match[0], quote=False) for match in shards], 10)
    only = f"shard {shards[0][2]}" if len(shards) == 1 else f"{len(shards)} shards"
    raise ValueError(
        f"{where}: only {only} of {n_shards} ({listed}), without the index {index}; download the "
        "others, or name one of the shards"
    )


def several(names: Sequence[str], where: str) -> ValueError:
    """Return the error of a folder with several networks."""
    listed = [shown(name, quote=False) for name in names]
    adapters = [name for name in names if name.startswith("adapter_model.")]
    if len(adapters) == 1 and len(names) == 2:
        (network,) = {*names} - {*adapters}
        return ValueError(
            f"{where}: a network ({shown(network, quote=False)}) and an adapter "
            f"({shown(adapters[0], quote=False)}) in the folder; name one of them, or the adapter "
            "with --base and the network"
        )
    return ValueError(
        f"{where}: {len(names)} checkpoints in the folder ({some(listed, 10)}); name one of them"
    )


def shard_notes(path: Path) -> list[str]:
    """Return a note if a file is, by its name, one of several parts of a network."""
    name = path.name
    if _PROCESS.fullmatch(name):
        return ["only a part of each tensor, which one process wrote: name the folder to read all"]
    if _ZERO.fullmatch(name):
        return ["one of the files of DeepSpeed's ZeRO, which zero_to_fp32.py puts together"]
    for part in (path, path.parent):
        if not _PARALLEL.fullmatch(part.name):
            continue
        beside = [*_names(part.parent), *(d.name for d in _folders(part.parent))]
        others = [other for other in beside if other != part.name and _PARALLEL.fullmatch(other)]
        if others:
            listed = some([shown(other, quote=False) for other in others])
            n = len(others) + 1
            note = f"only a part of each matrix: one of {n} shards of model parallelism, beside "
            return [note + listed]
    match = _SHARD.fullmatch(name)
    if match is None or int(match[3]) < 2:
        return []
    index = path.with_name(f"{match[1]}.{match[4]}.index.json")
    state = "name it to read all shards" if index.is_file() else "it is missing"
    which = f"shard {match[2]} of {match[3]} by its name"
    return [f"only a part of the network: {which}; the index is {shown(index.name)}: {state}"]


def _refuse_parts(names: Sequence[str], folder: Path, where: str) -> None:
    """Raise ValueError if files are parts of a network that another program must put together."""
    inside = [*names, *(name for path in _latest(folder, names) for name in _names(path))]
    whole = any(re.fullmatch(r"mp_rank_\d\d_model_states\.pt", name) for name in inside)
    if not whole and any(_ZERO.fullmatch(name) for name in inside):
        raise ValueError(f"{where}: {_CONVERT_ZERO}")
    folders = [d.name for d in _folders(folder)]
    for pattern, kind in (
        (_PARALLEL, "shards of one network, split for model parallelism, by their names"),
        (_PIPELINE, "layers of one network, which DeepSpeed's pipeline wrote one by one"),
    ):
        parts = [name for name in [*names, *folders] if pattern.fullmatch(name)]
        if len(parts) > 1:
            listed = some([shown(part, quote=False) for part in parts])
            raise ValueError(
                f"{where}: {len(parts)} {kind} ({listed}); merge them with the program that wrote "
                "them, or name one to measure that part"
            )
    if "zero" in folders and any((d / "fp32.pt").is_file() for d in _folders(folder / "zero")):
        raise ValueError(
            f"{where}: a universal checkpoint of DeepSpeed, which is not read: one folder for each "
            "parameter below 'zero'; save the state_dict of the model with torch.save"
        )


def _refuse_foreign(folder: Path, where: str) -> None:
    """Raise ValueError if a folder, or one of its subfolders, is of a format that is not read."""
    for path in (folder, *_folders(folder)[:MAX_FOLDERS]):
        inside = [*_names(path), *(d.name for d in _folders(path))]
        for pattern, kind in _FOREIGN:
            if any(re.fullmatch(pattern, name) for name in inside):
                below = "" if path == folder else f"{shown(path.name)} is "
                raise ValueError(f"{where}: {below}{kind}: {NOT_READ}")


def _latest(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the subfolders that DeepSpeed's file 'latest' could name."""
    if "latest" not in names:
        return []
    with open_file(find_file(folder / "latest")) as stream:
        tag = stream.read(200).decode(errors="replace").strip()
    return [path for path in _folders(folder) if path.name == tag or path.match("global_step*")]


def _subfolders(folder: Path) -> list[str]:
    """Return the names of subfolders with a checkpoint, also two levels further down."""
    level, below = [folder], list[Path]()
    for _ in range(MAX_LEVELS):
        level = [sub for path in level for sub in _folders(path) if sub.name[:1] != "."]
        level = level[: MAX_FOLDERS - len(below)]
        below += level
    return [
        shown(str(path.relative_to(folder)), quote=False)
        for path in sorted(below)
        if not re.fullmatch(r"optim(izer)?s?(_\d+)?", path.name) and _holds(path)
    ]


def holds_network(folder: Path, *, below: bool = False) -> bool:
    """Return whether a folder holds a file that could be a network, by their names.

    With `below`, a file in one of its subfolders counts, too.
    """
    return _holds(folder) or (below and bool(_subfolders(folder)))


def _holds(folder: Path) -> bool:
    """Return whether one of the files in a folder could be a network, by their names."""
    return any(
        METADATA.fullmatch(name) or any(re.fullmatch(kind, name) for kind in _KINDS[:5])
        for name in _names(folder)
        if not _NOT_WEIGHTS.fullmatch(name)
    )


def whole_networks(names: Sequence[str]) -> list[str]:
    """Return the names of files that could each be a network, and not a shard of one.

    Files of one network in several formats are all among them, those of the preferred format first.
    """
    parts = (_SHARD, _PROCESS, _PARALLEL, _ZERO, _PIPELINE, GGUF_SHARD, _NOT_WEIGHTS)
    whole = [name for name in names if not any(part.fullmatch(name) for part in parts)]
    return [
        name
        for kind in _KINDS[:-1]
        for name in whole
        if re.fullmatch(kind, name) and not name.endswith(".index.json")
    ]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(d for d in folder.iterdir() if d.is_dir())
    except OSError:
        return []


def _names(folder: Path) -> list[str]:
    """Return the names of the files in a folder; none if it cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return []
