"""Notebooks show records as tables of escaped text."""

from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import specdiag
from specdiag.notebook import record_html


def cells(text):
    """Return the rows of a table; markup inside of its cells fails."""
    rows = ET.fromstring(f"<p>{text}</p>").find("table")
    assert {e.tag for e in rows.iter()} == {"table", "tr", "th", "td"}
    return [[cell.text or "" for cell in row] for row in rows]


def test_a_fit_and_a_posterior_are_shown_with_meanings(rng):
    eigenvalues = rng.pareto(2.0, 200) + 1
    fit = specdiag.fit_alpha(eigenvalues)
    rows = cells(fit._repr_html_())
    assert rows[:2] == [
        ["field", "value", "meaning"],
        ["alpha", f"{fit.alpha:.6g}", "Exponent of the density."],
    ]
    posterior = specdiag.alpha_posterior(eigenvalues)
    rows = {name: (value, about) for name, value, about in cells(posterior._repr_html_())}
    low, high = posterior.interval
    assert rows["interval"] == (f"{low:.6g}, {high:.6g}", "95 %, equal-tailed.")
    assert rows["sd"] == (f"{posterior.sd:.6g}", "Of alpha.")
    shape = posterior.shape
    assert rows["shape"][0] == f"{len(shape)} values from {shape[0]:.4g} to {shape[-1]:.4g}"
    assert all(about for _, about in rows.values())


def test_features_are_shown_with_meanings(rng):
    covariance = specdiag.FeatureCovariance()
    covariance.update(rng.normal(size=(100, 4)))
    rows = cells(covariance.result()._repr_html_())
    without = [name for name, _, about in rows if not about]
    assert all(name.endswith("_interval") for name in without)


def test_a_checkpoint_shows_names_as_text_and_the_first_of_many():
    state = {f"<script>{i}</script>": np.zeros((2, 3)) for i in range(20)}
    rows = {name: value for name, value, _ in cells(specdiag.open_checkpoint(state)._repr_html_())}
    assert rows["tensors"].startswith("<script>0</script> 2x3, <script>1</script> 2x3, ")
    assert rows["tensors"].endswith("<script>7</script> 2x3, … (20)")


@given(st.text() | st.binary())
def test_any_value_is_text(value):
    @dataclass
    class Record:
        value: object

    assert len(cells(record_html(Record(value)))[1]) == 3
