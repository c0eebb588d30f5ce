"""Behaviour of simulated animals -> firing rates of their units -> spikes.

Rates are in spikes per second on the grid of `behaviour`, shape (n_bins, n_units).
"""

import numpy as np

from .behaviour import BIN, MEAN_SPEED, Table, smooth_noise

CEILING = 120.0  # spikes per second: the largest rate of a unit


def poisson(rng: np.random.Generator, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return spikes of inhomogeneous Poisson processes: sorted times, and the unit of each."""
    counts = rng.poisson(np.clip(rates, 0, CEILING) * BIN)
    bins, units = np.nonzero(counts)
    repeat = counts[bins, units]
    bins, units = np.repeat(bins, repeat), np.repeat(units, repeat)
    times = (bins + rng.random(len(bins))) * BIN
    order = np.argsort(times, kind="stable")
    return times[order], units[order]


def drift(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return a slow gain common to all units, shape (n_bins, 1): 10 % over tens of seconds."""
    return np.exp(0.1 * smooth_noise(rng, n, 1000))[:, None]


def cosine_units(seed: int, rng: np.random.Generator, count: int, pool: int) -> Table:
    """Return the tuning of the units of a session, each an array of shape (n_units,).

    An animal has a `pool` of units that depends on its seed only. A session records `count` of
    them; gain, baseline and preferred direction (a few degrees) vary between sessions. A quarter of
    the units is hardly tuned. Depths are in spikes per second at the mean speed.
    """
    animal = np.random.default_rng(seed)
    tuned = np.where(animal.random(pool) < 0.25, 0.1, 1.0)
    units = {
        "direction": animal.uniform(0, 2 * np.pi, pool),
        "baseline": animal.lognormal(np.log(8.0), 0.7, pool),
        "depth": tuned * animal.gamma(2.0, 5.0, pool),
        "speed": tuned * animal.normal(2.0, 3.0, pool),
        "preparation": tuned * animal.normal(0.0, 3.0, pool),
        "lag": animal.uniform(0.03, 0.15, pool),  # s, between spikes and movement
    }
    seen = np.sort(rng.choice(pool, count, replace=False))
    here = {"electrode": seen, **{name: values[seen] for name, values in units.items()}}
    here["direction"] += np.deg2rad(rng.normal(0, 8, count))
    here["baseline"] = np.minimum(here["baseline"] * rng.lognormal(0, 0.25, count), 40.0)
    gain = rng.lognormal(0, 0.2, count)
    return here | {name: gain * here[name] for name in ("depth", "speed", "preparation")}


def cosine_rates(
    rng: np.random.Generator,
    units: Table,
    velocity: np.ndarray,
    *,
    lead: bool,
    planned: np.ndarray | None = None,
) -> np.ndarray:
    """Return rates with cosine tuning to velocity, and tuning to speed [Moran & Schwartz 1999].

    Parameters
    ----------
    velocity : ndarray of shape (n_bins, 2)
        In cm/s.
    lead : bool
        Whether units fire before the movement, as motor units do, or after it, as sensory units.
    planned : ndarray of shape (n_bins, 2), optional
        Unit vector to the target during the delay, zero elsewhere.
    """
    shift = np.round(units["lag"] / BIN).astype(int) * (1 if lead else -1)
    at = np.clip(np.arange(len(velocity))[:, None] + shift, 0, len(velocity) - 1)
    axes = np.stack([np.cos(units["direction"]), np.sin(units["direction"])])
    felt = velocity[at] / MEAN_SPEED  # (n_bins, n_units, 2)
    rates = units["baseline"] + units["depth"] * np.einsum("tuc,cu->tu", felt, axes)
    rates += units["speed"] * np.hypot(felt[..., 0], felt[..., 1])
    if planned is not None:
        rates += units["preparation"] * (planned @ axes)
    return rates * drift(rng, len(velocity))


def timing_rates(
    rng: np.random.Generator, trials: Table, times: np.ndarray, count: int
) -> np.ndarray:
    """Return rates of units that time an interval [Wang et al. 2018; Sohn et al. 2019].

    From Set to Go, a third of the units ramps to a level that is the same at every Go, so the slope
    is proportional to the inverse of the interval; another third has a bump at a fixed fraction of
    the interval. Both thirds also depend on the time since Ready until Set, and a little on the
    prior. The rates of the last third do not depend on time.
    """
    share, measured, prior = (np.zeros(len(times)) for _ in range(3))
    for ready, set_, go, short in zip(
        *(trials[name] for name in ("ready_time", "set_time", "go_time", "is_short")), strict=True
    ):
        waits = (times >= ready) & (times < set_)
        measured[waits] = times[waits] - ready
        prior[(times >= ready - 0.5) & (times < set_)] = 1.0 if short else -1.0
        if np.isfinite(go):
            acts = (times >= set_) & (times < go)
            share[acts] = (times[acts] - set_) / (go - set_)
            after = (times >= go) & (times < go + 0.3)
            share[after] = 1 - (times[after] - go) / 0.3
    kind = rng.integers(3, size=count)
    centre, sign = rng.uniform(0.1, 0.9, count), rng.choice([-1.0, 1.0], count)
    ramp = sign * share[:, None]
    bump = np.exp(-0.5 * ((share[:, None] - centre) / 0.2) ** 2) * (share[:, None] > 0)
    shape = np.where(kind == 0, ramp, np.where(kind == 1, bump, 0.0))
    knows = kind < 2
    rates = rng.lognormal(np.log(8.0), 0.6, count) + rng.gamma(3.0, 4.0, count) * shape
    rates += knows * rng.normal(0, 4.0, count) * measured[:, None]
    rates += knows * rng.normal(0, 1.0, count) * prior[:, None]
    return rates * drift(rng, len(times))


def spatial_units(rng: np.random.Generator, count: int) -> Table:
    """Return kinds and fields of units of a rat; kinds 0 to 3 are grid, place, direction, other."""
    kind = rng.choice(4, count, p=[0.35, 0.3, 0.15, 0.2])
    return {
        "kind": kind,
        "centre": rng.uniform(-0.75, 0.75, (count, 2)),  # m
        "width": rng.uniform(0.1, 0.2, count),  # m, of a place field
        "spacing": rng.choice([0.45, 0.63], count) * rng.normal(1, 0.02, count),  # m, two modules
        "tilt": np.deg2rad(rng.normal(8, 1, count)),
        "peak": rng.gamma(4.0, 4.0, count),  # spikes a second
        "floor": rng.lognormal(np.log(0.5), 0.8, count),
        "direction": rng.uniform(-np.pi, np.pi, count),
        "phase": rng.uniform(-np.pi, np.pi, count),  # of theta
    }


def spatial_rates(rng: np.random.Generator, units: Table, path: Table) -> np.ndarray:
    """Return rates of grid units [Blair et al. 2007], place units and head direction units."""
    place = np.stack([path["x"], path["y"]], axis=1)
    apart = place[:, None] - units["centre"]  # (n_bins, n_units, 2)
    waves = []
    for turn in (0, np.pi / 3, 2 * np.pi / 3):
        axis = np.stack([np.cos(units["tilt"] + turn), np.sin(units["tilt"] + turn)], axis=1)
        number = 4 * np.pi / (np.sqrt(3) * units["spacing"])
        waves.append(np.cos(number * (apart * axis).sum(axis=2)))
    grid_like = np.exp(2.0 * (np.sum(waves, axis=0) / 3 - 1))
    field = np.exp(-0.5 * (apart**2).sum(axis=2) / units["width"] ** 2)
    heading = np.exp(3.0 * (np.cos(path["hd"][:, None] - units["direction"]) - 1))
    shape = np.choose(units["kind"], [grid_like, field, heading, np.full_like(field, 0.2)])
    theta = 1 + 0.5 * np.cos(path["theta"][:, None] - units["phase"])
    return (units["floor"] + units["peak"] * shape) * theta * drift(rng, len(place))
