"""Files of a hub and behind URLs are fetched whole and verified, or not at all."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from specdiag.checkpoint.remote.requests import ChecksumError, check_url
from specdiag.obtain.fetch import Fetched, fetch_hub, fetch_url
from support.hub import DATE, FOREVER, REPO, UNSET, Hub, sha256

CONTENT = bytes(range(256)) * 1024  # 256 KiB
OTHER = CONTENT[::-1]
SHA, SIZE = sha256(CONTENT), len(CONTENT)
FILE = "base/model.ckpt"
TOKEN_ADVICE = "set HF_TOKEN or run 'hf auth login' for an account with access"
CHANGED = "the source has changed: ask its publisher, or record the new file"
DAMAGED = "nothing was kept; fetch again; if the error stays, the source has changed"


@pytest.fixture
def hub(hub):
    hub.files["model.ckpt"] = CONTENT
    return hub


@pytest.fixture
def first(hub):
    """The first commit of the repository."""
    return hub.push({FILE: CONTENT, "config.json": b'{"dim": 128}'})


@pytest.fixture
def target(tmp_path):
    return tmp_path / "deep" / "model.ckpt"


@pytest.fixture
def offline(monkeypatch, hub):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def pauses():
    """Pauses before new attempts, in seconds, which the tests do not wait."""
    return []


@pytest.fixture
def from_hub(target, pauses):
    def fetch(**recorded):
        options = {"repo": REPO, "revision": "main", "file": FILE, "sleep": pauses.append}
        return fetch_hub(target, **{**options, **recorded})

    return fetch


@pytest.fixture
def from_url(hub, target, pauses):
    def fetch(name="model.ckpt", **recorded):
        options = {"url": f"{hub.url}/files/{name}", "sleep": pauses.append}
        return fetch_url(target, **{**options, **recorded})

    return fetch


def left_beside(target):
    return sorted(p.name for p in target.parent.iterdir()) if target.parent.exists() else []


def refusal(call, kind, **options):
    """Return the message, one line, of the error that a call raises, of exactly this type."""
    with pytest.raises(kind) as caught:
        call(**options)
    assert type(caught.value) is kind
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    message = str(caught.value)
    assert message.isprintable()
    return message


def head(revision="main"):
    return f"HEAD /{REPO}/resolve/{revision}/{FILE}"


def get(commit, start=""):
    return f"GET /{REPO}/resolve/{commit}/{FILE}{start}"


def from_storage(start="", content=CONTENT):
    return f"GET /storage/{sha256(content)}{start}"


def put(target, content=OTHER):
    target.parent.mkdir(parents=True)
    target.write_bytes(content)


def unchanged(target):
    """Return whether the old file is unchanged, and no other file beside it."""
    return target.read_bytes() == OTHER and left_beside(target) == [target.name]


def test_the_first_fetch_resolves_the_branch_and_returns_the_commit_to_record(
    hub, first, from_hub, target
):
    assert from_hub() == Fetched(path=target, sha256=SHA, size=SIZE, commit=first)
    assert target.read_bytes() == CONTENT
    assert left_beside(target) == ["model.ckpt"]
    assert hub.asked == [head(), get(first), from_storage()]


def test_a_file_that_is_in_git_itself_is_fetched_too(hub, first, from_hub, target):
    content = b'{"dim": 128}'
    want = Fetched(path=target, sha256=sha256(content), size=len(content), commit=first)
    assert from_hub(file="config.json") == want
    assert target.read_bytes() == content


def test_a_url_is_fetched_and_returns_the_hash_to_record(hub, from_url, target):
    assert from_url() == Fetched(path=target, sha256=SHA, size=SIZE)
    assert target.read_bytes() == CONTENT
    assert hub.asked == ["GET /files/model.ckpt"]


@pytest.mark.parametrize("recorded", [{}, {"size": SIZE}])
def test_a_target_with_the_recorded_hash_is_kept_without_a_request(
    hub, from_hub, from_url, target, recorded
):
    put(target, CONTENT)
    before = target.stat().st_ino, target.stat().st_mtime_ns
    commit = "a" * 40
    assert from_url(sha256=SHA, **recorded) == Fetched(path=target, sha256=SHA, size=SIZE)
    got = from_hub(sha256=SHA, commit=commit, **recorded)
    assert got == Fetched(path=target, sha256=SHA, size=SIZE, commit=commit)
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == before
    assert hub.asked == []


@pytest.mark.parametrize("old", [OTHER, CONTENT[:-1], b""])
def test_a_target_with_other_content_is_replaced(hub, from_url, target, old):
    put(target, old)
    from_url(sha256=SHA, size=SIZE)
    assert target.read_bytes() == CONTENT


def test_without_a_recorded_hash_a_target_is_fetched_again(hub, from_url, target):
    put(target)
    from_url()
    assert target.read_bytes() == CONTENT


def test_permissions_of_the_file_are_those_of_any_new_file(from_url, target):
    from_url()
    (target.parent / "other").touch()
    assert target.stat().st_mode == (target.parent / "other").stat().st_mode


def test_a_branch_that_moved_does_not_change_what_is_fetched(hub, first, from_hub, target):
    hub.push({FILE: OTHER})
    assert from_hub(commit=first, sha256=SHA, size=SIZE).commit == first
    assert target.read_bytes() == CONTENT
    assert hub.asked == [head(first), get(first), from_storage()]


def test_a_branch_is_never_resolved_from_the_cache(hub, first, from_hub, target):
    in_cache()
    second = hub.push({FILE: OTHER})
    hub.requests.clear()
    assert from_hub().commit == second
    hub.fail("resolve", method="HEAD", status=503, times=FOREVER)
    message = refusal(from_hub, OSError)
    where = f"{REPO}/{FILE}@main"
    assert message == f"{where}: HTTP 503: the server failed, after 4 attempts; try again later"


def in_cache():
    """Let huggingface_hub itself download the file; return the path in its cache."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(REPO, FILE, revision="main"))


