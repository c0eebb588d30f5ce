"""Small recordings in the layout of torch_brain's pipeline for Perich and Miller."""

import numpy as np


def session(name="c_20131003_center_out_reaching", *, n_units=12, seconds=24.0, seed=0, rate=8.0):
    """Return a recording in which the rates of units follow the velocity of the cursor."""
    from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries

    rng = np.random.default_rng(seed)
    times = np.arange(0.0, seconds, 0.01)
    phase = 2 * np.pi * times[:, None] * np.array([0.7, 0.4]) + rng.uniform(0, 6, 2)
    velocity = 20 * np.sin(phase)
    tuning = rng.normal(size=(2, n_units))
    rates = rate * np.exp(0.8 * np.sin(phase) @ tuning - 0.3)
    counts = rng.poisson(rates * 0.01)
    row, unit = np.nonzero(counts)
    spike_times = times[row] + rng.uniform(0, 0.01, len(row))
    order = np.argsort(spike_times)
    starts = np.arange(0.0, seconds - 1.9, 2.0)
    trials = Interval(start=starts, end=starts + 2.0, go_cue_time=starts + 0.5)
    return Data(
        brainset=Data(id="perich_miller_population_2018", origin_version="simulated"),
        session=Data(id=name),
        spikes=IrregularTimeSeries(
            timestamps=spike_times[order],
            unit_index=unit[order],
            domain=Interval(0.0, seconds),
        ),
        units=ArrayDict(id=np.array([f"unit_{i}" for i in range(n_units)])),
        cursor=IrregularTimeSeries(
            timestamps=times, pos=velocity, vel=velocity, domain=Interval(0.0, seconds)
        ),
        trials=trials,
        movement_phases=Data(
            hold_period=Interval(start=starts, end=starts + 0.5),
            reach_period=Interval(start=starts + 0.5, end=starts + 1.5),
            return_period=Interval(start=starts + 1.5, end=starts + 2.0),
            random_period=Interval(start=np.zeros(0), end=np.zeros(0)),
            invalid=Interval(start=np.array([1.0]), end=np.array([1.25])),
            domain=Interval(0.0, seconds),
        ),
        cursor_outlier_segments=Interval(start=np.array([3.0]), end=np.array([3.3])),
        domain=Interval(0.0, seconds),
        train_domain=Interval(start=np.array([0.0]), end=np.array([seconds - 8.0])),
        valid_domain=Interval(start=starts[-4:-2], end=starts[-4:-2] + 2.0),
        test_domain=Interval(start=starts[-2:], end=starts[-2:] + 2.0),
    )


NAMES = ("c_20131003_center_out_reaching", "m_20140203_center_out_reaching")

MODEL = {
    "sequence_length": 1.0,
    "latent_step": 0.25,
    "num_latents_per_step": 2,
    "dim": 16,
    "dim_head": 8,
    "depth": 1,
    "cross_heads": 1,
    "self_heads": 2,
    "ffn_dropout": 0.1,
    "lin_dropout": 0.1,
    "atn_dropout": 0.0,
    "dim_out": 2,
}


def params(**changed):
    """Return the params of a small entry; `changed` replaces parts of them."""
    from recipes._published import adamw, training
    from recipes._tasks import VELOCITY

    return {
        "model": MODEL,
        "target": VELOCITY,
        "optimizer": adamw(3e-3),
        "training": training(batch=8, steps=12, matmul="highest"),
        "unit_dropout": {
            "level": "standard",
            "max_units": 20,
            "min_units": 4,
            "mode_units": 8,
            "peak": 4.0,
        },
        "data": {
            "sessions": list(NAMES),
            "train_fraction": 1.0,
            "window": 1.0,
            "within": "train_domain",
            "eval_step": 0.5,
        },
    } | changed


def sessions(n=2, **options):
    """Return `n` recordings of different length and number of units."""
    return [
        session(name, n_units=9 + 4 * i, seconds=24.0 + 4 * i, seed=i, **options)
        for i, name in enumerate(NAMES[:n])
    ]
