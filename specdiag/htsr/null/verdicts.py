"""The verdicts, each with its sentence, which says what null a layer beat."""

ONE_SCALE = "heavier than random entries of one scale"
HEAVIER = "heavier than random entries of any row and column scales"
VERDICTS = {
    "power law": f"{HEAVIER}; a constant exponent is favoured five to one over a tail that falls "
    "ever faster",
    "undecided": f"{HEAVIER}; whether its exponent is constant cannot be told: alpha is the slope "
    "of the tail, not a law",
    "steepens": f"{HEAVIER}; a tail that falls ever faster is favoured five to one: alpha is its "
    "mean slope",
    "too few": f"{HEAVIER}; the tail is too short to trust the interval",
    "rejected": f"{HEAVIER}; no power law fits above xmin_ks",
    "initialisation": f"{HEAVIER}, but untrained networks of its recipe have an alpha as low",
    "scales": f"{ONE_SCALE}, but row and column scales or an offset explain it",
    "no evidence": "random entries of one scale have an alpha as low",
    "degenerate": "the spectrum has collapsed",
}
# Verdicts of layers whose alpha means something: means over layers are over these.
MEANINGFUL = ("power law", "undecided", "steepens", "too few")
