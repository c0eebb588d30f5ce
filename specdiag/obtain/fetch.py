"""A file at the Hugging Face hub or behind a URL -> a local file with the recorded bytes.

The bytes are collected in `.NAME.part.specdiag` beside the target, hashed, synced and renamed: at
any time the target is the old file or the new one. The part file is kept after a broken connection,
a full disk or a killed process. The next fetch resumes from it if a sha256 is known, which shows in
the end whether the pieces belong together. The part file is locked: a second process waits.

The rules of the hub (endpoint, token, offline mode, metadata) and the files in its cache come from
`huggingface_hub`. The bytes do not go through its cache, which would keep a second, unchecked copy
and discard an interrupted download.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from specdiag.checkpoint.remote.requests import (
    HUB_LOGIN,
    Address,
    ChecksumError,
    Wanted,
    check_url,
    patiently,
    plain_host,
)
from specdiag.files import File, find_file, open_file
from specdiag.obtain.download import CHANGED, Progress, copy, download, find_local
from specdiag.outputs import UNFINISHED, lock_open, publish
from specdiag.wording import shown

URL_LOGIN = "download the file by hand and give its file:// URL"
DAMAGED = "nothing was kept; fetch again; if the error stays, the source has changed"
ONLINE = "fetch once without HF_HUB_OFFLINE"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A verified local file; `commit` only if it is from a hub."""

    path: Path
    sha256: str
    size: int
    commit: str | None = None


class _Metadata(NamedTuple):
    commit: str
    sha256: str | None  # only for files in large file storage
    size: int | None


def fetch_hub(
    target: Path,
    *,
    repo: str,
    revision: str,
    file: str,
    commit: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
    sleep: Callable[[float], object] = time.sleep,
) -> Fetched:
    """Fetch a file of a model repository to `target`, verify it and return it.

    A target with the recorded sha256 is kept, and the recorded commit is copied from the cache of
    `huggingface_hub`, both without a request. The settings of `huggingface_hub` apply:
    `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN`, `HF_HOME`.

    Parameters
    ----------
    target : Path
        Missing folders are created. An existing file is replaced after the new one is verified.
    repo, revision, file : str
        ``owner/name``; branch, tag or commit; path in the repository.
    commit : str or None
        40 hexadecimal digits, as recorded; this commit is fetched even if the branch has moved.
        None, at the first fetch, resolves `revision`, never from the cache, which may be outdated.
    sha256, size : str and int, or None
        As recorded. The hub's own values for a large file are compared before it is fetched, and
        with the file at the first fetch, too.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)``; the total may be None.
    timeout : float
        Seconds without an answer or a byte after which a connection counts as broken.
    sleep : callable
        Waits the given number of seconds before another attempt.

    Raises
    ------
    ChecksumError
        If the file is not the recorded one. The target stays as it was.
    OSError, ValueError
        If the file cannot be fetched or written. After a broken connection or an error of the
        server there are four attempts, and four more whenever new bytes have arrived.
    """
    from huggingface_hub import constants, get_session, hf_hub_url, is_offline_mode
    from huggingface_hub.utils import build_hf_headers

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"{shown(repo)} is not the name of a repository; expected owner/name")
    want = Wanted(f"{repo}/{file}@{commit or revision}", sha256, size, HUB_LOGIN)
    if kept := _kept(target, want):
        return replace(kept, commit=commit)
    if cached := _cached(repo, file, commit, want):
        copied = _publish(target, want, lambda part: copy(cached, part, progress))
        return replace(copied, commit=commit)
    if is_offline_mode():
        why = "is not in its cache" if commit and sha256 else "has no recorded commit and sha256"
        raise OSError(f"{want.where}: huggingface_hub is offline and the file {why}; {ONLINE}")

    def look(at: str) -> _Metadata:
        return patiently(want, lambda: _metadata(repo, file, at, timeout, want.where), sleep)

    commit, want = _resolved(look, want, revision, commit)
    url, host = hf_hub_url(repo, file, revision=commit), plain_host(constants.ENDPOINT)
    at = Address(get_session(), url, build_hf_headers(), timeout, host)
    got = _publish(target, want, lambda part: download(part, want, at, progress, sleep))
    return replace(got, commit=commit)


def fetch_url(
    target: Path,
    *,
    url: str,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
    sleep: Callable[[float], object] = time.sleep,
) -> Fetched:
    """Fetch a file behind an https or file URL to `target`, verify it and return it.

    Parameters and errors are those of `fetch_hub`. Plain http is allowed only on this machine:
    others on the network could change the bytes, and the first fetch has no hash to compare.
    """
    want = Wanted(shown(url, quote=False, limit=200), sha256, size, URL_LOGIN)
    if kept := _kept(target, want):
        return kept
    if url.startswith("file:"):
        source = find_local(url, want.where)
        return _publish(target, want, lambda part: copy(source, part, progress))
    import httpx2

    try:
        check_url(httpx2.URL(url), want.where)
    except httpx2.InvalidURL as error:
        raise ValueError(f"{want.where}: {error}; expected an https or file URL") from None
    with httpx2.Client() as client:
        at = Address(client, url, {}, timeout)
        return _publish(target, want, lambda part: download(part, want, at, progress, sleep))


