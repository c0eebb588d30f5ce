"""Features of tests, their measured spectra, and what a result must say about rounding."""

import numpy as np

from specdiag.features.covariance import FeatureCovariance


def measured(features, **how):
    seen = FeatureCovariance(precision=how.pop("precision", None))
    seen.update(features, **how)
    return seen.result()


def windows(rng, n=12, tokens=10, d=6, condition=100.0):
    return rng.standard_normal((n, tokens, d)) * np.geomspace(1, condition**-0.5, d)


def numpy_spectrum(rows):
    rows = np.asarray(rows, dtype=np.float64).reshape(-1, np.shape(rows)[-1])
    return np.linalg.eigvalsh(np.atleast_2d(np.cov(rows.T)))[::-1]


def numbers(result):
    """Return the numbers of a result as one vector, without what depends on rounding."""
    pairs = [v for k, v in vars(result).items() if k.endswith("_interval")]
    names = ("condition_number", "effective_rank", "participation_ratio", "top1_fraction")
    return np.concatenate(
        [result.eigenvalues, [getattr(result, k) for k in names], np.ravel(pairs)]
    )


def depends_on_rounding(result):
    """Check that the published condition number is stored, and that no text shows its digits.

    The smallest positive eigenvalue depends on the last bits.
    """
    positive = result.eigenvalues[result.eigenvalues > 0]
    assert result.condition_number_published == positive[0] / positive[-1]
    line = "  as published       not resolved, depends on rounding"
    assert line in str(result).splitlines()
    cell = "<td>condition_number_published</td><td>not resolved, depends on rounding</td>"
    assert cell in result._repr_html_()
