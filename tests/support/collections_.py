"""Small collections of made-up trainings, as `specdiag spectra` writes them."""

import math
from functools import cache

import numpy as np

import specdiag
from specdiag.dataset.schema.collection import ADDED, COLLECTION
from specdiag.dataset.schema.layers import SCHEMA
from specdiag.transfer.collection import Row, build
from support.weights import heavy, light

HOSTILE = {
    "<script>alert(1)</script>.weight": "markup",
    'a" onload="alert(1).weight': "quotes",
    "rtl\u202egnp.exe.weight": "an override of the direction of text",
    "control\x00\x1b[31m\n.weight": "control characters",
    "$x_1^{2}$ \\$ %s {{7*7}} &amp;.weight": "mathematics, formats and templates",
    "long." + "x" * 5000: "5,000 characters",
    "\ud800.weight": "half of a surrogate pair",
}


@cache
def weights(seed):
    """Return spectra of a small network: heavy tails, noise, and one matrix that has collapsed."""
    rng = np.random.default_rng(seed)
    names = [f"layers.{i}.attention.to_qkv.weight" for i in range(4)]
    matrices = {name: heavy(rng, (96, 64), 2.5) for name in names}
    matrices |= {"readout.weight": light(rng, (80, 60)), "dead.weight": np.zeros((60, 60))}
    return specdiag.alpha(matrices | {"small.weight": np.eye(3)}, gof=False)


def hostile():
    """Return spectra whose layers have the names above, which no reader of checkpoints allows."""
    one = weights(1)
    fit = one.isel(layer=[i % 4 for i in range(len(HOSTILE))])
    return fit.assign_coords(layer=("layer", np.array(list(HOSTILE), dtype=object)))


def as_version_1(dataset):
    """Return spectra, or a collection, as specdiag 0.1 wrote them.

    Its null was that of Gaussian entries alone, and alpha_hat was of the estimate.
    """
    former = {
        "alpha": "alpha_mean",
        "n_tail": "n_tail_mean",
        "xmin": "xmin_median",
        "alpha_ks": "alpha",
        "n_tail_ks": "n_tail",
        "xmin_ks": "xmin",
    }
    hat = 2 * dataset.alpha_ks * np.log10(dataset.spectral_norm.where(dataset.alpha_ks > 0))
    dataset = dataset.assign(null_p=dataset.gaussian_p, null_q=dataset.gaussian_q, alpha_hat=hat)
    later = [name for name in ADDED if name in dataset.variables]
    provenance = dataset.attrs["provenance"].replace('"null": "ladder"', '"null": "gaussian"')
    attrs = {"schema_version": 1, "provenance": provenance}
    return dataset.drop_vars(later).rename(former).assign_attrs(attrs)


def read_from_version_1(dataset):
    """Return what is read from `as_version_1(dataset)`: without verdicts, and with one null."""
    expected = dataset.copy()
    kept = ("gaussian_p", "gaussian_q")
    for name in ("verdict", "null_p", "null_q", *ADDED):
        if name in dataset.variables and name not in kept:
            missing = "" if (SCHEMA | COLLECTION)[name].dtype == "O" else math.nan
            expected[name] = dataset[name].copy(data=np.full(dataset[name].shape, missing))
    return expected


def features(rng, rank=32, floor=1e-7):
    """Return the features of an evaluation."""
    values = np.exp(-0.4 * np.arange(rank)) * rng.uniform(0.5, 1.5, rank)
    values = np.sort(values)[::-1]
    condition, is_bound = values[0] / max(values[-1], floor), bool(values[-1] <= floor)
    ends = [condition, math.nan] if is_bound else [0.8 * condition, 1.3 * condition]
    return {
        "feature_eigenvalue": values.tolist(),
        "n_samples": 4000.0,
        "n_groups": 100.0,
        "n_blocks": 100.0,
        "precision": "float32",
        "noise_floor": floor,
        "noise_floor_source": "float32",
        "numerical_rank": float(np.sum(values > floor)),
        "condition_number": condition,
        "condition_number_ci": ends,
        "condition_number_is_bound": is_bound,
        "trace": float(values.sum()),
    }