def test_the_recorded_commit_comes_from_the_cache_without_a_request(hub, first, from_hub, target):
    in_cache()
    hub.requests.clear()
    assert from_hub(commit=first, sha256=SHA) == Fetched(
        path=target, sha256=SHA, size=SIZE, commit=first
    )
    assert target.read_bytes() == CONTENT
    assert not target.is_symlink()
    assert hub.asked == []


def test_a_damaged_file_in_the_cache_is_fetched_from_the_hub(hub, first, from_hub, target):
    in_cache().resolve().write_bytes(OTHER)
    hub.requests.clear()
    from_hub(commit=first, sha256=SHA)
    assert target.read_bytes() == CONTENT
    assert hub.asked == [head(first), get(first), from_storage()]


def test_offline_the_file_comes_from_the_cache(hub, first, from_hub, target, monkeypatch):
    from huggingface_hub import constants

    in_cache()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    from_hub(commit=first, sha256=SHA)
    assert target.read_bytes() == CONTENT
    assert hub.asked == []


def test_offline_a_damaged_file_in_the_cache_is_refused(hub, first, from_hub, target, monkeypatch):
    from huggingface_hub import constants

    path = in_cache()
    path.resolve().write_bytes(OTHER)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(from_hub, ChecksumError, commit=first, sha256=SHA) == (
        f"{REPO}/{FILE}@{first}: sha256 is {sha256(OTHER)}, recorded is {SHA}; "
        f"delete {path}, which is damaged; fetch once without HF_HUB_OFFLINE"
    )
    assert left_beside(target) == []


@pytest.mark.usefixtures("offline")
def test_offline_without_the_file_the_message_names_the_reason(hub, first, from_hub):
    assert refusal(from_hub, OSError, commit=first, sha256=SHA) == (
        f"{REPO}/{FILE}@{first}: huggingface_hub is offline and the file is not in its cache; "
        "fetch once without HF_HUB_OFFLINE"
    )
    assert refusal(from_hub, OSError) == (
        f"{REPO}/{FILE}@main: huggingface_hub is offline and the file has no recorded commit and "
        "sha256; fetch once without HF_HUB_OFFLINE"
    )
    assert hub.asked == []


