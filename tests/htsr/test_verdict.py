import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.layers import Layer
from specdiag.htsr.measure import measure
from specdiag.htsr.null.verdicts import MEANINGFUL, VERDICTS
from specdiag.htsr.selection import matrices
from specdiag.htsr.statistics import MIN_LAYERS, alpha_mean_interval
from specdiag.htsr.tail.kind import EVIDENCE, Kind
from specdiag.htsr.tail.posterior import NO_POSTERIOR
from specdiag.htsr.tail.power_law import TailFit
from specdiag.htsr.verdict import (
    is_meaningful,
    summarise,
    verdict,
    with_verdicts,
)
from support.weights import light


def layer(alpha=2.0, **changes):
    tail = TailFit(alpha=9.0, xmin=1.0, ks_distance=0.1, n_tail=60)
    posterior = replace(NO_POSTERIOR, mean=alpha, interval=(1.5, 2.5), rope=0.5, short_tail=0.0)
    fit = Layer(
        name="a",
        shape=(60, 60),
        dtype="float32",
        status="fit",
        rank=60,
        tail=tail,
        posterior=posterior,
        gaussian_p=0.001,
        gaussian_q=0.001,
        scales_p=0.001,
        null_p=0.001,
        null_q=0.001,
        kind=Kind(log10_factor=1.0),
        verdict="power law",
    )
    return replace(fit, **changes)


def posterior(**changes):
    return replace(layer().posterior, **changes)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "power law"),
        ({"status": "degenerate"}, "degenerate"),
        ({"status": "skipped"}, ""),
        ({"gaussian_q": 0.06, "null_q": 0.06}, "no evidence"),
        ({"gaussian_q": 0.06, "null_q": 0.06, "gof_p": 0.01}, "no evidence"),
        ({"scales_p": 0.3, "null_p": 0.3, "null_q": 0.3}, "scales"),
        ({"null_q": 0.06}, "scales"),
        ({"initialisation_p": 0.3, "null_p": 0.3, "null_q": 0.3}, "initialisation"),
        ({"initialisation_p": 0.4}, "power law"),  # of few networks: not part of null_p
        ({"gof_p": 0.09}, "rejected"),
        ({"gof_p": 0.11}, "power law"),
        ({"posterior": posterior(short_tail=0.6)}, "too few"),
        ({"posterior": posterior(short_tail=0.6), "gof_p": 0.01}, "rejected"),
        ({"posterior": NO_POSTERIOR, "null_q": math.nan, "rank": 15}, "too few"),
        ({"null_q": math.nan, "rank": 16}, "too few"),
        ({"posterior": NO_POSTERIOR, "null_q": math.nan, "gaussian_q": math.nan}, ""),
        ({"kind": Kind(log10_factor=EVIDENCE)}, "power law"),
        ({"kind": Kind(log10_factor=EVIDENCE - 0.01)}, "undecided"),
        ({"kind": Kind(log10_factor=0.01 - EVIDENCE)}, "undecided"),
        ({"kind": Kind(log10_factor=-EVIDENCE)}, "steepens"),
        ({"kind": Kind()}, "undecided"),
        ({"likelihood_ratios": {"lognormal": (-4.0, 0.01)}}, "power law"),
    ],
)
def test_the_verdict_is_the_first_one_that_applies(changes, word):
    assert verdict(layer(**changes)) == word


def test_verdicts_are_adjusted_for_the_number_of_layers():
    """Test one low p-value among many, which occurs by chance."""
    p = [0.02, *np.linspace(0.1, 1, 30)]
    judged = with_verdicts([layer(gaussian_p=x, null_p=x) for x in p])
    assert judged[0].null_q == judged[0].gaussian_q == pytest.approx(0.02 * 31)
    assert judged[0].verdict == "no evidence"
    assert with_verdicts([layer(gaussian_p=0.02, null_p=0.02)])[0].verdict == "power law"
    by_scales = with_verdicts([layer(null_p=x) for x in p])
    assert {x.verdict for x in by_scales} == {"scales"}


def test_each_verdict_has_a_sentence_that_names_its_null_and_none_says_is_a_power_law():
    for word in (*MEANINGFUL, "rejected", "initialisation"):
        assert "random entries of any row and column scales" in VERDICTS[word]
    for word in ("scales", "no evidence"):
        assert "random entries of one scale" in VERDICTS[word]
    assert not any("is a power law" in sentence for sentence in VERDICTS.values())


def test_alpha_means_something_by_the_verdict_or_where_a_method_has_none():
    words = [word for word in (*VERDICTS, "") if is_meaningful("fit", word)]
    assert words == ["power law", "undecided", "steepens", "too few", ""]
    assert not any(is_meaningful("skipped", word) for word in (*VERDICTS, ""))


def population(rng, quantiles):
    """Return a matrix of 768 draws from a population of 384 variances with these quantiles."""
    basis, _ = np.linalg.qr(rng.standard_normal((384, 384)))
    variances = quantiles((np.arange(384) + 0.5) / 384)
    return (rng.standard_normal((768, 384)) * np.sqrt(variances)) @ basis


