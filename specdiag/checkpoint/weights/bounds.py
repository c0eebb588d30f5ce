"""How much the weights of a checkpoint may take, for what its files store.

A file can describe many more values than it stores: views that share their elements, compressed
zeros, the product of two narrow matrices.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from specdiag.checkpoint.weights.weight import Weight
from specdiag.files import DistantPath

# Elements for a stored byte: GGUF stores up to 5, bits are 8. Or this many, if that is more.
PER_BYTE = 8
ALWAYS = 2**22
# Of a weight that is composed: the update of a LoRA of rank 8 has 100 for a byte of its factors.
COMPOSED_PER_BYTE = 128
COMPOSED_ALWAYS = 2**28
MAX_FILES = 100_000  # of a folder that are counted
# Formats that keep values in files beside them: those files count, too.
_IN_SEVERAL = (".json", ".onnx", ".gguf")


def stored_bytes(path: Path) -> int | None:
    """Return the size of a checkpoint's files; None if it is on another machine.

    Of a folder, and of a file whose values may lie beside it, that of all files in the folder.
    """
    if isinstance(path, DistantPath):
        return None
    if path.is_file() and path.suffix.lower() not in _IN_SEVERAL:
        return path.stat().st_size
    folder = path if path.is_dir() else path.parent
    total = 0
    for _, entry in zip(range(MAX_FILES), folder.rglob("*"), strict=False):
        total += entry.stat().st_size if entry.is_file() else 0
    return total


def within(weights: Sequence[Weight], stored: int) -> list[Weight]:
    """Return the weights; those that take more than the stored bytes allow have a reason.

    Elements that are tied count once. The first weights are kept, as far as the limits go.

    Parameters
    ----------
    weights : sequence of Weight
    stored : int
        Bytes of the files of the checkpoint.
    """
    left = {True: max(PER_BYTE * stored, ALWAYS)}
    left[False] = max(COMPOSED_PER_BYTE * stored, COMPOSED_ALWAYS)
    seen: set[object] = set()
    kept = []
    for weight in weights:
        is_plain, count = len(weight.tensors) == 1, prod(weight.shape)
        is_tied = weight.identity is not None and weight.identity in seen
        if not is_tied and not weight.problem and not weight.reason:
            if count > left[is_plain]:
                reason = f"{count:,} elements, out of proportion to a file of {stored:,} bytes"
                kept.append(replace(weight, reason=reason))
                continue
            left[is_plain] -= count
            seen.add(weight.identity)
        kept.append(weight)
    return kept
