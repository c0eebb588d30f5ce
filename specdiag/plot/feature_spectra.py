"""Eigenvalues of the feature covariance by level of UnitDropout, with the noise floor."""

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from specdiag.plot.seeds import level_rank, limits, ranged, study
from specdiag.plot.style import ARM_COLORS, OKABE_ITO, short_title
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

TITLE = "Spectra of the features"


def lacks(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    if "feature_eigenvalue" not in dataset.variables or not _panels(dataset):
        return "no features in the Dataset: `specdiag spectra` puts those of evaluated checkpoints there"
    return ""


def _panels(dataset: "xr.Dataset") -> dict[str, list[int]]:
    """Return the checkpoints of every study and task that vary UnitDropout; all if none does."""
    found: dict[str, list[int]] = {}
    for i in np.flatnonzero(np.isfinite(dataset.feature_eigenvalue.values).any(axis=1)):
        name = f"{study(str(dataset.entry.values[i]))}, {dataset.task.values[i] or 'task unknown'}"
        found.setdefault(name, []).append(int(i))
    levels = dataset.unit_dropout.values
    varied = {name: at for name, at in found.items() if len({levels[i] for i in at}) > 1}
    everything = list(chain(*found.values()))
    return varied or ({"all checkpoints": everything} if everything else {})


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return the eigenvalues by rank, a line a checkpoint, and the noise floor of each, dashed.

    Colour shows the level of UnitDropout, or the arm where no study varies that.
    """
    from matplotlib.figure import Figure

    panels = _panels(dataset)
    levels, by_level = _levels(dataset)
    figure = Figure(figsize=(1.5 + 3.5 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (name, positions) in zip(axes, panels.items(), strict=True):
        for i in positions:
            one = dataset.isel(checkpoint=i)
            word = str((one.unit_dropout if by_level else one.arm).values)
            color = levels[word]
            values = one.feature_eigenvalue.values
            ax.plot(
                one.feature_rank, np.where(values > 0, values, np.nan), color=color, linewidth=1
            )
            ax.axhline(float(one.noise_floor), color=color, linestyle="--", linewidth=0.8)
        ax.set(
            xscale="log", yscale="log", title=short_title(name, 36), xlabel="rank of the eigenvalue"
        )
    axes[0].set(ylabel="variance along the eigenvector", ylim=_limits(dataset, panels))
    for word, color in levels.items():
        axes[0].plot([], [], color=color, label=short_title(word, 30) or "unknown")
    axes[0].plot([], [], "--", color="#777777", label="noise floor")
    figure.legend(
        title="UnitDropout" if by_level else None,
        loc="outside lower center",
        ncols=4 if len(panels) > 1 else 2,
        fontsize="small",
        frameon=False,
    )
    return figure


def _limits(dataset: "xr.Dataset", panels: dict[str, list[int]]) -> tuple[float, float]:
    """Return the ends of the axis: from the smallest eigenvalue of a checkpoint, or its noise floor."""
    at = list(chain(*panels.values()))
    values = dataset.feature_eigenvalue.values[at]
    above = values > np.fmax(dataset.noise_floor.values[at], 0)[:, None]
    floors = dataset.noise_floor.values[at][(~above & np.isfinite(values)).any(axis=1)]
    return limits(np.concatenate([values[above], floors[floors > 0]]), log=True)


def _levels(dataset: "xr.Dataset") -> tuple[dict[str, str], bool]:
    """Return the colour of every level of UnitDropout, or of every arm, and which of both it is."""
    shown = list(chain(*_panels(dataset).values()))
    words = [str(word) for word in dataset.unit_dropout.values[shown]]
    if len(set(words)) > 1:
        levels = sorted(set(words), key=level_rank)
        return dict(zip(levels, OKABE_ITO * len(words), strict=False)), True
    arms = dict.fromkeys(str(arm) for arm in dataset.arm.values[shown])
    return {arm: ARM_COLORS.get(arm, ARM_COLORS[""]) for arm in arms}, False


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn, of how many checkpoints, features and samples."""
    shown = np.array(list(chain(*_panels(dataset).values())))
    known = np.isfinite(dataset.feature_eigenvalue.values[shown])
    samples, rank = dataset.n_samples.values[shown], dataset.numerical_rank.values[shown]
    return (
        f"Eigenvalues of the covariance of the readout's input, {known.sum(axis=1).max()} features, of "
        f"{counted(len(shown), 'checkpoint')}, each over {ranged(samples)} samples. "
        "Below the dashed line, in the same colour, an eigenvalue is rounding of the forward pass: "
        f"{ranged(rank)} eigenvalues lie above it. A line that is not in the frame lies below all of them."
    )
