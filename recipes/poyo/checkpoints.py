"""Resumable training states: written atomically, with their SHA-256 in the name.

The name `step-00000120-0123456789abcdef.ckpt` holds the step and the first 16 digits of the SHA-256
of the file. torch does not verify the checksums in its files; here a file is compared with its hash
before anything is unpickled, and then read by torch's restricted unpickler.
"""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

from specdiag.outputs import sweep, write_whole

_log = logging.getLogger(__name__)

KEPT = 2  # a second one in case the newest is damaged


def write(path: Path, content: Any) -> None:
    """Write `content` by `torch.save`; the file is complete or absent, even after a power cut."""
    write_whole(path, _serialised(content))


def _serialised(content: Any) -> memoryview:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def save(folder: Path, step: int, state: Any) -> None:
    """Write the state of a training after a step, and keep only this and the previous state.

    States of later steps are removed, too: they are damaged or began with other weights. Otherwise
    the training would have been resumed from them.
    """
    content = _serialised(state)
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = folder / f"step-{step:08d}-{digest}.ckpt"
    write_whole(path, content)
    states = _newest_first(folder)
    place = states.index(path)
    for other in states[:place] + states[place + KEPT :]:
        other.unlink()


def resume(folder: Path) -> Any:
    """Return the newest undamaged state, or None; remove the files of killed writers."""
    import torch

    sweep(folder)
    for path in _newest_first(folder):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest().startswith(path.stem.rpartition("-")[2]):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _log.warning("%s is damaged and is ignored", path.name)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*-????????????????.ckpt"), reverse=True)
