"""What a training says while it runs: lines without a terminal, `log.csv`, and a logger.

The loggers are those of Lightning. Each run has a folder in `job.logs`, such as `csv_0`. A training
that is resumed goes on with it; what was logged after the state that it resumes from is dropped.
"""

import csv
import io
import logging
import math
import os
import secrets
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specdiag.lock.recipe import Job
from specdiag.outputs import write_whole

_log = logging.getLogger(__name__)

COLUMNS = ("step", "loss", "learning_rate", "kept_units", "valid_r2")
_FIRST_LINE = 60.0  # seconds after which a training without a terminal says how long it will take


@dataclass
class Log:
    """The log of one process of a training; only the first process writes.

    Attributes
    ----------
    job : Job
    total : int
        Number of steps.
    rows : list of list of float
        The rows of `log.csv`, in the order of `COLUMNS`.
    versions : dict of str to str
        By kind of logger the name of this run, which a state keeps for a training that is resumed.
    """

    job: Job
    total: int
    rows: list[list[float]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    _logger: Any = None
    _begun: float = 0.0
    _first: int = 0
    _says: bool = False  # lines, as there is no terminal
    _said: bool = False  # how long it will take

    def begin(self, step: int) -> None:
        """Open the logger, and say how many steps are left; `step` of them are done."""
        self._first = step
        self._says = not sys.stderr.isatty()
        if not logging.getLogger().handlers:  # a process that another one started
            logging.basicConfig(format="specdiag: %(message)s")
            _log.setLevel(logging.INFO)
        if self._says and step < self.total:
            _log.info("%s: %d of %d steps to do", self.job.name, self.total - step, self.total)
        kind = self.job.log
        if kind and self.job.logs:
            fresh = kind not in self.versions
            version = self.versions.setdefault(kind, _new(kind, self.job.logs))
            self.job.logs.mkdir(exist_ok=True)
            self._logger = _OPEN[kind](self.job, version, step)
            if fresh:
                self._logger.log_hyperparams(dict(self.job.params))
        self._begun = time.monotonic()

    def row(self, step: int, loss: float, rate: float, kept: float, r2: float) -> None:
        """Add a row to `log.csv`, and log its numbers; R² is NaN where there was no validation."""
        self.rows.append([step, loss, rate, kept, r2])
        names = zip(COLUMNS[1:], (loss, rate, kept, r2), strict=True)
        self.metrics(step, {name: value for name, value in names if not math.isnan(value)})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers, if there are any and there is a logger."""
        if self._logger and values:
            self._logger.log_metrics(dict(values), step)

    def line(self, step: int, loss: Any, rate: float, r2: float, best: float) -> None:
        """Print a line after a validation, and one after the first minute, without a terminal.

        R² is NaN after a step without a validation.
        """
        seconds = time.monotonic() - self._begun
        is_early = not self._said and seconds >= _FIRST_LINE
        if not self._says or (math.isnan(r2) and not is_early):
            return
        self._said = True
        speed = (step - self._first) / max(seconds, 1e-9)
        words = [f"step {step:,} of {self.total:,}", f"loss {float(loss):.3f}"]
        if not math.isnan(r2):
            words.append(f"R² {r2:.3f} (best {best:.3f})")
        words += [f"lr {rate:.1e}", f"{speed:.3g} steps/s"]
        if step < self.total:
            words.append(f"{duration((self.total - step) / speed)} left")
        _log.info("%s: %s", self.job.name, ", ".join(words))

    def write(self) -> None:
        """Write `log.csv`, and what the logger has not written yet."""
        text = io.StringIO()
        csv.writer(text).writerows([COLUMNS, *self.rows])
        write_whole(self.job.folder / "log.csv", text.getvalue().encode())
        if self._logger:
            self._logger.save()

    def end(self) -> None:
        """Close the logger."""
        if self._logger:
            self._logger.save()
            self._logger.finalize("success")
            if self.job.log == "wandb":
                self._logger.experiment.finish()
            self._logger = None


def duration(seconds: float) -> str:
    """Return a time with its two largest units: `3 h 20 min`, `4 min 5 s`, `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _new(kind: str, logs: Path) -> str:
    """Return the name of a new run: of a folder, or the id of a run of Weights & Biases."""
    if kind == "wandb":
        return secrets.token_hex(4)
    used = [path.name.rpartition("_")[2] for path in logs.glob(f"{kind}_*")]
    return f"{kind}_{max((int(n) + 1 for n in used if n.isdecimal()), default=0)}"


def _csv(job: Job, version: str, step: int) -> Any:
    """Return a CSVLogger with the rows until a step: its writer would begin a new file."""
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(str(job.logs), name="", version=version, flush_logs_every_n_steps=1)
    path = Path(logger.log_dir) / "metrics.csv"
    rows = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory")
        writer = logger.experiment
    for row in rows:
        at = int(row.pop("step", step + 1))
        if at <= step:
            writer.log_metrics({name: float(value) for name, value in row.items()}, at)
    return logger


def _tensorboard(job: Job, version: str, step: int) -> Any:
    """Return a TensorBoardLogger; TensorBoard leaves out what was logged after a step before."""
    from lightning.pytorch.loggers import TensorBoardLogger

    more = {"purge_step": step + 1} if step else {}
    logs = str(job.logs)
    return TensorBoardLogger(logs, name="", version=version, default_hp_metric=False, **more)


def _wandb(job: Job, version: str, _: int) -> Any:
    """Return a WandbLogger of the run with this id, in the project of WANDB_PROJECT or specdiag."""
    from lightning.pytorch.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", "specdiag")
    name = f"{job.scale}/{job.name}"
    return WandbLogger(name=name, save_dir=str(job.logs), version=version, project=project)


_OPEN = {"csv": _csv, "tensorboard": _tensorboard, "wandb": _wandb}
