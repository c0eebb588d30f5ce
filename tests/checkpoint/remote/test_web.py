"""Files behind URLs are read by ranges, or downloaded once from servers that have none."""

import io
import json
import pickle
import resource
import tempfile
from contextlib import suppress

import huggingface_hub
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import specdiag
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.remote import ranges, web
from specdiag.checkpoint.remote.places import place
from specdiag.checkpoint.remote.ranges import BLOCK, Ranges
from specdiag.checkpoint.remote.requests import Address, Wanted
from specdiag.checkpoint.weights.find import weights
from specdiag.cli.main import cli
from specdiag.files import DistantPath

TO_DO = "download the file and name it"


@pytest.fixture
def values(rng):
    return {f"layer.{i}.weight": rng.standard_normal((300, 200)).astype("f4") for i in range(6)}


@pytest.fixture
def url(hub, values):
    hub.files["net.safetensors"] = save(values)
    return f"{hub.storage}/files/net.safetensors"


def message(call, *arguments, kind=(ValueError, OSError)):
    """Return the message, one line, of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call(*arguments)
    assert str(caught.value).isprintable()
    return str(caught.value)


def equal(checkpoint, values):
    return all(np.array_equal(t.read(), values[t.name]) for t in checkpoint.tensors)


def test_only_what_is_read_is_sent(hub, url, values):
    opened = open_checkpoint(url)
    assert (opened.name, str(opened.path), len(opened.tensors)) == ("net", url, 6)
    opened.tensors[3].read()
    assert hub.sent <= 300 * 200 * 4 + 3 * BLOCK
    assert equal(opened, values)


def test_a_system_without_reads_at_a_position_reads_the_same(hub, url, values, monkeypatch):
    monkeypatch.delattr(ranges.os, "preadv")  # as on Windows
    opened = open_checkpoint(url)
    opened.tensors[3].read()
    assert equal(opened, values)


def test_the_tag_of_the_server_is_a_note_and_no_password_is_shown(hub, url):
    secret = f"{url}?signature=secret"
    opened = open_checkpoint(secret)
    (note,) = opened.notes
    assert note.startswith(f'read from {hub.storage.removeprefix("http://")}: "')
    dataset = specdiag.alpha(secret, layers="layer.1.*")
    done = CliRunner().invoke(cli, ["alpha", secret, "--layers", "layer.1.*", "--json"])
    assert json.loads(done.stdout)["checkpoints"][0]["path"] == url
    del hub.files["net.safetensors"]
    texts = [repr(opened), str(dataset.attrs), done.output, message(open_checkpoint, secret)]
    assert "secret" not in "".join(texts)
    assert any(path.endswith("?signature=secret") for _, path, _ in hub.requests)


def test_two_addresses_that_differ_in_the_query_are_two_files(url):
    one, two = (place(f"{url}?id={i}") for i in (1, 2))
    assert one != two
    assert pickle.loads(pickle.dumps(two)).url == f"{url}?id=2"


def test_a_server_without_ranges_sends_the_file_once(hub, url, values):
    hub.fail("/files/net.safetensors", whole=True, times=10)
    opened = open_checkpoint(url)
    assert equal(opened, values)
    assert equal(opened, values)
    assert hub.sent == len(hub.files["net.safetensors"])
    assert [line for line in hub.asked if "net" in line] == [
        "GET /files/net.safetensors bytes=0-65535"
    ]


def test_a_length_that_the_server_does_not_announce_is_found(hub, url, values):
    hub.fail("/files/net.safetensors", whole=True, headers={"Content-Length": None})
    assert equal(open_checkpoint(url), values)


def test_a_download_that_breaks_starts_again(hub, url, values, pauses):
    hub.fail("/files/net.safetensors", whole=True, cut=100_000)
    hub.fail("/files/net.safetensors", whole=True)
    assert equal(open_checkpoint(url), values)
    assert pauses == [1.0]


def test_a_file_that_is_too_large_to_be_downloaded_is_refused(hub, url, monkeypatch):
    monkeypatch.setattr(ranges, "MAX_WHOLE", 1000)
    hub.fail("/files/net.safetensors", whole=True)
    size = len(hub.files["net.safetensors"])
    assert message(open_checkpoint, url) == (
        f"net.safetensors: {size:,} bytes, and the server sends no parts of files; at most 1,000 "
        "are downloaded whole; download it to a larger disk and name it"
    )
    hub.fail("/files/net.safetensors", whole=True, headers={"Content-Length": None})
    assert message(open_checkpoint, url) == "net.safetensors: more than 1,000 bytes"


@pytest.fixture
def small_files():
    """Let the process write files of at most 64 KiB, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_named(url, request):
    opened = open_checkpoint(url)
    request.getfixturevalue("small_files")
    assert message(opened.tensors[2].read, kind=OSError) == (
        f"net.safetensors: its bytes cannot be kept in {tempfile.gettempdir()} (File too large); "
        "set TMPDIR to a folder of another disk"
    )


