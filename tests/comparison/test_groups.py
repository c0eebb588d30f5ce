import re

import numpy as np
import pytest
from scipy import stats

import specdiag
from specdiag.comparison import means
from specdiag.dataset.schema.comparison import COMPARISON
from specdiag.htsr.null.verdicts import MEANINGFUL
from support.weights import heavy, light


def seeds_of(rng, n_seeds, alpha, blocks=3, spread=0.0):
    """Return networks of one recipe; `spread` moves all layers of a seed together."""
    seeds = []
    for _ in range(n_seeds):
        of_seed = alpha + spread * rng.standard_normal()
        seeds.append(
            {f"{i}.weight": heavy(rng, (80, 64), of_seed).astype(np.float32) for i in range(blocks)}
            | {"readout.weight": rng.standard_normal((2, 64)).astype(np.float32)}
        )
    return seeds


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(3)
    return seeds_of(rng, 3, 1.6), seeds_of(rng, 4, 2.2)


@pytest.fixture(scope="module")
def dataset(groups):
    return specdiag.compare(*groups)


NAMES = (
    "model#1, model#2, model#3 (3 networks)",
    "model#4, model#5, model#6, model#7 (4 networks)",
)


def test_groups_of_seeds_are_compared_by_their_means_with_an_interval_over_seeds(dataset):
    assert dataset.comparison.values.tolist() == [NAMES[1]]
    assert dataset.group.values.tolist() == [NAMES[0]] * 3 + [NAMES[1]] * 4
    assert (dataset.n_first_seeds, dataset.n_second_seeds) == (3, 4)
    assert (dataset.n_compared, dataset.n_comparable) == (3, 3)
    alpha = dataset.alpha.sel(layer=[f"{i}.weight" for i in range(3)]).values
    a, b = alpha[:3].mean(axis=1), alpha[3:].mean(axis=1)
    difference, interval = means.seeds_difference(a, b)
    assert dataset.mean_alpha_difference.item() == pytest.approx(difference)
    assert tuple(dataset.mean_alpha_difference_seed_ci.values[0]) == pytest.approx(interval)
    # By the same rule as scipy's, up to the scale of log(alpha - 1).
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert interval == pytest.approx(tuple(expected), rel=0.25)


def test_the_difference_of_each_layer_is_that_of_its_means_over_seeds(dataset):
    for i in range(3):
        layer = dataset.sel(layer=f"{i}.weight")
        a, b = layer.alpha.values[:3], layer.alpha.values[3:]
        difference, interval = means.seeds_difference(a, b)
        assert layer.alpha_difference.item() == pytest.approx(difference)
        assert tuple(layer.alpha_difference_ci.values[0]) == pytest.approx(interval)
        assert np.isnan(layer.spectral_distance).all()


def test_the_conclusion_of_groups_names_the_measured_correlation(dataset):
    low, high = dataset.mean_alpha_difference_seed_ci.values[0]
    mean, r = dataset.mean_alpha_difference.item(), dataset.intraclass_correlation.item()
    assert dataset.conclusion.item() == (
        f"mean alpha of {NAMES[1]} is {mean:.2f} higher than of {NAMES[0]} over 3 of 3 layers (95 "
        f"% interval {low:.2f} to {high:.2f}, over 3 and 4 seeds; the part of a layer's scatter "
        "between seeds that all layers of a network share (measured intraclass correlation): "
        f"{r:.2f})"
    )
    assert np.isnan(dataset.intraclass_correlation_limit).all()
    ends = dataset.intraclass_correlation_ci.values[0]
    assert ends[0] < r < ends[1]


def test_a_seed_that_moves_all_layers_raises_the_measured_correlation():
    rng = np.random.default_rng(8)
    far, near = (
        specdiag.compare(seeds_of(rng, 6, 2.0, 4, spread), seeds_of(rng, 6, 2.0, 4, spread))
        for spread in (0.3, 0.0)
    )
    assert near.intraclass_correlation < 0.35 < far.intraclass_correlation
    assert far.conclusion.item().startswith("no difference of mean alpha is shown: ")


def test_a_layer_counts_if_its_alpha_means_something_in_most_seeds_of_both(groups, rng):
    first, second = ([dict(network) for network in group] for group in groups)
    noise = [light(rng, (80, 64)).astype(np.float32) for _ in range(3)]
    first[0]["0.weight"] = noise[0]  # in one seed of three
    for i in (1, 2):
        second[i]["1.weight"] = noise[i]  # in two of four
    dataset = specdiag.compare(first, second)
    assert dataset.n_compared == 2
    chosen = dataset.alpha_difference.sel(layer=["0.weight", "2.weight"]).mean()
    assert dataset.mean_alpha_difference.item() == pytest.approx(chosen.item())


def test_untrained_groups_have_no_means_to_compare(rng):
    first, second = (
        [{f"{i}.weight": light(rng, (80, 64)) for i in range(3)} for _ in range(3)]
        for _ in range(2)
    )
    dataset = specdiag.compare(first, second)
    assert dataset.conclusion.item() == (
        "no alpha of model#1, model#2, model#3 (3 networks) or model#4, model#5, model#6 (3 "
        "networks) can be told from noise, so no means over 3 layers are compared"
    )
    assert not dataset.verdict.isin(MEANINGFUL).any()


