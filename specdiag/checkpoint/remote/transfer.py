"""Bytes of a distant file as they arrive -> a file on this machine."""

import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

from specdiag.checkpoint.remote.requests import Wanted, check_pace

if TYPE_CHECKING:
    import httpx2

SHOWN_FROM = 2**25  # bytes of a transfer that is shown on a terminal


class Transfer:
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

    def __enter__(self) -> "Transfer":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
