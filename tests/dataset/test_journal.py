"""An interrupted `alpha -o` is gone on with by the same command, and ends in the same bytes."""

import errno
import hashlib
import json
import os
import signal
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from specdiag.checkpoint.weights.find import open_weights
from specdiag.dataset.journal import MARK, Journal, journal_path
from specdiag.files import find_file
from specdiag.htsr.layers import Layer
from specdiag.htsr.measure import measure
from specdiag.wording import counted
from support.commands import run_forked
from support.faults import COMPILER, disk
from support.kills import stopped

NAMES = ("a", "b", "c", "d", "e")
SETTINGS = {"seed": 0}


def write_network(path, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(70, 60), (60, 80), (64, 64), (55, 90), (120, 51)]
    values = {
        f"{name}.weight": rng.standard_t(3, shape).astype(np.float32)
        for name, shape in zip(NAMES, shapes, strict=True)
    }
    save_file(values | {"bad.weight": np.full((60, 60), np.nan, np.float32)}, path)
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a network and its output, which was not interrupted."""
    folder = tmp_path_factory.mktemp("made")
    write_network(folder / "net.safetensors")
    assert run_forked(folder, "alpha", "net.safetensors", "-o", "whole.nc")[0] == 0
    return folder


@pytest.fixture
def folder(made):
    yield made
    for path in made.iterdir():
        if path.name not in ("net.safetensors", "whole.nc"):
            path.unlink()


@pytest.mark.parametrize("n", range(1, len(NAMES) + 1))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_at_any_layer_ends_in_the_same_bytes(folder, n, number):
    whole = (folder / "whole.nc").read_bytes()
    stopped(folder, ("alpha", "net.safetensors", "-o", "out.nc"), n, number)
    n_kept = contents(folder)[".out.nc.journal.specdiag"].count(b"\n") - 1
    assert n_kept >= n
    status, out, err = run_forked(folder, "alpha", "net.safetensors", "-o", "out.nc")
    assert (status, out) == run_forked(folder, "alpha", "net.safetensors")[:2]
    assert err.splitlines()[0] == (
        f"net: {counted(n_kept, 'layer')} of an interrupted run taken from .out.nc.journal.specdiag"
    )
    assert contents(folder).keys() == {"net.safetensors", "whole.nc", "out.nc"}
    assert (folder / "out.nc").read_bytes() == whole


@pytest.fixture(scope="module")
def kept(made):
    """The network's weights, its finished layers, and the content of a journal with all of them."""
    weights = [w for w in open_weights(made / "net.safetensors").tensors if w.name != "bad.weight"]
    journal = Journal(made / "all.nc")
    network = journal.of([find_file(made / "net.safetensors")], SETTINGS)
    layers = list(measure(weights, gof=True, through=network))
    content = journal.path.read_bytes()
    journal.close(remove=True)
    return weights, layers, content


def taken(folder, weights, content, **other):
    """Return the layers that a journal with this content has: None in place of others."""
    path = folder / "some.nc"
    journal_path(path).write_bytes(content)
    file = find_file(folder / "net.safetensors")
    journal = Journal(path)
    found = []
    for weight in weights:
        calls = []
        layer = journal.of([file._replace(**other)], SETTINGS)(
            lambda w, calls=calls: calls.append(w) or failed_layer(w), weight
        )
        found.append(None if calls else layer)
    journal.close(remove=True)
    return found


def failed_layer(weight):
    return Layer(name=weight.name, shape=weight.shape, dtype=weight.dtype, status="failed")


def test_the_journal_returns_every_layer_bit_by_bit(made, kept):
    weights, layers, content = kept
    assert content.startswith(MARK)
    found = taken(made, weights, content)
    assert [repr(layer) for layer in found] == [repr(layer) for layer in layers]
    for one, other in zip(found, layers, strict=True):
        assert one.eigenvalues.tobytes() == other.eigenvalues.tobytes()
        assert one.eigenvalues.dtype == np.float64
        for name in ("windows", "weights", "shape", "rate"):
            first, second = getattr(one.posterior, name), getattr(other.posterior, name)
            assert (first.dtype, first.tobytes()) == (second.dtype, second.tobytes())


