"""Spectra while a network trains, and a warning when a matrix dies.

    monitor = SpectralMonitor(every=500, log=Path("spectra.csv"))
    for step, batch in enumerate(batches, 1):
        ...
        monitor(step, model)

or `Trainer(callbacks=[monitor.callback()])` with Lightning.

Why matrices die: a step of LAMB [You et al. 2020] has the length of the weights times the learning rate,
whatever the length of the update. A matrix that gets no gradient has an update of weight decay alone,
decay * W; the trust ratio |W| / |decay * W| = 1 / decay cancels the small decay, and W shrinks by
(1 - learning rate) every step. Gradients that are merely small do not help: Adam's own normalisation
scales them up only as far as its epsilon.
"""

import csv
import io
import logging
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import Tensor, read_values
from specdiag.files import write_whole
from specdiag.htsr.esd import eigenvalues, resolved_eigenvalues
from specdiag.htsr.layers import MIN_EIGENVALUES, matrices, skip_reason
from specdiag.htsr.posterior import NO_POSTERIOR, alpha_posterior

_log = logging.getLogger(__name__)

# Weights that learn change their norm by factors of a few; LAMB at 8e-3 without a gradient leaves this
# share after 860 steps.
COLLAPSED = 1e-3


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One matrix after one step: Frobenius norm, rank, and the posterior of alpha (NaN below the gate)."""

    step: int
    name: str
    norm: float
    rank: int
    alpha: float
    alpha_low: float
    alpha_high: float


class SpectralMonitor:
    """Measures the matrices of a model every so many steps, and warns when one collapses.

    A matrix has collapsed when its norm has fallen below a share of that of its first reading, or its
    rank below `min_eigenvalues`, from above. The warning is logged once a matrix.

    Parameters
    ----------
    every : int
        Steps between readings; the first step is read as well.
    pattern : str, optional
        Shell pattern of the matrices' names. Embedding tables, and matrices with fewer than
        `min_eigenvalues` on their smaller side, are left out, as by `specdiag alpha`.
    log : Path, optional
        CSV file, a row a reading. What it holds of earlier steps is kept, so that a resumed training
        goes on with the same first reading.
    collapsed : float
        Share of the first norm.
    min_eigenvalues : int

    Attributes
    ----------
    readings : list of Reading
        All so far.
    dead : dict of str to str
        Matrices that have collapsed, and how.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        pattern: str | None = None,
        log: Path | None = None,
        collapsed: float = COLLAPSED,
        min_eigenvalues: int = MIN_EIGENVALUES,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}: expected a number of steps, 1 or more")
        self.every, self.pattern, self.log = every, pattern, log
        self.collapsed, self.min_eigenvalues = collapsed, min_eigenvalues
        self.readings: list[Reading] = []
        self.dead: dict[str, str] = {}
        self._first: dict[str, Reading] = {}
        self._begun = False

    def __call__(self, step: int, model: Any) -> None:
        """Read the model (a torch module or state dict) if it is time; `step` counts the steps done."""
        if not self._begun:
            self._begun = True
            self._remember([r for r in _read_log(self.log) if r.step < step])
        if step % self.every and self._first:
            return
        found = [
            reading(step, tensor, min_eigenvalues=self.min_eigenvalues)
            for tensor in matrices(open_checkpoint(model), self.pattern)
            if not skip_reason(
                tensor, min_eigenvalues=self.min_eigenvalues, include_embeddings=False
            )
        ]
        self._remember(found)
        if self.log:
            write_whole(self.log, _csv(self.readings).encode())
        for r in found:
            how = self._how_dead(r)
            if how and r.name not in self.dead:
                self.dead[r.name] = how
                _log.warning("%s has collapsed by step %d: %s", r.name, step, how)

    def _remember(self, readings: list[Reading]) -> None:
        self.readings += readings
        for r in readings:
            self._first.setdefault(r.name, r)

    def _how_dead(self, r: Reading) -> str:
        first = self._first[r.name]
        if not r.norm >= self.collapsed * first.norm:
            return f"its norm fell from {first.norm:.3g} after step {first.step} to {r.norm:.3g}"
        if r.rank < self.min_eigenvalues <= first.rank:
            return f"its rank fell from {first.rank} after step {first.step} to {r.rank}"
        return ""

    def callback(self) -> Any:
        """Return a Lightning callback that reads the module after every training batch."""
        from lightning.pytorch.callbacks import Callback

        monitor = self

        class Monitor(Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
                if trainer.is_global_zero:
                    monitor(trainer.global_step, pl_module)

        return Monitor()


def reading(step: int, tensor: Tensor, *, min_eigenvalues: int = MIN_EIGENVALUES) -> Reading:
    """Return what one matrix's spectrum says."""
    values = read_values(tensor)
    try:
        spectrum = eigenvalues(values)
    except ValueError:  # values that are not finite, or leave the range of float64
        return Reading(
            step=step,
            name=tensor.name,
            norm=math.nan,
            rank=0,
            alpha=math.nan,
            alpha_low=math.nan,
            alpha_high=math.nan,
        )
    resolved = resolved_eigenvalues(spectrum, tensor.shape, tensor.dtype)
    posterior = alpha_posterior(resolved) if len(resolved) >= min_eigenvalues else NO_POSTERIOR
    return Reading(
        step=step,
        name=tensor.name,
        norm=math.sqrt(max(tensor.shape[:2]) * spectrum.sum()),
        rank=len(resolved),
        alpha=posterior.mean,
        alpha_low=posterior.interval[0],
        alpha_high=posterior.interval[1],
    )


def _csv(readings: list[Reading]) -> str:
    text = io.StringIO()
    rows = csv.DictWriter(text, [f.name for f in fields(Reading)])
    rows.writeheader()
    rows.writerows(asdict(r) for r in readings)
    return text.getvalue()


def _read_log(path: Path | None) -> list[Reading]:
    if path is None or not path.exists():
        return []
    kinds = {f.name: f.type for f in fields(Reading)}
    with path.open(newline="") as file:
        return [
            Reading(**{k: kinds[k](v) for k, v in row.items()})  # type: ignore[operator]
            for row in csv.DictReader(file)
        ]