def test_a_trained_group_has_no_mean_to_compare_with_an_untrained_one(groups, rng):
    untrained = [{f"{i}.weight": light(rng, (80, 64)) for i in range(3)} for _ in range(2)]
    assert specdiag.compare(groups[0], untrained).conclusion.item() == (
        "mean alpha is not compared: layers whose alpha means something in both: 0 of 3 (3 in "
        f"{NAMES[0]}, 0 in model#4, model#5 (2 networks))"
    )


def test_a_single_network_can_be_compared_with_a_group(groups):
    dataset = specdiag.compare(groups[0][0], groups[1])
    assert dataset.comparison.values.tolist() == ["model#2, model#3, model#4, model#5 (4 networks)"]
    assert dataset.group.values[0] == "model#1 (1 network)"
    assert np.isfinite(dataset.mean_alpha_difference_seed_ci).all()
    assert re.search(r"over 1 and 4 seeds", dataset.conclusion.item())


def test_groups_of_one_are_plain_networks(groups):
    (first, *_), (second, *_) = groups
    plain = specdiag.compare(first, second)
    assert specdiag.compare([first], [second]).equals(plain)
    assert plain.group.values.tolist() == ["model#1", "model#2"]


def test_a_core_that_is_the_same_in_both_groups_cannot_differ(groups, rng):
    core = {"core.weight": -groups[0][0]["0.weight"]}
    first, second = ([network | core for network in group] for group in groups)
    dataset = specdiag.compare(first, second)
    assert dataset.conclusion.item().startswith("1 of 4 measured matrices are bit-identical; ")
    assert dataset.alpha_difference.sel(layer="core.weight") == 0


def copies(network, rng):
    """Return what holds the same network in another form."""
    yield dict(network)
    yield {f"module.{name}": W for name, W in network.items()}
    yield {name: W.astype(np.float64) for name, W in network.items()}
    yield {name: W.astype(np.float16) for name, W in network.items()}
    yield {name: (3 * W).astype(np.float32) for name, W in network.items()}
    yield network | {"readout.weight": rng.standard_normal((2, 64)).astype(np.float32)}


def test_a_network_that_is_given_twice_is_no_second_seed(groups, rng):
    (first, *_), second = groups
    for copy in copies(first, rng):
        for pair in (([first, copy], second[:2]), ([first, second[0]], [second[1], copy])):
            with pytest.raises(ValueError, match=r"are one network, not two seeds: all 3 measured"):
                specdiag.compare(*pair)


def test_the_error_of_a_network_that_is_given_twice_says_which_and_how_equal_they_are(groups):
    (first, *_), second = groups
    halves = {name: W.astype(np.float16) for name, W in first.items()}
    for copy, same in ((first, "bit-identical"), (halves, "the same up to rounding and scale")):
        with pytest.raises(ValueError, match="one network") as error:
            specdiag.compare(second, [first, copy])
        assert str(error.value) == (
            "model#5 and model#6 are one network, not two seeds: all 3 measured matrices are "
            f"{same}; give each network once"
        )


def test_networks_that_differ_in_one_layer_or_by_a_little_training_are_two(groups, rng):
    first = groups[0][0]
    moved = {
        name: (W + 1e-3 * W.std() * rng.standard_normal(W.shape)).astype(np.float32)
        for name, W in first.items()
    }
    for other in (first | {"1.weight": groups[0][1]["1.weight"]}, moved):
        assert specdiag.compare([first, other], groups[1]).n_first_seeds == 2


def test_networks_of_other_layers_are_refused_as_one_group(groups, rng):
    other = groups[0][1] | {"0.weight": rng.standard_normal((90, 64)), "3.weight": np.eye(64)}
    with pytest.raises(ValueError, match="seeds of one recipe") as error:
        specdiag.compare([groups[0][0], other], groups[1])
    assert str(error.value) == (
        "model#1 and model#2 are no seeds of one recipe: they differ in the name or shape of "
        "0.weight, 3.weight; give networks of one recipe as a group"
    )
    with pytest.raises(ValueError, match="at least one checkpoint in each group"):
        specdiag.compare([], groups[1])


def test_layers_too_small_for_a_posterior_or_broken_in_a_seed_are_not_compared(groups, rng):
    first, second = (
        [network | {"small.weight": rng.standard_normal((12, 64))} for network in group]
        for group in groups
    )
    first[1]["2.weight"] = np.full((80, 64), np.nan)
    dataset = specdiag.compare(first, second, min_eigenvalues=10)
    assert dataset.conclusion.item().endswith(
        f"; not compared: 2 matrices (1 failed in {NAMES[0]} but fit in {NAMES[1]}, 1 too small "
        "for a posterior)"
    )
    assert dataset.alpha_difference.sel(layer=["2.weight", "small.weight"]).isnull().all()
    assert dataset.n_compared == 2


def test_the_dataset_of_groups_matches_its_schema_and_survives_a_file(dataset, tmp_path):
    for name, spec in COMPARISON.items():
        assert dataset[name].dims == spec.dims
    specdiag.save_spectra(dataset, tmp_path / "groups.nc")
    assert specdiag.open_spectra(tmp_path / "groups.nc").equals(dataset)
