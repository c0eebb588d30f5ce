"""From an entry to its metrics: recordings, training, evaluation. What recipes call to build."""

import logging
import os
from pathlib import Path
from typing import Any

from specdiag.htsr.monitor import SpectralMonitor
from specdiag.lock.recipe import Job
from specdiag.transfer.evaluation import write_evaluation

from ..data.arrays import to_arrays
from ..data.batches import Batches
from ..data.recordings import open_recordings
from .evaluate import Evaluation, evaluate
from .model import build, embedding_rows
from .train import train

_log = logging.getLogger(__name__)

MONITOR_EVERY = {"desk": 50, "paper": 500}  # steps
SIMULATED = Path(__file__).parents[2] / "recordings"
# Of R²: a choice. One and two threads gave the same three digits in a training of 250 steps; other
# hardware was not tried.
ATOL = 0.02

Metrics = dict[str, tuple[float, float]]


def train_and_evaluate(job: Job) -> Metrics:
    """Train the model of an entry on its recordings, and return its test R² with a tolerance.

    Nothing comes back on a node that does not lead.

    Raises
    ------
    RuntimeError
        When more devices are asked for than there are, or float16 without a GPU; at paper scale, unless `job.yes`, with fewer GPUs
        than declared.
    """
    _check_hardware(job)
    if job.scale == "desk":
        import torch

        torch.set_num_threads(1)  # more change the last bits, and gain little on so small a model
    held = _recordings(job)
    monitor = SpectralMonitor(log=job.folder / "spectra.csv", every=MONITOR_EVERY[job.scale])
    train(job, held, on_step=monitor)
    if job.node > 0:
        return {}
    return _metrics(job, evaluate_checkpoint(job, held, job.output))


def evaluate_parent(job: Job) -> Metrics:
    """Return the test R² of a parent as it is, for an entry that trains nothing."""
    if job.parent is None:
        raise ValueError(f"{job.name} evaluates a parent and declares none")
    return _metrics(job, evaluate_checkpoint(job, _recordings(job), job.parent))


def evaluate_checkpoint(job: Job, sessions: list[Any], checkpoint: Path) -> Evaluation:
    """Return the evaluation of a checkpoint on the test split of recordings."""
    import torch

    held = to_arrays(sessions, job.params)
    model = build({"model": job.params["model"]}, held, checkpoint)
    batches = Batches(
        held,
        **embedding_rows(model, held),
        model=job.params["model"],
        unit_dropout={"level": "off"},
        seed=0,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = job.params["data"]["eval_step"]
    return evaluate(model.to(device), batches, "test", step=step, device=device)


def _recordings(job: Job) -> list[Any]:
    folder = SIMULATED if job.scale == "desk" else None
    return list(open_recordings(job.params, folder).values())


def _metrics(job: Job, found: Evaluation) -> Metrics:
    """Return the metrics; R² of each session and the spectrum of the features stay beside them."""
    write_evaluation(job.folder / "evaluation.json", found.by_session, found.features)
    for session, r2 in found.by_session.items():
        _log.info("%s: test R² of %s is %.3f", job.name, session, r2)
    return {"r2": (found.r2, ATOL)}


def _check_hardware(job: Job) -> None:
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = gpus or os.cpu_count() or 1
    if job.devices and job.devices > there:
        what = "GPUs" if gpus else "processor cores and no CUDA GPU"
        raise RuntimeError(f"--devices {job.devices}: this machine has {there} {what}")
    if job.precision == "float16" and not gpus:  # Lightning would train in bfloat16 instead
        raise RuntimeError("--precision float16 needs a CUDA GPU; bfloat16 runs here")
    if job.scale == "paper" and not job.yes:
        check_length(job, gpus)


def check_length(job: Job, gpus: int) -> None:
    """Refuse a training for which this machine has fewer GPUs than declared, with an estimate.

    The hours are those published times GPUs declared over GPUs here: of GPUs like those.

    Raises
    ------
    RuntimeError
        One line.
    """
    training, cost = job.params["training"], job.cost
    declared = training["devices"]
    used = min(job.devices or declared, gpus) * job.nodes
    if used >= declared:
        return
    length = " or ".join(f"{training[k]:,} {k}" for k in ("epochs", "steps") if k in training)
    price = f" (published: {cost.seconds / 3600:g} h on {cost.hardware})" if cost else ""
    found = "this machine has no CUDA GPU"
    if used:
        hours = f", about {cost.seconds / 3600 * declared / used:.0f} h" if cost else ""
        found = f"it would get {used} of the {declared} GPUs declared{hours}"
    raise RuntimeError(
        f"{job.name} at paper scale trains for {length}{price} and {found}: fetch the published weights, "
        "build it at desk scale, or give --yes"
    )
