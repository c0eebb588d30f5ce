"""Does UnitDropout reshape the covariance of the features?

Three levels of UnitDropout on one session of a monkey that the base has not seen, in two series:

- `freeze`: the core is frozen. Only embeddings and readout are trained, so the features change
  only through them.
- `finetune_all`: all weights are trained. The published condition number falls by a factor of 2.6
  from level off to level aggressive.

Each level was run once, and the covariance is computed over tokens of overlapping windows, which
are not independent. These runs therefore cannot show how much of the change is scatter between
seeds.
"""

from specdiag.lock.entry import Entry, Reported

from ._published import (
    CARD,
    COUNT,
    DEGENERATE,
    FREQUENTIST,
    Arm,
    features,
    finetuned,
    published,
    r2,
)
from ._tasks import SESSION_BATCH, reaching
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

TASK = reaching("t_20130819_center_out_reaching")

SERIES: dict[str, tuple[Arm, str]] = {  # arm, and prefix of the names
    "freeze": ("pretrained", "aug"),
    "finetune_all": ("plastic", "augf"),
}
FILES = {  # features and R²; alpha rounded; alpha with all digits
    "freeze": ("aug_results.jsonl", "alpha_aug.json; facts.json, aug_alpha.freeze", "alpha"),
    "finetune_all": (
        "aug_full_results.jsonl",
        "alpha_full.json; facts.json, aug_alpha.full",
        "alpha_full",
    ),
}
COLUMNS = ("condition_number", "effective_rank", "participation_ratio", "trace", "top1_fraction")
# R² on the card and in the result file; mean alpha, rounded and with all digits; the columns.
# fmt: off
RESULTS = {
    ("freeze", "off"): (0.854, 0.8544530272483826, 1.779, 1.7793363481760025,
        1909769363129.1387, 1.9615790918890392, 1.9105857575044805,
        36954.87295655337, 0.6089941987932215),
    ("freeze", "standard"): (0.860, 0.8596251010894775, 1.779, 1.7793363481760025,
        2165571068519.1272, 1.9377301424446591, 1.8693631218611633,
        36786.458088236875, 0.6327327013373537),
    ("freeze", "aggressive"): (0.857, 0.8569446802139282, 1.779, 1.7793363481760025,
        1641762994729.6724, 1.9486365580446854, 1.8875883580853252,
        37911.66260794585, 0.6226952463573657),
    ("finetune_all", "off"): (0.856, 0.8561081886291504, 1.770, 1.769798681139946,
        1122105856165.022, 1.9649234169490164, 1.8827863197210986,
        40158.322925992274, 0.6276165114040583),
    ("finetune_all", "standard"): (0.851, 0.8512329459190369, 1.767, 1.7670927196741104,
        876831297350.2703, 2.0160659380116974, 1.986695038101084,
        42794.532072727176, 0.5486896730900361),
    ("finetune_all", "aggressive"): (0.865, 0.8650630116462708, 1.762, 1.7617765665054321,
        434348143246.994, 2.0211291447400286, 1.9820898671001894,
        33717.255652476466, 0.5564021421290194),
}
# fmt: on
ON_CARD = {("finetune_all", "off"): 1.1e12, ("finetune_all", "aggressive"): 4.3e11}


def reported(series: str, level: str, line: int) -> tuple[Reported, ...]:
    """Return the published values of one level; `line` is its line in the result file."""
    results, rounded, alphas = FILES[series]
    summary = f"{alphas}_{level}.json, summary"
    on_card, test_r2, mean, alpha, *values = RESULTS[series, level]
    condition = ON_CARD.get((series, level))
    return (
        r2(on_card, CARD),
        r2(test_r2, f"{results}, line {line}"),
        published("mean_alpha_ks", mean, FREQUENTIST, rounded),
        published("mean_alpha_ks", alpha, FREQUENTIST, summary),
        published("n_degenerate", 98, DEGENERATE, summary),
        published("n_matrices", 106, COUNT, f"{summary}.n_layers"),
        *features(f"{results}, line {line}", **dict(zip(COLUMNS, values, strict=True))),
        *(features(CARD, condition_number=condition) if condition else ()),
    )


def entries() -> list[Entry]:
    """Return both series with three levels each, at both scales."""
    return [
        entry
        for series, (arm, prefix) in SERIES.items()
        for line, level in enumerate(("off", "standard", "aggressive"), 1)
        for entry in finetuned(
            f"augmentation/{series}/{prefix}_{level}",
            TASK,
            arm,
            recipe="augmentation",
            group="published",
            batch=SESSION_BATCH,
            dropout=level,
            reported=reported(series, level, line),
        )
    ]
