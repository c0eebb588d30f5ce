"""Does one set of weights decode three years of recordings?

The base without further training, on nine centre-out sessions of monkey C from 2013 to 2016. All
nine were in its training data, each with its own embeddings. The result shows that one model can
represent all of them; it does not show that the model decodes days that it has not seen.
"""

from specdiag.lock.entry import Entry

from ._published import BASE, SCALES, declare, r2
from ._tasks import BASE_SECONDS, CHRONIC_SESSIONS, reaching
from .poyo.features import measure
from .poyo.run import evaluate_parent as build

__all__ = ["build", "entries", "measure"]

# R² in the order of the lines of chronic_results.jsonl, which is that of the sessions.
R2 = (
    0.8651330471038818,
    0.891156792640686,
    0.9177689552307129,
    0.9212906360626221,
    0.9327002763748169,
    0.8806838989257812,
    0.9400317668914795,
    0.9271544218063354,
    0.9669857025146484,
)


def entries() -> list[Entry]:
    """Return nine evaluations of the base at both scales."""
    evaluations = []
    for line, (session, value) in enumerate(zip(CHRONIC_SESSIONS, R2, strict=True), 1):
        task = reaching(session, seconds=BASE_SECONDS)
        evaluations += [
            declare(
                f"chronic/{session.removesuffix('_center_out_reaching')}",
                scale,
                task,
                recipe="chronic",
                kind="evaluation",
                parent=BASE,
                params={"data": task.data(scale, 1.0)},
                reported=(r2(value, f"chronic_results.jsonl, line {line}"),),
            )
            for scale in SCALES
        ]
    return evaluations
