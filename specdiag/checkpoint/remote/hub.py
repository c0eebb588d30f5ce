"""Paths of the Hugging Face hub, ``hf://owner/repo[@revision][/file]``.

One request lists a repository at a commit; the bytes of its files come by ranges. Endpoint, token
and offline mode are those of `huggingface_hub`. Its own file system takes an answer of any length
for the range that was asked for, and follows redirects to any address.
"""

import json
import re
import time
from collections.abc import Generator
from functools import lru_cache, partial
from typing import NamedTuple, Self
from urllib.parse import quote, unquote, urlsplit

from specdiag.checkpoint.remote.path import Found, RemotePath
from specdiag.checkpoint.remote.ranges import Ranges
from specdiag.checkpoint.remote.requests import (
    HUB_LOGIN,
    TIMEOUT,
    Address,
    Wanted,
    answer,
    check_answer,
    check_pace,
    made,
    patiently,
    plain_host,
)
from specdiag.wording import is_text, shown, some

MAX_LISTING = 2**26  # bytes
PAUSES = (1.0,)  # seconds before the second attempt
_NO_NAMES = {"", ".", ".."}  # of files and folders
_COMMIT = re.compile("[0-9a-f]{40}")
# The rules of huggingface_hub; "datasets/..." and "spaces/..." are kinds of repositories there.
_REPOSITORY = re.compile(
    r"(?!.*(?:--|\.\.))(\w(?:[\w.-]*\w)?)/(\w(?:[\w.-]*\w)?)(?<!\.git)", re.ASCII
)
_REVISION = r"@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)"
_HUB = re.compile(rf"hf:/+(?P<repo>[^/@]+/[^/@]+)(?:{_REVISION})?(?:/(?P<file>.*))?")
_PAGE = re.compile(
    r"/(?P<repo>[^/]+/[^/]+)(?:/(?:tree|blob|resolve)/"
    r"(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)(?:/(?P<file>.*))?)?/?"
)


class _Listing(NamedTuple):
    commit: str
    sizes: dict[str, int | None]  # by the path of a file


# By endpoint, repository and commit, whose content never changes.
_listings: dict[tuple[str, str, str], _Listing] = {}


class HubPath(RemotePath):
    """A repository of models, or a file or folder in it."""

    _commit = ""  # of this object, once it is pinned

    @classmethod
    def of(cls, repo: str, revision: str | None, file: str) -> Self:
        """Return the path of a file; raise ValueError for an invalid name."""
        named = shown(f"hf://{repo}", quote=False)
        if repo.startswith(("datasets/", "spaces/", "kernels/", "buckets/")):
            raise ValueError(f"{named}: only repositories of models are read")
        if len(repo) > 96 or not is_repository(repo):
            raise ValueError(f"{named}: not the name of a repository; expected hf://owner/repo")
        if _NO_NAMES & {*file.removesuffix("/").split("/")} and file:
            raise ValueError(f"{named}: {shown(file)} is not a path in a repository")
        at = f"@{quote(revision, safe='')}" if revision else ""
        return cls(f"hf://{repo}{at}", *file.split("/"))

    @property
    def name(self) -> str:
        """The name of the file or folder; of a whole repository, its name without the revision."""
        return self.parts[-1].partition("@")[0] if len(self.parts) == 3 else self.parts[-1]

    @property
    def _repo(self) -> str:
        return "/".join(self.parts[1:3]).partition("@")[0]

    @property
    def _revision(self) -> str:
        return unquote(self.parts[2].partition("@")[2]) or "main"

    @property
    def _file(self) -> str:
        return "/".join(self.parts[3:])

    def pinned(self) -> Self:
        """Return the path with the commit of the revision, which is asked for once."""
        self._commit = self._commit or _ask(self._repo, self._revision, str(self)).commit
        return self.of(self._repo, self._commit, self._file)

    def origin(self, pinned: Self) -> str:
        """Return a sentence on the commit."""
        at = "" if self == pinned else f" at {shown(self._revision)},"
        return f"read from the hub: {self._repo}{at} commit {pinned._revision}"

    def look(self) -> Found:
        """Return what the listing of the commit has at this path."""
        listing = self._listing()
        file = self._file
        if file in listing.sizes:
            size = listing.sizes[file]
            return Found(False, self.ranges().size if size is None else size, listing.commit)
        if not file or any(name.startswith(f"{file}/") for name in listing.sizes):
            return Found(True, 0, listing.commit)
        names = [shown(name, quote=False) for name in sorted(listing.sizes)]
        raise FileNotFoundError(
            f"{shown(self.name, quote=False)}: no such file in the repository at this revision; it "
            f"has {some(names, 6) or 'no files'}"
        )

    def iterdir(self) -> Generator[Self, None, None]:
        """Yield the files and folders in this folder."""
        start = f"{self._file}/" if self._file else ""
        names = {
            name[len(start) :].partition("/")[0]
            for name in self._listing().sizes
            if name.startswith(start)
        }
        return (self / name for name in sorted(names))

    def ranges(self) -> Ranges:
        """Return the bytes of the file at this commit."""
        listing = self._listing()
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self._repo, self._file, revision=listing.commit)
        return _ranges(url, shown(self.name, quote=False), listing.sizes.get(self._file))

    def _listing(self) -> _Listing:
        from huggingface_hub import constants

        known = _listings.get((constants.ENDPOINT, self._repo, self._revision))
        return known or _ask(self._repo, self._revision, str(self))


