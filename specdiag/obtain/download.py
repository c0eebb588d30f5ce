"""A URL -> its bytes in an open file, after breaks, redirects and errors of servers.

A download that was cut off resumes at the end of the file (RFC 9110, sections 13 and 14). The
server's validator shows whether the pieces belong together, and in the end the sha256 does.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from specdiag.checkpoint.remote.requests import (
    Address,
    Wanted,
    answer,
    check_answer,
    patiently,
    remember,
)
from specdiag.files import File, find_file, open_file

Progress = Callable[[int, int | None], object]

COPY_BYTES = 2**20
CHANGED = "the source has changed: ask its publisher, or record the new file"


def download(
    part: BinaryIO,
    want: Wanted,
    at: Address,
    progress: Progress | None,
    sleep: Callable[[float], object],
) -> None:
    """Write the missing bytes of a file to the end of `part`, opened for appending.

    A file of another size at the server raises ChecksumError. Other errors are those of
    `patiently`, or ValueError for an unsafe URL or an HTML page.
    """
    validator: dict[str, str] = {}
    receive = partial(_receive, part, want, at, validator, progress)

    def attempt() -> None:
        if not receive():
            part.truncate(0)
            receive()

    patiently(want, attempt, sleep, part.tell)


def find_local(url: str, where: str) -> File:
    """Return the regular file on this machine that a file URL names."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError(f"{where}: expected file:///path/to/file on this machine")
    path = Path(url2pathname(parts.path))
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise FileNotFoundError(f"{where}: no readable file; check the path")
    return find_file(path)


def copy(source: File, part: BinaryIO, progress: Progress | None) -> None:
    """Write a local file to `part`, in place of its content."""
    part.truncate(0)
    with open_file(source) as file:
        while chunk := file.read(COPY_BYTES):
            part.write(chunk)
            if progress:
                progress(file.tell(), source.size)


def _receive(
    part: BinaryIO,
    want: Wanted,
    at: Address,
    validator: dict[str, str],
    progress: Progress | None,
) -> bool:
    """Write the rest of a file to `part`; return False if it must start at the first byte."""
    done = part.seek(0, os.SEEK_END)
    if done and not (want.sha256 or validator):
        return False
    if done and done == want.size:
        return True
    ranged = {"Range": f"bytes={done}-", **validator} if done else {}
    with answer(at, want, ranged) as response:
        status, headers = response.status_code, response.headers
        continues = headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if done and (status == 416 or (status == 206 and not continues)):
            return False
        check_answer(response, want, {200, 206} if done else {200})
        if status == 200:
            part.truncate(done := 0)
        remember(headers, validator)
        total = done + int(headers["Content-Length"]) if "Content-Length" in headers else want.size
        want.check(size=total, advice=CHANGED)
        for chunk in response.iter_raw():
            done += part.write(chunk)
            if done > (want.size or done):
                want.check(size=done, advice=CHANGED)
            if progress:
                progress(done, total)
    part.flush()
    return True
