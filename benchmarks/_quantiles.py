"""Quantiles of distributions with and without a power-law tail, as functions of the share above."""

import math

import numpy as np
from scipy import stats


def pareto(alpha):
    return lambda u: u ** (-1 / (alpha - 1))


def lognormal(sd):
    return lambda u: np.exp(sd * stats.norm.isf(u))


def with_body(alpha, share, body):
    """Return quantiles of a power law above 1 that holds a share, and of a body below it."""

    def quantile(u):
        return np.where(u < share, pareto(alpha)(np.minimum(u / share, 1)), body(u - share))

    return quantile


def cut_pareto(alpha, largest):
    b = alpha - 1
    return lambda u: (u + (1 - u) * largest**-b) ** (-1 / b)


def exponential_cut(alpha, scale):
    """Return quantiles of x^-alpha exp(-x / scale) above 1."""
    log_x = np.linspace(0, math.log(40 * scale), 40_000)
    density = np.exp(-(alpha - 1) * log_x - np.exp(log_x) / scale)
    below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return lambda u: np.exp(np.interp(1 - u, below / below[-1], log_x))


def levels(*values):
    return lambda u: np.asarray(values, float)[(u * len(values)).astype(int)]


def mixture(share, first, second):
    """Return quantiles of a mixture of two lognormals, by their sds."""
    log_x = np.linspace(-8, 8, 40_001)
    above = share * stats.norm.sf(log_x / first) + (1 - share) * stats.norm.sf(log_x / second)
    return lambda u: np.exp(np.interp(u, above[::-1], log_x[::-1]))
