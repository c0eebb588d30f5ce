import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.layers import Layer, matrices, measure
from specdiag.htsr.tail.posterior import NO_POSTERIOR
from specdiag.htsr.tail.power_law import TailFit
from specdiag.htsr.verdict import summarise, verdict, with_verdicts


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
        gof_p=0.5,
        null_p=0.001,
        null_q=0.001,
        likelihood_ratios={"lognormal": (-0.1, 0.8)},
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
        ({"null_q": 0.06}, "no evidence"),
        ({"null_q": 0.06, "gof_p": 0.01}, "no evidence"),
        ({"gof_p": 0.09}, "rejected"),
        ({"posterior": posterior(short_tail=0.6)}, "too few"),
        ({"posterior": posterior(short_tail=0.6), "gof_p": 0.01}, "rejected"),
        ({"gof_p": math.nan}, "compatible"),
        ({"likelihood_ratios": {"lognormal": (-4.0, 0.01)}}, "compatible"),
        ({"likelihood_ratios": {"exponential": (40.0, 0.01)}}, "power law"),
        ({"posterior": NO_POSTERIOR, "null_q": math.nan, "rank": 15}, "too few"),
        ({"null_q": math.nan, "rank": 16}, "too few"),
        ({"posterior": NO_POSTERIOR, "null_q": math.nan}, ""),
        ({"likelihood_ratios": {"lognormal": (-1.0, 0.04)}}, "compatible"),
    ],
)
def test_the_verdict_is_the_first_one_that_applies(changes, word):
    assert verdict(layer(**changes)) == word


def test_verdicts_are_adjusted_for_the_number_of_layers():
    """Test one low p-value among many, which occurs by chance."""
    layers = [layer(null_p=0.02, name="x"), *(layer(null_p=p) for p in np.linspace(0.1, 1, 30))]
    judged = with_verdicts(layers)
    assert judged[0].null_q == pytest.approx(0.02 * 31)
    assert judged[0].verdict == "no evidence"
    assert with_verdicts(layers[:1])[0].verdict == "power law"


def test_noise_gets_no_evidence_and_a_simulated_tail_gets_power_law(rng):
    noise = {f"noise{i}": rng.standard_normal((128, 128)) for i in range(10)}
    values = (1 - np.linspace(0.5, 127.5, 128) / 128) ** (-1 / 1.2)
    U, _, V = np.linalg.svd(rng.standard_normal((256, 128)), full_matrices=False)
    layers = with_verdicts(
        measure(matrices(open_checkpoint(noise | {"heavy": U * np.sqrt(values) @ V})))
    )
    assert [x.verdict for x in layers] == ["no evidence"] * 10 + ["power law"]
    assert summarise(layers)["n_distinguishable"] == 1


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


def test_the_summary_is_over_fit_layers_only():
    skipped = layer(status="skipped", reason="x", posterior=NO_POSTERIOR)
    summary = summarise([layer(1.5), layer(2.0), layer(6.0), layer(10.5), skipped])
    assert (summary["mean_alpha"], summary["median_alpha"]) == (5.0, 4.0)
    assert summary["mean_distance_from_2"] == pytest.approx((0.5 + 0 + 4 + 8.5) / 4)
    shares = [summary[f"fraction_{name}"] for name in ("below_2", "2_to_6", "above_6")]
    assert shares == [0.25, 0.5, 0.25]
    assert summary["rope_fraction"] == 0.5
    sample = np.array([1.5, 2.0, 6.0, 10.5])
    expected = scipy.stats.t.interval(0.95, 3, loc=5.0, scale=scipy.stats.sem(sample))
    assert summary["mean_alpha_interval"] == pytest.approx(expected)
    assert math.isnan(summarise([skipped])["mean_alpha"])


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
    summary = summarise([layer(), layer(posterior=NO_POSTERIOR, null_q=math.nan)])
    assert (summary["mean_alpha"], summary["rope_fraction"]) == (2.0, 0.5)
    assert summary["n_tested"] == 1
