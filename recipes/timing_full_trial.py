"""Does it matter for timing that training windows begin at Set?

The constant interval of `transfer`, trained on windows from anywhere in the trial. The first
version of the experiment was like this. Much of such a window lies before Set and holds little
information about the interval. No results of this variant were published.
"""

from specdiag.lock.entry import Entry

from ._published import ARMS, finetuned
from ._tasks import FULL_TRIAL, PRODUCED_INTERVAL, timing
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

TASK = timing(PRODUCED_INTERVAL, FULL_TRIAL)


def entries() -> list[Entry]:
    """Return three arms at both scales."""
    return [
        entry
        for arm in ARMS
        for entry in finetuned(
            f"timing_full_trial/{arm}",
            TASK,
            arm,
            recipe="timing_full_trial",
            batch=256,
            epochs=200,
            dropout="timing",
        )
    ]