def test_layers_are_taken_while_others_are_kept(tmp_path):
    """Some lie in the buffer of a read before, and some are longer than that."""
    rng = np.random.default_rng(0)
    arrays = {f"{i}.weight": rng.standard_normal((500 + 60 * i, 400)) for i in range(8)}
    weights = open_weights(arrays).tensors
    layers = list(measure(weights, null="none"))
    for done in ((0, 1, 2, 4, 5, 6), range(8)):
        journal, measured = Journal(tmp_path / "out.nc"), []
        network = journal.of([], SETTINGS)
        for i in done:
            layer = partial(lambda kept, i, _: kept.append(i) or layers[i], measured, i)
            network(layer, weights[i])
        journal.close()
    assert measured == [3, 7]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_journal_that_was_cut_at_any_byte_keeps_its_whole_lines(made, kept, data):
    weights, layers, content = kept
    end = data.draw(st.integers(0, len(content)))
    n = max(content[:end].count(b"\n") - 1, 0)
    found = taken(made, weights, content[:end])
    assert sum(layer is not None for layer in found) == n
    assert all(
        one is None or repr(one) == repr(two) for one, two in zip(found, layers, strict=True)
    )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_byte_costs_at_most_two_layers_and_changes_none(made, kept, data):
    weights, layers, content = kept
    at = data.draw(st.integers(len(MARK), len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    found = taken(made, weights, content[:at] + bytes([byte]) + content[at + 1 :])
    assert sum(layer is None for layer in found) in (1, 2)  # two if it was the end of a line
    assert all(
        one is None or repr(one) == repr(two) for one, two in zip(found, layers, strict=True)
    )


def forged(key, text):
    line = f"{key} {text}".encode()
    return hashlib.sha256(line).hexdigest().encode() + b" " + line + b"\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [],
        lambda _: None,
        lambda _: {},
        lambda layer: layer | {"name": "b.weight"},
        lambda layer: layer | {"name": 1},
        lambda layer: layer | {"shape": [70]},
        lambda layer: layer | {"shape": "70"},
        lambda layer: layer | {"rank": "0"},
        lambda layer: layer | {"rank": "zz" * 8},
        lambda layer: layer | {"rank": None},
        lambda layer: layer | {"eigenvalues": "AAA"},
        lambda layer: layer | {"eigenvalues": "AAAA"},
        lambda layer: layer | {"eigenvalues": 1},
        lambda layer: layer | {"tail": {"alpha": 1.0}},
        lambda layer: layer | {"kind": []},
        lambda layer: layer | {"likelihood_ratios": {"lognormal": [1]}},
        lambda layer: layer | {"more": 1},
        lambda layer: {name: layer[name] for name in layer if name != "rank"},
    ],
)
def test_a_forged_line_that_holds_no_layer_of_the_weight_is_left_out(made, kept, change):
    weights, _, content = kept
    for line in content.splitlines()[1:]:
        _, key, text = line.decode().split(" ", 2)
        layer = json.loads(text)
        if layer["name"] == "a.weight":
            text = json.dumps(change(layer))
            assert taken(made, weights[:1], MARK + forged(key, text)) == [None]


def test_layers_of_another_file_or_of_other_settings_are_not_taken(made, kept):
    weights, _, content = kept
    size, (time, inode, device) = find_file(made / "net.safetensors")[1:]
    for other in (
        {"size": size + 1},
        {"path": made / "other.safetensors"},
        {"stamp": (time + 1, inode, device)},
        {"stamp": (time, inode + 1, device)},
    ):
        assert taken(made, weights, content, **other) == [None] * len(weights)
    assert all(taken(made, weights, content, stamp=(time, inode, device + 1)))
    journal_path(made / "x.nc").write_bytes(content)
    journal = Journal(made / "x.nc")
    file = find_file(made / "net.safetensors")
    assert journal.of([file], SETTINGS).count(weights) == len(weights)
    assert journal.of([file], {"seed": 1}).count(weights) == 0
    assert journal.of([file, file._replace(size=1)], SETTINGS).count(weights) == 0
    journal.close(remove=True)


