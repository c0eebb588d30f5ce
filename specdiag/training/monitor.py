"""Spectra of a network while it trains, and a warning when a matrix collapses.

    trainer = Trainer(callbacks=[SpectralMonitor()])  # Lightning

    monitor = SpectralMonitor(every=500, log="run.spectra.csv")
    for step, batch in enumerate(batches, 1):
        ...
        monitor(step, model)

Why matrices collapse: a step of LAMB [You et al. 2020] has the length of the weights times the
learning rate, independent of the length of the update. For a matrix that gets no gradient, the
update is weight decay alone, decay * W. The trust ratio |W| / |decay * W| = 1 / decay cancels the
small decay, and W shrinks by the factor (1 - learning rate) in every step. Small gradients do not
prevent this: Adam's normalisation scales them up only until they reach its epsilon.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from specdiag.checkpoint.weights.weight import Weight
from specdiag.htsr.selection import MIN_EIGENVALUES
from specdiag.training.budget import Budget
from specdiag.training.collapse import COLLAPSED, NOT_FINITE, how_collapsed
from specdiag.training.model import is_sharded, measurable, norm_reading, read_spectra
from specdiag.training.readings import Reading, read_readings, write_readings
from specdiag.training.trainers.lightning import LightningHooks, join
from specdiag.training.trainers.metrics import metrics
from specdiag.wording import csv_cell, printable

_log = logging.getLogger(__name__)

BUDGET = 0.02  # share of the time of a training
_SHARDED = (
    "SpectralMonitor: the parameters are sharded over processes (FSDP, or stage 3 of DeepSpeed), "
    "so they are not measured while training; measure its checkpoints: specdiag alpha FILE"
)

_EMPTY = (
    "SpectralMonitor measures nothing at step %d: the model has no matrix that matches pattern= "
    "and has min_eigenvalues= or more; specdiag weights FILE says why for a checkpoint"
)


class SpectralMonitor(LightningHooks):
    """Measure the matrices of a model every `every` steps, and warn when one collapses.

    It is a callback of Lightning (`lightning` and `pytorch_lightning`), and is called with a step
    and a model in loops of one's own; `specdiag.hf_callback` is for the Trainer of transformers. A
    Trainer's loggers get the numbers of `specdiag.training.trainers.metrics.metrics`.

    A matrix has collapsed when its norm is below a share of the norm of its first reading, or when
    its rank has fallen from `min_eigenvalues` or more to less. The warning is logged once for each
    matrix, and so is another one when values are not finite.

    With several processes, the first one measures. Parameters that are sharded over processes are
    not measured, which is logged.

    Parameters
    ----------
    every : int
        Number of steps of the optimizer between readings. The first step is read, too.
    pattern : str, optional
        Shell pattern of the matrices' names. Embedding tables, and matrices with fewer than
        `min_eigenvalues` on their smaller side, are left out, as in `specdiag alpha`.
    log : path, optional
        CSV file with one row for each reading. Rows of earlier steps are kept, so a resumed
        training compares with the same first reading; those of later steps are removed, so a
        training that begins anew needs another file.
    collapsed : float
        Share of the first norm below which a matrix has collapsed. Weights that learn change their
        norm by small factors; 1e-3 is what LAMB at a learning rate of 8e-3 leaves of a matrix
        without a gradient after 860 steps.
    min_eigenvalues : int
        A matrix of lower rank has no alpha. The default is that of `specdiag alpha`.
    budget : float or None
        Largest share of the training's time that all readings so far may take, but for the first
        second of them. A reading that may not take long enough has the norm of every matrix, which
        takes little time, and the spectra of some, in turn, so that every matrix is measured; that
        is logged once. None measures all matrices in every reading.

    Attributes
    ----------
    readings : list of Reading
        All readings so far.
    dead : dict of str to str
        Name of each matrix that has collapsed -> how it did.
    not_finite : dict of str to int
        Name of each matrix with values that are not finite -> the step at which this was read.

    Raises
    ------
    ValueError
        If a setting is invalid, the folder of `log` is missing, or at the first reading if `log` is
        a file of another kind.
    OSError
        At the first reading, if `log` cannot be read. If it cannot be written later, as on a full
        disk, a warning says so, and the training goes on without it.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        pattern: str | None = None,
        log: str | Path | None = None,
        collapsed: float = COLLAPSED,
        min_eigenvalues: int = MIN_EIGENVALUES,
        budget: float | None = BUDGET,
    ) -> None:
        for name, number, least in (("every", every, 1), ("min_eigenvalues", min_eigenvalues, 2)):
            if not isinstance(number, int) or number < least:
                raise ValueError(f"{name} is {number!r}: expected a whole number, at least {least}")
        if not isinstance(collapsed, int | float) or not 0 <= collapsed < 1:
            raise ValueError(f"collapsed is {collapsed!r}: expected a share from 0 to 1")
        if log and Path(log).suffix != ".csv":
            raise ValueError(f"log is {str(log)!r}: expected a name that ends in .csv")
        if log and not Path(log).parent.is_dir():
            raise ValueError(f"log is {str(log)!r}: there is no folder {str(Path(log).parent)!r}")
        if budget is not None and not (isinstance(budget, int | float) and 0 < budget <= 1):
            raise ValueError(f"budget is {budget!r}: expected a share of the time up to 1, or None")
        self.every, self.pattern, self.table = every, pattern, Path(log) if log else None
        self.collapsed, self.min_eigenvalues = collapsed, min_eigenvalues
        self.clock = Budget(budget)
        self.readings: list[Reading] = []
        self.dead: dict[str, str] = {}
        self.not_finite: dict[str, int] = {}
        # By name as the table has it: the first reading, the first one and the last one of the
        # spectrum.
        self._first: dict[str, Reading] = {}
        self._ranked: dict[str, Reading] = {}
        self._latest: dict[str, Reading] = {}
        self._last_step: int | None = None
        self._next = 0.0  # seconds that the least next reading takes
        self._begun = self._said_partial = self._said_left_out = self._said_empty = (
            self._refused
        ) = False

    def __call__(self, step: int, model: Any) -> dict[str, float]:
        """Measure a torch module or state dict after step `step`, if a reading is due.

        It is due when a multiple of `every` has been reached since the last call. It returns the
        numbers that a Trainer's loggers get, or nothing if no reading was taken.
        """
        self.clock.begin()
        self._go_on(step)
        last, self._last_step = self._last_step, step
        is_due = last is None or step // self.every != last // self.every
        if not is_due or self._refused:
            return {}
        if self._next > self.clock.left:
            self._say_left_out(step)
            return {}
        if is_sharded(model):
            self._refused = True
            _log.warning(_SHARDED)
            return {}
        _wait_for_gpus()
        with self.clock.spending():
            readings = self._read(step, model)
            if not readings and not self._said_empty:
                self._said_empty = True
                _log.warning(_EMPTY, step)
            self._remember(readings)
            if self.table:
                self._write(self.table)
            self._warn(readings)
        return metrics(readings, self._latest.values(), self.dead, self.not_finite)

    def _write(self, table: Path) -> None:
        """Write the table; a full disk costs the table, never the training."""
        try:
            write_readings(table, self.readings)
        except FileExistsError:
            raise
        except OSError as error:
            self.table = None
            _log.warning("%s is not written any more: %s", printable(str(table)), error)

    def _go_on(self, step: int) -> None:
        """Read the table of a training that is resumed, and forget what was read after `step`."""
        if not self._begun and self.table and self.table.exists():
            self._remember([r for r in read_readings(self.table) if r.step < step])
            if self._last_step is None and self.readings:
                self._last_step = self.readings[-1].step
        self._begun = True
        if self._last_step is not None and step < self._last_step:
            self._go_back(step)

    def _go_back(self, step: int) -> None:
        """Forget what was found from `step` on: a state is restored, or another training begins."""
        known = [r for r in self.readings if r.step < step]
        self.dead, self.readings = {}, []
        self.not_finite = {name: at for name, at in self.not_finite.items() if at < step}
        for readings in self._states().values():
            for name in [name for name, r in readings.items() if r.step >= step]:
                del readings[name]
        self._remember(known)
        for r in known:
            if how := self._collapse(r):
                self.dead.setdefault(r.name, how)

    def _read(self, step: int, model: Any) -> list[Reading]:
        """Return the readings of a step: of all matrices, or of those that the budget allows."""
        weights = measurable(model, self.pattern, self.min_eigenvalues)
        start, left = self.clock.elapsed, self.clock.left
        found: dict[str, Reading] = {}
        if self.clock.share is not None:
            found = {weight.name: norm_reading(step, weight) for weight in weights}
        waiting = sorted(weights, key=self._last_measured)
        fixed = self.clock.elapsed - start
        while chosen := self.clock.affordable(waiting, left - (self.clock.elapsed - start)):
            for weight, reading, seconds in read_spectra(step, chosen, self.min_eigenvalues):
                found[weight.name] = reading
                self.clock.learn(weight, seconds)
            waiting = waiting[len(chosen) :]
        self._plan(weights, waiting, fixed)
        return [found[weight.name] for weight in weights]

    def _last_measured(self, weight: Weight) -> int:
        latest = self._latest.get(csv_cell(weight.name))
        return -1 if latest is None else latest.step

    def _plan(self, weights: Sequence[Weight], waiting: Sequence[Weight], fixed: float) -> None:
        """Set what the next reading takes at least; say so if it cannot be of all matrices."""
        if self.clock.share is None or not weights:
            return
        following = [*waiting, *sorted(weights, key=self._last_measured)][0]
        self._next = fixed + self.clock.expected(following)
        if waiting and not self._said_partial:
            self._said_partial = True
            _log.warning(
                "SpectralMonitor measures %d of %d matrices now and the others in turn, so that "
                "readings take at most %.3g %% of the time (budget=None measures all of them each "
                "time)",
                len(weights) - len(waiting),
                len(weights),
                100 * self.clock.share,
            )

    def _say_left_out(self, step: int) -> None:
        """Log once that readings are left out: nothing is seen in their steps."""
        if not self._said_left_out:
            self._said_left_out = True
            _log.warning(
                "SpectralMonitor takes no reading at step %d: those so far took %.3g s of the %.3g "
                "s of the training; the next ones come when that is below %.3g %% (budget=None "
                "leaves none out)",
                *(step, self.clock.spent, self.clock.elapsed, 100 * (self.clock.share or 1)),
            )

    def _remember(self, readings: Sequence[Reading]) -> None:
        self.readings += readings
        for r in readings:
            name = csv_cell(r.name)  # as the table names it
            is_finite, has_rank = not math.isnan(r.norm), not math.isnan(r.rank)
            if is_finite:
                self._first.setdefault(name, r)
            if has_rank:
                self._ranked.setdefault(name, r)
            if has_rank or not is_finite:
                self._latest[name] = r

    def _warn(self, readings: Sequence[Reading]) -> None:
        for r in readings:
            if math.isnan(r.norm):
                if r.name not in self.not_finite:
                    self.not_finite[r.name] = r.step
                    _log.warning("%s, step %d: %s", printable(r.name), r.step, NOT_FINITE)
                continue
            how = self._collapse(r)
            if how and r.name not in self.dead:
                self.dead[r.name] = how
                _log.warning("%s has collapsed by step %d: %s", printable(r.name), r.step, how)

    def _collapse(self, r: Reading) -> str:
        """Return how a matrix has collapsed since its first reading, or ''."""
        name = csv_cell(r.name)
        first = self._first.get(name, r)
        ranked = self._ranked.get(name)
        return how_collapsed(first, r, self.collapsed, self.min_eigenvalues, ranked=ranked)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: plain numbers and texts, no tensors."""
        return {
            "step": self._last_step,
            "elapsed": self.clock.elapsed,
            "spent": self.clock.spent,
            "dead": dict(self.dead),
            "not_finite": dict(self.not_finite),
            **{
                kind: [_plain(r) for r in readings.values()]
                for kind, readings in self._states().items()
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the first readings, the collapsed matrices and the times of a state."""
        self._last_step = state_dict["step"]
        self.clock.before, self.clock.spent = state_dict["elapsed"], state_dict["spent"]
        self.dead, self.not_finite = (
            {name: found for name, found in state_dict[kind].items() if self._is_mine(name)}
            for kind in ("dead", "not_finite")
        )
        for kind, readings in self._states().items():
            readings.clear()
            for values in filter(lambda values: self._is_mine(values["name"]), state_dict[kind]):
                readings[csv_cell(values["name"])] = Reading(**values)

    def _is_mine(self, name: str) -> bool:
        return not self.pattern or fnmatchcase(name, self.pattern)

    def _states(self) -> dict[str, dict[str, Reading]]:
        return {"first": self._first, "ranked": self._ranked, "latest": self._latest}

    def callback(self) -> "SpectralMonitor":
        """Return the monitor itself, which is a callback of Lightning (deprecated)."""
        import warnings

        text = "SpectralMonitor.callback() is deprecated: write callbacks=[SpectralMonitor()]"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return self


def _plain(r: Reading) -> dict[str, Any]:
    """Return the values of a reading but for those that are NaN, which JSON does not have."""
    return {
        name: value
        for name, value in asdict(r).items()
        if not (isinstance(value, float) and math.isnan(value))
    }


def _wait_for_gpus() -> None:
    """Wait for the steps that a GPU still computes, whose time is that of the training."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


join(SpectralMonitor)
