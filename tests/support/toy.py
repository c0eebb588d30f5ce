"""A lock of toy networks, whose recipe takes milliseconds."""

from pathlib import Path

RECIPE = '''
"""A toy: a base network, children that start from it, and an evaluation."""

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from specdiag.lock.entry import Cost, Entry, Parent, Reported


def entry(name, parent=None, kind="checkpoint", **params):
    return Entry(
        name=name,
        scale="desk",
        group="toys",
        kind=kind,
        recipe="toy",
        params={"seed": 0, "steps": 3, **params},
        parent=Parent(name=parent) if parent else None,
        reported=(Reported(quantity="r2", value=0.5, method="test R2", origin="nowhere"),),
        cost=Cost(seconds=30.0, hardware="one core"),
    )


def entries():
    yield entry("base/net")
    for i in range(CHILDREN):
        yield entry(f"child/net{i}", "base/net", seed=i)
    yield entry("judged/net", "base/net", kind="evaluation")


def build(job):
    """Draw one matrix per step and save it in the job's folder, to resume from there."""
    log(job, "begin")
    start = load_file(job.parent)["weight"] if job.parent else np.zeros((60, 60), np.float32)
    for step in range(job.params["steps"]):
        part = job.folder / f"{step}.npy"
        if not part.exists():
            log(job, f"step {step}")
            temporary = part.with_suffix(".tmp")
            with temporary.open("wb") as f:
                np.save(f, np.random.default_rng([job.params["seed"], step]).normal(size=(60, 60)))
            os.replace(temporary, part)
        start = start + np.load(part).astype(np.float32)
        if job.params.get("fails"):
            raise RuntimeError("the loss is NaN")
        (job.folder / "log.csv").write_text("".join(f"{i}\\n" for i in range(step + 1)))
    if job.output.suffix and job.params.get("leaves", True) and "judged" not in job.name:
        save_file({"weight": start, "unit_emb.weight": start[:5]}, job.output)
    return {"r2": (float(np.tanh(start[0, 0])), 1e-6)}


def measure(job, layers):
    """Return the features of the network for random inputs: those that a recipe chose are named."""
    from specdiag.features.covariance import FeatureCovariance

    log(job, "measure")
    weight = load_file(job.output)["weight"]
    measured = {}
    for layer in layers or ["out"]:
        measured[layer] = FeatureCovariance()
        inputs = np.random.default_rng(0).normal(size=(400, 60))
        measured[layer].update(inputs @ weight.astype(float), groups=np.arange(400))
    return measured


def log(job, text):
    with (Path(__file__).parent / "log").open("a") as file:
        file.write(f"{job.name} {text}\\n")
'''


def make(folder: Path, children: int = 2) -> Path:
    """Write the recipe into a folder; return the path of its lock, which does not exist yet."""
    (folder / "recipes").mkdir()
    (folder / "recipes" / "__init__.py").write_text("")
    (folder / "recipes" / "toy.py").write_text(RECIPE.replace("CHILDREN", str(children)))
    return folder / "checkpoints.lock"


def log(lock: Path) -> list[str]:
    file = lock.parent / "recipes" / "log"
    return file.read_text().splitlines() if file.exists() else []
