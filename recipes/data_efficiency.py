"""How little data of a new session is enough?

The frozen base against training from scratch, on the first 10, 25, 50 and 100 % of the training
intervals of area2_bump; validation and test are always complete. The batch is 8 everywhere, so that
10 % of the data still fills several batches. The learning rate is that of batch 256 (8e-3). At this
rate the published control learns nothing at any fraction; the tuned control shows how much of the
difference is due to the optimizer.
"""

from specdiag.lock.entry import Entry

from ._published import ARMS, finetuned, r2
from ._tasks import AREA2
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

# R² in the order of the lines of dataeff_results.jsonl: pretrained and scratch alternate.
R2 = {
    (10, "pretrained"): 0.7175614833831787,
    (10, "scratch"): -0.0005412697792053223,
    (25, "pretrained"): 0.7949970960617065,
    (25, "scratch"): -0.0006180405616760254,
    (50, "pretrained"): 0.8252790570259094,
    (50, "scratch"): -0.0004901885986328125,
    (100, "pretrained"): 0.852389931678772,
    (100, "scratch"): -0.0009291768074035645,
}
REPORTED = {
    key: (r2(value, f"dataeff_results.jsonl, line {line}", run="batch 8"),)
    for line, (key, value) in enumerate(R2.items(), 1)
}


def entries() -> list[Entry]:
    """Return four fractions with three arms each, at both scales."""
    return [
        entry
        for percent in (10, 25, 50, 100)
        for arm in ARMS
        for entry in finetuned(
            f"data_efficiency/{arm}_{percent}",
            AREA2,
            arm,
            recipe="data_efficiency",
            batch=8,
            fraction=percent / 100,
            reported=REPORTED.get((percent, arm), ()),
        )
    ]
