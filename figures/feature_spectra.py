"""Eigenvalues of the feature covariance by level of UnitDropout, with the noise floor."""

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from specdiag.drawing.seeds import limits, ranged
from specdiag.drawing.style import OKABE_ITO, arm_color, short_title
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

TITLE = "Spectra of the features"


def reason_not_drawn(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    if "feature_eigenvalue" not in dataset.variables or not _panels(dataset):
        return "no features in the Dataset: `specdiag spectra` adds those of evaluated checkpoints"
    return ""


def study(entry: str) -> str:
    """Return the study that an entry belongs to: the folder in its name."""
    return entry.rpartition("/")[0] or entry


def level_rank(level: str) -> tuple[int, str]:
    """Return the place of a level of UnitDropout by how much it drops; others follow by name."""
    known = ("off", "standard", "aggressive")
    return known.index(level) if level in known else len(known), level


def _panels(dataset: "xr.Dataset") -> dict[str, list[int]]:
    """Return the checkpoints of each study and task in which UnitDropout varies, or else of all."""
    panels: dict[str, list[int]] = {}
    for i in np.flatnonzero(np.isfinite(dataset.feature_eigenvalue.values).any(axis=1)):
        name = f"{study(str(dataset.entry.values[i]))}, {dataset.task.values[i] or 'task unknown'}"
        panels.setdefault(name, []).append(int(i))
    levels = dataset.unit_dropout.values
    varied = {name: at for name, at in panels.items() if len({levels[i] for i in at}) > 1}
    everything = list(chain(*panels.values()))
    return varied or ({"all checkpoints": everything} if everything else {})


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return the eigenvalues by rank, one line per checkpoint, and the noise floor of each, dashed.

    Colour shows the level of UnitDropout, or the arm if no study varies the level.
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
    """Return the ends of the axis: it shows all eigenvalues above the noise floor.

    The floor itself is shown where eigenvalues lie below it.
    """
    at = list(chain(*panels.values()))
    values = dataset.feature_eigenvalue.values[at]
    above = values > np.fmax(dataset.noise_floor.values[at], 0)[:, None]
    floors = dataset.noise_floor.values[at][(~above & np.isfinite(values)).any(axis=1)]
    return limits(np.concatenate([values[above], floors[floors > 0]]), log=True)


def _levels(dataset: "xr.Dataset") -> tuple[dict[str, str], bool]:
    """Return the colours of the levels of UnitDropout and True, or of the arms and False."""
    shown = list(chain(*_panels(dataset).values()))
    words = [str(word) for word in dataset.unit_dropout.values[shown]]
    if len(set(words)) > 1:
        levels = sorted(set(words), key=level_rank)
        return dict(zip(levels, OKABE_ITO * len(words), strict=False)), True
    return {str(arm): arm_color(str(arm)) for arm in dataset.arm.values[shown]}, False


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn, of how many checkpoints, features and samples."""
    shown = np.array(list(chain(*_panels(dataset).values())))
    known = np.isfinite(dataset.feature_eigenvalue.values[shown])
    samples, rank = dataset.n_samples.values[shown], dataset.numerical_rank.values[shown]
    return (
        f"Eigenvalues of the covariance of the readout's input, {known.sum(axis=1).max()} "
        f"features, of {counted(len(shown), 'checkpoint')}, each over {ranged(samples)} samples. "
        "Below the dashed line, in the same colour, an eigenvalue is rounding of the forward pass: "
        f"{ranged(rank)} eigenvalues lie above it. A dashed line outside of the frame lies below "
        "all of them."
    )
