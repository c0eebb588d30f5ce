"""One distant file -> its bytes, of which only the ranges that are read are transferred.

They are kept in temporary files, so that little is transferred twice. A server that does not serve
ranges (RFC 9110, section 14) sends the whole file once. Threads can read at the same time: one of
them transfers bytes of a file, while others read what is there.
"""

import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, cast

from specdiag.checkpoint.remote.kept import BLOCK, Kept, Part, missing, read
from specdiag.checkpoint.remote.requests import (
    Address,
    Wanted,
    answer,
    check_answer,
    patiently,
    remember,
)
from specdiag.checkpoint.remote.transfer import Transfer

if TYPE_CHECKING:
    import httpx2
    from typing_extensions import Buffer

MAX_WHOLE = 2**34  # bytes of a file that is downloaded whole
STEP = 2**20  # bytes that must have arrived before the attempts are counted anew
PAUSES = (1.0, 4.0)  # seconds before the second and third attempt
CHANGED = "it changed at the server since it was opened; open it again"
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
        self._kept = Kept()
        self._transferring = Lock()
        self.validator: dict[str, str] = {}
        self.size = want.size if want.size is not None else -1
        if want.size is None:
            self._fetch([(0, 1)])

    def open(self) -> BinaryIO:
        """Return a stream of the bytes."""
        return cast(BinaryIO, io.BufferedReader(_Stream(self)))

    def read_into(self, view: memoryview, start: int) -> int:
        """Write the bytes from `start` into `view`, and return their number."""
        stop = min(start + len(view), self.size)
        if start >= stop:
            return 0
        parts = self._kept.parts()
        if missing(parts, start, stop):
            with self._transferring:  # by another thread in the meantime, perhaps
                parts = self._kept.parts()
                if runs := missing(parts, start, stop):
                    parts.append(self._fetch(runs))
        count = read(parts, view[: stop - start], start)
        if not count:
            raise ValueError(f"{self._want.where}: its temporary file was cut short")
        return count

    @property
    def kept(self) -> int:
        """Number of bytes in temporary files."""
        return self._kept.n_bytes

    def _fetch(self, runs: Sequence[tuple[int, int]]) -> Part:
        """Transfer runs of blocks into a part, or the whole file from a simple server."""
        part = self._kept.part_for(BLOCK * sum(end - first for first, end in runs))
        for first, end in runs:
            stop = end * BLOCK if self.size < 0 else min(end * BLOCK, self.size)
            if not part.n_whole:
                self._transfer(part, first * BLOCK, stop)
        return part

    def _transfer(self, part: Part, start: int, stop: int) -> None:
        transfer = Transfer(self._want, start, stop)

        def attempt() -> None:
            import httpx2

            try:
                self._attempt(transfer, part)
            except httpx2.HTTPStatusError as error:
                if self._direct is None or error.response.status_code > 410:
                    raise
                self._direct = None  # such an address is valid for some time only
                self._attempt(transfer, part)

        with transfer:
            patiently(self._want, attempt, time.sleep, lambda: transfer.at // STEP, PAUSES)
        if not part.n_whole:
            self._kept.add(part, range(start // BLOCK, -(-transfer.stop // BLOCK)))

    def _attempt(self, transfer: Transfer, part: Part) -> None:
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
            transfer.receive(response, part.file.fileno())
        if response.status_code == 200:
            self._end_whole(transfer, part)
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

    def _check_span(self, transfer: Transfer, response: "httpx2.Response") -> None:
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

    def _start_whole(self, transfer: Transfer, response: "httpx2.Response") -> None:
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

    def _end_whole(self, transfer: Transfer, part: Part) -> None:
        import httpx2

        if transfer.stop not in (-1, transfer.at):
            raise httpx2.RemoteProtocolError("")
        self.size = part.n_whole = transfer.at


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