def test_another_file_at_the_recorded_commit_is_refused_unfetched(hub, first, from_hub, target):
    put(target)
    hub.commits[first] = {FILE: CONTENT[:-1] + b"x"}
    assert refusal(from_hub, ChecksumError, commit=first, sha256=SHA, size=SIZE) == (
        f"{REPO}/{FILE}@{first}: sha256 is {sha256(CONTENT[:-1] + b'x')}, recorded is {SHA}; "
        f"{CHANGED}"
    )
    assert hub.asked == [head(first)]
    assert unchanged(target)


def test_another_size_at_the_recorded_commit_is_refused_unfetched(hub, first, from_hub, target):
    hub.commits[first] = {FILE: CONTENT[:-1]}
    assert refusal(from_hub, ChecksumError, commit=first, sha256=SHA, size=SIZE) == (
        f"{REPO}/{FILE}@{first}: size is {SIZE - 1}, recorded is {SIZE}; {CHANGED}"
    )
    assert hub.asked == [head(first)]


def test_another_commit_than_the_recorded_one_is_refused(hub, first, from_hub):
    hub.fail("resolve", method="HEAD", headers={"X-Repo-Commit": "b" * 40})
    assert refusal(from_hub, ChecksumError, commit=first, sha256=SHA) == (
        f"{REPO}/{FILE}@{first}: the hub answers with commit {'b' * 40}; {CHANGED}"
    )


@pytest.mark.parametrize(
    ("content", "is_now"),
    [(CONTENT, "the recorded one"), (OTHER, f"another, sha256 {sha256(OTHER)}")],
    ids=["same file", "another file"],
)
def test_the_error_of_a_deleted_commit_names_the_current_one(hub, first, from_hub, content, is_now):
    second = hub.push({FILE: content})
    del hub.commits[first]
    assert refusal(from_hub, FileNotFoundError, commit=first, sha256=SHA) == (
        f"{REPO}/{FILE}@{first}: deleted at the hub; 'main' is now {second} and its file is "
        f"{is_now}; record that commit if you trust it"
    )
    assert hub.asked == [head(first), head()]


def test_an_answer_without_a_commit_is_refused(hub, first, from_hub):
    hub.fail("resolve", method="HEAD", headers={"X-Repo-Commit": "../../x"})
    assert refusal(from_hub, OSError) == (
        f"{REPO}/{FILE}@main: the answer contains no commit; HF_ENDPOINT is not a hub, or a proxy "
        "answered"
    )


@pytest.mark.parametrize("tag", ['"../../../x"', '"A0"', None])
def test_an_etag_that_is_not_a_hash_is_not_used(hub, first, from_hub, target, tag):
    hub.fail("resolve", method="HEAD", headers={"X-Linked-Etag": tag, "ETag": tag})
    assert from_hub().sha256 == SHA
    assert left_beside(target) == ["model.ckpt"]


def test_a_changed_byte_is_refused_at_the_first_fetch_too(hub, first, from_hub, target):
    hub.fail("storage", flip=1000)
    changed = bytearray(CONTENT)
    changed[1000] ^= 1
    assert refusal(from_hub, ChecksumError) == (
        f"{REPO}/{FILE}@main: sha256 is {sha256(changed)}, recorded is {SHA}; {DAMAGED}"
    )
    assert left_beside(target) == []
    assert from_hub().sha256 == SHA


def test_a_changed_byte_behind_a_url_leaves_the_old_file(hub, from_url, target):
    put(target)
    hub.fail("model.ckpt", flip=0)
    changed = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    assert refusal(from_url, ChecksumError, sha256=SHA, size=SIZE) == (
        f"{hub.url}/files/model.ckpt: sha256 is {sha256(changed)}, recorded is {SHA}; {DAMAGED}"
    )
    assert unchanged(target)


@pytest.mark.parametrize("length", [str(SIZE + 1), None], ids=["announced", "unannounced"])
def test_another_size_behind_a_url_is_refused(hub, from_url, target, length):
    hub.fail("model.ckpt", body=CONTENT + b"x", headers={"Content-Length": length})
    assert refusal(from_url, ChecksumError, sha256=SHA, size=SIZE) == (
        f"{hub.url}/files/model.ckpt: size is {SIZE + 1}, recorded is {SIZE}; {CHANGED}"
    )
    assert left_beside(target) == []


