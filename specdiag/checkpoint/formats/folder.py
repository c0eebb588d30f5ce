"""Folder -> the checkpoint in it, and notes on other checkpoints below it."""

import re
from collections.abc import Sequence
from pathlib import Path

from specdiag.wording import shown, some

MAX_FOLDERS = 1000  # subfolders that are looked into
# Checkpoints in a folder, the preferred kind first. Trainers write other files of the last kind
# beside the weights.
_KINDS = (
    r".*\.safetensors\.index\.json",
    r".*\.safetensors",
    r".*\.(bin|pt|pth)\.index\.json",
    r".*\.(ckpt|pt|pth|bin)",
)
_NOT_WEIGHTS = re.compile(
    r"training_args\.bin|(optimizer|scheduler|scaler|rng_state|random_state|sampler).*"
    r"\.(pt|bin|pth)"
)
_SHARD = re.compile(r"(.*)-0*(\d{1,9})-of-0*(\d{1,9})\.(safetensors|bin|pt|pth)")
_ZERO = re.compile(r"(\w+_)?(zero_)?pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt")


def checkpoint_in(folder: Path) -> tuple[Path, list[str]]:
    """Return the path of the only checkpoint, or index of shards, in a folder, and notes on others.

    Raises
    ------
    ValueError
        If there are several, or if the folder has another known format.
    FileNotFoundError
        If there is none.
    """
    where = shown(folder.name, quote=False)
    names = _files(folder)
    _refuse_foreign(names, folder, where)
    below = _subfolders(folder)
    for kind in _KINDS:
        candidates = [name for name in names if re.fullmatch(kind, name)]
        if len(candidates) > 1:
            raise ValueError(f"{where}: {_several(candidates)}")
        if candidates:
            notes = (
                [f"not read: the checkpoints in the subfolders {some(below, 10)}"] if below else []
            )
            return folder / candidates[0], notes
    if below:
        raise ValueError(
            f"{where}: no checkpoint in the folder, but in its subfolders {some(below, 10)}; name "
            "one of them"
        )
    raise FileNotFoundError(
        f"{where}: no checkpoint in the folder; expected .safetensors, .ckpt, .pt, .pth, .bin or "
        "an index of shards"
    )


def shard_notes(path: Path) -> list[str]:
    """Return a note if a file is, by its name, one of several shards."""
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match[3]) < 2:
        return []
    index = path.with_name(f"{match[1]}.{match[4]}.index.json")
    state = "name it to read all shards" if index.is_file() else "it is missing"
    part = f"shard {match[2]} of {match[3]} by its name"
    return [f"only a part of the network: {part}; the index is {shown(index.name)}: {state}"]


def _several(names: Sequence[str]) -> str:
    """Return what to do with several checkpoints in one folder."""
    listed = some([shown(name, quote=False) for name in names], 10)
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    if len(shards) == len(names):
        index = shown(f"{shards[0][1]}.{shards[0][4]}.index.json", quote=False)
        return (
            f"{len(names)} shards of {shards[0][3]} without their index {index}; download it, or "
            f"name one of the shards ({listed})"
        )
    return f"{len(names)} checkpoints in the folder ({listed}); name one of them"


def _refuse_foreign(names: Sequence[str], folder: Path, where: str) -> None:
    """Raise ValueError if the folder is one that another program must convert first."""
    zero = any(_ZERO.fullmatch(name) for name in names)
    if not zero and "latest" in names:
        zero = any(_ZERO.fullmatch(name) for d in folder.glob("global_step*") for name in _files(d))
    if zero:
        raise ValueError(
            f"{where}: a checkpoint of DeepSpeed's ZeRO, whose weights are spread over its files; "
            "gather them with DeepSpeed's 'python zero_to_fp32.py FOLDER OUTPUT', where FOLDER has "
            "the file 'latest', and name OUTPUT"
        )
    if any(name.endswith(".distcp") for name in names):
        raise ValueError(
            f"{where}: a distributed checkpoint of torch; convert it with 'python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE' and name FILE"
        )
    if "saved_model.pb" in names:
        raise ValueError(f"{where}: a TensorFlow SavedModel, which is not read")
    if any(re.fullmatch(r".*\.data-\d{5}-of-\d{5}", name) for name in names):
        raise ValueError(f"{where}: a TensorFlow checkpoint, which is not read")


def _subfolders(folder: Path) -> list[str]:
    """Return the names of subfolders with a checkpoint, also one level further down."""
    below = [d for sub in _folders(folder) for d in (sub, *_folders(sub))]
    return [
        shown(str(path.relative_to(folder)), quote=False)
        for path in below[:MAX_FOLDERS]
        if any(re.fullmatch(kind, name) for name in _files(path) for kind in _KINDS)
    ]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(d for d in folder.iterdir() if d.is_dir())
    except OSError:
        return []


def _files(folder: Path) -> list[str]:
    """Return the names of files that could hold weights; none if the folder cannot be read."""
    try:
        found = [entry.name for entry in folder.iterdir() if entry.is_file()]
    except OSError:
        return []
    return sorted(name for name in found if not _NOT_WEIGHTS.fullmatch(name))
