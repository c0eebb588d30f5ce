"""Does the motor core transfer to timing when the target is a ramp?

The target is the time to Go, at 50 Hz. It falls from the produced interval at Set to zero at Go,
and is zero elsewhere. This target changes within a trial; the target of `transfer` is constant.
"""

from specdiag.lock.entry import Entry

from ._published import ARMS, finetuned, r2
from ._tasks import FROM_SET, TIME_TO_GO, timing
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

TASK = timing(TIME_TO_GO, FROM_SET)
REPORTED = {
    "pretrained": (
        r2(0.8872956037521362, "dmfc_elapsed_results.jsonl, line 1"),
        r2(0.887, "facts.json, dmfc.ramp_ft"),
    ),
    "scratch": (
        r2(0.9000904560089111, "dmfc_elapsed_results.jsonl, line 2"),
        r2(0.900, "facts.json, dmfc.ramp_scratch"),
    ),
}


def entries() -> list[Entry]:
    """Return three arms at both scales."""
    return [
        entry
        for arm in ARMS
        for entry in finetuned(
            f"timing_ramp/{arm}",
            TASK,
            arm,
            recipe="timing_ramp",
            batch=256,
            epochs=200,
            dropout="timing",
            reported=REPORTED.get(arm, ()),
        )
    ]