def test_an_announced_size_is_checked_before_the_first_byte(hub, from_url, target):
    hub.files["model.ckpt"] = CONTENT[:-1]
    seen = []
    recorded = {"sha256": SHA, "size": SIZE, "progress": lambda *step: seen.append(step)}
    assert refusal(from_url, ChecksumError, **recorded) == (
        f"{hub.url}/files/model.ckpt: size is {SIZE - 1}, recorded is {SIZE}; {CHANGED}"
    )
    assert seen == []


def test_a_file_that_ends_early_is_refused(hub, from_url, target):
    hub.fail("model.ckpt", body=CONTENT[:-9], headers={"Content-Length": None})
    assert refusal(from_url, ChecksumError, sha256=SHA, size=SIZE) == (
        f"{hub.url}/files/model.ckpt: size is {SIZE - 9}, recorded is {SIZE}; {DAMAGED}"
    )


@pytest.mark.parametrize("cuts", [[1000], [0, 70000, 1, 1, 1, 1, 1], [SIZE - 1]])
def test_a_download_that_is_cut_off_resumes_where_it_stopped(hub, from_url, target, pauses, cuts):
    for cut in cuts:
        hub.fail("model.ckpt", cut=cut)
    assert from_url().sha256 == SHA
    starts = [sum(cuts[: i + 1]) for i in range(len(cuts))]
    later = [f" bytes={start}-" if start else "" for start in starts]
    assert hub.asked == [f"GET /files/model.ckpt{start}" for start in ("", *later)]
    assert set(pauses) == {1.0}
    etag = f'"{hashlib.md5(CONTENT).hexdigest()}"'
    assert hub.requests[-1][2]["If-Range"] == etag


def test_the_storage_of_a_hub_is_asked_for_the_rest_only(hub, first, from_hub, target):
    hub.fail("storage", cut=12345)
    from_hub()
    rest = " bytes=12345-"
    assert target.read_bytes() == CONTENT
    assert hub.asked == [head(), get(first), from_storage(), get(first, rest), from_storage(rest)]


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": 'W/"weak"', "Last-Modified": DATE}, True),
        ({"ETag": 'W/"weak"'}, False),
        ({"ETag": None}, False),
    ],
    ids=["date", "weak tag", "nothing"],
)
def test_without_hash_and_validator_a_download_starts_again(hub, from_url, headers, validator):
    hub.fail("model.ckpt", cut=1000, headers=headers)
    assert from_url().sha256 == SHA
    assert hub.asked[1:] == ["GET /files/model.ckpt" + (" bytes=1000-" if validator else "")]


def test_a_server_without_ranges_sends_everything_again(hub, from_url, target):
    hub.fail("model.ckpt", cut=1000, whole=True)
    hub.fail("model.ckpt", whole=True)
    assert from_url(sha256=SHA).size == SIZE


def test_a_file_that_changes_while_it_is_fetched_starts_again(hub, from_url, target):
    hub.fail("model.ckpt", cut=1000)

    def change(_):
        hub.files["model.ckpt"] = OTHER

    assert from_url(sleep=change).sha256 == sha256(OTHER)
    assert target.read_bytes() == OTHER


def test_the_validator_of_a_file_that_was_replaced_is_forgotten(hub, from_url, target):
    hub.fail("model.ckpt", cut=1000)
    hub.fail("model.ckpt", cut=2000, headers={"ETag": None})
    contents = [OTHER, CONTENT]

    def change(_):
        hub.files["model.ckpt"] = contents.pop(0)

    assert from_url(sleep=change).sha256 == SHA
    assert [line.partition(" bytes=")[2] for line in hub.asked] == ["", "1000-", ""]