@pytest.mark.parametrize("options", [("--seed", "1"), ("--gof",), ("--method", "weightwatcher")])
def test_other_options_take_nothing_from_a_journal_and_remove_it_when_they_are_done(
    folder, options
):
    stopped(folder, ("alpha", "net.safetensors", "-o", "out.nc"), 3, signal.SIGKILL)
    status, _, err = run_forked(folder, "alpha", "net.safetensors", "-o", "out.nc", *options)
    assert (status, err) == (0, "wrote out.nc\n")
    assert contents(folder).keys() == {"net.safetensors", "whole.nc", "out.nc"}


def test_a_network_that_changed_is_measured_anew(tmp_path):
    path = write_network(tmp_path / "net.safetensors")
    stopped(tmp_path, ("alpha", "net.safetensors", "-o", "out.nc"), 5, signal.SIGKILL)
    write_network(path, seed=1)
    status, out, err = run_forked(tmp_path, "alpha", "net.safetensors", "-o", "out.nc")
    assert (status, err) == (0, "wrote out.nc\n")
    assert out == run_forked(tmp_path, "alpha", "net.safetensors")[1]


@pytest.mark.parametrize("kind", ["file", "link", "folder", "pipe"])
def test_what_is_no_journal_stays_under_its_name(folder, kind):
    path = folder / ".out.nc.journal.specdiag"
    target = folder / "target"
    if kind == "file":
        path.write_bytes(b"mine")
    elif kind == "link":
        target.write_bytes(b"mine")
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    status, _, err = run_forked(folder, "alpha", "net.safetensors", "-o", "out.nc")
    assert status == 0
    assert "finished layers are not kept for another run: " in err
    assert (folder / "out.nc").read_bytes() == (folder / "whole.nc").read_bytes()
    if kind in ("file", "link"):
        assert path.read_bytes() == b"mine"
    if kind == "folder":
        path.rmdir()


def test_a_second_writer_of_the_output_keeps_no_layers(folder, kept):
    path = journal_path(folder / "out.nc")
    path.write_bytes(kept[2])
    first = Journal(folder / "out.nc")
    status, _, err = run_forked(folder, "alpha", "net.safetensors", "-o", "out.nc")
    assert (status, "another command writes" in err) == (0, True)
    assert path.read_bytes() == kept[2]
    assert first.problem == ""
    first.close(remove=True)


def test_the_journal_of_a_link_lies_beside_the_file_that_it_points_to(folder):
    (folder / "deep").mkdir()
    (folder / "out.nc").symlink_to(folder / "deep" / "real.nc")
    stopped(folder, ("alpha", "net.safetensors", "-o", "out.nc"), 2, signal.SIGKILL)
    assert [path.name for path in (folder / "deep").iterdir()] == [".real.nc.journal.specdiag"]
    assert run_forked(folder, "alpha", "net.safetensors", "-o", "out.nc")[0] == 0
    assert contents(folder / "deep") == {"real.nc": (folder / "whole.nc").read_bytes()}
    (folder / "deep" / "real.nc").unlink()
    (folder / "deep").rmdir()


@pytest.mark.skipif(not COMPILER, reason="no C compiler")
def test_a_full_disk_keeps_what_is_finished_and_the_next_run_takes_it(folder, tmp_path):
    whole = (folder / "whole.nc").read_bytes()
    command = ["alpha", "net.safetensors", "-o", "out.nc"]
    (tmp_path / "library").mkdir()
    with disk(tmp_path / "library") as run:
        code, _, n_writes = run(folder, command)
        assert code == 0
        n_kept = []
        for at in range(1, n_writes + 1):
            (folder / "out.nc").unlink(missing_ok=True)
            code, said, _ = run(folder, command, at, errno.ENOSPC, True)
            assert code == 1, said
            assert "No space left on device" in said
            assert "Traceback" not in said
            found = contents(folder)
            assert found.keys() <= {"net.safetensors", "whole.nc", ".out.nc.journal.specdiag"}
            n_kept.append(found.get(".out.nc.journal.specdiag", b"").count(b"\n"))
            code, said, _ = run(folder, command)
            assert code == 0, said
            assert ("of an interrupted run" in said) == (n_kept[-1] > 1)
            assert (folder / "out.nc").read_bytes() == whole
            assert ".out.nc.journal.specdiag" not in contents(folder)
    assert set(n_kept) == {0, *range(2, 2 + len(NAMES))}
