"""The pipelines of area2_bump and dmfc_rsg, run on small NWB files."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np

from recipes._tasks import AREA2, PRODUCED_INTERVAL, timing
from support import nwb_files
from support.paths import ROOT

PIPELINES = ROOT / "recipes" / "pipelines"
TRUTHS = {"area2_bump": nwb_files.area2_bump, "dmfc_rsg": nwb_files.dmfc_rsg}
TASKS = {"area2_bump": AREA2, "dmfc_rsg": timing(PRODUCED_INTERVAL, {})}


def load(path):
    from torch_brain.data import Data

    return Data.load(path, lazy=False)


def pipeline_of(brainset, folder, **options):
    """Return a pipeline, loaded from its file as the runner does."""
    from torch_brain.pipeline.runner import import_pipeline_cls_from_file

    cls = import_pipeline_cls_from_file(PIPELINES / brainset / "pipeline.py")
    processed = folder / "processed" / brainset
    processed.mkdir(parents=True, exist_ok=True)
    options = Namespace(**{"redownload": False, "reprocess": False, **options})
    return cls(folder / "raw" / brainset, processed, options)


def prepare(brainset, folder, *options):
    """Run the command `brainsets` as a user does, without a network and a new environment."""
    command = ["brainsets", "prepare", str(PIPELINES / brainset), "--local", "--use-active-env"]
    folders = [f"--raw-dir={folder / 'raw'}", f"--processed-dir={folder / 'processed'}"]
    scripts = Path(sys.executable).parent
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(scripts / command[0]), *command[1:], *folders, *options],
        env={**os.environ, "PATH": path, "HOME": str(folder), "PYTHONWARNINGS": "error"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def write_raw_file(brainset, folder, truth):
    """Write the NWB file of a brainset where the pipeline reads it, and return its path."""
    path = folder / "raw" / brainset / pipeline_of(brainset, folder).asset
    nwb_files.write(path, truth)
    return path


def prepare_once(brainset, folder):
    """Return the brainset, the contents of its file, and the recording that is prepared from it."""
    truth = TRUTHS[brainset](np.random.default_rng(20240229))
    write_raw_file(brainset, folder, truth)
    (session,) = TASKS[brainset].sessions
    done = prepare(brainset, folder, f"--single={session}")
    assert done.returncode == 0, done.stderr
    return brainset, truth, load(folder / "processed" / brainset / f"{session}.h5")
