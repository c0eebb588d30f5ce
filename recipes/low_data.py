"""Does UnitDropout help when data are scarce?

The three levels of the augmentation study with all weights trained, on the first 10, 25 and 100 %
of the training intervals. The batch is always 16. The number of epochs is the same for all
fractions, so a smaller fraction also has fewer steps of training.
"""

from specdiag.lock.entry import Entry, Reported

from ._published import features, finetuned, r2
from ._tasks import reaching
from .poyo.features import measure
from .poyo.run import train_and_evaluate as build

__all__ = ["build", "entries", "measure"]

TASK = reaching("t_20130819_center_out_reaching")
LEVELS = ("off", "standard", "aggressive")

COLUMNS = ("condition_number", "effective_rank", "trace", "top1_fraction")
# R² and the columns, in the order of the lines of aug_lowdata_results.jsonl.
# fmt: off
RESULTS = {
    (10, "off"): (0.538899838924408, 3057812819022.1826, 2.029787308476721,
        16174.577858684293, 0.6111976372303762),
    (10, "standard"): (0.6037511825561523, 823867891456.8597, 2.0292397387866763,
        18273.950543250037, 0.6383207641488268),
    (10, "aggressive"): (0.6688845157623291, 1049505191613.8751, 2.0135895613181622,
        24198.866210833243, 0.593047970409447),
    (25, "off"): (0.7767969369888306, 1174571188497.4404, 2.0814202088409077,
        34085.14334850765, 0.5101946591624351),
    (25, "standard"): (0.7763586044311523, 957979306576.3044, 2.06491664812161,
        27142.455822750668, 0.5448707974856662),
    (25, "aggressive"): (0.783523440361023, 1444375794784.498, 2.0580947831226846,
        32942.47810149584, 0.533451508870119),
    (100, "off"): (0.8675970435142517, 898722191575.7515, 1.9717792394807274,
        41469.24380110396, 0.6376576920432087),
    (100, "standard"): (0.8414539098739624, 1254512292398.51, 2.0081010268558033,
        35611.8429949583, 0.5899204195176481),
    (100, "aggressive"): (0.8629528284072876, 424828567540.52106, 2.032711724373871,
        42185.52823113264, 0.5333962526231458),
}
# fmt: on


def reported(percent: int, level: str) -> tuple[Reported, ...]:
    """Return the published values of one cell of the grid."""
    origin = f"aug_lowdata_results.jsonl, line {1 + list(RESULTS).index((percent, level))}"
    test_r2, *values = RESULTS[percent, level]
    return r2(test_r2, origin), *features(origin, **dict(zip(COLUMNS, values, strict=True)))


def entries() -> list[Entry]:
    """Return the grid of fractions and levels, at both scales."""
    return [
        entry
        for percent, level in RESULTS
        for entry in finetuned(
            f"low_data/{percent}_{level}",
            TASK,
            "plastic",
            recipe="low_data",
            batch=16,
            dropout=level,
            fraction=percent / 100,
            reported=reported(percent, level),
        )
    ]
