"""`specdiag fetch` from a stand-in of the hub: later downloads must match the first."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from specdiag.lock import lockfile
from specdiag.lock.entry import Entry, Lock, Source
from support.commands import run_forked as run
from support.hub import FOREVER, REPO, Hub, sha256

NAME = "base/net"


def weights(seed):
    return save({"weight": np.random.default_rng(seed).standard_normal((80, 60)).astype("f4")})


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def lock(tmp_path):
    source = Source(repo=REPO, revision="main", file="base/net.ckpt")
    entry = Entry(name=NAME, scale="paper", group="published", recipe="none", source=source)
    path = tmp_path / "lab" / "checkpoints.lock"
    path.parent.mkdir()
    lockfile.save(Lock(entries=(entry,)), path)
    return path


@pytest.fixture
def target(lock):
    return lock.parent / "checkpoints" / "paper" / "base" / "net.ckpt"


@pytest.fixture
def fetch(hub, lock, tmp_path):
    def fetch(*arguments, **environment):
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "",
        }
        return run(lock.parent, "fetch", *arguments, **settings | environment)

    return fetch


def entry(lock):
    return lockfile.find(lockfile.load(lock), NAME, "paper")


def state(lock):
    (row,) = json.loads(run(lock.parent, "list", "--json")[1])["checkpoints"]
    return row["state"]


def test_the_first_fetch_is_recorded_and_the_next_one_sends_no_request(hub, lock, fetch, target):
    content = weights(0)
    commit = hub.push({"base/net.ckpt": content})
    status, out, err = fetch()
    assert (status, err.splitlines()[0]) == (0, f"specdiag: fetching {NAME}")
    assert out.splitlines() == [
        f"fetched  {NAME}  paper  0.0 MB, commit {commit[:12]}",
        "1 fetched",
    ]
    assert target.read_bytes() == content
    source, file = entry(lock).source, entry(lock).file
    assert (source.commit, source.sha256, source.size) == (commit, sha256(content), len(content))
    assert (file.sha256, file.size) == (sha256(content), len(content))
    assert state(lock) == "ok"
    before, text = len(hub.requests), lock.read_bytes()
    assert fetch(NAME)[1] == f"kept  {NAME}  paper\n1 kept\n"
    assert (len(hub.requests), lock.read_bytes()) == (before, text)


def test_the_recorded_commit_is_fetched_when_the_branch_has_moved(hub, lock, fetch, target):
    content = weights(0)
    hub.push({"base/net.ckpt": content})
    fetch()
    target.unlink()
    hub.push({"base/net.ckpt": weights(1)})
    assert fetch()[0] == 0
    assert target.read_bytes() == content


def test_other_bytes_than_recorded_are_refused_and_nothing_is_left(hub, lock, fetch, target):
    content = weights(0)
    commit = hub.push({"base/net.ckpt": content})
    fetch()
    target.unlink()
    hub.commits[commit]["base/net.ckpt"] = weights(1)
    status, out, err = fetch()
    assert status == 1
    assert out.splitlines()[0] == (
        f"failed  {NAME}  paper  {REPO}/base/net.ckpt@{commit}: sha256 is {sha256(weights(1))}, "
        f"recorded is {sha256(content)}; the source has changed: ask its publisher, or record the "
        "new file"
    )
    assert "Traceback" not in err
    assert state(lock) == "missing"
    assert not target.exists()


def test_a_flipped_byte_is_found_at_the_first_fetch(hub, lock, fetch, target):
    hub.push({"base/net.ckpt": weights(0)})
    hub.fail("storage", flip=900, times=FOREVER)
    status, out, _ = fetch()
    assert status == 1
    assert "nothing was kept; fetch again" in out
    assert not target.exists()
    assert entry(lock).file.sha256 is None


def test_a_file_that_is_not_a_checkpoint_is_not_published(hub, lock, fetch, target):
    hub.push({"base/net.ckpt": b"no checkpoint at all"})
    status, out, _ = fetch()
    assert status == 1
    assert "not a checkpoint" in out
    assert not target.exists()
    assert state(lock) == "missing"


def test_without_a_connection_existing_files_are_kept_and_the_rest_is_one_line(hub, lock, fetch):
    hub.push({"base/net.ckpt": weights(0)})
    status, out, _ = fetch(HF_HUB_OFFLINE="1")
    assert status == 1
    assert "huggingface_hub is offline and the file has no recorded commit and sha256" in out
    fetch()
    assert fetch(HF_HUB_OFFLINE="1")[:2] == (0, f"kept  {NAME}  paper\n1 kept\n")


@pytest.mark.parametrize(
    ("status", "text"), [(404, "no such file"), (401, "HF_TOKEN"), (403, "HF_TOKEN")]
)
def test_refusals_of_the_hub_are_one_line(hub, lock, fetch, status, text):
    hub.push({"base/net.ckpt": weights(0)})
    hub.fail("resolve", method="HEAD", status=status, times=FOREVER)
    code, out, err = fetch()
    assert code == 1
    assert f"HTTP {status}" in out
    assert text in out
    assert err == f"specdiag: fetching {NAME}\n"


def test_a_fetched_checkpoint_is_read_by_its_name(hub, lock, fetch):
    hub.push({"base/net.ckpt": weights(0)})
    fetch()
    status, out, _ = run(lock.parent, "alpha", NAME)
    assert status == 0
    assert "\n1 matrix: 1 measured" in out


def test_the_first_fetch_must_match_a_declared_hash(hub, lock, fetch, target):
    hub.push({"base/net.ckpt": weights(0)})
    declared = {"sha256": sha256(weights(1))}
    lockfile.amend(
        lock, (NAME, "paper"), lambda e: replace(e, source=replace(e.source, **declared))
    )
    status, out, _ = fetch()
    assert status == 1
    assert f"recorded is {sha256(weights(1))}" in out
    assert not target.exists()


def test_another_source_makes_a_fetched_file_stale(hub, lock, fetch):
    hub.push({"base/net.ckpt": weights(0), "other.ckpt": weights(1)})
    fetch()
    lockfile.amend(
        lock,
        (NAME, "paper"),
        lambda e: replace(e, source=Source(repo=REPO, revision="main", file="other.ckpt")),
    )
    assert state(lock) == "stale"
    assert fetch()[0] == 0
    assert entry(lock).source.sha256 == sha256(weights(1))


def test_names_without_a_source_are_wrong_use(hub, lock, fetch):
    other = Entry(name="none", scale="paper", group="g", recipe="r")
    entries = lockfile.load(lock).entries
    lockfile.save(Lock(entries=(*entries, other)), lock)
    status, _, err = fetch(NAME, "none")
    assert status == 2
    assert err.splitlines()[-1] == (
        "Error: none has no source; `specdiag list` shows which entries have"
    )
