"""Settings and published values that recipes share: model, optimizer, arms, and `declare`.

The paper scale has the settings of the public POYO repository, as the published experiments set
them. The desk scale is the same protocol on simulated recordings, with a small model and with
AdamW, which learns in the few steps that two processor cores do in a minute.
"""

from typing import Any, Literal

from specdiag.lock.entry import Cost, Entry, Parent, Reported, Scale, Source

from ._tasks import Table, Task

BASE = "base/poyo_mp_converged"
SCALES: tuple[Scale, ...] = ("paper", "desk")
HUB = "mhough/poyo-mp-reproduction"
CARD = "model card, table Checkpoints"

# fmt: off
MODEL = {
    "paper": {
        "sequence_length": 1.0, "latent_step": 0.125, "num_latents_per_step": 32,
        "dim": 128, "dim_head": 64, "depth": 24, "cross_heads": 4, "self_heads": 8,
        "ffn_dropout": 0.2, "lin_dropout": 0.4, "atn_dropout": 0.2,
    },
    "desk": {  # no dropout: in the attention it takes half of a forward pass on a CPU
        "sequence_length": 1.0, "latent_step": 0.125, "num_latents_per_step": 4,
        "dim": 64, "dim_head": 32, "depth": 2, "cross_heads": 2, "self_heads": 4,
        "ffn_dropout": 0.0, "lin_dropout": 0.0, "atn_dropout": 0.0,
    },
}
# fmt: on

# Maximum, minimum and mode of the number of units that UnitDropout keeps. The density of this
# number rises from 1 at the minimum to `peak` at the mode and falls to 1 at the maximum. Simulated
# sessions have 30 to 60 units, so the published numbers are multiplied by 0.6.
_DROPOUT = {
    ("paper", "standard"): (300, 30, 100),
    ("paper", "aggressive"): (300, 30, 50),
    ("paper", "timing"): (200, 20, 50),
    ("desk", "standard"): (180, 18, 60),
    ("desk", "aggressive"): (180, 18, 30),
    ("desk", "timing"): (120, 12, 30),
}

_ONE_CYCLE = {
    "rule": "one_cycle",  # constant for half of the steps, then down to almost zero
    "pct_start": 0.5,
    "div_factor": 1.0,
    "anneal": "cos",
    "momentum": [0.85, 0.95],
}

# A small model diverges in its first steps at a constant high rate: warm up, and keep beta1 fixed.
_WARM_UP = {**_ONE_CYCLE, "pct_start": 0.3, "div_factor": 25.0, "momentum": [0.9, 0.9]}


def unit_dropout(scale: str, level: str) -> Table:
    """Return the settings of UnitDropout; `level` is off, standard, aggressive or timing."""
    if level == "off":
        return {"level": level}
    most, least, mode = _DROPOUT[scale, level]
    return {"level": level, "max_units": most, "min_units": least, "mode_units": mode, "peak": 4.0}


def lamb(max_lr: float, batch: Any) -> Table:
    """Return the published optimizer: max_lr = base_lr * batch, for any number of devices.

    Embeddings of units and sessions are a sparse group: rows without a gradient are not updated. If
    the batch depends on the recordings, base_lr does, too; then only max_lr is declared.
    """
    rule = {"rule": "SparseLamb", "max_lr": max_lr}
    if isinstance(batch, int):
        rule["base_lr"] = max_lr / batch
    settings = {"weight_decay": 1e-4, "eps": 1e-6, "weight_norm_clamp": 10.0, "debias": False}
    return {**rule, **settings, "schedule": _ONE_CYCLE}


def adamw(max_lr: float) -> Table:
    """Return the optimizer of the desk scale."""
    rule = {"rule": "AdamW", "max_lr": max_lr, "weight_decay": 1e-4, "gradient_clip": 0.1}
    return {**rule, "schedule": _WARM_UP}


def training(*, devices: int = 1, matmul: str = "medium", **length: Any) -> Table:
    """Return `params["training"]`; `length` is batch and epochs, or batch and steps.

    `matmul` is PyTorch's precision for products of float32 matrices. The published setting, medium,
    allows rounding factors to bfloat16 on a GPU. This raises the smallest eigenvalues of the
    covariance.
    """
    fixed = {"loss": "mse", "precision": "float32", "seed": 42, "keep": "best validation r2"}
    return {**length, "devices": devices, "matmul_precision": matmul, **fixed}


_DESK = {
    "pretrained": (1e-2, 200, 20.0),  # learning rate, steps, seconds
    "plastic": (5e-3, 200, 40.0),
    "scratch": (1e-2, 200, 40.0),
    "scratch_tuned": (2e-3, 500, 60.0),
}


def desk_cost(seconds: float) -> Cost:
    """Return the cost of a desk entry: an intended value, not a measurement."""
    return Cost(seconds=seconds, hardware="2 CPU cores")


Arm = Literal["pretrained", "plastic", "scratch", "scratch_tuned"]
ARMS: tuple[Arm, ...] = ("pretrained", "scratch", "scratch_tuned")  # of a transfer experiment


def transfer(arm: Arm, scale: Scale, *, new_readout: bool) -> Table:
    """Return `params["transfer"]`: the start of an arm and the weights that it trains.

    - `pretrained` starts from the base, freezes its core and trains new embeddings and the readout.
    - `plastic` starts from the base and trains all weights.
    - `scratch` starts at random, with the optimizer and the budget of `pretrained`.
    - `scratch_tuned` starts at random, with its own learning rate and budget.

    At paper scale new embeddings have the standard deviation of torch_brain, 0.02. At desk scale
    they have that of the parent's embeddings: with 0.02 some seeds do not learn within the few
    steps of this scale.
    """
    scratch = arm.startswith("scratch")
    declared = {
        "start": "random" if scratch else "parent",
        "core": "frozen" if arm == "pretrained" else "trained",
        "readout": "new" if scratch or new_readout else "kept",
    }
    if not scratch:
        declared["new_embeddings"] = "parent" if scale == "desk" else "torch_brain"
    return declared


