"""Spectra of a network while it trains, and a warning when a matrix collapses.

    monitor = SpectralMonitor(every=500, log="spectra.csv")
    for step, batch in enumerate(batches, 1):
        ...
        monitor(step, model)

or `Trainer(callbacks=[monitor.callback()])` with Lightning.

Why matrices collapse: a step of LAMB [You et al. 2020] has the length of the weights times the
learning rate, independent of the length of the update. For a matrix that gets no gradient, the
update is weight decay alone, decay * W. The trust ratio |W| / |decay * W| = 1 / decay cancels the
small decay, and W shrinks by the factor (1 - learning rate) in every step. Small gradients do not
prevent this: Adam's normalisation scales them up only until they reach its epsilon.
"""

import logging
import math
from pathlib import Path
from typing import Any

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import Tensor, read_values
from specdiag.htsr.esd import eigenvalues, resolved_eigenvalues, stable_rank
from specdiag.htsr.selection import MIN_EIGENVALUES, matrices, skip_reason
from specdiag.htsr.tail.posterior import NO_POSTERIOR, alpha_posterior
from specdiag.training.collapse import COLLAPSED, NOT_FINITE, how_collapsed
from specdiag.training.readings import Reading, read_readings, write_readings
from specdiag.wording import csv_cell, printable

_log = logging.getLogger(__name__)


class SpectralMonitor:
    """Measure the matrices of a model every `every` steps, and warn when one collapses.

    A matrix has collapsed when its norm is below a share of the norm of its first reading, or when
    its rank has fallen from `min_eigenvalues` or more to less. The warning is logged once for each
    matrix.

    Parameters
    ----------
    every : int
        Number of steps between readings. The first step is read, too.
    pattern : str, optional
        Shell pattern of the matrices' names. Embedding tables, and matrices with fewer than
        `min_eigenvalues` on their smaller side, are left out, as in `specdiag alpha`.
    log : path, optional
        CSV file with one row for each reading. Rows of earlier steps are kept, so a resumed
        training compares with the same first reading.
    collapsed : float
        Share of the first norm below which a matrix has collapsed.
    min_eigenvalues : int
        A matrix of lower rank has no alpha.

    Attributes
    ----------
    readings : list of Reading
        All readings so far.
    dead : dict of str to str
        Name of each matrix that has collapsed -> how it did.

    Raises
    ------
    ValueError
        If a setting is invalid, or at the first reading if `log` is a file of another kind.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        pattern: str | None = None,
        log: str | Path | None = None,
        collapsed: float = COLLAPSED,
        min_eigenvalues: int = MIN_EIGENVALUES,
    ) -> None:
        for name, number, least in (("every", every, 1), ("min_eigenvalues", min_eigenvalues, 2)):
            if not isinstance(number, int) or number < least:
                raise ValueError(f"{name} is {number!r}: expected a whole number, at least {least}")
        if not isinstance(collapsed, int | float) or not 0 <= collapsed < 1:
            raise ValueError(f"collapsed is {collapsed!r}: expected a share from 0 to 1")
        if log and Path(log).suffix != ".csv":
            raise ValueError(f"log is {str(log)!r}: expected a name that ends in .csv")
        self.every, self.pattern, self.log = every, pattern, Path(log) if log else None
        self.collapsed, self.min_eigenvalues = collapsed, min_eigenvalues
        self.readings: list[Reading] = []
        self.dead: dict[str, str] = {}
        self._first: dict[str, Reading] = {}

    def __call__(self, step: int, model: Any) -> None:
        """Measure a torch module or state dict after step `step`, if a reading is due."""
        if not self._first and self.log and self.log.exists():
            self._remember([r for r in read_readings(self.log) if r.step < step])
        if step % self.every and self._first:
            return
        readings = [
            reading(step, tensor, self.min_eigenvalues)
            for tensor in matrices(open_checkpoint(model), self.pattern)
            if not skip_reason(tensor, self.min_eigenvalues, include_embeddings=False)
        ]
        self._remember(readings)
        if self.log:
            write_readings(self.log, self.readings)
        for r in readings:
            how = self._how_dead(r)
            if how and r.name not in self.dead:
                self.dead[r.name] = how
                _log.warning("%s has collapsed by step %d: %s", printable(r.name), step, how)

    def _remember(self, readings: list[Reading]) -> None:
        self.readings += readings
        for r in readings:
            self._first.setdefault(csv_cell(r.name), r)  # as the log names it

    def _how_dead(self, r: Reading) -> str:
        if math.isnan(r.norm):
            return NOT_FINITE
        return how_collapsed(self._first[csv_cell(r.name)], r, self.collapsed, self.min_eigenvalues)

    def callback(self) -> Any:
        """Return a Lightning callback that reads the module after every training batch."""
        from lightning.pytorch.callbacks import Callback

        monitor = self

        class Monitor(Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
                if trainer.is_global_zero:
                    monitor(trainer.global_step, pl_module)

        return Monitor()


def reading(step: int, tensor: Tensor, min_eigenvalues: int) -> Reading:
    """Return the reading of one matrix after a step."""
    try:
        spectrum = eigenvalues(read_values(tensor))
    except ValueError:  # the values are not finite, or their squares leave the range of float64
        return Reading(step=step, name=tensor.name)
    resolved = resolved_eigenvalues(spectrum, tensor.shape, tensor.dtype)
    posterior = alpha_posterior(resolved) if len(resolved) >= min_eigenvalues else NO_POSTERIOR
    return Reading(
        step=step,
        name=tensor.name,
        norm=math.sqrt(max(tensor.shape[:2]) * spectrum.sum()),
        rank=len(resolved),
        stable_rank=stable_rank(spectrum),
        alpha=posterior.mean,
        alpha_low=posterior.interval[0],
        alpha_high=posterior.interval[1],
    )
