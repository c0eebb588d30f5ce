"""Rates, sizes and a ridge decoder's R² of the simulated recordings of the lock.

`python -m benchmarks.simulation` writes the table of docs/simulation.md.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks._pages import DOCS, table_of, write_tables
from benchmarks.ridge import decoded
from recipes._tasks import task_of
from recipes.simulation.recordings import write_recordings
from specdiag.lock.lockfile import load

LOCK = DOCS.parent / "checkpoints.lock"


def rows(folder):
    """Return a row of the table for every recording."""
    entries = [e for e in load(LOCK).entries if e.scale == "desk"]
    settings = {s: e.params["simulation"] for e in entries for s in e.params["data"]["sessions"]}
    paths = {
        session: write_recordings(folder, [session], settings[session])[0]
        for session in sorted(settings)
    }
    return [measured(s, path, settings[s]["seconds"]) for s, path in paths.items()]


def measured(session, path, seconds):
    """Return a row of the table."""
    from torch_brain.data import Data

    data = Data.load(path, lazy=False)
    rates = np.bincount(data.spikes.unit_index, minlength=len(data.units)) / seconds
    low, middle, high = np.percentile(rates, [10, 50, 90])
    split = [getattr(data, f"{part}_domain") for part in ("train", "valid", "test")]
    monkey = task_of(session).dim_out == 2 and not session.startswith("of_")
    return {
        "session": session,
        "units": len(data.units),
        "spikes/s a unit, 10 - 50 - 90 %": f"{low:.1f} - {middle:.1f} - {high:.1f}",
        "spikes in a second": round(len(data.spikes) / seconds),
        "trials": len(data.trials) if hasattr(data, "trials") else "",
        "train - valid - test, s": " - ".join(f"{(d.end - d.start).sum():.0f}" for d in split),
        "ridge R²": f"{decoded(data):.2f}" if monkey else "",
        "MB": f"{path.stat().st_size / 1e6:.1f}",
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        write_tables(DOCS / "simulation.md", {"measured": table_of(rows(Path(temporary)))})
