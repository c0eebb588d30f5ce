"""Does a frozen motor core of monkeys transfer to the position of a rat?

Open-field sessions of rats, recorded in entorhinal cortex and hippocampus. The frozen base gets a
new readout of the position and is compared with training from scratch. The sessions have different
numbers of training windows, and therefore different batches.
"""

from specdiag.lock.entry import Entry, Reported

from ._published import ARMS, finetuned, published, r2
from ._tasks import foraging
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

WINDOWS = {"of_24365_2": 496, "of_24666_1": 1858, "of_25127_1": 1867}  # of training
BATCH = {"of_24365_2": 32, "of_24666_1": 64, "of_25127_1": 64}  # by the rule for one session

# R² in the order of the lines of vollan_results.jsonl: pretrained and scratch alternate.
R2 = {
    ("of_24365_2", "pretrained"): 0.8186299800872803,
    ("of_24365_2", "scratch"): 0.5077101588249207,
    ("of_24666_1", "pretrained"): 0.9352676868438721,
    ("of_24666_1", "scratch"): 0.9469199180603027,
    ("of_25127_1", "pretrained"): 0.9260034561157227,
    ("of_25127_1", "scratch"): 0.8748793601989746,
}


def reported(session: str, arm: str) -> tuple[Reported, ...]:
    """Return the published values of one session; tuned controls were not published."""
    if (session, arm) not in R2:
        return ()
    line = 1 + list(R2).index((session, arm))
    windows = "training intervals over 1 s, rounded down in each interval"
    return (
        r2(R2[session, arm], f"vollan_results.jsonl, line {line}"),
        published("n_training_windows", WINDOWS[session], windows, "facts.json, rodent.windows"),
    )


def entries() -> list[Entry]:
    """Return three sessions with three arms each, at both scales."""
    return [
        entry
        for session, batch in BATCH.items()
        for arm in ARMS
        for entry in finetuned(
            f"cross_species/{session}_{arm}",
            foraging(session),
            arm,
            recipe="cross_species",
            batch=batch,
            reported=reported(session, arm),
        )
    ]
