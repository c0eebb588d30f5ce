"""A distant network is read a matrix at a time, the next one while another is measured."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.remote import kept
from specdiag.checkpoint.weights.find import open_weights
from specdiag.cli.main import cli
from specdiag.compute.machine import using
from specdiag.dataset.journal import journal_path
from specdiag.dataset.spectra import measured_layers, network_of
from support.hub import REPO

HUB = f"hf://{REPO}"
ROWS = (400, 380, 360, 340, 320)


@pytest.fixture
def values(rng, hub):
    values = {
        f"layer.{i}.weight": rng.standard_t(4, (n, 200)).astype(np.float32)
        for i, n in enumerate(ROWS)
    }
    hub.push({"model.safetensors": save(values)})
    return values


def test_the_next_matrix_is_transferred_while_one_is_measured_on_one_core(hub, values):
    """The first one waits until the second one has arrived, and so on."""
    checkpoint = open_weights(HUB)
    arrived = {name: threading.Event() for name in values}
    main, order = set(), []

    def watched(weight):
        def read():
            values = weight.read()
            name = f"layer.{int(weight.name[6]) + 1}.weight"
            if threading.get_ident() not in main:
                order.append(weight.name)
                arrived[weight.name].set()
            elif name in arrived:
                assert arrived[name].wait(60)
            return values

        return replace(weight, read=read)

    def through(function, weight):
        main.add(threading.get_ident())
        return function(weight)

    checkpoint = replace(checkpoint, tensors=tuple(map(watched, checkpoint.tensors)))
    with using(jobs=1):
        (layers,) = measured_layers([network_of(checkpoint, journal=WithoutJournal(through))])
    assert [layer.status for layer in layers] == ["fit"] * len(ROWS)
    assert order == [f"layer.{i}.weight" for i in range(1, len(ROWS))]
    assert hub.sent <= len(save(values)) + 2 * len(ROWS) * kept.BLOCK  # nothing came twice


class WithoutJournal:
    """A journal without layers."""

    def __init__(self, through):
        self.through = through

    def count(self, _):
        return 0

    def __call__(self, function, weight):
        return self.through(function, weight)


def test_bytes_that_are_there_are_read_while_others_are_transferred(hub, values):
    tensors = open_checkpoint(HUB).tensors
    tensors[0].read()
    hub.fail("/storage/", hold=1000)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(tensors[4].read)
        assert hub.holding.wait(60)
        np.testing.assert_array_equal(tensors[0].read(), values[tensors[0].name])
        assert not other.done()
        hub.release.set()
        np.testing.assert_array_equal(other.result(), values[tensors[4].name])


def test_many_threads_read_what_one_reads_within_a_small_room(hub, values, monkeypatch):
    monkeypatch.setattr(kept, "MAX_KEPT", 4 * kept.BLOCK)
    tensors = open_checkpoint(HUB).tensors
    with ThreadPoolExecutor(8) as pool:
        for name, read in pool.map(lambda t: (t.name, t.read()), tensors * 8):
            np.testing.assert_array_equal(read, values[name])


def test_what_is_used_stays_while_older_bytes_make_room(hub, values, monkeypatch):
    monkeypatch.setattr(kept, "MAX_KEPT", 8 * kept.BLOCK)
    first, *others = open_checkpoint(HUB).tensors
    first.read()
    for tensor in others:
        tensor.read()
        before = hub.sent
        first.read()
        assert hub.sent == before


def test_each_pause_before_a_new_attempt_is_said(hub, values, caplog, pauses):
    caplog.set_level(logging.INFO, "specdiag")
    hub.fail("/storage/", status=429, headers={"Retry-After": "7"})
    hub.fail("/storage/", status=503)
    tensors = open_checkpoint(HUB).tensors
    hub.fail("/storage/", cut=10)
    tensors[4].read()
    assert caplog.messages == [
        "model.safetensors: HTTP 429, too many requests; attempt 2 of 3 in 7 s",
        "model.safetensors: HTTP 503; attempt 3 of 3 in 4 s",
        "model.safetensors: the connection broke; attempt 2 of 3 in 1 s",
    ]
    assert pauses == [7.0, 4.0, 1.0]


def test_layers_that_could_not_be_read_are_measured_by_the_same_command(
    hub, values, tmp_path, monkeypatch, pauses
):
    monkeypatch.chdir(tmp_path)
    whole = CliRunner().invoke(cli, ["alpha", HUB, "-o", "whole.nc"])
    assert whole.exit_code == 0, whole.output
    for file in [*kept.known]:
        file._parts.clear()
    hub.fail("/storage/", status=500, times=10**6)
    opened = CliRunner().invoke(cli, ["alpha", HUB, "-o", "out.nc", "--jobs", "1"])
    assert opened.exit_code == 1  # not even the header
    hub.faults.clear()
    headers = open_checkpoint(HUB)
    headers.tensors[0].read()
    headers.tensors[1].read()
    hub.fail("/storage/", status=500, times=10**6)
    half = CliRunner().invoke(cli, ["alpha", HUB, "-o", "out.nc", "--jobs", "1"])
    assert half.exit_code == 0
    assert "3 layers could not be read; the same command measures them alone" in half.stderr
    assert journal_path(tmp_path / "out.nc").exists()
    hub.faults.clear()
    for file in [*kept.known]:
        file._parts.clear()
    hub.sent = 0
    again = CliRunner().invoke(cli, ["alpha", HUB, "-o", "out.nc"])
    assert again.exit_code == 0, again.output
    assert "2 layers of an interrupted run taken from .out.nc.journal.specdiag" in again.stderr
    assert (tmp_path / "out.nc").read_bytes() == (tmp_path / "whole.nc").read_bytes()
    assert not journal_path(tmp_path / "out.nc").exists()
    assert hub.sent < sum(ROWS[2:]) * 800 + 8 * kept.BLOCK
