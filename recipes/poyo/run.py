"""A job -> recordings -> training -> evaluation -> metrics: the `build` functions of recipes."""

import logging
import os
from pathlib import Path
from typing import Any

from specdiag.lock.recipe import Job
from specdiag.training.monitor import SpectralMonitor
from specdiag.transfer.evaluation import write_evaluation

from ..data.arrays import to_arrays
from ..data.batches import Batches
from ..data.recordings import open_recordings
from .evaluate import Evaluation, evaluate
from .model import build, embedding_rows
from .train import train

_log = logging.getLogger(__name__)

MONITOR_EVERY = {"desk": 50, "paper": 500}  # steps
RECORDINGS = Path(__file__).parents[2] / "recordings"
# Tolerance of R²: a choice. Trainings of 250 steps with one and with two threads agreed in three
# digits; other hardware was not tried.
ATOL = 0.02

Metrics = dict[str, tuple[float, float]]


def train_and_evaluate(job: Job) -> Metrics:
    """Train the model of an entry on its recordings, and return its test R² with a tolerance.

    On all nodes but the first the result is empty.

    Raises
    ------
    RuntimeError
        If the machine has fewer devices than requested, or float16 is requested without a GPU; at
        paper scale also if there are fewer GPUs than declared, unless `job.yes`.
    """
    check_hardware(job)
    if job.scale == "desk":
        import torch

        torch.set_num_threads(1)  # more threads change the last bits and save little time
    sessions = recordings(job)
    every, log = MONITOR_EVERY[job.scale], job.folder / "spectra.csv"
    monitor = SpectralMonitor(log=log, every=every, budget=None)  # the table depends on no clock
    train(job, sessions, on_step=monitor)
    if job.node > 0:
        return {}
    return _metrics(job, evaluate_checkpoint(job, sessions, job.output))


def evaluate_parent(job: Job) -> Metrics:
    """Return the test R² of the parent without further training."""
    if job.parent is None:
        raise ValueError(f"{job.name}: an evaluation needs a parent; declare one")
    return _metrics(job, evaluate_checkpoint(job, recordings(job), job.parent))


def evaluate_checkpoint(job: Job, sessions: list[Any], checkpoint: Path) -> Evaluation:
    """Return the evaluation of a checkpoint on the test split of recordings."""
    model, batches = loaded(job, sessions, checkpoint)
    return evaluate(model, batches, "test", step=job.params["data"]["eval_step"], device=device())


def loaded(job: Job, sessions: list[Any], checkpoint: Path) -> tuple[Any, Batches]:
    """Return the model of a checkpoint, on its device, and its batches of the recordings."""
    arrays = to_arrays(sessions, job.params)
    model = build({"model": job.params["model"]}, arrays, checkpoint)
    batches = Batches(
        arrays,
        **embedding_rows(model, arrays),
        model=job.params["model"],
        unit_dropout={"level": "off"},
        seed=0,
    )
    return model.to(device()), batches


def device() -> Any:
    """Return the device on which a model is evaluated: a GPU if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def recordings(job: Job) -> list[Any]:
    """Return the recordings of an entry; at desk scale missing ones are simulated."""
    folder = RECORDINGS if job.scale == "desk" else None
    return list(open_recordings(job.params, folder).values())


def _metrics(job: Job, evaluation: Evaluation) -> Metrics:
    """Return the metrics, and write R² by session and the spectrum of the features to a file."""
    path = job.folder / "evaluation.json"
    write_evaluation(path, evaluation.by_session, evaluation.features)
    for session, r2 in evaluation.by_session.items():
        _log.info("%s: test R² of %s is %.3f", job.name, session, r2)
    return {"r2": (evaluation.r2, ATOL)}


def check_hardware(job: Job) -> None:
    """Raise RuntimeError if this machine cannot run a training, or should not without `job.yes`."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = gpus or os.cpu_count() or 1
    if job.devices and job.devices > available:
        kind = "GPUs" if gpus else "processor cores and no CUDA GPU"
        raise RuntimeError(f"--devices {job.devices}: this machine has {available} {kind}")
    if job.precision == "float16" and not gpus:  # Lightning would train in bfloat16 instead
        raise RuntimeError("--precision float16 needs a CUDA GPU; bfloat16 runs here")
    if job.scale == "paper" and not job.yes:
        check_gpus(job, gpus)


def check_gpus(job: Job, gpus: int) -> None:
    """Raise RuntimeError if this machine has fewer GPUs than the training declares.

    The message estimates the duration: the published hours times the number of declared GPUs,
    divided by the number of GPUs here. It assumes GPUs of the same kind.
    """
    training, cost = job.params["training"], job.cost
    declared = training["devices"]
    used = min(job.devices or declared, gpus) * job.nodes
    if used >= declared:
        return
    length = " or ".join(f"{training[k]:,} {k}" for k in ("epochs", "steps") if k in training)
    price = f" (published: {cost.seconds / 3600:g} h on {cost.hardware})" if cost else ""
    reason = "this machine has no CUDA GPU"
    if used:
        hours = f", about {cost.seconds / 3600 * declared / used:.0f} h" if cost else ""
        reason = f"it would get {used} of the {declared} declared GPUs{hours}"
    raise RuntimeError(
        f"{job.name} at paper scale trains for {length}{price} and {reason}: fetch the published "
        "weights, train at desk scale, or give --yes"
    )
