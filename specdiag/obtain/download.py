"""An address -> its bytes, written to an open file: over breaks, redirects and failing servers.

A download that was cut off goes on where the file ends (RFC 9110, sections 13 and 14). Whether the
pieces belong together is told by the server's validator, and in the end by the sha256.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from specdiag.files import File, find_file, open_file
from specdiag.wording import printable, shown

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
Progress = Callable[[int, int | None], object]

PAUSES = (1.0, 4.0, 16.0)  # seconds before the second, third and fourth attempt
LONGEST_PAUSE = 60.0  # of what Retry-After asks for
MAX_REDIRECTS = 10
COPY_BYTES = 2**20
LOOPBACK = {"localhost", "127.0.0.1", "::1"}

CHANGED = "it changed at its source: ask who publishes it, or record it anew"
HUB_LOGIN = "set HF_TOKEN or run 'hf auth login' for an account that may read it"
URL_LOGIN = "download it by hand and name it by a file:// URL"
HUB_ERRORS = {  # by the header X-Error-Code
    "RepoNotFound": f"no such repository, or a private one; check its name, or {HUB_LOGIN}",
    "GatedRepo": f"a gated repository; ask for access on its page, then {HUB_LOGIN}",
    "RevisionNotFound": "no such revision; check the name of the branch, tag or commit",
    "EntryNotFound": "no such file at this revision; check its name",
}
ERROR_TYPES = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}


class ChecksumError(ValueError):
    """Bytes that are not the recorded ones."""


class Wanted(NamedTuple):
    """What is to be fetched, as far as it is known."""

    where: str  # how messages name it
    sha256: str | None
    size: int | None
    login: str  # what to do when access is denied

    def check(self, *, sha256: str | None = None, size: int | None = None, advice: str) -> None:
        """Raise ChecksumError when what was found is not what was recorded."""
        for name, found, recorded in (("size", size, self.size), ("sha256", sha256, self.sha256)):
            if None not in (found, recorded) and found != recorded:
                text = f"{name} is {found}, recorded is {recorded}"
                raise ChecksumError(f"{self.where}: {text}; {advice}")


class Address(NamedTuple):
    """Where to ask, and how."""

    client: "httpx2.Client"
    url: str
    headers: dict[str, str]
    timeout: float  # seconds without an answer or a byte until a connection counts as broken
    plain_host: str | None = None  # may be reached by plain http, as this machine may


def download(
    part: BinaryIO,
    want: Wanted,
    at: Address,
    progress: Progress | None,
    sleep: Callable[[float], object],
) -> None:
    """Write what is missing of a file to the end of `part`, opened for appending.

    Raises
    ------
    ChecksumError
        When the server has another size than is wanted.
    OSError, ValueError
        When it cannot be had: see `patiently`.
    """
    validator: dict[str, str] = {}
    receive = partial(_receive, part, want, at, validator, progress)

    def attempt() -> None:
        if not receive():
            part.truncate(0)
            receive()

    patiently(want, attempt, sleep, part.tell)


def find_local(url: str, where: str) -> File:
    """Return the regular file of this machine that a file URL names."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError(f"{where}: expected file:///path/to/file on this machine")
    path = Path(url2pathname(parts.path))
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise FileNotFoundError(f"{where}: no file that can be read; check the path")
    return find_file(path)


def copy(source: File, part: BinaryIO, progress: Progress | None) -> None:
    """Write a local file to `part` in place of what is there."""
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
    """Write the rest of a file to the end of `part`; False if it must be fetched from its beginning."""
    done = part.seek(0, os.SEEK_END)
    if done and not (want.sha256 or validator):
        return False
    if done and done == want.size:
        return True
    ranged = {"Range": f"bytes={done}-", **validator} if done else {}
    with _answer(at, want, ranged) as response:
        status, headers = response.status_code, response.headers
        continues = headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if done and (status == 416 or (status == 206 and not continues)):
            return False
        _check_answer(response, want, {200, 206} if done else {200})
        if status == 200:
            part.truncate(done := 0)
        _remember(headers, validator)
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


