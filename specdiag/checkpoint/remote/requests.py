"""A request -> its answer, after redirects and temporary errors, or one line that says why not."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from specdiag.wording import printable, shown

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

_log = logging.getLogger(__name__)

PAUSES = (1.0, 4.0, 16.0)  # seconds before the second, third and fourth attempt
TIMEOUT = 20.0  # seconds without an answer or a byte
PATIENCE = 120.0  # seconds that a transfer may be slower than SLOWEST
SLOWEST = 10_000  # bytes a second
LONGEST_PAUSE = 60.0  # seconds; a longer Retry-After is cut
MAX_REDIRECTS = 10
LOOPBACK = {"localhost", "127.0.0.1", "::1"}

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
    advice: str  # what to do if access is denied

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


def plain_host(endpoint: str) -> str | None:
    """Return the host of an endpoint that the user chose with plain http; None with https."""
    parts = urlsplit(endpoint)
    return parts.hostname if parts.scheme == "http" else None


def made(client: "Callable[[], httpx2.Client]") -> "httpx2.Client":
    """Return a new client; raise OSError if it cannot use the proxy that the environment names."""
    import httpx2

    try:
        return client()
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise OSError(
            "the proxy that the environment names (ALL_PROXY, HTTPS_PROXY, HTTP_PROXY) cannot be "
            f"used: {printable(str(error))}"
        ) from None


@contextmanager
def answer(at: Address, want: Wanted, ranged: dict[str, str]) -> Iterator["httpx2.Response"]:
    """Send a request and follow checked redirects; a token is sent only to its own host."""
    import httpx2

    headers = {**at.headers, "Accept-Encoding": "identity", **ranged}
    request = at.client.build_request("GET", at.url, headers=headers, timeout=at.timeout)
    was_safe = False
    for _ in range(1 + MAX_REDIRECTS):
        check_url(request.url, want.where, at.plain_host)
        if was_safe and request.url.scheme != "https":
            raise ValueError(f"{want.where}: refused to be sent from https to http")
        was_safe = request.url.scheme == "https"
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
    text = "expected https (or http from this machine)"
    raise ValueError(f"{where}: refused to fetch from {place}: {text}")


def check_answer(response: "httpx2.Response", want: Wanted, expected: set[int]) -> None:
    """Raise an error if the status is not an expected one, or the content is not the file."""
    import httpx2

    if response.status_code not in expected:
        raise httpx2.HTTPStatusError("", request=response.request, response=response)
    if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise ValueError(f"{want.where}: the server sends the file compressed ({shown(coding)})")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        text = "the answer is an HTML page instead of the file, perhaps a login page"
        raise ValueError(f"{want.where}: {text}; {want.advice}")


def check_pace(want: Wanted, began: float, received: int) -> None:
    """Raise TimeoutError if a transfer that began at a monotonic time is too slow to wait for."""
    if time.monotonic() - began > PATIENCE + received / SLOWEST:
        raise TimeoutError(
            f"{want.where}: the server sends less than {SLOWEST:,} bytes a second; try again later"
        )


def remember(headers: "httpx2.Headers", validator: dict[str, str]) -> None:
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
    pauses: Sequence[float] = PAUSES,
) -> T:
    """Return the result of `attempt`, which is called again after a temporary error and a pause.

    A line of the log says so before each pause. All pauses are left again whenever `reached()`,
    which counts bytes that have arrived, has grown. An error of httpx2 or huggingface_hub raises
    OSError with one line in its place: PermissionError, FileNotFoundError, TimeoutError,
    ConnectionError, or OSError for other answers.
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
            if not is_temporary or tries > len(pauses):
                raise _explained(error, response, want, is_temporary, tries) from None
            asked = "" if response is None else response.headers.get("Retry-After", "")
            pause = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else 0.0
            pause = max(pauses[tries - 1], pause)
            again = f"attempt {tries + 1} of {len(pauses) + 1} in {pause:.0f} s"
            _log.info("%s: %s; %s", want.where, _problem(error, response), again)
            sleep(pause)


def _problem(error: "httpx2.HTTPError", response: "httpx2.Response | None") -> str:
    import httpx2

    if response is not None:
        too_many = ", too many requests" * (response.status_code == 429)
        return f"HTTP {response.status_code}{too_many}"
    if isinstance(error, httpx2.TimeoutException):
        return "the server does not answer"
    return "no connection" if isinstance(error, httpx2.ConnectError) else "the connection broke"


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
            why = f"access denied; {want.advice}"
        elif status == 429:
            token = ", or set HF_TOKEN" * (want.advice == HUB_LOGIN)
            why = f"too many requests, after {tries} attempts; wait some minutes{token}"
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