def _kept(target: Path, want: Wanted) -> Fetched | None:
    """Return the target if it is the recorded file already."""
    if want.sha256 is None or not target.is_file():
        return None
    with open_file(find_file(target)) as file:
        size = os.fstat(file.fileno()).st_size
        if want.size not in (None, size) or _sha256(file) != want.sha256:
            return None
    return Fetched(path=target, sha256=want.sha256, size=size)


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _cached(repo: str, file: str, commit: str | None, want: Wanted) -> File | None:
    """Return the recorded file in the cache of huggingface_hub if its hash is right."""
    from huggingface_hub import is_offline_mode, try_to_load_from_cache

    path = try_to_load_from_cache(repo, file, revision=commit) if commit and want.sha256 else None
    if not isinstance(path, str):
        return None
    cached = find_file(Path(path))
    with open_file(cached) as stream:
        sha256 = _sha256(stream)
    if sha256 != want.sha256 and is_offline_mode():
        want.check(sha256=sha256, advice=f"delete {path}, which is damaged; {ONLINE}")
    return cached if sha256 == want.sha256 else None


def _metadata(repo: str, file: str, revision: str, timeout: float, where: str) -> _Metadata:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    answer = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=timeout)
    commit, etag = answer.commit_hash or "", answer.etag or ""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        why = "HF_ENDPOINT is not a hub, or a proxy answered"
        raise OSError(f"{where}: the answer contains no commit; {why}")
    return _Metadata(commit, etag if re.fullmatch("[0-9a-f]{64}", etag) else None, answer.size)


def _resolved(
    look: Callable[[str], _Metadata], want: Wanted, revision: str, commit: str | None
) -> tuple[str, Wanted]:
    """Return the commit to fetch, and `want` with the hub's values for missing records."""
    try:
        latest = look(commit or revision)
    except FileNotFoundError:
        if commit in (None, revision):
            raise
        now = look(revision)
        same = "the recorded one" if now.sha256 == want.sha256 else f"another, sha256 {now.sha256}"
        text = f"deleted at the hub; {shown(revision)} is now {now.commit} and its file is {same}"
        advice = "record that commit if you trust it"
        raise FileNotFoundError(f"{want.where}: {text}; {advice}") from None
    if commit not in (None, latest.commit):
        raise ChecksumError(f"{want.where}: the hub answers with commit {latest.commit}; {CHANGED}")
    want.check(sha256=latest.sha256, size=latest.size, advice=CHANGED)
    known = want._replace(sha256=want.sha256 or latest.sha256, size=want.size or latest.size)
    return latest.commit, known


def _publish(target: Path, want: Wanted, fill: Callable[[BinaryIO], None]) -> Fetched:
    """Rename the file that `fill` writes to `target` after it is verified."""
    if target.is_dir():
        raise IsADirectoryError(f"{target}: is a folder; name a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _part_file(target, want) as (part, path):
            if kept := _kept(target, want):  # written by the process that held the lock
                path.unlink()
                return kept
            sha256, size = _filled(part, want, fill)
            publish(part, path, target)
            return Fetched(path=target, sha256=sha256, size=size)
    except OSError as error:
        if error.errno is None:  # it has a message already
            raise
        why = f"{error.strerror}; check free space and permissions, then fetch again"
        raise type(error)(f"{target}: cannot be written: {why}") from None


def part_path(target: Path) -> Path:
    """Return the path of the bytes of `target` that have arrived so far."""
    name = target.name.removeprefix(".").removesuffix(UNFINISHED)
    return target.with_name(f".{name}.part{UNFINISHED}")


@contextmanager
def _part_file(target: Path, want: Wanted) -> Iterator[tuple[BinaryIO, Path]]:
    """Open and lock the part file of `target`; after an error it is kept if a fetch can resume."""
    path = part_path(target)
    with _locked(path) as part:
        try:
            yield part, path
        except BaseException:
            if want.sha256 is None or not os.fstat(part.fileno()).st_size:
                path.unlink()
            raise


def _locked(path: Path) -> BinaryIO:
    while True:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.unlink()  # not ours: bytes would go to another file
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "a+b")
        lock_open(file)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # another process has renamed or removed it


def _filled(part: BinaryIO, want: Wanted, fill: Callable[[BinaryIO], None]) -> tuple[str, int]:
    """Return sha256 and size of the file; fetch it again if resumed pieces do not fit together."""
    resumed = part.seek(0, os.SEEK_END) > 0
    try:
        fill(part)
        size, sha256 = part.seek(0, os.SEEK_END), _sha256(part)
        want.check(sha256=sha256, size=size, advice=DAMAGED)
    except ChecksumError:
        part.truncate(0)
        if not resumed:
            raise
        return _filled(part, want, fill)
    return sha256, size
