"""The limits of the machine, and those that a user sets."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from specdiag.cli.main import cli
from specdiag.compute import machine


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return a function that writes files of the kernel; the process is in the group `a/b`."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    monkeypatch.setattr(machine, "_KERNEL", tmp_path)
    write("proc/meminfo", "MemTotal: 30000 kB\nMemFree: 1 kB\nMemAvailable: 20000 kB")
    write("proc/self/cgroup", "0::/a/b\n3:memory:/m\n4:cpu,cpuacct:/c\n")
    return lambda name, content: write(f"sys/fs/cgroup/{name}", content)


def test_memory_is_limited_by_each_group_around_the_process(kernel):
    assert machine.free_memory() == 20000 * 1024
    kernel("a/memory.max", "9000000")
    kernel("a/memory.current", "5000000")
    assert machine.free_memory() == 4_000_000
    kernel("a/memory.stat", "anon 4000000\ninactive_file 1000000")
    assert machine.free_memory() == 5_000_000
    kernel("a/b/memory.max", "max")
    kernel("a/b/memory.current", "1")
    assert machine.free_memory() == 5_000_000
    kernel("memory/m/memory.limit_in_bytes", "2000000")
    kernel("memory/m/memory.usage_in_bytes", "500000")
    assert machine.free_memory() == 1_500_000
    kernel("memory/memory.limit_in_bytes", "400000")
    kernel("memory/memory.usage_in_bytes", "500000")
    assert machine.free_memory() == 0


def test_cores_are_limited_by_the_quota_of_each_group_around_the_process(kernel):
    cores = len(os.sched_getaffinity(0))
    assert machine.n_cores() == cores
    kernel("a/b/cpu.max", "max 100000")
    assert machine.n_cores() == cores
    kernel("cpu/c/cpu.cfs_quota_us", "-1")
    kernel("cpu/c/cpu.cfs_period_us", "100000")
    assert machine.n_cores() == cores
    kernel("a/cpu.max", "50000 100000")
    assert machine.n_cores() == 1


def test_limits_hold_within_their_context_alone():
    with machine.using(jobs=3):
        with machine.using(memory=1000):
            assert (machine.current().n_jobs, machine.current().n_bytes) == (3, 1000)
        assert machine.current().memory is None
    assert machine.current().jobs is None
    with pytest.raises(ValueError, match="jobs is 0: expected a positive number"):
        machine.using(jobs=0).__enter__()


@pytest.mark.parametrize("size", ["8X", "-1G", "0", "G", "1e9", "8 G", "", "0.00000001K"])
def test_an_invalid_amount_of_memory_is_a_usage_error(size, tmp_path):
    path = tmp_path / "W.npy"
    np.save(path, np.eye(3, dtype=np.float32))
    done = CliRunner().invoke(cli, ["alpha", str(path), "--memory", size])
    assert done.exit_code == 2
    assert "no amount of memory; expected one such as 8G" in done.output


def test_no_limit_changes_a_result(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (300, 80), (80, 300), (64, 64), (120, 90), (60, 60, 3)]
    arrays = {f"l{i}.weight": rng.standard_normal(s, np.float32) for i, s in enumerate(shapes)}
    path = tmp_path / "w.npz"
    np.savez(path, **arrays)
    outputs = [
        CliRunner().invoke(cli, ["alpha", str(path), "--json", *limits]).output
        for limits in ([], ["--jobs", "1"], ["--jobs", "7", "--memory", "1K"], ["--memory", "2.5G"])
    ]
    assert len(set(outputs)) == 1
    assert [layer["status"] for layer in json.loads(outputs[0])["checkpoints"][0]["layers"]] == [
        "fit"
    ] * 6


@pytest.mark.parametrize("limit", [("--jobs", "2"), ("--memory", "1G")])
def test_limits_of_this_machine_are_refused_for_a_cluster(limit, tmp_path):
    path = tmp_path / "W.npy"
    np.save(path, np.eye(3, dtype=np.float32))
    done = CliRunner().invoke(cli, ["alpha", str(path), "--engine", "ray", *limit])
    assert done.exit_code == 2
    assert "--jobs and --memory limit this machine; --engine ray has its own" in done.output