def test_a_server_that_sends_another_range_is_asked_for_all(hub, from_url, target):
    hub.fail("model.ckpt", cut=1000)
    hub.fail("model.ckpt", headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"})
    assert from_url().sha256 == SHA
    assert hub.asked[1:] == ["GET /files/model.ckpt bytes=1000-", "GET /files/model.ckpt"]


def part_of(target):
    return target.with_name(f".{target.name}.part.specdiag")


def interrupted(hub, from_url, target, content):
    """Leave a part file as a process does that gave up."""
    hub.files["model.ckpt"] = content
    hub.fail("model.ckpt", cut=5000)
    hub.fail("model.ckpt", cut=0, times=3)
    refusal(from_url, ConnectionError, sha256=sha256(content))
    assert part_of(target).read_bytes() == content[:5000]
    hub.files["model.ckpt"] = CONTENT
    hub.faults.clear()
    hub.requests.clear()


def test_the_next_fetch_goes_on_where_an_earlier_one_gave_up(hub, from_url, target):
    interrupted(hub, from_url, target, CONTENT)
    assert from_url(sha256=SHA).size == SIZE
    assert hub.asked == ["GET /files/model.ckpt bytes=5000-"]
    assert left_beside(target) == ["model.ckpt"]


def test_pieces_of_two_files_are_noticed_and_all_is_fetched_again(hub, from_url, target):
    interrupted(hub, from_url, target, OTHER)
    assert from_url(sha256=SHA).size == SIZE
    assert hub.asked == ["GET /files/model.ckpt bytes=5000-", "GET /files/model.ckpt"]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [None, SIZE])
def test_without_a_recorded_hash_an_old_piece_is_not_used(hub, from_url, target, size):
    put(part_of(target))
    assert from_url(size=size).sha256 == SHA
    assert hub.asked == ["GET /files/model.ckpt"]


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"x", OTHER], ids=["all", "more", "other"])
def test_an_old_piece_of_any_length_does_no_harm(hub, from_url, target, content):
    put(part_of(target), content)
    assert from_url(sha256=SHA, size=SIZE).size == SIZE
    assert target.read_bytes() == CONTENT
    assert left_beside(target) == ["model.ckpt"]
    assert len(hub.asked) == (content != CONTENT) + (content == CONTENT + b"x")


def test_a_connection_that_always_breaks_is_given_up_in_one_line(hub, from_url, target, pauses):
    hub.fail("model.ckpt", cut=0, times=FOREVER)
    assert refusal(from_url, ConnectionError) == (
        f"{hub.url}/files/model.ckpt: the connection broke, after 4 attempts; try again later"
    )
    assert pauses == [1.0, 4.0, 16.0]
    assert left_beside(target) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_server_that_fails_for_a_while_is_asked_again(hub, from_url, pauses, status):
    hub.fail("model.ckpt", status=status, times=2)
    assert from_url().sha256 == SHA
    assert pauses == [1.0, 4.0]


@pytest.mark.parametrize(("asked", "waited"), [("9", 9), ("0", 1), ("86400", 60), ("soon", 1)])
def test_retry_after_is_honoured_within_reason(hub, from_url, pauses, asked, waited):
    hub.fail("model.ckpt", status=429, headers={"Retry-After": asked})
    from_url()
    assert pauses == [waited]


def test_a_hub_that_fails_for_a_while_is_asked_again(hub, first, from_hub, pauses):
    hub.fail("resolve", method="HEAD", status=503, times=3)
    hub.fail("resolve", status=500, times=3)
    assert from_hub().sha256 == SHA
    assert pauses == [1.0, 4.0, 16.0] * 2


def test_a_server_that_fails_for_ever_is_given_up(hub, from_url, target, pauses):
    put(target)
    hub.fail("model.ckpt", status=500, times=FOREVER)
    assert refusal(from_url, OSError, sha256=SHA) == (
        f"{hub.url}/files/model.ckpt: HTTP 500: the server failed, after 4 attempts; try again "
        "later"
    )
    assert pauses == [1.0, 4.0, 16.0]
    assert unchanged(target)


def test_a_server_that_stalls_is_given_up(hub, from_url):
    hub.fail("model.ckpt", hold=0, times=FOREVER)
    assert refusal(from_url, TimeoutError, timeout=0.05) == (
        f"{hub.url}/files/model.ckpt: the server does not answer, after 4 attempts; try again later"
    )


def test_a_server_that_stalls_midway_is_asked_for_the_rest(hub, from_url):
    hub.fail("model.ckpt", hold=30000)
    assert from_url(timeout=1).sha256 == SHA
    assert "GET /files/model.ckpt bytes=30000-" in hub.asked


def test_a_port_without_a_server_is_named(hub, from_url, target):
    with Hub() as gone:
        url = f"{gone.url}/x"
    assert refusal(from_url, ConnectionError, url=url) == (
        f"{url}: no connection ([Errno 111] Connection refused), after 4 attempts; try again later"
    )


