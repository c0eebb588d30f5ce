"""Entries of a lock are made on the machines of a Ray cluster, one of which is lost."""

import fcntl
import os
import re
import select
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import save_file

from specdiag.checkpoint.weights.find import open_weights
from specdiag.cli.measuring.cluster import _layer_of, _send, _state, _weights
from specdiag.files import find_file
from specdiag.htsr.measure import measure
from specdiag.lock.lockfile import load
from specdiag.obtain import cluster as on_cluster
from specdiag.obtain.build import Outcome
from support import toy
from support.commands import change, run
from support.kills import stopped
from support.paths import ROOT

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow

# The toys first write on which node they run, then wait while the test holds a file lock.
WRITE_AND_WAIT = """log(job, "begin")
    if job.parent and job.output.parent.parent.name == "child":
        import fcntl, ray

        node = ray.get_runtime_context().get_node_id()
        with (Path(__file__).parent / "begun").open("w") as pipe:
            pipe.write(f"{node} {os.getpid()} {job.name}\\n")
        with (Path(__file__).parent / "barrier").open() as barrier:
            fcntl.flock(barrier, fcntl.LOCK_SH)"""


@pytest.fixture(scope="module")
def cluster():
    """A head without cores and two nodes with one core each, all processes of this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # by default workers wait for all other processes
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        made.machines = [made.add_node(num_cpus=1) for _ in range(2)]
        yield made
        made.shutdown()


def lock_of_toys(folder, children):
    folder.mkdir()
    path = toy.make(folder, children)
    assert run(folder, "lock", "--init")[0] == 0
    return path


def first_lines(pipe, n, process):
    """Return the first `n` lines of a pipe; fail if a process ends before."""
    text, ended = "", os.pidfd_open(process.pid)
    while text.count("\n") < n:
        ready, _, _ = select.select([pipe, ended], [], [])
        assert pipe in ready, process.communicate()
        text += pipe.read(4096).decode()
    os.close(ended)
    return text.splitlines()


def tensors(lock):
    return {e.name: (e.file.tensors, e.metrics) for e in load(lock).entries}


def test_a_lost_machine_costs_what_ran_on_it_and_changes_no_weight(cluster, tmp_path):
    here, there = (lock_of_toys(tmp_path / name, 4) for name in ("here", "there"))
    run(here.parent, "train", "--all")
    change(there, 'log(job, "begin")', WRITE_AND_WAIT)
    recipes = there.parent / "recipes"
    os.mkfifo(recipes / "begun")
    command = [sys.executable, "-m", "specdiag", "train", "--all", "--engine", "ray"]
    with (
        (recipes / "barrier").open("w") as barrier,
        (recipes / "begun").open("r+b", buffering=0) as begun,
    ):
        fcntl.flock(barrier, fcntl.LOCK_EX)
        driver = subprocess.Popen(
            [*command, "--address", cluster.address],
            cwd=there.parent,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = first_lines(begun, 2, driver)
        running = {node: (int(pid), name) for node, pid, name in map(str.split, lines)}
        assert running.keys() == {node.node_id for node in cluster.machines}
        worker, lost = running[cluster.machines[1].node_id]
        cluster.remove_node(cluster.machines[1], allow_graceful=False)
        os.kill(worker, signal.SIGKILL)  # it would go with a real machine
        fcntl.flock(barrier, fcntl.LOCK_UN)
        out, _ = driver.communicate()
    assert driver.returncode == 0
    assert out.splitlines()[-1] == "5 trained, 1 evaluated"
    assert tensors(there) == tensors(here)
    begun = Counter(line.split()[0] for line in toy.log(there) if "begin" in line)
    assert begun.pop(lost) == 2
    assert set(begun.values()) == {1}
    cluster.machines[1] = cluster.add_node(num_cpus=1)  # for the tests after this one


def test_several_devices_get_a_process_of_their_own_and_failures_their_reason(cluster, tmp_path):
    lock = lock_of_toys(tmp_path / "lock", 2)
    change(lock, '"base/net", seed=i)', '"base/net", seed=i, fails=i == 0)')
    where = """log(job, "begin")
    import sys; log(job, "worker" if "ray" in sys.modules else "process")
    print("failed", job.name, "desk", "a line like the table's", sep="  ")"""
    change(lock, 'log(job, "begin")', where)
    run(lock.parent, "lock")
    command = ("train", "--all", "--engine", "ray", "--address", cluster.address, "--devices", 2)
    status, out, _ = run(lock.parent, *command)
    assert status == 1
    assert re.sub(r"-?0\.\d{4}", "R", out).splitlines() == [
        "trained    base/net    desk  r2 R",
        "failed     child/net0  desk  recipes/toy.py:51: the loss is NaN",
        "trained    child/net1  desk  r2 R",
        "evaluated  judged/net  desk  r2 R",
        "2 trained, 1 failed, 1 evaluated",
    ]
    assert load(lock).entries[0].environment["devices"] == 2
    assert {x for x in toy.log(lock) if x.endswith(("worker", "process"))} == {
        "base/net process",
        "child/net0 process",
        "child/net1 process",
        "judged/net worker",
    }


def test_a_task_that_fails_and_a_worker_that_dies_give_an_outcome_in_one_line(cluster, tmp_path):
    def raises():
        raise KeyError("one\ntwo")

    def dies():
        os._exit(1)

    lock = lock_of_toys(tmp_path / "lock", 0)
    entry = load(lock).entries[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        ray.init(cluster.address, log_to_driver=False)
        try:
            task = ray.remote(max_retries=0)
            outcomes = [
                on_cluster._outcome(ray, task(f).remote(), entry, debug=False)
                for f in (raises, dies)
            ]
        finally:
            ray.shutdown()
    assert outcomes == [
        Outcome(entry, "failed", r"KeyError: 'one\ntwo'"),
        Outcome(
            entry,
            "failed",
            "its worker or node died four times; run it without --engine ray to see the reason",
        ),
    ]


def test_a_terminated_run_ends_with_143_and_no_dump(cluster, tmp_path):
    lock = lock_of_toys(tmp_path / "lock", 0)
    wait = """log(job, "begin"); (Path(__file__).parent / "begun").open("w").write("x\\n")
    import threading; threading.Event().wait()"""
    change(lock, 'log(job, "begin")', wait)
    os.mkfifo(lock.parent / "recipes" / "begun")
    command = [sys.executable, "-m", "specdiag", "train", "base/net", "--engine", "ray"]
    with (lock.parent / "recipes" / "begun").open("r+b", buffering=0) as begun:
        driver = subprocess.Popen(
            [*command, "--address", cluster.address],
            cwd=lock.parent,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first_lines(begun, 1, driver)
        driver.terminate()
        out, err = driver.communicate()
    assert driver.returncode == 143, (out, err)
    assert err.splitlines()[-1] == "interrupted: run it again to go on"
    assert "SIGTERM" not in err


def test_without_a_cluster_the_message_comes_at_once(tmp_path):
    lock = lock_of_toys(tmp_path / "lock", 0)
    status, out, err = run(
        lock.parent, "train", "--all", "--engine", "ray", "--address", "127.0.0.1:9"
    )
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == (
        "specdiag: no Ray cluster at 127.0.0.1:9; start one with `ray start --head`, or leave out "
        "--address to use this machine alone"
    )


def test_spectra_measured_on_a_cluster_are_those_measured_here(cluster, tmp_path):
    lock = lock_of_toys(tmp_path / "toys", 2)
    run(lock.parent, "train", "--all")
    files = sorted(map(str, lock.parent.glob("checkpoints/desk/child/*.ckpt")))
    on_cluster = ("--engine", "ray", "--address", cluster.address)
    here, there = (run(lock.parent, "alpha", *files, "--json", *how) for how in ((), on_cluster))
    assert (here[0], len(files)) == (0, 2)
    assert there[:2] == here[:2]
    assert run(lock.parent, "spectra", "-o", "here.nc")[0] == 0
    for spectra in lock.parent.glob("checkpoints/**/*.nc"):
        spectra.unlink()
    assert run(lock.parent, "spectra", "-o", "there.nc", *on_cluster)[0] == 0
    assert len(list(lock.parent.glob("checkpoints/**/*.nc"))) == 3
    assert (lock.parent / "there.nc").read_bytes() == (lock.parent / "here.nc").read_bytes()


def test_an_unreadable_file_gives_the_same_message_on_a_cluster(cluster, tmp_path):
    (tmp_path / "no.safetensors").write_bytes(b"no")
    on_cluster = ("--engine", "ray", "--address", cluster.address)
    here, there = (run(tmp_path, "alpha", "no.safetensors", *how) for how in ((), on_cluster))
    assert here[0] == 1
    assert there[2].splitlines()[-1] == here[2].splitlines()[-1]


def test_the_layers_of_one_file_are_spread_over_the_nodes(cluster, tmp_path, rng):
    """The output has the same bytes as here, for several files and with a journal, too."""
    for number in range(2):
        shapes = [(80 + 10 * i, 70) for i in range(6)]
        values = {f"{i}.weight": rng.standard_t(4, shape) for i, shape in enumerate(shapes)}
        values["bad.weight"] = np.full((60, 60), np.nan)
        values["copy.weight"] = values["0.weight"].copy()
        save_file(values, tmp_path / f"{number}.safetensors")
    on_cluster = ("--engine", "ray", "--address", cluster.address)
    for files in (("0.safetensors",), ("0.safetensors", "1.safetensors")):
        here = run(tmp_path, "alpha", *files, "-o", "here.nc")
        there = run(tmp_path, "alpha", *files, "-o", "there.nc", *on_cluster)
        assert (here[0], there[0]) == (0, 0), there[2]
        assert there[1] == here[1]
        assert (tmp_path / "there.nc").read_bytes() == (tmp_path / "here.nc").read_bytes()
    command = ("alpha", "0.safetensors", "-o", "new.nc", *on_cluster)
    assert stopped(tmp_path, command, 2, signal.SIGTERM) == 143
    kept = (tmp_path / ".new.nc.journal.specdiag").read_bytes().count(b"\n") - 1
    status, _, err = run(tmp_path, *command)
    assert (status, f"0: {kept} layers of an interrupted run" in err) == (0, True)
    assert run(tmp_path, "alpha", "0.safetensors", "-o", "here.nc")[0] == 0
    assert (tmp_path / "new.nc").read_bytes() == (tmp_path / "here.nc").read_bytes()


def test_workers_do_calls_of_several_threads_at_the_same_time(cluster, tmp_path):
    """Each of two calls opens one end of a pipe, which waits until the other one is open."""
    os.mkfifo(tmp_path / "pipe")
    with on_cluster.workers(cluster.address) as workers, ThreadPoolExecutor(2) as pool:
        assert workers.n >= 2  # a lost node counts until Ray has missed it
        ends = [
            pool.submit(workers.call, os.open, tmp_path / "pipe", flag, n_bytes=1e6)
            for flag in (os.O_RDONLY, os.O_WRONLY)
        ]
        assert all(end.result() > 2 for end in ends)
        with pytest.raises(FileNotFoundError):
            workers.call(os.stat, tmp_path / "missing", n_bytes=1e15)


def test_a_layer_whose_worker_dies_costs_no_other_one(cluster, tmp_path, rng):
    weights = open_weights({"a.weight": rng.standard_normal((60, 60))}).tensors
    with on_cluster.workers(cluster.address) as workers:
        settings = {"repeats": False, "traps": False}
        dies = partial(_send, workers, settings, lambda *_: os._exit(1), tmp_path, set())
        (layer,) = measure(weights, elsewhere=dies)
        assert workers.call(os.path.exists, tmp_path, n_bytes=1e6)
    assert (layer.status, layer.reason) == ("failed", on_cluster.LOST)


def test_a_node_with_another_file_measures_none_of_its_layers(tmp_path, rng):
    path = tmp_path / "net.safetensors"
    save_file({"a.weight": rng.standard_normal((60, 60))}, path)
    opened = {find_file(path)}
    settings = {"which": None, "base": None, "splits": (), "null": "none"}
    here = _layer_of(None, settings, "cpu", path, _state(opened), "a.weight")
    assert here.status == "fit"
    save_file({"a.weight": rng.standard_normal((60, 60))}, tmp_path / "other")
    (tmp_path / "other").replace(path)
    stale = _layer_of(None, settings, "cpu", path, _state(opened), "a.weight")
    assert (stale.status, "changed since it was opened" in stale.reason) == ("failed", True)
    _weights.cache_clear()  # as in a worker that opens it only now
    with pytest.raises(on_cluster.LostError, match="changed since it was opened"):
        _layer_of(None, settings, "cpu", path, _state(opened), "a.weight")
