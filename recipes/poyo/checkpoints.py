"""What a training resumes from: files that are whole or not there, and say themselves that they are whole.

`step-00000120-0123456789abcdef.ckpt` has the step and the first 16 digits of its SHA-256 in its name.
torch does not check the checksums in its files; here nothing is unpickled before the whole file has been
compared, and then by torch's restricted unpickler.
"""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

from specdiag.files import write_whole

_log = logging.getLogger(__name__)

KEPT = 2  # should the newest be damaged, there is one more


def write(path: Path, content: Any) -> None:
    """Write what `torch.save` makes of `content`; the file is there whole, also after a power cut."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


def save(folder: Path, step: int, state: Any) -> None:
    """Write the state of a training after a step; remove all but it and the one before.

    Newer ones were damaged, or of another beginning: the training would have gone on from them.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]
    path = folder / f"step-{step:08d}-{digest}.ckpt"
    write_whole(path, buffer.getbuffer())
    found = _newest_first(folder)
    first = found.index(path)
    for other in found[:first] + found[first + KEPT :]:
        other.unlink()


def resume(folder: Path) -> Any:
    """Return the newest state that is whole, or None; sweeps what interrupted writers left."""
    import torch

    for left in folder.glob(".step-*.ckpt.*"):
        left.unlink()
    for path in _newest_first(folder):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest().startswith(path.stem.rpartition("-")[2]):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _log.warning("%s is damaged: passed over", path.name)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*-????????????????.ckpt"), reverse=True)
