"""Servers that lie, break off, wait or answer with something else give one line, and no hang."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.remote import hub as hub_module
from specdiag.checkpoint.remote import requests, web
from specdiag.cli.main import cli
from support.hub import FOREVER, REPO

HUB = f"hf://{REPO}"
OTHER_BYTES = (
    "the server answers with other bytes than those that were asked for; download the file and "
    "name it"
)
CHANGED = "it changed at the server since it was opened; open it again"
BROKE = "the connection broke, after 3 attempts; try again later"
NO_HUB = "the answer contains no commit and files; HF_ENDPOINT is not a hub, or a proxy answered"


@pytest.fixture(autouse=True)
def repository(hub):
    values = {"layer.weight": np.random.default_rng(1).standard_normal((300, 200))}
    hub.push({"model.safetensors": save(values)})
    return hub


def read(name=HUB):
    for tensor in open_checkpoint(name).tensors:
        tensor.read()


def refusal(call=read, *arguments):
    """Return the message, one line without a traceback, of the error that reading raises."""
    with pytest.raises((ValueError, OSError)) as caught:
        call(*arguments)
    assert str(caught.value).isprintable()
    status = CliRunner().invoke(cli, ["alpha", HUB])
    assert status.exception is None or isinstance(status.exception, SystemExit)
    return str(caught.value)


SIZE = 300 * 200 * 8 + 88  # of the file, with its header
SPANS = ["bytes 1-65535/480088", "bytes 0-70000/480088", "bytes 0-65535/*", "bytes 5-1/480088"]
SPANS += ["bytes */480088", "items 0-1/2", "", "bytes 0-9/5", "bytes -1-5/480088", "x" * 5000]


@pytest.mark.parametrize("span", SPANS)
def test_bytes_of_another_place_are_refused(hub, span):
    hub.fail("/storage/", headers={"Content-Range": span}, times=9)
    assert refusal() == f"model.safetensors: {OTHER_BYTES}"


@pytest.mark.parametrize("size", [65_536, 480_087, 10**17])
def test_another_size_than_the_list_has_is_refused(hub, size):
    hub.fail("/storage/", headers={"Content-Range": f"bytes 0-65535/{size}"}, times=9)
    assert refusal() == f"model.safetensors: {CHANGED}"


def test_more_bytes_than_the_range_has_are_left(hub):
    content = next(iter(hub.commits.values()))["model.safetensors"]
    assert len(content) == SIZE
    more = content[:65_536] + b"x" * 1000
    hub.fail("/storage/", status=206, body=more, headers={"Content-Range": f"bytes 0-65535/{SIZE}"})
    read()


@pytest.mark.parametrize("fault", [{"cut": 0}, {"cut": 1000}, {"cut": 1000, "whole": True}])
def test_a_connection_that_always_breaks_is_given_up(hub, fault, pauses):
    hub.fail("/storage/", times=FOREVER, **fault)
    assert refusal() == f"model.safetensors: {BROKE}"
    assert pauses[:2] == [1.0, 4.0]


def test_a_length_beyond_the_content_is_a_broken_connection(hub):
    hub.fail("/storage/", times=FOREVER, cut=100, headers={"Content-Length": str(10**12)})
    assert refusal() == f"model.safetensors: {BROKE}"


@pytest.mark.parametrize("length", ["-5", "many", "1e3", "9" * 30])
def test_a_length_that_is_no_number_is_refused(hub, length):
    hub.fail("/storage/", times=FOREVER, headers={"Content-Length": length})
    refusal()


def test_a_server_that_is_silent_is_left(hub, monkeypatch):
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.1)
    hub.fail("/storage/", times=FOREVER, hold=10)
    assert refusal() == (
        "model.safetensors: the server does not answer, after 3 attempts; try again later"
    )


def test_a_server_that_sends_a_few_bytes_a_second_is_left(hub, monkeypatch):
    tensors = open_checkpoint(HUB).tensors
    monkeypatch.setattr(requests, "PATIENCE", -1.0)
    monkeypatch.setattr(requests, "SLOWEST", FOREVER)
    expected = "the server sends less than 1,000,000,000 bytes a second; try again later"
    assert refusal(tensors[0].read) == f"model.safetensors: {expected}"
    assert refusal() == f"{HUB}: {expected}"


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://host/x", "http://example.org/x", "file://localhost/etc"]
)
@pytest.mark.parametrize("request_", ["/resolve/", "/api/"])
def test_a_redirect_to_another_kind_of_address_is_refused(hub, place, request_):
    hub.fail(request_, status=302, headers={"Location": place}, times=9)
    assert ": refused to fetch from " in refusal()


@pytest.mark.parametrize(
    "place", ["https://[", "http://\x7f", "data:,x", "javascript:1", "https://", "/"]
)
def test_a_redirect_to_nowhere_is_refused(hub, place):
    hub.fail("/resolve/", status=302, headers={"Location": place}, times=9)
    assert refusal().startswith("model.safetensors: ")


def test_redirects_without_end_are_refused(hub):
    hub.fail("/resolve/", status=302, headers={"Location": "/x/y/resolve/main/z"}, times=FOREVER)
    assert refusal() == "model.safetensors: more than 10 redirects; check the URL"


def test_a_redirect_from_https_to_this_machine_is_refused():
    """A page must not make the reader ask servers that only this machine can reach."""
    import httpx2

    from specdiag.checkpoint.remote.requests import Address, Wanted, answer

    def server(_):
        return httpx2.Response(302, headers={"Location": "http://127.0.0.1:9/x"})

    want = Wanted("x", None, None, "")
    with httpx2.Client(transport=httpx2.MockTransport(server)) as client:
        at = Address(client, "https://example.org/x", {}, 1.0)
        expected = r"^x: refused to be sent from https to http$"
        with pytest.raises(ValueError, match=expected), answer(at, want, {}):
            pass


def listing(commit, *files):
    return json.dumps({"sha": commit, "siblings": files}).encode()


COMMIT = "a" * 40
LISTS = [b"", b"[]", b"{}", b"null", b"{", b"\xff", b'{"sha": "main", "siblings": []}']
LISTS += [b'{"sha": 1, "siblings": 2}', listing("A" * 40), b"<html>", b'{"a": NaN}']
LISTS += [b"[" * 100_000, listing(COMMIT + "/../../x")]


@pytest.mark.parametrize("body", LISTS, ids=range(len(LISTS)))
def test_a_list_that_is_none_is_refused(hub, body):
    hub.fail("/api/", body=body, times=9)
    assert refusal() == f"{HUB}: {NO_HUB}"


def test_a_list_without_end_is_refused(hub, monkeypatch):
    monkeypatch.setattr(hub_module, "MAX_LISTING", 1000)
    hub.fail("/api/", body=b" " * 2000, times=9)
    assert refusal() == f"{HUB}: the list of files exceeds 1,000 bytes"


NAMES = ["../../../etc/passwd", "/etc/passwd", "a/../../b.safetensors", "", ".", "..", None, 5]
NAMES += ["a//b.safetensors", {"x": 1}, "\ud800.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_the_repository_is_no_file_of_it(hub, name):
    hub.fail("/api/", body=listing(COMMIT, {"rfilename": name, "size": 5}, "x", None), times=9)
    assert refusal().startswith("poyo: no checkpoint in the folder")
    hub.fail("/api/", body=listing(COMMIT, {"rfilename": name, "size": 5}), times=9)
    refusal(read, f"{HUB}/etc/passwd")


@pytest.mark.parametrize("size", [None, -1, "5", 2**70, True, 1.5])
def test_a_size_that_is_none_is_asked_from_the_storage(hub, size):
    (commit,) = hub.commits
    file = {"rfilename": "model.safetensors", "size": size}
    hub.fail("/api/", body=listing(commit, file))
    read()


def test_a_commit_that_was_not_asked_for_is_refused(hub):
    (commit,) = hub.commits
    hub.fail("/api/", body=listing(COMMIT), times=2)
    expected = f"{HUB}@{commit}: the hub answers with commit {COMMIT}"
    assert refusal(read, f"{HUB}@{commit}") == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        (10**15).to_bytes(8, "little") + b"{",
        b"<!doctype html><html>",
        b"PK\x03\x04" + b"x" * 100,
        b"PK\x05\x06" + b"\xff" * 18,
        b"\x80\x02cos\nsystem\n.",
        b'{"weight_map": {"a": "../../../etc/passwd"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        save({"a": np.ones((60, 60))})[:-5],
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_a_hostile_file_is_refused_as_on_a_disk(hub, tmp_path, content):
    hub.push({"model.safetensors": content})
    (tmp_path / "model.safetensors").write_bytes(content)
    assert refusal(read, f"{HUB}/model.safetensors") == refusal(
        read, tmp_path / "model.safetensors"
    )


def test_a_busy_server_makes_nobody_wait_for_long(hub, pauses):
    hub.fail("/api/", status=429, headers={"Retry-After": str(10**9)}, times=9)
    assert refusal().startswith(
        f"{HUB}: HTTP 429: too many requests, after 2 attempts; wait some minutes, or set HF_TOKEN"
    )
    assert pauses[0] == 60.0


def test_a_web_server_that_answers_with_a_page_for_everything_has_no_files_beside(hub):
    """Such a server has no config.json, although it does not say so."""
    html = {"headers": {"Content-Type": "text/html"}, "body": b"<html>", "status": 200}
    hub.files["net.safetensors"] = save({"a.weight": np.ones((60, 60))})
    hub.fail("config.json", times=9, **html)
    read(f"{hub.storage}/files/net.safetensors")
    done = CliRunner().invoke(cli, ["weights", f"{hub.storage}/files/net.safetensors"])
    assert done.exit_code == 0


_headers = st.sampled_from(
    [
        *("Content-Range", "Content-Length", "Content-Type", "Content-Encoding", "Connection"),
        *("Transfer-Encoding", "ETag", "Last-Modified", "Location", "Retry-After", "X-Error-Code"),
    ]
)
_texts = st.none() | st.text(st.characters(codec="latin-1", categories=["L", "N", "P"]))
_statuses = st.sampled_from([200, 204, 206, 301, 304, 400, 401, 404, 416, 418, 500, 599])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fault=st.fixed_dictionaries(
        {},
        optional={
            "status": _statuses,
            "headers": st.dictionaries(_headers, _texts),
            "body": st.binary(max_size=300),
            "whole": st.booleans(),
            "cut": st.integers(0, 300),
        },
    ),
    where=st.sampled_from(["/api/", "/resolve/", "/storage/", "/files/"]),
)
def test_any_answer_is_read_or_gives_one_line(hub, fault, where):
    files = next(iter(hub.commits.values()))
    hub.files["net.safetensors"] = files["model.safetensors"]
    hub.push(files)  # nothing is known of a new commit
    for name in (HUB, f"{hub.storage}/files/net.safetensors"):
        hub.faults = []
        hub.fail(where, times=FOREVER, **fault)
        done = CliRunner().invoke(cli, ["alpha", name, "--min-eigenvalues", "10000"])
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert len(done.stderr.splitlines()) <= 1


def test_a_web_server_that_is_silent_is_left(hub, monkeypatch):
    monkeypatch.setattr(web, "TIMEOUT", 0.1)
    hub.files["net.safetensors"] = b"x" * 1000
    hub.fail("/files/", times=FOREVER, hold=0)
    expected = "net.safetensors: the server does not answer, after 3 attempts; try again later"
    assert refusal(read, f"{hub.storage}/files/net.safetensors") == expected
