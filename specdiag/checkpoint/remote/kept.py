"""Blocks of distant files that were transferred -> temporary files without a name, within a limit.

What is kept of a file is in parts, each a temporary file in which every block has its own place.
A part that was not used for the longest time makes room. It goes when nothing reads it any more.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from threading import Lock
from weakref import WeakSet, finalize

from specdiag.compute.machine import current

BLOCK = 2**16  # bytes; ranges begin and end at multiples of it
MAX_KEPT = 2**31  # bytes that are kept of all files, unless those that are being measured have more
PARTS = 8  # of which that limit consists
_lock = Lock()  # of the parts of all files; it is not held while bytes are transferred or read


class Part:
    """A temporary file with some blocks of a file.

    Attributes
    ----------
    n_whole : int
        The size of the file if it has all blocks, else 0.
    blocks : set of int
        The numbers of the blocks that it has.
    """

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="specdiag-")  # noqa: SIM115 - closed with self
        finalize(self, self.file.close)
        self.n_whole = 0
        self.blocks: set[int] = set()
        self.used = time.monotonic()

    @property
    def n_bytes(self) -> int:
        """Number of bytes that are kept."""
        return self.n_whole or len(self.blocks) * BLOCK

    def has(self, block: int) -> bool:
        """Return whether a block is there."""
        return bool(self.n_whole) or block in self.blocks

    def read(self, view: memoryview, start: int) -> int:
        """Read bytes from `start` of the distant file into `view`; return their number."""
        if hasattr(os, "preadv"):
            # Several processes can share the file after a fork, so that it has no position.
            return os.preadv(self.file.fileno(), [view], start)
        with _lock:
            self.file.seek(start)  # Windows, which has no fork
            return self.file.readinto(view)


class Kept:
    """What is kept of one file."""

    def __init__(self) -> None:
        self._parts: list[Part] = []  # the newest last
        self._largest = 0  # bytes that were missing at once
        with _lock:
            known.add(self)

    @property
    def n_bytes(self) -> int:
        """Number of bytes that are kept of the file."""
        return sum(part.n_bytes for part in self._parts)

    def parts(self) -> list[Part]:
        """Return the parts as they are now; they stay readable while they are referred to."""
        with _lock:
            return [*self._parts]

    def part_for(self, n_bytes: int) -> Part:
        """Return the part for so many more bytes, after older ones have made room for them."""
        with _lock:
            self._largest = max(self._largest, n_bytes)
            if not self._parts or self._parts[-1].n_bytes >= MAX_KEPT // PARTS:
                self._parts.append(Part())
            _make_room(n_bytes, self._parts[-1])
            return self._parts[-1]

    def add(self, part: Part, blocks: Iterable[int]) -> None:
        """Note blocks that have arrived in a part."""
        with _lock:
            part.blocks.update(blocks)


known: WeakSet[Kept] = WeakSet()


def _make_room(n_bytes: int, used: Part) -> None:
    """Remove the parts that were used the longest time ago, but not the one that is used now."""
    kept = sum(file.n_bytes for file in known)
    largest = max(file._largest for file in known)
    free = kept + shutil.disk_usage(tempfile.gettempdir()).free // 2
    limit = max(MAX_KEPT, min((current().n_jobs + 2) * largest, free))
    parts = [(part, file) for file in known for part in file._parts if part is not used]
    for part, file in sorted(parts, key=lambda pair: pair[0].used):
        if kept + n_bytes <= limit:
            return
        kept -= part.n_bytes
        file._parts.remove(part)


def missing(parts: Sequence[Part], start: int, stop: int) -> list[tuple[int, int]]:
    """Return the first and the last + 1 numbers of the runs of blocks that no part has."""
    runs: list[tuple[int, int]] = []
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        if any(part.has(block) for part in parts):
            continue
        if runs and runs[-1][1] == block:
            runs[-1] = runs[-1][0], block + 1
        else:
            runs.append((block, block + 1))
    return runs


def read(parts: Sequence[Part], view: memoryview, start: int) -> int:
    """Read bytes from `start` of a file, which the parts have, into `view`; return their number."""
    done = 0
    while done < len(view):
        first = (start + done) // BLOCK
        part = next(part for part in reversed(parts) if part.has(first))
        part.used = time.monotonic()
        last = first + 1
        while part.has(last) and last * BLOCK < start + len(view):
            last += 1
        n = part.read(view[done : min(last * BLOCK - start, len(view))], start + done)
        if not n:
            break
        done += n
    return done
