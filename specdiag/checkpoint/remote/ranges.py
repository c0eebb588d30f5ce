"""One distant file -> its bytes, of which only the ranges that are read are transferred.

They are kept in a temporary file without a name, so that nothing is transferred twice. A server
that does not serve ranges (RFC 9110, section 14) sends the whole file once.
"""

import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from threading import RLock
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from weakref import WeakSet, finalize

from specdiag.checkpoint.remote.requests import (
    Address,
    Wanted,
    answer,
    check_answer,
    check_pace,
    patiently,
    remember,
)

if TYPE_CHECKING:
    import httpx2
    from typing_extensions import Buffer

BLOCK = 2**16  # bytes; ranges begin and end at multiples of it
MAX_KEPT = 2**31  # bytes that are kept of all files, unless one tensor has more
MAX_WHOLE = 2**34  # bytes of a file that is downloaded whole
SHOWN_FROM = 2**25  # bytes of a transfer that is shown on a terminal
STEP = 2**20  # bytes that must have arrived before the attempts are counted anew
PAUSES = (1.0, 4.0)  # seconds before the second and third attempt
CHANGED = "it changed at the server since it was opened; open it again"
_lock = RLock()  # of all files, because one can make room for another
_SPAN = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class Ranges:
    """The bytes of one file at a server.

    Parameters
    ----------
    address : callable
        Returns its address, with the user's token as it is now.
    want : Wanted
        Its name in messages; its size, or None to ask the server.

    Attributes
    ----------
    size : int
        Number of bytes.
    validator : dict
        The request header with the server's tag of the file, if there is one.
    """

    def __init__(self, address: Callable[[], Address], want: Wanted) -> None:
        self._address, self._want = address, want
        self._direct: Address | None = None
        self._used = time.monotonic()
        self._close: Callable[[], object] = lambda: None
        self._forget()
        known.add(self)
        self.validator: dict[str, str] = {}
        self.size = want.size if want.size is not None else -1
        if want.size is None:
            self._fetch(0, BLOCK)

    def open(self) -> BinaryIO:
        """Return a stream of the bytes."""
        return cast(BinaryIO, io.BufferedReader(_Stream(self)))

    def read_into(self, view: memoryview, start: int) -> int:
        """Write the bytes from `start` into `view`, and return their number."""
        stop = min(start + len(view), self.size)
        if start >= stop:
            return 0
        with _lock:
            for first, end in self._missing(start, stop):
                self._fetch(first, end)
            count = self._read_kept(view[: stop - start], start)
        if not count:
            raise ValueError(f"{self._want.where}: its temporary file was cut short")
        return count

    def _read_kept(self, view: memoryview, start: int) -> int:
        if hasattr(os, "preadv"):
            # Several processes can share the file after a fork, so that it has no position.
            return os.preadv(self._file.fileno(), [view], start)
        self._file.seek(start)  # Windows, which has no fork
        return self._file.readinto(view)

    def _forget(self) -> None:
        self._close()
        self._file = tempfile.TemporaryFile(prefix="specdiag-")  # noqa: SIM115 - closed with self
        self._close = finalize(self, self._file.close)
        self._present: set[int] = set()  # numbers of blocks
        self._is_whole = False

    @property
    def kept(self) -> int:
        """Number of bytes in the temporary file."""
        return self.size if self._is_whole else len(self._present) * BLOCK

    def _make_room(self, n_bytes: int) -> None:
        """Forget the files that were used the longest time ago, this one last."""
        self._used = time.monotonic()
        for other in sorted(known, key=lambda file: file._used):
            if sum(file.kept for file in known) + n_bytes > MAX_KEPT:
                other._forget()

    def _missing(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of whole blocks that must be transferred before a range is read."""
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        if self._is_whole or self._present.issuperset(blocks):
            return
        self._make_room(sum(block not in self._present for block in blocks) * BLOCK)
        wanted = [block for block in blocks if block not in self._present]
        while wanted and not self._is_whole:
            n = next((i for i, b in enumerate(wanted) if b != wanted[0] + i), len(wanted))
            yield wanted[0] * BLOCK, min((wanted[0] + n) * BLOCK, self.size)
            wanted = wanted[n:]

    def _fetch(self, start: int, stop: int) -> None:
        """Transfer a range into the temporary file, or the whole file from a simple server."""
        transfer = _Transfer(self._want, start, stop)

        def attempt() -> None:
            import httpx2

            try:
                self._attempt(transfer)
            except httpx2.HTTPStatusError as error:
                if self._direct is None or error.response.status_code > 410:
                    raise
                self._direct = None  # such an address is valid for some time only
                self._attempt(transfer)

        with transfer:
            patiently(self._want, attempt, time.sleep, lambda: transfer.at // STEP, PAUSES)
        if not self._is_whole:
            self._present.update(range(start // BLOCK, -(-transfer.stop // BLOCK)))

    def _attempt(self, transfer: "_Transfer") -> None:
        """Transfer the rest of a range."""
        import httpx2

        ranged = {"Range": f"bytes={transfer.at}-{transfer.stop - 1}", **self.validator}
        at = self._direct or self._address()
        with answer(at, self._want, ranged) as response:
            if response.status_code == 416 and self.size <= 0:
                self.size = transfer.stop = 0
                return
            check_answer(response, self._want, {200, 206})
            self._compare(response)
            if response.request.url.netloc != httpx2.URL(at.url).netloc:
                self._direct = at._replace(url=str(response.request.url), headers={})  # no token
            if response.status_code == 200:
                self._start_whole(transfer, response)
            else:
                self._check_span(transfer, response)
            transfer.receive(response, self._file.fileno())
        if response.status_code == 200:
            self._end_whole(transfer)
        elif transfer.at < transfer.stop:
            raise httpx2.RemoteProtocolError("")

    def _compare(self, response: "httpx2.Response") -> None:
        """Compare the tag of the file with that of the first answer."""
        found: dict[str, str] = {}
        remember(response.headers, found)
        if self.size < 0:
            self.validator = found
        elif self.validator and self.validator != found:
            raise ValueError(f"{self._want.where}: {CHANGED}")

    def _check_span(self, transfer: "_Transfer", response: "httpx2.Response") -> None:
        """Check that the answer is the beginning of the range."""
        span = _SPAN.fullmatch(response.headers.get("Content-Range", ""))
        first, last, size = map(int, span.groups()) if span else (-1, -1, -1)
        if first != transfer.at or not first <= last < min(size, transfer.stop):
            raise ValueError(
                f"{self._want.where}: the server answers with other bytes than those that were "
                "asked for; download the file and name it"
            )
        if self.size < 0:
            self.size = size
            transfer.stop = min(transfer.stop, size)
        if size != self.size:
            raise ValueError(f"{self._want.where}: {CHANGED}")

    def _start_whole(self, transfer: "_Transfer", response: "httpx2.Response") -> None:
        """Prepare for the whole file, which a server without ranges sends."""
        text = response.headers.get("Content-Length", "")
        length = int(text) if text.isdecimal() else None
        if self.size >= 0 and length not in (None, self.size):
            raise ValueError(f"{self._want.where}: {CHANGED}")
        limit = min(MAX_WHOLE, shutil.disk_usage(tempfile.gettempdir()).free * 9 // 10)
        if (length or 0) > limit:
            raise ValueError(
                f"{self._want.where}: {length:,} bytes, and the server sends no parts of files; at "
                f"most {limit:,} are downloaded whole; download it to a larger disk and name it"
            )
        transfer.at, transfer.stop = 0, self.size if length is None else length
        transfer.limit = limit

    def _end_whole(self, transfer: "_Transfer") -> None:
        import httpx2

        if transfer.stop not in (-1, transfer.at):
            raise httpx2.RemoteProtocolError("")
        self.size, self._is_whole = transfer.at, True


known: WeakSet[Ranges] = WeakSet()


class _Transfer:
    """A range that arrives; `at` is the next byte, `stop` -1 if the end is unknown."""

    def __init__(self, want: Wanted, start: int, stop: int) -> None:
        self.want, self.start, self.at, self.stop = want, start, start, stop
        self.limit = 0  # of a file without a known end
        self.began = time.monotonic()
        self.received = 0
        self.bar: Any = None

    def receive(self, response: "httpx2.Response", target: int) -> None:
        """Write the bytes of the answer up to `stop` to the file descriptor `target`."""
        for chunk in response.iter_raw():
            piece = chunk if self.stop < 0 else chunk[: self.stop - self.at]
            if self.stop < 0 and self.at + len(piece) > self.limit:
                raise ValueError(f"{self.want.where}: more than {self.limit:,} bytes")
            self._write(target, piece)
            check_pace(self.want, self.began, self.received)
            self._show(len(piece))
            if 0 <= self.stop <= self.at:
                return

    def _write(self, target: int, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            try:
                n = os.pwrite(target, view, self.at)
            except OSError as error:
                raise OSError(
                    f"{self.want.where}: its bytes cannot be kept in {tempfile.gettempdir()} "
                    f"({error.strerror}); set TMPDIR to a folder of another disk"
                ) from None
            self.at, self.received, view = self.at + n, self.received + n, view[n:]

    def _show(self, n_bytes: int) -> None:
        """Draw a progress bar on a terminal's stderr if there is much to transfer."""
        if self.bar is None:
            if max(self.stop - self.start, self.received) < SHOWN_FROM:
                return
            from huggingface_hub.utils import tqdm

            self.bar = tqdm(  # type: ignore[no-untyped-call]
                total=self.stop - self.start if self.stop > 0 else None,
                desc=self.want.where,
                unit="B",
                unit_scale=True,
                disable=None,
                leave=False,
            )
            n_bytes = self.received
        self.bar.update(n_bytes)

    def __enter__(self) -> "_Transfer":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


class _Stream(io.RawIOBase):
    """A stream that reads ranges; it is given a buffer by `Ranges.open`."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges, self._position = ranges, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readall(self) -> bytes:
        content = bytearray(max(self._ranges.size - self._position, 0))
        view = memoryview(content)
        while view:
            view = view[self.readinto(view) :]
        return bytes(content)

    def readinto(self, buffer: "Buffer") -> int:
        count = self._ranges.read_into(memoryview(buffer).cast("B"), self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_CUR: self._position, os.SEEK_END: self._ranges.size}.get(whence, 0)
        if start + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position