def test_each_verdict_comes_from_matrices_of_its_kind(rng):
    weights = {f"noise {i}": light(rng, (128, 128)) for i in range(10)} | {
        "scaled": light(rng, (384, 96)) * np.exp(0.7 * rng.standard_normal((384, 1))),
        "pareto": population(rng, lambda p: (1 - p) ** (-1 / 1.3)),
        "exponential": population(rng, lambda p: -np.log(1 - p)),
    }
    layers = with_verdicts(measure(matrices(open_checkpoint(weights))))
    verdicts = {x.name: x.verdict for x in layers}
    assert {verdicts.pop(f"noise {i}") for i in range(10)} == {"no evidence"}
    assert (verdicts["scaled"], verdicts["pareto"]) == ("scales", "power law")
    assert verdicts["exponential"] in ("steepens", "undecided")
    assert summarise(layers)["n_distinguishable"] == 2


@given(
    st.lists(st.sampled_from(["fit", "degenerate", "skipped", "failed"]), min_size=1, max_size=20),
    st.integers(0, 2**32 - 1),
)
def test_the_numbers_of_layers_always_add_up(statuses, seed):
    rng = np.random.default_rng(seed)
    made = {
        "fit": lambda: rng.standard_normal((60, 60)),
        "degenerate": lambda: np.zeros((60, 60)),
        "skipped": lambda: np.ones((3, 60)),
        "failed": lambda: np.full((60, 60), np.inf),
    }
    weights = {f"{i}.weight": made[status]() for i, status in enumerate(statuses)}
    summary = summarise(with_verdicts(measure(matrices(open_checkpoint(weights)), gof=False)))
    counts = [summary[f"n_{s}"] for s in ("fit", "degenerate", "skipped", "failed")]
    assert counts == [statuses.count(s) for s in ("fit", "degenerate", "skipped", "failed")]
    assert summary["n_walked"] == sum(counts) == len(statuses)
    explained = [name for group in summary["reasons"] for name in group["layers"]]
    assert len(explained) == len(set(explained)) == len(statuses) - summary["n_fit"]


def test_means_are_over_layers_whose_alpha_means_something():
    skipped = layer(status="skipped", reason="x", posterior=NO_POSTERIOR, verdict="")
    noise = [layer(20.0, verdict=word) for word in ("no evidence", "scales", "rejected")]
    sample = [1.5, 2.0, 6.0, 10.5]
    chosen = [layer(x, verdict=word) for x, word in zip(sample, MEANINGFUL, strict=True)]
    summary = summarise([*chosen, *noise, skipped])
    assert (summary["n_fit"], summary["n_meaningful"]) == (7, 4)
    assert (summary["mean_alpha"], summary["median_alpha"]) == (5.0, 4.0)
    assert summary["mean_distance_from_2"] == pytest.approx((0.5 + 0 + 4 + 8.5) / 4)
    shares = [summary[f"fraction_{name}"] for name in ("below_2", "2_to_6", "above_6")]
    assert shares == [0.25, 0.5, 0.25]
    assert summary["rope_fraction"] == 0.5
    assert summary["n_undecided"] == 4
    assert (summary["mean_alpha"], summary["mean_alpha_interval"]) == alpha_mean_interval(sample)


def test_no_mean_is_given_of_few_layers():
    few = [layer()] * (MIN_LAYERS - 1) + [layer(verdict="no evidence")] * 5
    summary = summarise(few)
    assert summary["n_meaningful"] == MIN_LAYERS - 1
    means = [
        summary[n] for n in ("mean_alpha", "median_alpha", "fraction_below_2", "rope_fraction")
    ]
    assert np.isnan([*means, *summary["mean_alpha_interval"]]).all()
    assert summary["n_undecided"] == MIN_LAYERS - 1


def test_all_fit_layers_count_by_a_method_without_a_null():
    by_others = [layer(x, verdict="", null_q=math.nan) for x in (2.0, 3.0, 4.0, 7.0)]
    assert summarise(by_others)["mean_alpha"] == 4.0


def test_coverage_is_the_share_of_fit_among_fit_and_degenerate():
    collapsed = layer(status="degenerate", reason="rank 0")
    skipped = layer(status="skipped", reason="embedding")
    summary = summarise([layer(), collapsed, collapsed, collapsed, skipped])
    assert summary["coverage"] == 0.25


def test_intervals_decide_about_the_rope():
    intervals = [(1.95, 2.05), (2.2, 3.0), (1.0, 1.8), (1.5, 2.5)]
    summary = summarise([layer(posterior=posterior(interval=i)) for i in intervals])
    decisions = [summary[f"n_{word}"] for word in ("inside_rope", "outside_rope", "undecided")]
    assert decisions == [1, 2, 1]


def test_a_layer_without_posterior_does_not_hide_those_of_others():
    without = layer(posterior=NO_POSTERIOR, null_q=math.nan, verdict="too few")
    summary = summarise([*[layer()] * 4, without])
    assert (summary["mean_alpha"], summary["rope_fraction"]) == (2.0, 0.5)
    assert (summary["n_tested"], summary["n_meaningful"]) == (4, 4)
