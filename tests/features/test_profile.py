"""What the spectra of several layers show about depth."""

import numpy as np
import pytest

from specdiag.features.attach import attach
from specdiag.features.covariance import FeatureCovariance
from specdiag.features.profile import profile, spectra_of


def spectrum(deviations, n=2000, seed=0):
    covariance = FeatureCovariance()
    samples = np.random.default_rng(seed).normal(size=(n, len(deviations))) * deviations
    covariance.update(samples, groups=np.arange(n))
    return covariance.result()


def test_the_narrowest_and_the_widest_layer_are_those_of_the_least_and_largest_share():
    narrow, wide = spectrum([1.0, *[0.01] * 31]), spectrum(np.ones(8))
    found = profile({"first": spectrum([1, 1, 1, 0.1]), "narrow": narrow, "wide": wide})
    assert (found.narrowest, found.widest) == ("narrow", "wide")
    assert found.narrowest_share == narrow.effective_rank / 32
    assert found.widest_share == wide.effective_rank / 8
    assert found.narrowest_is_distinct
    assert found.flat == ()
    assert found.sentences[0] == (
        "as shares of the width, the features use between "
        f"{narrow.effective_rank:.3g} of 32 directions in narrow and "
        f"{wide.effective_rank:.3g} of 8 directions in wide"
    )
    assert found.sentences[1].endswith("of 8 directions in wide")


def test_layers_whose_intervals_overlap_are_not_called_distinct():
    found = profile({"a": spectrum(np.ones(6), 200, 1), "b": spectrum(np.ones(6), 200, 2)})
    assert not found.narrowest_is_distinct
    assert found.sentences[0].endswith("; their 95 % intervals overlap, or one is missing")


def test_one_direction_without_variance_is_that_of_a_norm_and_two_are_told():
    normed, flat = np.ones(6), np.ones(6)
    normed[0], flat[:2] = 0, 0
    found = profile({"normed": spectrum(normed), "flat": spectrum(flat)})
    assert found.flat == ("flat",)
    assert found.sentences[-1] == "with directions without variance (rank below d - 1): flat"


def test_too_few_samples_are_no_missing_directions():
    assert profile({"a": spectrum(np.ones(9), 5), "b": spectrum(np.ones(9), 6)}).flat == ()


def test_a_layer_that_does_not_vary_is_told_and_never_the_narrowest():
    still = spectrum(np.zeros(4))
    found = profile({"still": still, "a": spectrum([1, 0.1, 0.1]), "b": spectrum(np.ones(3))})
    assert found.narrowest == "a"
    assert found.sentences[-1] == "without any variance: still"
    assert found.sentences[1].startswith("from the first layer to the last: no variance in still, ")
    nothing = profile({"x": still, "y": still})
    assert nothing.sentences == ("the features of no layer vary",)
    assert np.isnan(nothing.narrowest_share)


def test_spectra_that_are_computed_on_all_cores_are_those_computed_one_by_one():
    rng = np.random.default_rng(0)
    covariances = {}
    for i, d in enumerate([5, 30, 3, 12]):
        covariances[f"layer {i}"] = FeatureCovariance()
        covariances[f"layer {i}"].update(rng.normal(size=(200, d)), groups=np.arange(200))
    spectra = spectra_of(covariances)
    assert list(spectra) == list(covariances)
    for name, one in spectra.items():
        np.testing.assert_allclose(one.eigenvalues, covariances[name].result().eigenvalues, 1e-12)


def test_the_rank_of_an_untrained_resnet_falls_with_depth():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from support.nets import resnet18

    net = resnet18().eval()
    with torch.no_grad(), attach(net, "encoder.*") as features:
        net(torch.randn(16, 3, 64, 64, generator=torch.manual_seed(1)))
    spectra = features.result()
    shares = [one.effective_rank / len(one.eigenvalues) for one in spectra.values()]
    assert shares[0] > 0.8
    assert shares[-1] < 0.05
    found = profile(spectra)
    assert found.narrowest.startswith("encoder.stages.3.")
    assert found.widest == "encoder.stages.0.layers.0.layer.0.convolution"
    assert found.narrowest_is_distinct