@contextmanager
def _answer(at: Address, want: Wanted, ranged: dict[str, str]) -> Iterator["httpx2.Response"]:
    """Send a request and follow its redirects, each of them checked; a token stays at its host."""
    import httpx2

    headers = {**at.headers, "Accept-Encoding": "identity", **ranged}
    request = at.client.build_request("GET", at.url, headers=headers, timeout=at.timeout)
    for _ in range(1 + MAX_REDIRECTS):
        check_url(request.url, want.where, at.plain_host)
        with closing(at.client.send(request, stream=True, follow_redirects=False)) as response:
            if response.next_request is None:
                yield response
                return
            request = response.next_request
    raise httpx2.TooManyRedirects("")


def check_url(url: "httpx2.URL", where: str, plain_host: str | None = None) -> None:
    """Raise ValueError if anyone on the way could change what comes from `url`."""
    if url.scheme == "https" or (url.scheme == "http" and url.host in {*LOOPBACK, plain_host}):
        return
    place = shown(f"{url.scheme}://{url.host}", quote=False)
    text = "expected https (or http from this machine, or a file:// URL)"
    raise ValueError(f"{where}: refused to fetch from {place}: {text}")


def _check_answer(response: "httpx2.Response", want: Wanted, expected: set[int]) -> None:
    import httpx2

    if response.status_code not in expected:
        raise httpx2.HTTPStatusError("", request=response.request, response=response)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        text = "the answer is an HTML page instead of the file, perhaps to log in"
        raise ValueError(f"{want.where}: {text}; {want.login}")


def _remember(headers: "httpx2.Headers", validator: dict[str, str]) -> None:
    """Keep what tells that the file is still the same: RFC 9110, section 13.1.5."""
    validator.clear()
    etag, date = headers.get("ETag", "W/"), headers.get("Last-Modified")
    if not etag.startswith("W/"):
        validator["If-Range"] = etag
    elif date:
        validator["If-Range"] = date


def patiently(
    want: Wanted,
    attempt: Callable[[], T],
    sleep: Callable[[float], object],
    reached: Callable[[], int] = lambda: 0,
) -> T:
    """Return what `attempt` returns; errors that pass are given four attempts.

    Four more are given whenever `reached`, the bytes that have arrived, has grown.

    Raises
    ------
    OSError
        One line in place of any error of httpx2 and huggingface_hub: PermissionError,
        FileNotFoundError, TimeoutError, ConnectionError, or OSError for other answers.
    """
    import httpx2

    tries, best = 0, reached()
    while True:
        try:
            return attempt()
        except httpx2.HTTPError as error:
            tries, best = (1, reached()) if reached() > best else (tries + 1, best)
            response = getattr(error, "response", None)
            passes = _passes(error, response)
            if not passes or tries > len(PAUSES):
                raise _explained(error, response, want, passes, tries) from None
            asked = "" if response is None else response.headers.get("Retry-After", "")
            pause = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else 0.0
            sleep(max(PAUSES[tries - 1], pause))


def _passes(error: "httpx2.HTTPError", response: "httpx2.Response | None") -> bool:
    import httpx2

    if response is None:
        return isinstance(error, httpx2.TransportError)
    return response.status_code in (408, 429) or response.status_code >= 500


def _explained(
    error: "httpx2.HTTPError",
    response: "httpx2.Response | None",
    want: Wanted,
    passes: bool,
    tries: int,
) -> OSError:
    """Return an error of Python in one line: what, where, what to do."""
    import httpx2

    again = f"after {tries} attempts; try again later"
    if response is not None:
        status = response.status_code
        if status in (401, 403):
            why = f"access denied; {want.login}"
        elif passes:
            why = f"the server fails, {again}"
        else:
            why = "the server has no such file; check the address"
        why = HUB_ERRORS.get(response.headers.get("X-Error-Code", ""), why)
        return ERROR_TYPES.get(status, OSError)(f"{want.where}: HTTP {status}: {why}")
    if isinstance(error, httpx2.TimeoutException):
        return TimeoutError(f"{want.where}: the server does not answer, {again}")
    if isinstance(error, httpx2.ConnectError):
        return ConnectionError(f"{want.where}: no connection ({printable(str(error))}), {again}")
    if not passes:
        return OSError(f"{want.where}: more than {MAX_REDIRECTS} redirects; check the address")
    return ConnectionError(f"{want.where}: the connection breaks off, {again}")
