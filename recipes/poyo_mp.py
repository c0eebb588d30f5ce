"""The base: POYO trained on the 99 sessions of POYO-MP, reaching monkeys [Azabou et al. 2023].

Paper scale: the recordings of Perich and Miller; 1,024 windows of one second in each step; 1,000
epochs of about 97 steps on eight GPUs. The published weights reach R² 0.904 although 98 of their
106 matrices have collapsed. A possible reason: a matrix without a gradient takes a step of weight
decay alone; LAMB's trust ratio divides by the same decay, so the weights shrink by a factor of
(1 - learning rate) in every step.

Desk scale: nine simulated sessions, the same as in the chronic evaluation.
"""

from specdiag.lock.entry import Cost, Entry

from ._published import (
    BASE,
    BAYES,
    CARD,
    COUNT,
    DEGENERATE,
    ROPE,
    SCALES,
    adamw,
    declare,
    desk_cost,
    lamb,
    published,
    r2,
    training,
    unit_dropout,
)
from ._tasks import BASE_SECONDS, CHRONIC_SESSIONS, POYO_MP_SESSIONS, reaching
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

SESSIONS = reaching(*POYO_MP_SESSIONS, desk_sessions=CHRONIC_SESSIONS, seconds=BASE_SECONDS)

DECODER = "of dec_atn.to_kv.weight alone; by which of the two reports is not said"
REPORTED = (
    r2(0.904, f"{CARD}; facts.json, repro"),
    published("mean_alpha", 1.62, BAYES, f"{CARD}; facts.json, repro"),
    published("rope_fraction", 0.17, ROPE, f"{CARD}; facts.json, repro.in_rope_pct"),
    published("n_degenerate", 98, DEGENERATE, "facts.json, repro.degen"),
    published("n_matrices", 106, COUNT, "facts.json, repro"),
    published("alpha", 2.17, DECODER, "facts.json, repro.dec_atn_to_kv_alpha"),
    published("n_parameters", 11.8e6, "given as 11.8 million", "facts.json, repro.params_m"),
)


def entries() -> list[Entry]:
    """Return the base at both scales."""
    settings = {
        "paper": {
            "optimizer": lamb(0.032, 1024),
            "training": training(batch=1024, epochs=1000, devices=8),
        },
        "desk": {
            "optimizer": adamw(2e-3),
            "training": training(batch=16, steps=1500, matmul="highest"),
        },
    }
    costs = {"paper": Cost(seconds=9 * 3600.0, hardware="8 x H100"), "desk": desk_cost(120.0)}
    return [
        declare(
            BASE,
            scale,
            SESSIONS,
            recipe="poyo_mp",
            group="published",
            params={
                **settings[scale],
                "unit_dropout": unit_dropout(scale, "standard"),
                "data": SESSIONS.data(scale, 1.0),
            },
            reported=REPORTED,
            cost=costs[scale],
        )
        for scale in SCALES
    ]