HUB_REFUSALS = [
    (
        {"repo": "lab/other"},
        401,
        PermissionError,
        "no such repository, or a private one; check its name, or ",
    ),
    (
        {"revision": "dev"},
        404,
        FileNotFoundError,
        "no such revision; check the name of the branch, tag or commit",
    ),
    ({"file": "x"}, 404, FileNotFoundError, "no such file at this revision; check its name"),
]


@pytest.mark.parametrize(("options", "status", "kind", "why"), HUB_REFUSALS)
def test_a_name_that_the_hub_does_not_know(
    hub, first, from_hub, target, pauses, options, status, kind, why
):
    named = {"repo": REPO, "file": FILE, "revision": "main", **options}
    where = "{repo}/{file}@{revision}".format(**named)
    why += TOKEN_ADVICE * why.endswith("or ")
    assert refusal(from_hub, kind, **options) == f"{where}: HTTP {status}: {why}"
    assert len(hub.asked) == 1
    assert pauses == []
    assert left_beside(target) == []


def test_a_gated_repository_needs_the_token(hub, first, from_hub, monkeypatch):
    hub.token = "hf_secret"
    assert refusal(from_hub, PermissionError) == (
        f"{REPO}/{FILE}@main: HTTP 401: a gated repository; ask for access on its page, then "
        f"{TOKEN_ADVICE}"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert from_hub().sha256 == SHA


def test_the_token_stays_with_the_hub(hub, first, from_hub, from_url, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    from_hub()
    from_url()
    sent = {path: "Authorization" in {k.title() for k in h} for _, path, h in hub.requests}
    assert sent == {
        f"/{REPO}/resolve/main/{FILE}": True,
        f"/{REPO}/resolve/{first}/{FILE}": True,
        f"/storage/{SHA}": False,
        "/files/model.ckpt": False,
    }


@pytest.mark.parametrize("status", [401, 403])
def test_a_hub_that_denies_without_a_reason(hub, first, from_hub, pauses, status):
    hub.fail("resolve", method="HEAD", status=status)
    assert refusal(from_hub, PermissionError) == (
        f"{REPO}/{FILE}@main: HTTP {status}: access denied; {TOKEN_ADVICE}"
    )
    assert pauses == []


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [
        (401, PermissionError, "access denied; download the file by hand and give its file:// URL"),
        (403, PermissionError, "access denied; download the file by hand and give its file:// URL"),
        (404, FileNotFoundError, "the server has no such file; check the URL"),
        (410, OSError, "the server has no such file; check the URL"),
        (204, OSError, "the server has no such file; check the URL"),
    ],
)
def test_a_url_that_gives_no_file(hub, from_url, target, pauses, status, kind, why):
    hub.fail("model.ckpt", status=status)
    assert refusal(from_url, kind) == f"{hub.url}/files/model.ckpt: HTTP {status}: {why}"
    assert pauses == []
    assert left_beside(target) == []


def test_a_login_page_is_named(hub, from_url, target):
    hub.fail("model.ckpt", body=b"<html>", headers={"Content-Type": "text/html; charset=utf-8"})
    assert refusal(from_url, ValueError) == (
        f"{hub.url}/files/model.ckpt: the answer is an HTML page instead of the file, perhaps a "
        "login page; download the file by hand and give its file:// URL"
    )


def redirect(hub, location, times=1):
    hub.fail("moved", status=302, headers={"Location": location}, times=times)


def test_a_redirect_is_followed(hub, from_url, target):
    redirect(hub, "/files/model.ckpt")
    assert from_url("moved").sha256 == SHA


def test_a_redirect_loop_ends(hub, from_url, pauses):
    redirect(hub, "/files/moved", times=FOREVER)
    assert refusal(from_url, OSError, name="moved") == (
        f"{hub.url}/files/moved: more than 10 redirects; check the URL"
    )
    assert len(hub.asked) == 11
    assert pauses == []


def test_a_redirect_loop_at_the_hub_ends(hub, first, from_hub):
    here = {"Location": f"/{REPO}/resolve/main/{FILE}"}
    hub.fail("resolve", method="HEAD", status=302, headers=here, times=FOREVER)
    assert refusal(from_hub, OSError) == (
        f"{REPO}/{FILE}@main: more than 10 redirects; check the URL"
    )


@pytest.mark.parametrize("place", ["http://example.org", "file://host", "ftp://example.org"])
def test_a_redirect_to_an_unsafe_place_is_refused(hub, from_url, place):
    redirect(hub, f"{place}/etc/passwd")
    assert refusal(from_url, ValueError, name="moved") == (
        f"{hub.url}/files/moved: refused to fetch from {place}: "
        "expected https (or http from this machine)"
    )
    assert hub.asked == ["GET /files/moved"]


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org/x", "//x", "model"])
def test_an_unsafe_address_is_refused(from_url, url):
    place = url.removesuffix("/x") if "example" in url else {"//x": "://x", "model": "://"}[url]
    assert refusal(from_url, ValueError, url=url) == (
        f"{url}: refused to fetch from {place}: expected https (or http from this machine)"
    )


def test_an_invalid_url_is_refused(from_url):
    url = "https://[::1"
    assert refusal(from_url, ValueError, url=url) == (
        f"{url}: Invalid port: ':1'; expected an https or file URL"
    )


def test_an_endpoint_that_the_user_chose_may_use_plain_http():
    url = httpx2.URL("http://mirror.lan/x")
    check_url(url, "x", "mirror.lan")
    assert refusal(check_url, ValueError, url=url, where="x", plain_host="other.lan") == (
        "x: refused to fetch from http://mirror.lan: expected https (or http from this machine)"
    )


@pytest.mark.parametrize("repo", ["poyo", "a/b/c", "", "a/b c"])
def test_an_invalid_name_of_a_repository_is_refused(hub, from_hub, repo):
    message = f"'{repo}' is not the name of a repository; expected owner/name"
    assert refusal(from_hub, ValueError, repo=repo) == message
    assert hub.asked == []


def test_a_file_url_is_copied(from_url, target, tmp_path):
    source = tmp_path / "the source.ckpt"
    source.write_bytes(CONTENT)
    seen = []
    got = from_url(url=source.as_uri(), sha256=SHA, progress=lambda *step: seen.append(step))
    assert got == Fetched(path=target, sha256=SHA, size=SIZE)
    assert target.read_bytes() == CONTENT
    assert seen == [(SIZE, SIZE)]


def test_a_file_url_with_other_content_is_refused(from_url, target, tmp_path):
    put(target)
    source = tmp_path / "source.ckpt"
    source.write_bytes(CONTENT[:-1])
    assert refusal(from_url, ChecksumError, url=source.as_uri(), sha256=SHA, size=SIZE) == (
        f"{source.as_uri()}: size is {SIZE - 1}, recorded is {SIZE}; {DAMAGED}"
    )
    assert unchanged(target)


@pytest.mark.parametrize("name", ["missing", "folder", "pipe"])
def test_a_file_url_without_a_regular_file_is_refused(from_url, tmp_path, target, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    url = (tmp_path / name).as_uri()
    message = f"{url}: no readable file; check the path"
    assert refusal(from_url, FileNotFoundError, url=url) == message
    assert left_beside(target) == []


@pytest.mark.parametrize("url", ["file://host/x", "file:x", "file:"])
def test_a_file_url_of_another_machine_is_refused(from_url, url):
    message = f"{url}: expected file:///path/to/file on this machine"
    assert refusal(from_url, ValueError, url=url) == message


def test_progress_counts_the_bytes_that_are_there(hub, from_url):
    hub.fail("model.ckpt", cut=1000)
    seen = []
    from_url(progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert (1000, SIZE) in seen
    assert seen[-1] == (SIZE, SIZE)


@pytest.fixture
def small_files():
    """Let the process write files of at most 64 KiB, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_named_and_the_bytes_are_kept_to_resume(hub, from_url, target, request):
    put(target)
    request.getfixturevalue("small_files")
    assert refusal(from_url, OSError, sha256=SHA) == (
        f"{target}: cannot be written: File too large; check free space and permissions, then "
        "fetch again"
    )
    assert target.read_bytes() == OTHER
    assert left_beside(target) == [".model.ckpt.part.specdiag", "model.ckpt"]
    assert CONTENT.startswith(part_of(target).read_bytes())


@pytest.mark.usefixtures("small_files")
def test_bytes_that_cannot_be_resumed_are_removed_from_a_full_disk(hub, from_url, target):
    refusal(from_url, OSError)
    assert left_beside(target) == []


def test_a_target_that_is_a_folder_is_refused(hub, from_url, target):
    target.mkdir(parents=True)
    assert refusal(from_url, IsADirectoryError) == f"{target}: is a folder; name a file"
    assert hub.asked == []


def test_a_folder_that_is_a_file_is_refused(hub, from_url, target):
    target.parent.write_bytes(b"")
    assert refusal(from_url, FileExistsError) == (
        f"{target}: cannot be written: File exists; check free space and permissions, then fetch "
        "again"
    )


CHILD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from specdiag.obtain.fetch import fetch_hub, fetch_url
target, where, name, commit, sha256 = sys.argv[1:]
if where == "hub":
    got = fetch_hub(Path(target), repo=name, revision="main", file="base/model.ckpt")
    print(got.sha256, got.commit)
else:
    fetch_url(Path(target), url=where, sha256=sha256 or None)
"""


def child(hub, tmp_path, *arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if k.lower() not in map(str.lower, UNSET)}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, *map(str, arguments)],
        env={**kept, **settings, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_environment_of_the_hub_is_honoured(hub, first, tmp_path, target):
    hub.token = "hf_secret"
    with child(hub, tmp_path, target, "hub", REPO, "", "", HF_TOKEN="hf_secret") as process:
        out, err = process.communicate()
    assert (out, err) == (f"{SHA} {first}\n", "")
    with child(hub, tmp_path, target, "hub", REPO, "", "", HF_HUB_OFFLINE="1") as process:
        _, err = process.communicate()
    assert err.splitlines()[-1] == (
        f"OSError: {REPO}/{FILE}@main: huggingface_hub is offline and the file has no recorded "
        "commit and sha256; fetch once without HF_HUB_OFFLINE"
    )


@pytest.mark.parametrize("recorded", [SHA, ""], ids=["recorded", "unrecorded"])
@pytest.mark.parametrize("sent", [0, 1, 8191, 65536, 65537, 200_000, SIZE - 1, SIZE])
def test_a_process_killed_at_any_time_leaves_the_old_file_or_the_new(
    hub, from_url, tmp_path, target, sent, recorded
):
    put(target)
    hub.fail("model.ckpt", hold=sent)
    url = f"{hub.url}/files/model.ckpt"
    with child(hub, tmp_path, target, url, "", "", recorded) as process:
        assert hub.holding.wait(60)
        process.send_signal(signal.SIGKILL)
    assert target.read_bytes() in (OTHER, CONTENT)
    assert from_url(sha256=recorded or None).sha256 == SHA
    assert target.read_bytes() == CONTENT
    assert left_beside(target) == ["model.ckpt"]


def test_of_two_that_fetch_the_same_file_one_waits_for_the_other(hub, from_url, target):
    hub.fail("model.ckpt", hold=1000)
    with ThreadPoolExecutor() as pool:
        got = [pool.submit(from_url, sha256=SHA), pool.submit(from_url, sha256=SHA)]
        assert hub.holding.wait(60)
        hub.release.set()
        assert {g.result() for g in got} == {Fetched(path=target, sha256=SHA, size=SIZE)}
    assert hub.asked == ["GET /files/model.ckpt"]
    assert left_beside(target) == ["model.ckpt"]


def test_a_waiting_process_takes_over_from_one_that_was_killed(hub, tmp_path, target, from_url):
    hub.fail("model.ckpt", hold=1000)
    with (
        child(hub, tmp_path, target, f"{hub.url}/files/model.ckpt", "", "", SHA) as process,
        ThreadPoolExecutor() as pool,
    ):
        assert hub.holding.wait(60)
        got = pool.submit(from_url, sha256=SHA)
        process.send_signal(signal.SIGKILL)
        assert got.result().sha256 == SHA
    assert target.read_bytes() == CONTENT
    assert left_beside(target) == ["model.ckpt"]
