"""Files of a hub and behind URLs arrive whole and verified, or not at all."""

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub import FOREVER, REPO, Hub, sha256

from specdiag.fetch import ChecksumError, Fetched, fetch_hub, fetch_url

CONTENT = bytes(range(256)) * 1024  # 256 KiB
OTHER = CONTENT[::-1]
SHA, SIZE = sha256(CONTENT), len(CONTENT)
FILE = "base/model.ckpt"
UNSET = ("HF_TOKEN", "HF_HUB_OFFLINE", *(f"{s}_{p}" for s in ("http", "https", "all") for p in ["proxy"]))
TOKEN_ADVICE = "set HF_TOKEN or run 'hf auth login' for an account that may read it"
CHANGED = "it changed at its source: ask who publishes it, or record it anew"
DAMAGED = "nothing was kept; fetch again, and if it stays so, it changed at its source"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Hub() as server:
        server.files["model.ckpt"] = CONTENT
        # Read from the environment once, when it is imported; a test below goes that way.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


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
    """Seconds that would have been waited."""
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
    """Return the message of the error that a call raises, which must be one line of that very type."""
    with pytest.raises(kind) as caught:
        call(**options)
    assert type(caught.value) is kind
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    message = str(caught.value)
    assert message.isprintable()
    return message
