"""`LINK`: rank correlations over a collection (`specdiag.link`)."""

from specdiag.dataset.schema.variable import Variable

LINK_VERSION = 2  # in version 1 the dimension `stratification` was called `comparison`
_CELL = ("quantity", "part", "stratification")

LINK: dict[str, Variable] = {
    "quantity": Variable(("quantity",), "O", "quantity measured of a checkpoint"),
    "part": Variable(("part",), "O", "the checkpoints of one task, or of all"),
    "stratification": Variable(("stratification",), "O", "which checkpoints are compared"),
    "checkpoint": Variable(("checkpoint",), "O", "checkpoint"),
    "ci_bound": Variable(("ci_bound",), "O", "end of an interval"),
    "value": Variable(("quantity", "checkpoint"), "f", "quantity"),
    "r2": Variable(("checkpoint",), "f", "test R2"),
    "rho": Variable(_CELL, "f", "rank correlation of quantity and R2"),
    "rho_ci": Variable((*_CELL, "ci_bound"), "f", "95 % bootstrap interval of rho"),
    "p": Variable(_CELL, "f", "permutation p-value of rho"),
    "p_holm": Variable(
        _CELL, "f", "p after Holm's adjustment for all quantities, and for all tasks"
    ),
    "same_order_as": Variable(
        _CELL, "O", "earlier quantity with the same ranks, or ''; not tested again"
    ),
    "n": Variable(_CELL, "i", "number of checkpoints compared"),
    "n_units": Variable(_CELL, "i", "number of different spectra, or features, among them"),
    "n_without_counterpart": Variable(
        _CELL, "i", "number of checkpoints that cannot be exchanged with another one"
    ),
    "arrangements": Variable(_CELL, "f", "number of arrangements that a permutation can give"),
    "error": Variable(_CELL[:2], "f", "mean |error| of R2 predicted from the other tasks"),
    "baseline_error": Variable(_CELL[:2], "f", "mean |error| predicted without the quantity"),
    "n_error": Variable(_CELL[:2], "i", "number of checkpoints predicted"),
}
