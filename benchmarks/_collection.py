"""Collections of checkpoints with planted relations of spectrum and R²."""

import numpy as np

FIELDS = {  # of a checkpoint, with their defaults
    "entry": "",
    "parent": "",
    "task": "center_out",
    "arm": "scratch",
    "scale": "desk",
    "train_fraction": 1.0,
    "seed": 42,
    "r2": np.nan,
    "condition_number": np.nan,
    "effective_rank": np.nan,
    "participation_ratio": np.nan,
    "top1_fraction": np.nan,
}


def collection(checkpoints, n_layers=4):
    """Return the Dataset of a list of dicts: fields of a checkpoint, `alpha`, `status` of layers.

    Equal alphas are equal spectra, and an alpha that is NaN is a checkpoint without weights. The
    alphas of the layers lie within 0.3 of it. The Dataset has only the variables that `link` reads.
    """
    import xarray as xr

    alpha = np.array([row["alpha"] for row in checkpoints], dtype=float)
    shape = (len(alpha), n_layers)
    status = np.full(shape, "fit", dtype=object)
    status[np.isnan(alpha)] = "absent"
    for i, row in enumerate(checkpoints):
        status[i] = row.get("status", status[i])
    value = np.where(status == "fit", alpha[:, None] + np.linspace(-0.3, 0.3, n_layers), np.nan)
    norm = np.where(status == "absent", np.nan, alpha[:, None])
    layers = {
        "status": status,
        "verdict": np.where(status == "fit", "power law", "").astype(object),
        "alpha": value,
        "alpha_hat": 1.1 * value,
        "stable_rank": 9 - value,
        "rope_probability": np.exp(-((value - 2) ** 2)),
        "spectral_norm": norm,
        "frobenius_norm": norm,
    }
    data = {name: (("checkpoint", "layer"), array) for name, array in layers.items()}
    for name, default in FIELDS.items():
        data[name] = ("checkpoint", [row.get(name, default) for row in checkpoints])
    names = [f"{row['entry']} (seed {row.get('seed', 42)})" for row in checkpoints]
    return xr.Dataset(data, coords={"checkpoint": names})


def simulated(rng, *, seeds=3, effect=0.0, confounded=True, inherited=0.5, sessions=3, lost=0):
    """Return a collection like that of a study, with a given relation of alpha and R².

    Three tasks, each with a frozen and a plastic finetune of the base and a training from scratch,
    in `sessions` sessions, with all and with a quarter of the data, and `seeds` seeds.

    Parameters
    ----------
    effect : float
        Correlation of the parts of alpha and R² that task, arm, data and session do not explain.
    confounded : bool
        Whether tasks, arms and data sizes change the levels of both, as in undertrained networks.
    inherited : float
        Share of the variance of alpha and of R² that a base gives to all its children, and a
        session to all that is trained on it; drawn for alpha and R² separately.
    lost : int
        Number of children of the first seed's base that are missing.
    """
    rows = []
    base = {seed: _pair(rng, effect) for seed in range(seeds)}
    base_r2 = rng.standard_normal(seeds)
    rows += [
        _row("base", "center_out", "base", 1.0, seed, (0, 0), pair) for seed, pair in base.items()
    ]
    for task in ("center_out", "area2_bump", "interval_timing"):
        task_level = confounded * np.array([1, 2]) * rng.standard_normal(2)
        for session in range(sessions):
            of_session = rng.standard_normal(2)
            for arm, fraction in _DESIGN:
                entry = f"{task}/{session}_{arm}_{fraction:g}"
                level = np.array(_LEVELS[arm]) + np.array(_LEVELS[fraction])
                level = confounded * level + task_level
                for seed in range(seeds):
                    pair = _pair(rng, effect)
                    given = [of_session[0], of_session[1]]
                    if arm != "scratch":
                        given = [base[seed][0], (given[1] + base_r2[seed]) / 2**0.5]
                    pair = np.sqrt(inherited) * np.array(given) + np.sqrt(1 - inherited) * pair
                    row = _row(entry, task, arm, fraction, seed, level, pair)
                    if arm == "pretrained":
                        row["alpha"] = rows[seed]["alpha"]
                        row["r2"] += 0.05 * effect * base[seed][0]
                    rows.append(row)
    children = [row for row in rows if row["seed"] == 0 and row["parent"]]
    return collection([row for row in rows if row not in children[:lost]])


_DESIGN = [(arm, f) for arm in ("pretrained", "plastic", "scratch") for f in (0.25, 1.0)]
# Levels of alpha and R², in standard deviations of what is left.
_LEVELS = {
    "pretrained": (-2.0, 2.0),
    "plastic": (-1.5, 2.0),
    "scratch": (2.0, -2.0),
    0.25: (1.0, -2.0),
    1.0: (0.0, 0.0),
}


def _pair(rng, effect):
    """Return two normal variables with this correlation."""
    first, second = rng.standard_normal(2)
    return np.array([first, effect * first + np.sqrt(1 - effect**2) * second])


def _row(entry, task, arm, fraction, seed, level, pair):
    return {
        "entry": entry,
        "task": task,
        "arm": arm,
        "train_fraction": fraction,
        "seed": seed,
        "parent": "base" if arm in ("pretrained", "plastic") else "",
        "alpha": 2.5 + 0.2 * (level[0] + pair[0]),
        "r2": 0.6 + 0.05 * (level[1] + pair[1]),
    }
