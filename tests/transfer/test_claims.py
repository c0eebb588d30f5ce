"""Outcomes mean what they say: tests on values whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdiag.transfer.claims import Claim, Measured, decide, decide_claim, needed

INF = math.inf
NOISE = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "heavy": lambda rng, size: rng.standard_t(3, size),
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
}


def gain(get):
    return get("ft", "r2") - get("scratch", "r2")


def ratio(get):
    return get("off", "condition_number") / get("on", "condition_number")


GAIN = Claim(text="ft is above scratch", value=gain)
NO_GAIN = Claim(text="no advantage", value=gain, holds=(-INF, 0.02), is_null=True)
NUMBER = Claim(text="R² of ft", value=lambda get: get("ft", "r2"), tolerance=0.02)
FALL = Claim(text="the condition number falls", value=ratio, holds=(1, INF), is_ratio=True)
REPORTED = {
    ("ft", "r2"): 0.8,
    ("scratch", "r2"): 0.3,
    ("off", "condition_number"): 2.6e12,
    ("on", "condition_number"): 1e12,
}


def values_of(first_seed=42, **by_entry):
    """Return r2 of ft and scratch and condition numbers of off and on, a value for each seed."""
    quantity = {"ft": "r2", "scratch": "r2", "off": "condition_number", "on": "condition_number"}
    seeds = {}
    for entry, values in by_entry.items():
        for seed, value in enumerate(values, first_seed):
            seeds.setdefault(seed, {})[entry, quantity[entry]] = value
    return seeds


def decided(claim, scale="desk", published=REPORTED, **by_entry):
    """Return the finding on a claim, given a value a seed for each entry."""
    return decide_claim(claim, published, Measured(scale=scale, trained=values_of(**by_entry)))


def outcome(claim, scale="desk", **by_entry):
    return decided(claim, scale, **by_entry).outcome


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("n", [3, 5])
def test_without_an_effect_a_direction_is_seldom_claimed_or_denied(rng, n, k, noise):
    """Each is 2.5 % under symmetric noise, for any number of parts; skew raises one of them."""
    draws = NOISE[noise](rng, (2000, n, k))
    low, high = np.zeros(k), np.full(k, INF)
    words = [decide(values, low, high) for values in draws]
    most = {"normal": 0.035, "heavy": 0.035, "skewed": 0.2}[noise]
    assert words.count("holds") / len(words) < 0.035
    assert words.count("fails") / len(words) < most


def test_an_effect_at_the_margin_is_seldom_called_no_change(rng):
    draws = 0.02 + 0.01 * rng.standard_normal((2000, 3, 1))
    words = [decide(values, np.array([-0.02]), np.array([0.02])) for values in draws]
    assert words.count("holds") / len(words) < 0.035


def test_an_effect_and_its_opposite_are_detected(rng):
    draws = rng.standard_normal((300, 5, 1))
    low, high = np.zeros(1), np.full(1, INF)
    assert [decide(v + 5, low, high) for v in draws].count("holds") > 290
    assert [decide(v - 5, low, high) for v in draws].count("fails") > 290


def test_an_effect_within_the_scatter_of_seeds_is_undecided():
    assert outcome(GAIN, ft=[0.8, 0.5, 0.6], scratch=[0.5, 0.6, 0.55]) == "undecided"


def test_the_least_effect_that_seeds_can_show_is_half_of_the_interval():
    finding = decided(GAIN, ft=[0.8, 0.5, 0.6], scratch=[0.5, 0.6, 0.55])
    half = float(np.ptp(finding.interval)) / 2
    assert finding.why == f"3 seeds with this scatter can only show effects of {half:.2g} or more"
    finding = decided(FALL, off=[1e5, 4e5, 2e5], on=[1e5, 1e5, 3e5])
    half = float(np.ptp(np.log(finding.interval))) / 2
    factor = f"a factor of {math.exp(half):.2g}"
    assert finding.why == f"3 seeds with this scatter can only show effects of {factor} or more"


def test_one_part_that_is_wrong_refutes_the_whole():
    both = Claim(text="", value=lambda get: [gain(get), -gain(get)])
    shown = decided(both, ft=[0.8, 0.81, 0.79], scratch=[0.3, 0.31, 0.28])
    assert shown.outcome == "not reproduced"
    assert shown.ours[0] == -shown.ours[1]


def test_differences_are_paired_by_seed():
    seeds = [0.0, 0.5, -0.5]
    common = {"ft": [0.8 + s for s in seeds], "scratch": [0.7 + s for s in seeds]}
    assert outcome(GAIN, **common) == "direction only"
    finding = decided(GAIN, **common)
    np.testing.assert_allclose([finding.ours, *finding.interval], 0.1, atol=1e-12)


def test_the_same_function_gives_the_published_value():
    assert decided(GAIN).published.tolist() == [0.5]
    assert decided(FALL).published.tolist() == [2.6]


SAME = {"ft": [0.79, 0.81, 0.8], "scratch": [0.31, 0.29, 0.3]}
LESS = {"ft": [0.49, 0.51, 0.5], "scratch": [0.31, 0.29, 0.3]}


@pytest.mark.parametrize(
    ("claim", "scale", "values", "expected"),
    [
        (GAIN, "desk", SAME, "direction only"),  # sizes are not compared
        (GAIN, "paper", SAME, "reproduced"),
        (GAIN, "paper", LESS, "direction only"),
        (GAIN, "paper", {"ft": LESS["scratch"], "scratch": LESS["ft"]}, "not reproduced"),
        (NUMBER, "desk", SAME, "cannot be tested here"),
        (NUMBER, "paper", {"ft": [0.801, 0.799, 0.8]}, "reproduced"),
        (NUMBER, "paper", LESS, "not reproduced"),
        (NUMBER, "paper", {"ft": [0.7, 0.8, 0.9]}, "undecided"),
        (NO_GAIN, "desk", SAME, "not reproduced"),
        (NO_GAIN, "desk", {"ft": SAME["scratch"], "scratch": SAME["ft"]}, "reproduced"),
        (NO_GAIN, "desk", {"ft": [0.3, 0.35, 0.2], "scratch": [0.3, 0.2, 0.35]}, "undecided"),
    ],
)
def test_an_outcome_has_its_meaning_at_each_scale(claim, scale, values, expected):
    assert outcome(claim, scale, **values) == expected


@given(st.lists(st.floats(1e3, 1e12), min_size=3, max_size=3), st.floats(1e-3, 1e3))
def test_an_inverted_ratio_has_the_inverted_interval(values, factor):
    on = [factor * x for x in reversed(values)]
    finding = decided(FALL, off=values, on=on)
    turned = decided(FALL, off=on, on=values)
    (lower, upper), (low, high) = finding.interval, turned.interval
    with np.errstate(over="ignore", divide="ignore"):  # an interval of many decades
        np.testing.assert_allclose(lower, 1 / high, rtol=1e-6)
        np.testing.assert_allclose(upper, 1 / low, rtol=1e-6)


def test_a_fall_of_2_6_with_one_network_for_each_level_decides_nothing():
    finding = decided(FALL, "paper", off=[1.1e12], on=[4.3e11])
    assert (finding.outcome, finding.why) == ("cannot be tested here", "1 of 3 seeds")
    assert np.isnan(finding.interval).all()


def test_missing_values_are_named():
    finding = decided(GAIN, ft=[0.8, 0.7, 0.9])
    assert (finding.outcome, finding.n_seeds) == ("cannot be tested here", 0)
    assert finding.why == "no r2 of scratch"
    finding = decided(GAIN)
    assert finding.why == "no r2 of ft and 1 more"


def test_seeds_without_all_values_are_left_out():
    finding = decided(GAIN, ft=[0.8, 0.81, 0.79, 0.1], scratch=[0.3] * 3)
    assert finding.n_seeds == 3
    assert finding.ours == pytest.approx([0.5])


@pytest.mark.parametrize(("value", "expected"), [(0.81, "reproduced"), (0.7, "not reproduced")])
def test_values_of_the_published_file_need_no_seeds(value, expected):
    measured = Measured(scale="paper", fetched=values_of(ft=[value]))
    assert decide_claim(NUMBER, REPORTED, measured).outcome == expected


def test_the_published_file_is_not_a_replicate_of_trained_ones():
    measured = Measured(
        scale="paper",
        fetched=values_of(ft=[0.8]),
        trained=values_of(first_seed=43, ft=[0.7, 0.71, 0.69]),
    )
    finding = decide_claim(NUMBER, REPORTED, measured)
    assert (finding.n_seeds, finding.outcome) == (3, "not reproduced")
    assert finding.ours == pytest.approx([0.7])


MARGIN = Claim(
    text="above the floor",
    value=lambda get: get("off", "condition_number"),
    holds=(1, INF),
    is_ratio=True,
    is_null=True,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((-0.1, 0, -0.2), "not reproduced"),
        ((0, 0, 0), "not reproduced"),
        ((0.5, 0.5, -0.1), "undecided"),
        ((5, 5.1, 4.9), "reproduced"),
    ],
)
def test_a_ratio_that_is_not_positive_counts_as_a_small_one(values, expected):
    finding = decided(MARGIN, published={}, off=values)
    assert finding.outcome == expected
    assert np.isfinite([finding.ours, *finding.interval]).all()
    assert "nan" not in finding.why


@pytest.mark.parametrize(
    ("off", "expected", "why"),
    [
        ([4e5, 4.1e5, 3.9e5, INF], "undecided", "1 seed left out: only a lower bound is known"),
        (
            [1e4, 1.1e4, 0.9e4, INF],
            "not reproduced",
            "1 seed left out: only a lower bound is known",
        ),
        (
            [4e5, 4e5, INF, INF],
            "cannot be tested here",
            "2 of 3 seeds; 2 seeds left out: only a lower bound is known",
        ),
        (
            [INF] * 4,
            "cannot be tested here",
            "no seed has all its values; 4 seeds left out: only a lower bound is known",
        ),
    ],
)
def test_seeds_with_only_a_lower_bound_are_counted_and_confirm_nothing(off, expected, why):
    finding = decided(FALL, off=off, on=[1e5] * 4)
    assert (finding.outcome, finding.why) == (expected, why)


def test_a_number_that_was_not_published_cannot_be_tested():
    finding = decided(NUMBER, "paper", {}, ft=[0.8, 0.81, 0.79])
    assert (finding.outcome, finding.why) == ("cannot be tested here", "no published number")


def test_published_values_that_do_not_show_their_claim_are_reported():
    finding = decided(GAIN, published={**REPORTED, ("scratch", "r2"): 0.9}, **SAME)
    assert finding.outcome == "direction only"
    assert finding.why == "the published numbers themselves do not show it"


def test_a_claim_that_needs_recordings_is_not_tested_at_desk_scale():
    claim = Claim(text="", value=gain, not_at_desk="simulated sessions do not drift")
    finding = decided(claim, **SAME)
    assert (finding.outcome, finding.why) == (
        "cannot be tested here",
        "simulated sessions do not drift",
    )
    assert decided(claim, "paper", **SAME).outcome == "reproduced"


def test_the_values_that_claims_need_are_known_before_anything_is_measured():
    assert needed([GAIN, NUMBER, FALL]) == [
        ("ft", "r2"),
        ("scratch", "r2"),
        ("off", "condition_number"),
        ("on", "condition_number"),
    ]
