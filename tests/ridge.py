"""A ridge decoder of spike counts, the least that any decoder must reach."""

import numpy as np


def counts(spikes, n_units, times, width, lags):
    """Return spikes in bins around `times`, and around as many bins before each: (n, units * lags)."""
    found = np.zeros((len(times), lags * n_units))
    for unit in range(n_units):
        mine = spikes.timestamps[spikes.unit_index == unit]
        for lag in range(lags):
            edges = times - lag * width
            last = np.searchsorted(mine, edges + width / 2 - 1e-9)
            found[:, lag * n_units + unit] = last - np.searchsorted(mine, edges - width / 2 - 1e-9)
    return found


def r2(x, y, train, test, penalty=100.0):
    """Return R² of a ridge decoder on `test`, averaged over the columns of y."""
    mean, centre = x[train].mean(0), y[train].mean(0)
    a = x[train] - mean
    weights = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ (y[train] - centre))
    rest = y[test] - (x[test] - mean) @ weights - centre
    return 1 - (rest**2).sum(0).mean() / ((y[test] - y[test].mean(0)) ** 2).sum(0).mean()
