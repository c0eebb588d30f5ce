"""A ridge decoder of spike counts: every other decoder must be better."""

import numpy as np


def counts(spikes, n_units, times, width, lags):
    """Return spike counts in the bin around each of `times` and in `lags` - 1 bins before it.

    Returns
    -------
    ndarray of shape (n_times, lags * n_units)
    """
    binned = np.zeros((len(times), lags * n_units))
    for unit in range(n_units):
        mine = spikes.timestamps[spikes.unit_index == unit]
        for lag in range(lags):
            edges = times - lag * width
            last = np.searchsorted(mine, edges + width / 2 - 1e-9)
            binned[:, lag * n_units + unit] = last - np.searchsorted(mine, edges - width / 2 - 1e-9)
    return binned


def r2(x, y, train, test, penalty=100.0):
    """Return R² of a ridge decoder on `test`, the mean over the columns of y."""
    mean, centre = x[train].mean(0), y[train].mean(0)
    a = x[train] - mean
    weights = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ (y[train] - centre))
    rest = y[test] - (x[test] - mean) @ weights - centre
    return np.mean(1 - (rest**2).sum(0) / ((y[test] - y[test].mean(0)) ** 2).sum(0))


def decoded(data, width=0.05):
    """Return test R² of velocity in bins of `width` s, while the hand moves in a trial."""
    bump = hasattr(data, "hand")
    series = data.hand if bump else data.cursor
    where = data.nlb_eval_intervals if bump else data.movement_phases.reach_period
    times = np.arange(series.timestamps[0] + 3 * width, series.timestamps[-1] - width, width)
    velocity = np.stack([np.interp(times, series.timestamps, v) for v in series.vel.T], axis=1)
    lag = -2 * width if bump else 0  # these units fire after the movement
    x = counts(data.spikes, len(data.units), times - lag, width, 3)
    train, test, moves = (inside(times, i) for i in (data.train_domain, data.test_domain, where))
    return r2(x, velocity, train, test & moves)


def inside(times, interval):
    """Return whether times lie in any of the intervals."""
    return ((times[:, None] >= interval.start) & (times[:, None] < interval.end)).any(axis=1)
