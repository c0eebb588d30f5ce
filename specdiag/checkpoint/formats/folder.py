"""Folder -> the checkpoint in it."""

import re
from pathlib import Path

from specdiag.wording import shown, some

# Checkpoints in a folder, the preferred kind first. Trainers write other files of the last kind
# beside the weights.
_KINDS = (
    r".*\.safetensors\.index\.json",
    r".*\.safetensors",
    r".*\.(bin|pt|pth)\.index\.json",
    r".*\.(ckpt|pt|pth|bin)",
)
_NOT_WEIGHTS = re.compile(
    r"training_args\.bin|(optimizer|scheduler|scaler|rng_state|sampler).*\.(pt|bin|pth)"
)


def checkpoint_in(folder: Path) -> Path:
    """Return the path of the only checkpoint, or index of shards, in a folder.

    Raises
    ------
    ValueError
        If there are several.
    FileNotFoundError
        If there is none.
    """
    where = shown(folder.name, quote=False)
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_file() and not _NOT_WEIGHTS.fullmatch(entry.name)
    )
    for kind in _KINDS:
        candidates = [name for name in names if re.fullmatch(kind, name)]
        if len(candidates) > 1:
            listed = some([shown(name, quote=False) for name in candidates], 10)
            raise ValueError(
                f"{where}: {len(candidates)} checkpoints in the folder ({listed}); name one of them"
            )
        if candidates:
            return folder / candidates[0]
    raise FileNotFoundError(
        f"{where}: no checkpoint in the folder; expected .safetensors, .ckpt, .pt, .pth, .bin or "
        "an index of shards"
    )
