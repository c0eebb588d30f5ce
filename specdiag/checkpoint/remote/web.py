"""Paths of the web, ``https://host/file``."""

from collections.abc import Generator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit, urlunsplit

from specdiag.checkpoint.remote.path import Found, RemotePath
from specdiag.checkpoint.remote.ranges import Ranges
from specdiag.checkpoint.remote.requests import LOOPBACK, TIMEOUT, Address, Wanted, made
from specdiag.wording import shown

if TYPE_CHECKING:
    import httpx2

ADVICE = "download the file and name it"

_opened: dict[str, Ranges] = {}  # by URL


class WebPath(RemotePath):
    """A file behind a URL. Its text is without the query, which can hold a password."""

    _url = ""

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the path of a URL; raise ValueError if it is invalid or unsafe."""
        import httpx2

        parts = urlsplit(url)
        where = shown(f"{parts.scheme}://{parts.hostname or ''}{parts.path}", quote=False)
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"{where}: an address with a user name is not read; {ADVICE}")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError(f"{where}: expected https, where others cannot change the bytes")
        try:
            httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise ValueError(f"{where}: {error}") from None
        if not parts.hostname or not parts.path.strip("/"):
            raise ValueError(f"{where}: expected https://host/file")
        path = cls(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")))
        path._url = urlunsplit(parts._replace(fragment=""))
        return path

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.url == getattr(other, "url", "")

    __hash__ = RemotePath.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return WebPath.of, (self.url,)

    @property
    def url(self) -> str:
        """The address with its query."""
        return self._url or str(self)

    def pinned(self) -> Self:
        """Return this path; the server is asked anew for it and the files beside it."""
        for url in [url for url in _opened if url.startswith(str(self.parent))]:
            del _opened[url]
        return self

    def origin(self, pinned: Self) -> str:
        """Return a sentence on the tag of the file."""
        tag = shown(pinned.ranges().validator.get("If-Range", "no tag"), quote=False)
        return f"read from {shown(self.parts[1], quote=False)}: {tag}"

    def look(self) -> Found:
        """Return the size of the file; raise an error if the server does not serve it."""
        ranges = self.ranges()
        return Found(False, ranges.size, repr(ranges.validator))

    def is_dir(self) -> bool:
        """Return False: a server lists no folders."""
        return False

    def exists(self) -> bool:
        """Return whether the server serves a file here that is no HTML page."""
        try:
            self.look()
        except (FileNotFoundError, PermissionError, ValueError):
            return False
        return True

    is_file = exists

    def iterdir(self) -> Generator[Self, None, None]:
        """Raise OSError: a server lists no folders."""
        raise OSError(f"{self}: files behind a URL cannot be listed; name one of them")

    def ranges(self) -> Ranges:
        """Return the bytes of the file."""
        if self.url not in _opened:
            at = Address(_client(), self.url, {}, TIMEOUT)
            want = Wanted(shown(self.name, quote=False), None, None, ADVICE)
            _opened[self.url] = Ranges(lambda: at, want)
        return _opened[self.url]


@lru_cache(maxsize=1)
def _client() -> "httpx2.Client":
    import httpx2

    return made(httpx2.Client)