def finetuned(
    name: str,
    task: Task,
    arm: Arm,
    *,
    recipe: str,
    batch: Any,
    group: str = "sweeps",
    epochs: int = 100,
    dropout: str = "standard",
    fraction: float = 1.0,
    reported: tuple[Reported, ...] = (),
) -> list[Entry]:
    """Return the paper and the desk entry of one arm on one task.

    Parameters
    ----------
    batch : int or list of [int, int]
        Windows in a step at paper scale; or pairs [number of training windows, batch]: the batch
        for recordings that have at least this number of windows.
    fraction : float
        Part of the training intervals that is used, counted from their beginning.
    reported : tuple of Reported
        Values of the published run.
    """
    optimizer, run = lamb(8e-3, batch), training(batch=batch, epochs=epochs)
    if arm == "scratch_tuned":  # the public rule, 3.125e-5 per window, learns where 8e-3 does not
        optimizer, run = lamb(8 * 3.125e-5, 8), training(batch=8, steps=4000)
    max_lr, steps, seconds = _DESK[arm]
    on_desk = training(batch=16, steps=steps, matmul="highest")
    settings = {
        "paper": {"optimizer": optimizer, "training": run},
        "desk": {"optimizer": adamw(max_lr), "training": on_desk},
    }
    return [
        declare(
            name,
            scale,
            task,
            recipe=recipe,
            group=group,
            parent=None if arm.startswith("scratch") else BASE,
            params={
                **settings[scale],
                "unit_dropout": unit_dropout(scale, dropout),
                "transfer": transfer(arm, scale, new_readout=task.new_readout),
                "data": task.data(scale, fraction),
            },
            reported=reported,
            cost=desk_cost(seconds) if scale == "desk" else None,
        )
        for scale in SCALES
    ]


def declare(
    name: str,
    scale: Scale,
    task: Task,
    *,
    recipe: str,
    params: Table,
    parent: str | None = None,
    group: str = "sweeps",
    kind: Literal["checkpoint", "evaluation"] = "checkpoint",
    reported: tuple[Reported, ...] = (),
    cost: Cost | None = None,
) -> Entry:
    """Return an entry of one scale.

    A paper entry has the recordings and the published values. A desk entry has the simulation of
    its task, or the recordings if the task has no simulation.

    Parameters
    ----------
    params : dict
        `data`, `training`, `optimizer` and the like. Model, target and simulation are added here.
    parent : str, optional
        Name of the entry, of the same scale, whose weights this one starts from.
    """
    paper = scale == "paper"
    simulated = not paper and task.simulation is not None
    weights = Source(repo=HUB, revision="main", file=f"{name}.ckpt")
    return Entry(
        name=name,
        scale=scale,
        group=group,
        kind=kind,
        recipe=recipe,
        params={"model": {**MODEL[scale], "dim_out": task.dim_out}, "target": task.target}
        | params
        | ({"simulation": task.simulation} if simulated else {}),
        parent=Parent(name=parent) if parent else None,
        inputs=() if simulated else task.inputs(),
        source=weights if paper and group == "published" else None,
        reported=reported if paper else (),
        cost=cost,
    )


# How the published values were computed.
R2 = (
    "held-out test windows stitched by timestamp, evaluation intervals of the target, mean over "
    "outputs and sessions"
)
BAYES = (
    "bayes_report: posterior mean averaged over xmin with at least 50 eigenvalues in the tail, "
    "mean over the matrices that were fit"
)
ROPE = "bayes_report: posterior probability of 1.9 <= alpha <= 2.1, mean over the matrices fit"
COUNT = "two-dimensional matrices with both sides >= 50, embeddings of units and sessions left out"
DEGENERATE = f"{COUNT}: those with fewer than 50 eigenvalues above the gate"
FREQUENTIST = (
    "alpha_report: frequentist power-law fit with at least 50 eigenvalues in the tail, mean over "
    "the 8 matrices that were fit"
)
_COVARIANCE = "covariance of the readout's input over the test windows"
FEATURES = {
    "condition_number": f"{_COVARIANCE}: largest over smallest eigenvalue above zero",
    "effective_rank": f"{_COVARIANCE}: exp of the entropy of the normalised eigenvalues",
    "participation_ratio": f"{_COVARIANCE}: squared trace over the sum of squared eigenvalues",
    "trace": f"{_COVARIANCE}: trace",
    "top1_fraction": f"{_COVARIANCE}: largest eigenvalue over the trace",
}


def features(origin: str, **values: float) -> tuple[Reported, ...]:
    """Return published values of the covariance of features, under their names in FEATURES."""
    return tuple(published(name, value, FEATURES[name], origin) for name, value in values.items())


def published(quantity: str, value: float, method: str, origin: str) -> Reported:
    """Return a published value, with the digits of its origin."""
    return Reported(quantity=quantity, value=value, method=method, origin=origin)


def r2(value: float, origin: str, *, run: str = "") -> Reported:
    """Return a published R²; `run` distinguishes this run from others on the same data."""
    return published("r2", value, f"{R2}; {run}" if run else R2, origin)
