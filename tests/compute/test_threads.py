"""Every command that measures gives each of its threads one BLAS thread, in all libraries."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from threadpoolctl import threadpool_info, threadpool_limits

from specdiag.compute.parallel import in_parallel
from support import toy
from support.commands import run_forked
from support.paths import ROOT

# Runs a command, and prints at the end how many threads the BLAS libraries had whenever a function
# of the two modules that solve eigenvalue problems returned in a thread of a pool.
WATCHED = """
import json, sys, threading
from threadpoolctl import threadpool_info

seen = set()
where = ("specdiag.htsr.esd", "specdiag.comparison.matrices", "specdiag.compute.")

def watch(frame, event, arg):
    if event == "return" and frame.f_globals.get("__name__", "").startswith(where):
        if threading.current_thread() is not threading.main_thread():
            for pool in threadpool_info():
                if pool["user_api"] == "blas":
                    seen.add((pool["filepath"].split("/")[-2], pool["num_threads"]))

threading.setprofile(watch)
from specdiag.cli.main import cli
try:
    cli(sys.argv[1:], standalone_mode=False)
finally:
    print(json.dumps(sorted(seen)), file=sys.stderr)
"""


def seen(folder, *arguments):
    """Return the BLAS libraries and their numbers of threads in the pool of a command."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "3", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", WATCHED, *map(str, arguments)]
    done = subprocess.run(
        line, check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {tuple(pair) for pair in json.loads(done.stderr.splitlines()[-1])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two networks, and a lock with a trained checkpoint without its spectra."""
    folder = tmp_path_factory.mktemp("networks")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        matrices = {
            f"{i}.weight": rng.standard_normal((90, 70)).astype(np.float32) for i in range(4)
        }
        matrices["large.weight"] = rng.standard_normal((800, 780)).astype(np.float32)
        save_file(matrices, folder / f"{name}.safetensors")
    toy.make(folder)
    for arguments in (("lock", "--init"), ("train", "--all")):
        status, _, err = run_forked(folder, *arguments)
        assert status == 0, err
    for path in folder.rglob("*.nc"):
        path.unlink()
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "alpha a.safetensors",
        "alpha a.safetensors --gof --repeats",
        "alpha a.safetensors --method wwj",
        "alpha a.safetensors b.safetensors -o two.nc",
        "compare a.safetensors b.safetensors",
        "compare a.safetensors b.safetensors -o compared.nc",
        "spectra -o spectra.nc",
    ],
)
def test_each_thread_of_a_pool_has_one_blas_thread(command, folder):
    threads = seen(folder, *command.split())
    assert {n for _, n in threads} == {1}
    if command.startswith("compare"):  # SciPy brings a second library
        assert len(threads) >= 2


def test_threads_of_blas_are_those_of_before_in_whatever_order_computations_end():
    with threadpool_limits(2, user_api="blas"):
        for order in ((0, 1), (1, 0)):
            running = [in_parallel(abs, [(i, 1.0) for i in range(3)]) for _ in range(2)]
            assert [next(each)[1] for each in running] == [0, 0]
            for i in order:
                assert {x["num_threads"] for x in blas()} == {1}
                running[i].close()
            assert {x["num_threads"] for x in blas()} == {2}


def blas():
    return [x for x in threadpool_info() if x["user_api"] == "blas"]
