"""Two readings of a matrix -> whether it has collapsed between them, and how."""

from specdiag.training.readings import Reading

COLLAPSED = 1e-3  # see `specdiag.SpectralMonitor`
NOT_FINITE = "some of its values are not finite"


def how_collapsed(
    first: Reading,
    now: Reading,
    share: float,
    min_eigenvalues: int,
    *,
    ranked: Reading | None = None,
) -> str:
    """Return how a matrix has collapsed since its first reading, or ''.

    Its norm is below a share of the first norm, or its rank has fallen from `min_eigenvalues` or
    more to less. `ranked` is the first reading with a rank, if that is not the first one. What is
    NaN has not collapsed: values that are not finite are another fault.
    """
    if now.norm < share * first.norm:
        return f"its norm fell from {first.norm:.3g} after step {first.step} to {now.norm:.3g}"
    ranked = ranked or first
    if now.rank < min_eigenvalues <= ranked.rank:
        return f"its rank fell from {ranked.rank:g} after step {ranked.step} to {now.rank:g}"
    return ""
