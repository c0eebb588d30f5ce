"""Does a frozen motor core transfer to another brain area and to another task?

The core of the base is frozen, and new embeddings are trained for the units and the session of a
recording (unit identification, Azabou et al. 2023, section 2.5). The control is the same model
trained from scratch. Two tasks: hand velocity from somatosensory area 2 (motor to motor), and the
produced interval of Ready-Set-Go from dorsomedial frontal cortex, constant from Set to Go (motor to
timing).

At a learning rate of 8e-3 a model from scratch hardly learns on one session, so the published
difference is partly due to an undertrained control. The arm `scratch_tuned` has the public learning
rate instead.
"""

from specdiag.lock.entry import Entry

from ._published import ARMS, BAYES, CARD, DEGENERATE, ROPE, finetuned, published, r2
from ._tasks import AREA2, FROM_SET, PRODUCED_INTERVAL, timing
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

TASKS = {  # task, epochs and level of UnitDropout
    "area2_ft": (AREA2, 100, "standard"),
    "dmfc_const": (timing(PRODUCED_INTERVAL, FROM_SET), 200, "timing"),
}
_AREA2 = "facts.json, transfer"
_DMFC = "facts.json, dmfc"
REPORTED = {
    ("area2_ft", "pretrained"): (
        r2(0.834, f"{CARD}; {_AREA2}", run="batch 256"),
        published("mean_alpha", 1.62, BAYES, f"{CARD}; {_AREA2}"),
        published("rope_fraction", 0.17, ROPE, f"{_AREA2}.in_rope_pct"),
        published("n_degenerate", 98, DEGENERATE, f"{_AREA2}.degen"),
    ),
    ("area2_ft", "scratch"): (
        r2(0.313, f"{CARD}; {_AREA2}", run="batch 256"),
        published("mean_alpha", 3.31, BAYES, f"{CARD}; {_AREA2}"),
        published("rope_fraction", 0.0, ROPE, f"{CARD}; {_AREA2}.in_rope_pct"),
        published("n_degenerate", 0, DEGENERATE, f"{_AREA2}.degen"),
    ),
    ("dmfc_const", "pretrained"): (
        r2(0.798, f"{CARD}; {_DMFC}.const_ft"),
        published("mean_alpha", 1.62, BAYES, f"{_DMFC}.alpha_ft"),
    ),
    ("dmfc_const", "scratch"): (
        r2(0.845, f"{CARD}; {_DMFC}.const_scratch"),
        published("mean_alpha", 2.63, BAYES, f"{_DMFC}.alpha_scratch"),
    ),
}


def entries() -> list[Entry]:
    """Return both tasks with three arms each, at both scales; tuned controls were not published."""
    return [
        entry
        for name, (task, epochs, dropout) in TASKS.items()
        for arm in ARMS
        for entry in finetuned(
            f"transfer/{name}_{arm}",
            task,
            arm,
            recipe="transfer",
            group="sweeps" if arm == "scratch_tuned" else "published",
            batch=256,
            epochs=epochs,
            dropout=dropout,
            reported=REPORTED.get((name, arm), ()),
        )
    ]