def hub_path(text: str) -> HubPath | None:
    """Return the path of an hf:// address or of a page of the hub; None for another address."""
    from huggingface_hub import constants

    match = _HUB.fullmatch(text)
    if match:
        return HubPath.of(match["repo"], unquote(match["revision"] or ""), match["file"] or "")
    if text.startswith("hf:"):
        raise ValueError(
            f"{shown(text, quote=False)}: expected hf://owner/repo, hf://owner/repo@revision or "
            "hf://owner/repo/file"
        )
    url, home = urlsplit(text), urlsplit(constants.ENDPOINT)
    is_home = (url.scheme, url.netloc) == (home.scheme, home.netloc)
    match = _PAGE.fullmatch(url.path) if is_home else None
    if match is None or not is_repository(match["repo"]):
        return None
    parts = {name: unquote(part or "") for name, part in match.groupdict().items()}
    return HubPath.of(parts["repo"], parts["revision"], parts["file"])


def is_repository(name: str) -> bool:
    """Return whether `name` is a name of a repository, `owner/repo`, by the rules of the hub."""
    return _REPOSITORY.fullmatch(name) is not None


def _ask(repo: str, revision: str, where: str) -> _Listing:
    """Return the commit and the files of a revision, from the hub."""
    from huggingface_hub import constants, is_offline_mode

    if is_offline_mode():
        raise OSError(f"{where}: huggingface_hub is offline; unset HF_HUB_OFFLINE, or name a path")
    want = Wanted(where, None, None, HUB_LOGIN)
    ref = quote(revision, safe="")
    at = _address(f"{constants.ENDPOINT}/api/models/{repo}/revision/{ref}?blobs=true")

    def attempt() -> bytes:
        body, began = bytearray(), time.monotonic()
        with answer(at, want, {}) as response:
            check_answer(response, want, {200})
            for chunk in response.iter_raw():
                body += chunk
                check_pace(want, began, len(body))
                if len(body) > MAX_LISTING:
                    raise ValueError(f"{where}: the list of files exceeds {MAX_LISTING:,} bytes")
        return bytes(body)

    listing = _parsed(patiently(want, attempt, time.sleep, pauses=PAUSES), where)
    if _COMMIT.fullmatch(revision) and listing.commit != revision:
        raise OSError(f"{where}: the hub answers with commit {listing.commit}")
    _listings[constants.ENDPOINT, repo, listing.commit] = listing
    return listing


def _parsed(body: bytes, where: str) -> _Listing:
    """Return the commit and the files in an answer of the hub."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    table = content if isinstance(content, dict) else {}
    commit, files = table.get("sha"), table.get("siblings")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(files, list):
        why = "HF_ENDPOINT is not a hub, or a proxy answered"
        raise OSError(f"{where}: the answer contains no commit and files; {why}")
    sizes = {}
    for entry in files:
        name = entry.get("rfilename") if isinstance(entry, dict) else None
        if isinstance(name, str) and is_text(name) and not _NO_NAMES & {*name.split("/")}:
            size = entry.get("size")
            sizes[name] = size if type(size) is int and 0 <= size < 2**60 else None
    return _Listing(commit, sizes)


@lru_cache(maxsize=256)
def _ranges(url: str, name: str, size: int | None) -> Ranges:
    return Ranges(partial(_address, url), Wanted(name, None, size, HUB_LOGIN))


def _address(url: str) -> Address:
    """Return an address of the hub, with the user's token."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers

    host = plain_host(constants.ENDPOINT)
    return Address(made(get_session), url, build_hf_headers(), TIMEOUT, host)