def row(
    entry, *, arm, seed=42.0, r2=None, fraction=1.0, level="standard", task="center_out", **more
):
    """Return the row of an entry; `r2` a number, or one a session."""
    rng = np.random.default_rng([len(entry), int(seed), *entry.encode()])
    by_session = r2 if isinstance(r2, dict) else {} if r2 is None else {"session": r2}
    evaluation = {}
    if by_session:
        evaluation = {"r2": float(np.mean(list(by_session.values()))), "session_r2": by_session}
        evaluation |= features(rng, **more.get("features", {}))
    spectra = None
    if r2 is not None:
        spectra = more.get("spectra")
        if spectra is None:
            spectra = weights(1 if arm in ("pretrained", "evaluation") else 2 + len(entry) % 4)
    return Row(
        factors={
            "entry": entry,
            "parent": more.get("parent", ""),
            "recipe": "recipe",
            "scale": "desk",
            "group": "made_up",
            "task": task,
            "arm": arm,
            "unit_dropout": level,
            "train_fraction": fraction,
            "seed": seed,
            "frozen_core": arm == "pretrained",
            "state": "missing" if r2 is None else "ok",
            "sha256": "" if r2 is None else "0" * 64,
            "how": "" if r2 is None else "trained",
            "n_changed": more.get("n_changed", np.nan),
        },
        spectra=spectra,
        reason="the checkpoint is missing",
        evaluation=evaluation,
    )


def collected(rows):
    """Return the Dataset of rows."""
    return build(rows, [{"name": "checkpoints.lock", "sha256": "1" * 64}])


def study(seeds=(42, 43, 44)):
    """Return a collection for which every figure can be drawn."""
    rows = []
    for s in seeds:
        noise = np.random.default_rng(s).normal(0, 0.01, 40).tolist()
        days = {f"c_{day}_center_out": 0.9 - 0.02 * i + noise.pop() for i, day in enumerate(DAYS)}
        rows.append(row("base/net", arm="base", seed=s, r2=days))
        for name, value in days.items():
            rows.append(
                row(
                    f"chronic/{name}", arm="evaluation", seed=s, r2={name: value}, parent="base/net"
                )
            )
        for task, arms in TASKS.items():
            for arm, value in arms.items():
                r2 = value + noise.pop()
                rows.append(row(f"transfer/{task}_{arm}", arm=arm, seed=s, r2=r2, task=task))
        for fraction, gap in ((0.1, 0.3), (0.25, 0.2), (0.5, 0.1), (1.0, 0.02)):
            for arm, factor in (("pretrained", 0.3), ("scratch", 1)):
                name = f"data_efficiency/{arm}_{100 * fraction:g}"
                r2 = 0.8 - factor * gap + noise.pop()
                rows.append(row(name, arm=arm, seed=s, r2=r2, fraction=fraction, task="area2_bump"))
        for level, floor in (("off", 1e-7), ("standard", 1e-5), ("aggressive", 1e-3)):
            more = {"features": {"floor": floor}, "parent": "base/net"}
            rows.append(
                row(f"augmentation/{level}", arm="plastic", seed=s, r2=0.7, level=level, **more)
            )
    rows.append(row("cross_species/rat_scratch", arm="scratch", task="open_field"))
    return collected(rows)


DAYS = ("20131003", "20131220", "20150309", "20160909")
TASKS = {
    "area2_bump": {"pretrained": 0.75, "scratch": 0.6, "scratch_tuned": 0.7},
    "interval_timing": {"pretrained": 0.5, "scratch": 0.45, "scratch_tuned": 0.5},
}


def readings(n_matrices=5, steps=(1, 100, 200, 300), names=None):
    """Return the rows of a monitor's table: the last matrix collapses half way."""
    names = names or [f"layers.{i}.weight" for i in range(n_matrices)]
    rows = ["step,name,norm,rank,alpha,alpha_low,alpha_high"]
    for t, step in enumerate(steps):
        for k, name in enumerate(names):
            dead = k == len(names) - 1 and t > 1
            alpha = "nan,nan,nan" if dead else f"{4 - 0.2 * t + k / 10},3,5"
            rows.append(f"{step},{name},{10.0 ** (-4 * dead)},{2 if dead else 64},{alpha}")
    return "\n".join(rows) + "\n"
