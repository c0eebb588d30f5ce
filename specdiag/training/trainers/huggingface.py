"""Callback of the Trainer of transformers that calls a monitor."""

import functools
import sys
from pathlib import Path
from typing import Any

from specdiag.training.monitor import SpectralMonitor

_NAME = "SpectralMonitorCallback"


def hf_callback(
    *,
    every: int = 100,
    pattern: str | None = None,
    log: str | Path | None = None,
    **settings: Any,
) -> Any:
    """Return a callback for the Trainer of transformers that measures the model's matrices.

    In a program::

        trainer = Trainer(model, args, train_dataset=data, callbacks=[specdiag.hf_callback()])

    What the Trainer reports to (TensorBoard, W&B, MLflow, ...) and its `state.log_history` get
    `spectral/<layer>/alpha`, `stable_rank`, `norm` and `rank`, and the values of all layers
    together; transformers writes them under ``train/``, as all values of a training. The monitor's
    state is part of `trainer_state.json` in every checkpoint, and a resumed training goes on with
    it.

    Parameters
    ----------
    every, pattern, log, **settings
        Those of `specdiag.SpectralMonitor`.

    Returns
    -------
    transformers.TrainerCallback
        Its attribute `monitor` is the SpectralMonitor.

    Raises
    ------
    ValueError
        If a setting is invalid.
    ModuleNotFoundError
        If transformers is missing.
    """
    return _callback_class()(
        every=every, pattern=pattern, log=str(log) if log else None, **settings
    )


@functools.cache
def _callback_class() -> Any:
    """Return the class of the callbacks, whose base classes are in transformers."""
    from transformers.trainer_callback import (
        CallbackHandler,
        ExportableState,
        PrinterCallback,
        ProgressCallback,
        TrainerCallback,
    )

    class SpectralMonitorCallback(TrainerCallback, ExportableState):
        def __init__(self, **settings: Any) -> None:
            self.settings, self.monitor = settings, SpectralMonitor(**settings)

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            for saved in _saved(state, self.monitor):
                self.monitor.load_state_dict(saved)
            self.monitor.clock.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **about: Any) -> None:
            if not state.is_world_process_zero:
                return
            values = self.monitor(state.global_step, about["model"])
            if not values:
                return
            with self.monitor.clock.spending():
                epoch = {} if state.epoch is None else {"epoch": state.epoch}
                state.log_history.append(values | epoch | {"step": state.global_step})
                # The Trainer gives its callbacks no way to log; the one who calls them can.
                handler = sys._getframe(1).f_locals.get("self")
                others = handler.callbacks if isinstance(handler, CallbackHandler) else []
                for other in others:
                    if not isinstance(other, PrinterCallback | ProgressCallback):
                        other.on_log(args, state, control, logs=dict(values), **about)

        def state(self) -> dict[str, Any]:
            """Return what transformers keeps in trainer_state.json."""
            saved = {"key": self.monitor.state_key} | self.monitor.state_dict()
            return {"args": self.settings, "attributes": {"saved": saved}}

    return SpectralMonitorCallback


def _saved(state: Any, monitor: SpectralMonitor) -> list[dict[str, Any]]:
    """Return the state of the monitor in the checkpoint that a training goes on from, if any."""
    found = state.stateful_callbacks.get(_NAME, [])
    states = [s["attributes"]["saved"] for s in (found if isinstance(found, list) else [found])]
    return [s for s in states if s["key"] == monitor.state_key and s["step"] is not None][-1:]
