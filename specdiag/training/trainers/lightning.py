"""Hooks of Lightning, for a monitor that is one of a Trainer's callbacks.

Nothing here imports Lightning, which takes seconds. A Trainer asks its callbacks for many hooks,
and tells a callback from a list of them by its class. So the class of a monitor becomes a subclass
of the `Callback` of `lightning` and of `pytorch_lightning`, of those that the program has imported
by the time that a monitor is made, or at the latest when a Trainer asks it for a hook.
"""

import sys
from typing import Any

from specdiag.training.budget import Budget

_MODULES = ("lightning.pytorch.callbacks.callback", "pytorch_lightning.callbacks.callback")

_STATE = "SpectralMonitor"  # what the names of its states in a checkpoint begin with


class LightningHooks:
    """What a Trainer calls, beside the hooks of `Callback` that do nothing."""

    pattern: str | None
    clock: Budget
    _counted: int | None = None  # steps that the Trainer had done when it was last heard

    def __call__(self, step: int, model: Any) -> dict[str, float]:
        """Take the readings that are due after a step, and return the numbers to log."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a state of a monitor."""
        raise NotImplementedError

    def __new__(cls, *_: object, **__: object) -> Any:
        """Return an instance of the class, as a Callback if Lightning is imported."""
        join(cls)
        return super().__new__(cls)

    def __getattr__(self, name: str) -> Any:
        """Return a hook of Callback: Lightning was imported after the monitor was made."""
        if not name.startswith("__") and join(type(self)):
            return getattr(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def state_key(self) -> str:
        """Name of the monitor's state in a checkpoint: one for each pattern of names."""
        return f"{_STATE}{ ({'pattern': self.pattern})!r}"

    def on_load_checkpoint(
        self,
        trainer: Any,  # noqa: ARG002 - of Lightning
        pl_module: Any,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Go on with the state of a monitor of another pattern, if there is none of this one.

        First norms are those of the first training, too, if a training is resumed with another
        pattern. Of several states it is the one with most matrices. Lightning loads a state of
        this pattern by itself.
        """
        states = checkpoint.get("callbacks") or {}
        others = [state for key, state in states.items() if str(key).startswith(_STATE)]
        if others and self.state_key not in states:
            self.load_state_dict(max(others, key=lambda state: len(state["first"])))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 - of Lightning
        """Start the clock that the budget is a share of."""
        self._counted = trainer.global_step
        self.clock.begin()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the readings that are due, once a step of the optimizer, in the first process."""
        del outputs, batch, batch_idx
        step = trainer.global_step
        if step == self._counted or not trainer.is_global_zero:
            return
        self._counted = step
        values = self(step, pl_module)
        if not values:
            return
        with self.clock.spending():
            # For EarlyStopping and the like. The Trainer passes on to loggers only what is logged
            # in each `log_every_n_steps`-th batch, so readings are given to them here.
            pl_module.log_dict(values, logger=False, rank_zero_only=True)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)


def join(monitor: type) -> bool:
    """Make a class a subclass of the Callbacks that are imported; return whether any are new."""
    found = [sys.modules[name].Callback for name in _MODULES if name in sys.modules]
    new = tuple(callback for callback in found if not issubclass(monitor, callback))
    if new:
        monitor.__bases__ += new
    return bool(new)
