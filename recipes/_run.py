"""From an entry to its metrics: recordings, training, evaluation. What recipes call to build."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes._arrays import arrays
from recipes._batches import Batches
from recipes._evaluate import Evaluation, evaluate
from recipes._poyo import build, rows
from recipes._recordings import recordings
from recipes._train import train
from specdiag._files import without_nan, write_whole
from specdiag.monitor import SpectralMonitor
from specdiag.recipe import Job

_log = logging.getLogger(__name__)

MONITOR_EVERY = {"desk": 50, "paper": 500}  # steps
SIMULATED = Path(__file__).parents[1] / "recordings"
# Of R²: a choice. One and two threads gave the same three digits in a training of 250 steps; other
# hardware was not tried.
ATOL = 0.02

Metrics = dict[str, tuple[float, float]]


def trained(job: Job) -> Metrics:
    """Train the model of an entry on its recordings, and return its test R² with a tolerance.

    Raises
    ------
    RuntimeError
        At paper scale without a GPU.
    """
    _check_hardware(job)
    if job.scale == "desk":
        import torch

        torch.set_num_threads(1)  # more change the last bits, and gain little on so small a model
    held = _recordings(job)
    monitor = SpectralMonitor(log=job.folder / "spectra.csv", every=MONITOR_EVERY[job.scale])
    train(job, held, on_step=monitor)
    return _metrics(job, tested(job, held, job.output))


def evaluated(job: Job) -> Metrics:
    """Return the test R² of a parent as it is, for an entry that trains nothing."""
    if job.parent is None:
        raise ValueError(f"{job.name} evaluates a parent and declares none")
    return _metrics(job, tested(job, _recordings(job), job.parent))


def tested(job: Job, sessions: list[Any], checkpoint: Path) -> Evaluation:
    """Return the evaluation of a checkpoint on the test split of recordings."""
    import torch

    held = arrays(sessions, job.params)
    model = build({"model": job.params["model"]}, held, checkpoint)
    batches = Batches(
        held,
        **rows(model, held),
        model=job.params["model"],
        unit_dropout={"level": "off"},
        seed=0,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = job.params["data"]["eval_step"]
    return evaluate(model.to(device), batches, "test", step=step, device=device)


def _recordings(job: Job) -> list[Any]:
    folder = SIMULATED if job.scale == "desk" else None
    return list(recordings(job.params, folder).values())


def _metrics(job: Job, found: Evaluation) -> Metrics:
    """Return the metrics; R² of each session and the spectrum of the features stay beside them."""
    features = {**asdict(found.features), "eigenvalues": found.features.eigenvalues.tolist()}
    text = json.dumps(without_nan({"r2": found.by_session, "features": features}), indent=1)
    write_whole(job.folder / "evaluation.json", text.encode())
    for session, r2 in found.by_session.items():
        _log.info("%s: test R² of %s is %.3f", job.name, session, r2)
    return {"r2": (found.r2, ATOL)}


def _check_hardware(job: Job) -> None:
    import torch

    if job.scale == "desk" or torch.cuda.is_available():
        return
    training = job.params["training"]
    length = " or ".join(f"{training[k]:,} {k}" for k in ("epochs", "steps") if k in training)
    price = (
        f" (published: {job.cost.seconds / 3600:g} h on {job.cost.hardware})" if job.cost else ""
    )
    raise RuntimeError(
        f"{job.name} at paper scale trains for {length}{price} and this machine has no CUDA GPU: fetch "
        "the published weights, or build it at desk scale"
    )
