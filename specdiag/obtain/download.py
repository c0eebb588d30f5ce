"""A URL -> its bytes in an open file, after breaks, redirects and errors of servers.

A download that was cut off resumes at the end of the file (RFC 9110, sections 13 and 14). The
server's validator shows whether the pieces belong together, and in the end the sha256 does.
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
LONGEST_PAUSE = 60.0  # seconds; a longer Retry-After is cut
MAX_REDIRECTS = 10
COPY_BYTES = 2**20
LOOPBACK = {"localhost", "127.0.0.1", "::1"}

CHANGED = "the source has changed: ask its publisher, or record the new file"
HUB_LOGIN = "set HF_TOKEN or run 'hf auth login' for an account with access"
HUB_ERRORS = {  # keys: values of the header X-Error-Code
    "RepoNotFound": f"no such repository, or a private one; check its name, or {HUB_LOGIN}",
    "GatedRepo": f"a gated repository; ask for access on its page, then {HUB_LOGIN}",
    "RevisionNotFound": "no such revision; check the name of the branch, tag or commit",
    "EntryNotFound": "no such file at this revision; check its name",
}
ERROR_TYPES = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}


class ChecksumError(ValueError):
    """Bytes that differ from the recorded ones."""


class Wanted(NamedTuple):
    """Name, known hash and known size of a file to fetch."""

    where: str  # its name in messages
    sha256: str | None
    size: int | None
    login: str  # advice if access is denied

    def check(self, *, sha256: str | None = None, size: int | None = None, advice: str) -> None:
        """Raise ChecksumError if a size or hash differs from the recorded one."""
        for name, actual, recorded in (("size", size, self.size), ("sha256", sha256, self.sha256)):
            if None not in (actual, recorded) and actual != recorded:
                text = f"{name} is {actual}, recorded is {recorded}"
                raise ChecksumError(f"{self.where}: {text}; {advice}")


class Address(NamedTuple):
    """A URL, and the client that requests it."""

    client: "httpx2.Client"
    url: str
    headers: dict[str, str]
    timeout: float  # seconds without an answer or a byte after which a connection is broken
    plain_host: str | None = None  # host that is allowed by plain http, as this machine is


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
    """Send a request and follow checked redirects; a token is sent only to its own host."""
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
    """Raise ValueError if others on the network could change the bytes of `url`."""
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
        text = "the answer is an HTML page instead of the file, perhaps a login page"
        raise ValueError(f"{want.where}: {text}; {want.login}")


def _remember(headers: "httpx2.Headers", validator: dict[str, str]) -> None:
    """Keep the validator that shows whether the file has changed: RFC 9110, section 13.1.5."""
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
    """Return the result of `attempt`, which is called up to four times after temporary errors.

    It is called up to four more times whenever `reached()`, the number of bytes that have arrived,
    has grown. An error of httpx2 or huggingface_hub raises OSError with one line in its place:
    PermissionError, FileNotFoundError, TimeoutError, ConnectionError, or OSError for other answers.
    """
    import httpx2

    tries, best = 0, reached()
    while True:
        try:
            return attempt()
        except httpx2.HTTPError as error:
            tries, best = (1, reached()) if reached() > best else (tries + 1, best)
            response = getattr(error, "response", None)
            is_temporary = _is_temporary(error, response)
            if not is_temporary or tries > len(PAUSES):
                raise _explained(error, response, want, is_temporary, tries) from None
            asked = "" if response is None else response.headers.get("Retry-After", "")
            pause = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else 0.0
            sleep(max(PAUSES[tries - 1], pause))


def _is_temporary(error: "httpx2.HTTPError", response: "httpx2.Response | None") -> bool:
    import httpx2

    if response is None:
        return isinstance(error, httpx2.TransportError)
    return response.status_code in (408, 429) or response.status_code >= 500


def _explained(
    error: "httpx2.HTTPError",
    response: "httpx2.Response | None",
    want: Wanted,
    is_temporary: bool,
    tries: int,
) -> OSError:
    """Return an error of Python with one line: place, problem and advice."""
    import httpx2

    again = f"after {tries} attempts; try again later"
    if response is not None:
        status = response.status_code
        if status in (401, 403):
            why = f"access denied; {want.login}"
        elif is_temporary:
            why = f"the server failed, {again}"
        else:
            why = "the server has no such file; check the URL"
        why = HUB_ERRORS.get(response.headers.get("X-Error-Code", ""), why)
        return ERROR_TYPES.get(status, OSError)(f"{want.where}: HTTP {status}: {why}")
    if isinstance(error, httpx2.TimeoutException):
        return TimeoutError(f"{want.where}: the server does not answer, {again}")
    if isinstance(error, httpx2.ConnectError):
        return ConnectionError(f"{want.where}: no connection ({printable(str(error))}), {again}")
    if not is_temporary:
        return OSError(f"{want.where}: more than {MAX_REDIRECTS} redirects; check the URL")
    return ConnectionError(f"{want.where}: the connection broke, {again}")
