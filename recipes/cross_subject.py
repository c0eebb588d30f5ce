"""Does the base transfer to a monkey that it has never seen?

Three centre-out sessions of monkey T. The base was not trained on this monkey. Each session is
trained with the frozen base and from scratch.
"""

from specdiag.lock.entry import Entry

from ._published import ARMS, finetuned, r2
from ._tasks import SESSION_BATCH, reaching
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

# R² in the order of the lines of xsub_all.jsonl: pretrained and scratch alternate.
R2 = {
    ("t_20130819", "pretrained"): 0.8629834651947021,
    ("t_20130819", "scratch"): -0.04043710231781006,
    ("t_20130821", "pretrained"): 0.8820054531097412,
    ("t_20130821", "scratch"): -0.027014076709747314,
    ("t_20130823", "pretrained"): 0.8992279171943665,
    ("t_20130823", "scratch"): 0.04426229000091553,
}
REPORTED = {
    key: (r2(value, f"xsub_all.jsonl, line {line}"),)
    for line, (key, value) in enumerate(R2.items(), 1)
}


def entries() -> list[Entry]:
    """Return three sessions with three arms each, at both scales."""
    return [
        entry
        for session in ("t_20130819", "t_20130821", "t_20130823")
        for arm in ARMS
        for entry in finetuned(
            f"cross_subject/{session}_{arm}",
            reaching(f"{session}_center_out_reaching"),
            arm,
            recipe="cross_subject",
            batch=SESSION_BATCH,
            reported=REPORTED.get((session, arm), ()),
        )
    ]
