"""Alpha of the same layers, pretrained and trained from scratch on the same task."""

from typing import TYPE_CHECKING, Any

import numpy as np

from specdiag.drawing.style import MARKERS, OKABE_ITO, short_title
from specdiag.wording import counted

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Pretrained against scratch"
CONTROLS = {"scratch": "scratch", "scratch_tuned": "tuned scratch"}  # arms, and their names


def reason_not_drawn(dataset: "xr.Dataset") -> str:
    """Return why there is nothing to draw, or ''."""
    if "arm" not in dataset.coords:
        return "no arms in the Dataset: `specdiag spectra` takes them from the lock"
    if _layers(dataset):
        return ""
    return "no pair of pretrained and scratch has a layer that is fit in both"


def pairs(dataset: "xr.Dataset") -> list[tuple[int, int]]:
    """Return the positions of pretrained checkpoints and of their counterparts from scratch.

    Counterparts have the same scale and seed, and names that differ in the arm alone.
    """
    place: dict[tuple[str, str, float, str], int] = {}
    for i, arm in enumerate(dataset.arm.values):
        place[(*_key(dataset, i, str(arm)), str(arm))] = i
    return [
        (i, place[(*key, arm)])
        for i in np.flatnonzero(dataset.arm.values == "pretrained").tolist()
        for key in [_key(dataset, i, "pretrained")]
        for arm in CONTROLS
        if (*key, arm) in place
    ]


def _key(dataset: "xr.Dataset", i: int, arm: str) -> tuple[str, str, float]:
    name = str(dataset.entry.values[i]).replace(arm, "*") if arm else ""
    return name, str(dataset.scale.values[i]), float(dataset.seed.values[i])


def _controls(dataset: "xr.Dataset") -> dict[str, dict[tuple[int, int], Any]]:
    """Return pairs and layers by the arm of the control: tuning may turn the difference around."""
    controls: dict[str, dict[tuple[int, int], Any]] = {}
    for (i, j), layers in _layers(dataset).items():
        controls.setdefault(str(dataset.arm.values[j]), {})[i, j] = layers
    return {arm: controls[arm] for arm in CONTROLS if arm in controls}


def _layers(dataset: "xr.Dataset") -> dict[tuple[int, int], Any]:
    """Return the layers that are fit in both of a pair."""
    fit = (dataset.status.values == "fit") & np.isfinite(dataset.alpha.values)
    both = {(i, j): np.flatnonzero(fit[i] & fit[j]) for i, j in pairs(dataset)}
    return {pair: layers for pair, layers in both.items() if len(layers)}


def plot(dataset: "xr.Dataset") -> "Figure":
    """Return alpha from scratch against alpha pretrained, one point per layer with two intervals.

    One panel per control, scratch or `scratch_tuned`; colour and marker show the task.
    """
    from matplotlib.figure import Figure

    controls = _controls(dataset)
    figure = Figure(figsize=(1 + 5 * len(controls), 6), layout="constrained")
    axes = figure.subplots(1, len(controls), sharex=True, sharey=True, squeeze=False)[0]
    panel = dict(zip(controls, axes, strict=True))
    tasks = list(dict.fromkeys(str(dataset.task.values[i]) for i, _ in _layers(dataset)))
    looks = [
        {"color": OKABE_ITO[k % len(OKABE_ITO)], "marker": MARKERS[k % len(MARKERS)]}
        for k in range(len(tasks))
    ]
    for (i, j), layers in _layers(dataset).items():
        look = looks[tasks.index(str(dataset.task.values[i]))]
        _draw_pair(panel[str(dataset.arm.values[j])], dataset, (i, j), layers, look)
    for task, look in zip(tasks, looks, strict=True):
        label = short_title(task, 30) or "task unknown"
        axes[0].plot([], [], linestyle="", markersize=4, label=label, **look)
    ends = (*axes[0].get_xlim(), *axes[0].get_ylim())  # shared by all
    low, high = min(ends), max(ends)
    for k, (arm, ax) in enumerate(panel.items()):
        label = "_equal" if k else "equal"
        ax.plot([low, high], [low, high], color="#777777", linewidth=0.8, label=label)
        ax.set(
            xlabel=f"α from {CONTROLS[arm]} (posterior mean)",
            xlim=(low, high),
            ylim=(low, high),
            aspect="equal",
        )
    axes[0].set_ylabel("α pretrained (posterior mean)")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def _draw_pair(
    ax: "Axes", dataset: "xr.Dataset", pair: tuple[int, int], layers: Any, look: dict[str, str]
) -> None:
    i, j = pair
    x, y = (dataset.alpha.values[at, layers] for at in (j, i))
    faint: Any = {"color": look["color"], "linewidth": 0.5, "alpha": 0.3}
    ax.hlines(y, *dataset.alpha_ci.values[j, layers].T, **faint)
    ax.vlines(x, *dataset.alpha_ci.values[i, layers].T, **faint)
    ax.plot(x, y, linestyle="", markersize=4, label="_pair", **look)  # type: ignore[arg-type]


def caption(dataset: "xr.Dataset") -> str:
    """Return what is drawn: pairs and layers of each control, and in how many alpha is lower."""
    counts = " ".join(_sentence(dataset, arm, pair) for arm, pair in _controls(dataset).items())
    return (
        "α of the same layer in pretrained and scratch checkpoints of one task, scale, seed and "
        f"share of the data. {counts} Bars are 95 % intervals. Layers of a frozen core are the "
        "same in all pretrained checkpoints of a parent: they are not independent."
    )


def _sentence(dataset: "xr.Dataset", arm: str, layers: dict[tuple[int, int], Any]) -> str:
    differences = np.concatenate(
        [dataset.alpha.values[i, at] - dataset.alpha.values[j, at] for (i, j), at in layers.items()]
    )
    walked = ("fit", "degenerate", "failed")
    status = dataset.status.values
    lost = sum(
        int((np.isin(status[i], walked) & np.isin(status[j], walked)).sum())
        - len(layers.get((i, j), ()))
        for i, j in pairs(dataset)
        if dataset.arm.values[j] == arm
    )
    n_spectra = len({dataset.alpha.values[i].tobytes() for i, _ in layers})
    spectra = "one pretrained spectrum" if n_spectra == 1 else f"{n_spectra} pretrained spectra"
    return (
        f"Against {CONTROLS[arm]}: {counted(len(layers), 'pair')} of {spectra}, "
        f"{counted(len(differences), 'layer')} fit in both ({lost} others are degenerate or failed "
        f"in one of the two), α lower pretrained in {int(np.sum(differences < 0))}, mean "
        f"difference {differences.mean():+.2f}."
    )
