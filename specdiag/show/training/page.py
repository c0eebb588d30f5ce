"""A training -> one HTML page: its trajectories, what collapsed, and the last checkpoint."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specdiag.show.report import Section, report
from specdiag.show.training.table import alarms, cells_of, headline, summary_lines
from specdiag.training.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray as xr


def page(
    found: Trajectory, name: str, last: "xr.Dataset | None" = None, notes: Sequence[str] = ()
) -> str:
    """Return the page of a training with this name.

    `last` has the layers of the last checkpoint, if checkpoints were measured. The same input gives
    the same bytes.
    """
    cells = cells_of(found)
    rows = [[h.name, *row.values()] for h, row in zip(found.histories, cells, strict=True)]
    header = ["matrix", *cells[0]]
    lines = [f"{headline(found)}.", *summary_lines(found)]
    sections = [Section("From the first reading to the last", [*lines, *notes], header, rows)]
    if changes := alarms(found, most=None):
        sections.insert(0, Section("Alarms", changes))
    return report(last, tables={name: found}, sections=sections, title=f"Training {name}")
