"""Training of POYO on recordings, in one process or several; it can be stopped at any time.

A training is a function of its declaration: batches are functions of (seed, step), torch's
generator is seeded with (seed, step, process) before every step, and the length of the schedule is
known from the start. A saved state needs only the weights, the moments of the optimizer, the step
and the best weights so far. A resumed training ends with the same bits as one that was never
stopped, on the same machine and with the same number of threads.

The loop uses Lightning Fabric, not the Trainer: the Trainer does not resume exactly, and only its
handling of devices, precision and processes is needed here.
"""

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specdiag.checkpoint.reader import tensor_digest
from specdiag.lock.recipe import Job

from ..data.arrays import Arrays, to_arrays
from ..data.batches import Batches, batch_size, n_steps
from . import checkpoints
from .evaluate import predict, r2_by_session
from .logs import Log
from .model import build, embedding_rows, parameter_groups
from .signals import TERMINATED, progress_line, terminated

_log = logging.getLogger(__name__)

VALIDATIONS = 10  # in one training; each takes a pass over the validation windows
LOG_LINES = 1000
PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}

OnStep = Callable[[int, Any], Mapping[str, float] | None]


def train(
    job: Job,
    sessions: Sequence[Any],
    *,
    save_seconds: float = 60.0,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train the model of an entry, write it to `job.output`, and return a summary.

    The checkpoint has the layout of Lightning, and torch_brain can read it: `state_dict` with
    weights and the vocabularies of units and sessions under `model.`, and `hyper_parameters` with
    the params of the entry. The weights are those of the best validation R² of ten validations, the
    last one after the last step. `log.csv` beside it has the loss.

    Parameters
    ----------
    job : Job
        A state in `job.folder` is resumed if its training began with the same weights.
    sessions : sequence of torch_brain.data.Data
        The recordings.
    save_seconds : float
        Time between saved states. SIGTERM saves a state and raises SystemExit(143).
    on_step : callable, optional
        Called in the first process after each step, with the number of steps done and the model.
        A mapping of names to numbers that it returns is logged.

    Returns
    -------
    dict
        `valid_r2` and `best_step` of the weights that were kept, `loss` of the last step, `steps`
        and `batch`.

    Raises
    ------
    ValueError
        If the declaration does not fit the recordings.
    """
    import torch
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment

    # Without this, Lightning's own lines would be shown as lines of specdiag.
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    arrays, declared = to_arrays(sessions, job.params), job.params["training"]
    cuda, devices = torch.cuda.is_available(), job.devices or declared["devices"]
    if cuda:
        devices = min(devices, torch.cuda.device_count())
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=devices,
        num_nodes=job.nodes,
        strategy="ddp_spawn" if devices * job.nodes > 1 else "auto",
        precision=PRECISION[_precision(job)],
        plugins=LightningEnvironment(),  # within Slurm, too
    )
    if _precision(job) != declared["precision"]:
        text = "%s: trains in %s instead of the declared %s: R² may differ from the recorded value"
        _log.warning(text, job.name, _precision(job), declared["precision"])
    run = functools.partial(
        _run, job=job, arrays=arrays, save_seconds=save_seconds, on_step=on_step
    )
    try:
        return fabric.launch(run)
    except torch.multiprocessing.ProcessExitedException as error:
        if error.exit_code == TERMINATED:
            raise SystemExit(TERMINATED) from error
        raise


def _precision(job: Job) -> str:
    return str(job.precision or job.params["training"]["precision"])


@dataclass(kw_only=True)
class Training:
    """State of one process of a training.

    `core` is the model and `model` its wrapper by Fabric; `optimizer` and `stepper` likewise.
    `size` is the batch of all processes, `total` the number of steps, and `beginning` the digest of
    the weights before the first step.
    """

    fabric: Any
    job: Job
    batches: Batches
    size: int
    total: int
    core: Any
    model: Any
    optimizer: Any
    stepper: Any
    schedule: Any
    beginning: str
    log: Log
    step: int = 0
    loss: float = math.nan
    best: dict[str, Any] = field(default_factory=lambda: {"r2": -math.inf, "step": 0})


def _run(fabric: Any, *, job: Job, arrays: Arrays, save_seconds: float, on_step: Any) -> Any:
    """Train in one process; the first process also saves, validates and reports."""
    import torch

    torch.set_float32_matmul_precision(job.params["training"]["matmul_precision"])
    training = _begin(fabric, job, arrays)
    _resume(training)
    try:
        if fabric.is_global_zero:
            training.log.begin(training.step)
        with terminated(processes=fabric.world_size) as stop:
            _loop(training, save_seconds, on_step, stop)
        if fabric.is_global_zero:
            _write_checkpoint(training)
    finally:
        training.log.end()
    fabric.barrier()
    return {
        "valid_r2": training.best["r2"],
        "best_step": training.best["step"],
        "loss": training.loss,
        "steps": training.total,
        "batch": training.size,
    }


def _begin(fabric: Any, job: Job, arrays: Arrays) -> Training:
    """Return a training before its first step."""
    from .lamb import optimizer

    params = job.params
    core = build(params, arrays, job.parent)
    batches = Batches(
        arrays,
        **embedding_rows(core, arrays),
        model=params["model"],
        unit_dropout=params["unit_dropout"],
        seed=params["training"]["seed"],
    )
    size = batch_size(params["training"]["batch"], batches.n_windows)
    total = n_steps(params["training"], size, batches.n_windows)
    beginning = tensor_digest(core)
    steps, schedule = optimizer(parameter_groups(core), params["optimizer"], total_steps=total)
    model, stepper = fabric.setup(core, steps)
    return Training(
        fabric=fabric,
        job=job,
        batches=batches,
        size=size,
        total=total,
        core=core,
        model=model,
        optimizer=steps,
        stepper=stepper,
        schedule=schedule,
        beginning=beginning,
        log=Log(job, total),
    )


def _loop(t: Training, save_seconds: float, on_step: Any, stop: list[bool]) -> None:
    """Do all remaining steps; raise SystemExit after a saved state if the training is to stop."""
    first = t.fabric.is_global_zero
    validate_every = math.ceil(t.total / VALIDATIONS)
    log_every = math.ceil(t.total / LOG_LINES)
    saved = time.monotonic()
    t.model.train()
    with progress_line(t.job.name, total=t.total, done=t.step, shown=first) as show:
        while t.step < t.total:
            rate = t.schedule.get_last_lr()[0]
            loss, kept, stopped = _step(t, stop)
            t.step += 1
            valid_r2 = math.nan
            if t.step % validate_every == 0 or t.step == t.total:
                valid_r2 = _validate(t)
            if first and (t.step % log_every == 0 or not math.isnan(valid_r2)):
                t.loss = float(loss)
                t.log.row(t.step, t.loss, rate, kept, valid_r2)
            if first and on_step and (numbers := on_step(t.step, t.core)):
                t.log.metrics(t.step, numbers)
            if first:
                t.log.line(t.step, loss, rate, valid_r2, t.best["r2"])
            if first and (stopped or stop or time.monotonic() - saved >= save_seconds):
                _save(t)
                saved = time.monotonic()
            if stopped or (t.fabric.world_size == 1 and stop):
                raise SystemExit(TERMINATED)
            show(loss, rate, t.best["r2"])


def _step(t: Training, stop: list[bool]) -> tuple[Any, float, bool]:
    """Do one step; return its loss, the fraction of units kept, and whether a process got a signal.

    The loss is the weighted mean over the windows of all processes, so it does not depend on their
    number.
    """
    import torch

    rank, world = t.fabric.global_rank, t.fabric.world_size
    batch = t.batches.train(t.step, t.size, rank=rank, world=world)
    seed = np.random.SeedSequence([t.job.params["training"]["seed"], t.step, rank])
    torch.manual_seed(int(seed.generate_state(1)[0]))
    inputs, values, weights = t.fabric.to_device((batch.inputs, batch.values, batch.weights))
    error = (t.model(**inputs) - values).square().mean(dim=-1)
    total = torch.stack([weights.sum(), weights.new_tensor(float(bool(stop)))])
    stopped = False
    if world > 1:
        total = t.fabric.all_reduce(total, reduce_op="sum")
        stopped = bool(total[1] > 0)
    loss = (error * weights).sum() / total[0].clamp(min=1e-6)  # weights may all be 0
    t.fabric.backward(loss * world)  # processes average their gradients
    if clip := t.job.params["optimizer"].get("gradient_clip"):
        t.fabric.clip_gradients(t.model, t.stepper, max_norm=clip)
    t.stepper.step()
    t.stepper.zero_grad()
    t.schedule.step()
    loss = loss.detach()
    return t.fabric.all_reduce(loss, reduce_op="sum") if world > 1 else loss, batch.kept, stopped


def _validate(t: Training) -> float:
    """Return the validation R² in the first process, and keep the weights of the highest."""
    r2 = math.nan
    if t.fabric.is_global_zero:
        step, device = t.job.params["data"]["eval_step"], t.fabric.device
        predictions = predict(t.core, t.batches, "valid", step=step, device=device)
        r2 = float(np.mean(list(r2_by_session(*predictions, t.batches.arrays, "valid").values())))
        if r2 >= t.best["r2"] or "model" not in t.best:
            t.best = {"r2": r2, "step": t.step, "model": _copied(t.core.state_dict())}
    t.fabric.barrier()
    t.model.train()
    return r2


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """Return copies of the tensors; the vocabularies of a state dict are copies already."""
    return {k: v.cpu().clone() if hasattr(v, "cpu") else v for k, v in state.items()}


def _save(t: Training) -> None:
    """Write a state from which the training can be resumed, and the log."""
    state = {
        "beginning": t.beginning,
        "step": t.step,
        "loss": t.loss,
        "model": t.core.state_dict(),
        "optimizer": t.optimizer.state_dict(),
        "schedule": t.schedule.state_dict(),
        "best": t.best,
        "log": t.log.rows,
        "versions": t.log.versions,
    }
    checkpoints.save(t.job.folder, t.step, state)
    t.log.write()


def _resume(t: Training) -> None:
    """Restore the newest undamaged state, unless it began with other weights (another parent)."""
    state = checkpoints.resume(t.job.folder)
    if state is None:
        return
    if state["beginning"] != t.beginning:
        text = "%s: the saved state after step %d began with other weights: training starts again"
        _log.warning(text, t.job.name, state["step"])
        return
    t.core.load_state_dict(state["model"])
    t.optimizer.load_state_dict(state["optimizer"])
    t.schedule.load_state_dict(state["schedule"])
    t.step, t.loss, t.best, t.log.rows = (state[k] for k in ("step", "loss", "best", "log"))
    t.log.versions = state.get("versions", {})
    _log.info("%s: resumed after step %d of %d", t.job.name, t.step, t.total)


def _write_checkpoint(t: Training) -> None:
    """Write the best weights in the layout of Lightning, and the log."""
    import lightning
    import torch

    params = t.job.params
    model = {k: v for k, v in params["model"].items() if k != "dim_out"}  # torch_brain infers it
    checkpoints.write(
        t.job.output,
        {
            "state_dict": {f"model.{k}": v for k, v in t.best["model"].items()},
            "hyper_parameters": {**params, "model": model},
            "global_step": t.best["step"],
            "epoch": t.best["step"] // max(1, t.batches.n_windows // t.size),
            "pytorch-lightning_version": lightning.__version__,
            "environment": {
                "torch": str(torch.__version__),
                "device": str(t.fabric.device),
                "processes": t.fabric.world_size,
                "nodes": t.job.nodes,
                "precision": _precision(t.job),
                "threads": torch.get_num_threads(),
                "matmul_precision": torch.get_float32_matmul_precision(),
            },
        },
    )
    t.log.write()