def test_a_file_that_changed_is_not_mixed_with_the_old_one(hub, url, values):
    opened = open_checkpoint(url)
    other = {name: 2 * value for name, value in values.items()}
    hub.files["net.safetensors"] = save(other)
    changed = "net.safetensors: it changed at the server since it was opened; open it again"
    assert message(opened.tensors[-1].read, kind=ValueError) == changed
    again = open_checkpoint(url)
    assert equal(again, other)
    changed = "net.safetensors: changed since it was opened; open it again"
    assert message(opened.tensors[0].read, kind=ValueError) == changed


def test_shards_and_configurations_lie_beside_a_file(hub, rng, values):
    where = dict.fromkeys(values, "one.safetensors")
    hub.files["a/x.index.json"] = json.dumps({"weight_map": where}).encode()
    hub.files["a/one.safetensors"] = save(values)
    opened = open_checkpoint(f"{hub.storage}/files/a/x.index.json")
    assert equal(opened, values)
    A, B = rng.standard_normal((3, 60)), rng.standard_normal((80, 3))
    names = [f"base_model.model.q_proj.lora_{x}.weight" for x in "AB"]
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6}
    hub.files["b/adapter_model.safetensors"] = save(dict(zip(names, (A, B), strict=True)))
    hub.files["b/adapter_config.json"] = json.dumps(config).encode()
    (weight,) = weights(open_checkpoint(f"{hub.storage}/files/b/adapter_model.safetensors"))
    np.testing.assert_allclose(weight.read(), 2 * B @ A)


@pytest.mark.parametrize(
    ("fault", "kind", "expected"),
    [
        (
            {"status": 404},
            FileNotFoundError,
            "HTTP 404: the server has no such file; check the URL",
        ),
        ({"status": 403}, PermissionError, f"HTTP 403: access denied; {TO_DO}"),
        ({"status": 401}, PermissionError, f"HTTP 401: access denied; {TO_DO}"),
        (
            {"status": 500, "times": 3},
            OSError,
            "HTTP 500: the server failed, after 3 attempts; try again later",
        ),
        (
            {"headers": {"Content-Type": "text/html; charset=utf-8"}},
            ValueError,
            f"the answer is an HTML page instead of the file, perhaps a login page; {TO_DO}",
        ),
        (
            {"headers": {"Content-Encoding": "gzip"}},
            ValueError,
            "the server sends the file compressed ('gzip')",
        ),
    ],
)
def test_an_answer_that_is_not_the_file_is_named(hub, url, fault, kind, expected):
    hub.fail("/files/net.safetensors", **fault)
    assert message(open_checkpoint, url, kind=kind) == f"net.safetensors: {expected}"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://example.org/x", "http://example.org/x: expected https, where others cannot"),
        ("https://me:secret@host/x", "https://host/x: an address with a user name is not read"),
        ("https://host", "https://host: expected https://host/file"),
        ("https:///x", "https://x: expected https://host/file"),
        ("https://host:secret/x", "the address is invalid; expected https://host/file"),
        ("https://[::1/x", "the address is invalid; expected https://host/file"),
    ],
)
def test_an_address_that_cannot_be_read_is_named(address, expected):
    text = message(place, address, kind=ValueError)
    assert text.startswith(expected)
    assert "secret" not in text
    done = CliRunner().invoke(cli, ["alpha", address])
    assert (done.exit_code, text in done.output) == (2, True)


@given(st.text(), st.sampled_from(["hf://", "https://", "hf:/", "http://", ""]))
def test_any_name_is_an_address_a_path_or_an_error(text, scheme):
    path = None
    with suppress(ValueError):
        path = place(scheme + text)
    assert path is None or isinstance(path, DistantPath) or not scheme


@settings(max_examples=30)
@given(data=st.data())
def test_a_stream_reads_as_one_of_the_bytes_does(data, served):
    """The oracle is io.BytesIO."""
    content, address = served
    ours = Ranges(address, Wanted("x", None, None, "")).open()
    other = io.BytesIO(content)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) + 10))
        n = data.draw(st.integers(0, 3 * BLOCK))
        assert ours.seek(at) == other.seek(at)
        assert ours.read(n) == other.read(n)
        assert ours.tell() == other.tell()
    assert ours.seek(-1, io.SEEK_END) == other.seek(-1, io.SEEK_END)
    assert ours.read() == other.read()


@pytest.fixture(scope="module")
def served():
    import httpx2

    from support.hub import Hub

    content = np.random.default_rng(5).bytes(5 * BLOCK + 123)
    with Hub() as hub, httpx2.Client() as client:
        hub.files["x"] = content
        yield content, lambda: Address(client, f"{hub.storage}/files/x", {}, 5.0)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://127.0.0.1:1", "http://[:::"])
@pytest.mark.parametrize("address", ["hf://a/b", "https://127.0.0.1:9/net.safetensors"])
def test_a_proxy_that_cannot_be_used_is_named(hub, proxy, address, monkeypatch):
    for variable in ("no_proxy", "NO_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ALL_PROXY", proxy)
    web._client.cache_clear()
    huggingface_hub.close_session()

    result = CliRunner().invoke(cli, ["alpha", address])

    assert result.exit_code == 1
    assert "the proxy that the environment names" in result.stderr
    assert len(result.stderr.splitlines()) == 1
