import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights


def effective(module, name="0.weight"):
    """Return the weight that is found in the state dict of a module, and its values."""
    (weight,) = [w for w in weights(open_checkpoint(module.state_dict())) if w.name == name]
    return weight, weight.read()


def layers():
    torch.manual_seed(0)
    return [
        torch.nn.Linear(12, 7),
        torch.nn.Conv1d(6, 6, 3),
        torch.nn.Conv2d(4, 5, (3, 2)),
        torch.nn.ConvTranspose1d(5, 4, 3),
        torch.nn.ConvTranspose1d(6, 6, 2),
    ]


@pytest.mark.parametrize("layer", layers(), ids=str)
@pytest.mark.parametrize("normalise", [weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_norm_is_computed_as_torch_does(layer, normalise, dim):
    layer = type(layer)(*vars_of(layer))
    module = torch.nn.Sequential(normalise(layer, dim=dim))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    module(torch.zeros(3, vars_of(layer)[0], *[8] * (layer.weight.ndim - 2)))
    weight, values = effective(module)
    np.testing.assert_allclose(values, module[0].weight.detach(), rtol=1e-6)
    seems = ", as the shapes of original0 and original1 suggest"
    is_new = normalise is parametrizations.weight_norm
    assert weight.rule == "weight norm: g v / |v|" + seems * is_new
    assert weight.shape == values.shape
    assert len(weight.tensors) == 2


def vars_of(layer):
    """Return the arguments that make a layer of the same kind."""
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, layer.kernel_size


@pytest.mark.parametrize("layer", layers(), ids=str)
@pytest.mark.parametrize("normalise", [spectral_norm, parametrizations.spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_spectral_norm_is_computed_as_torch_does(layer, normalise):
    module = torch.nn.Sequential(normalise(type(layer)(*vars_of(layer))))
    example = torch.zeros(3, vars_of(layer)[0], *[8] * (layer.weight.ndim - 2))
    for _ in range(30):
        module(example)  # each call is one power iteration
    module.eval()
    module(example)
    weight, values = effective(module)
    np.testing.assert_allclose(values, module[0].weight.detach(), rtol=1e-5)
    assert weight.rule == "spectral norm: W / sigma"


def test_an_orthogonal_matrix_is_not_computed_and_has_one_reason():
    module = torch.nn.Sequential(parametrizations.orthogonal(torch.nn.Linear(8, 8)))
    weight, _ = effective(module)
    assert weight.reason == "a parametrization whose function the file does not tell"
    assert len(weight.tensors) == len(module.state_dict()) - 1  # the bias is a weight of its own


def test_a_pruned_weight_is_multiplied_by_its_mask():
    module = torch.nn.Sequential(torch.nn.Linear(12, 9))
    prune.random_unstructured(module[0], "weight", 0.5)
    weight, values = effective(module)
    np.testing.assert_array_equal(values, module[0].weight.detach())
    assert weight.tensors == ("0.weight_orig", "0.weight_mask")
    assert [w.name for w in weights(open_checkpoint(module.state_dict()))] == ["0.bias", "0.weight"]


@pytest.mark.parametrize("mask", ["fc.mask", "fc.weight_mask"])
def test_a_mask_beside_a_weight_is_no_weight(rng, mask):
    W = rng.standard_normal((6, 5))
    zeros = rng.random((6, 5)) < 0.5
    (weight,) = weights(open_checkpoint({"fc.weight": W, mask: zeros}))
    np.testing.assert_allclose(weight.read(), (W * zeros))


def test_a_mask_with_other_values_is_an_error(rng):
    state = {"fc.weight": rng.standard_normal((6, 5)), "fc.mask": np.full((6, 5), 0.5)}
    (weight,) = weights(open_checkpoint(state))
    with pytest.raises(ValueError, match="its mask has values other than 0 and 1"):
        weight.read()


def test_parts_of_a_weight_that_is_stored_too_are_no_weights(rng):
    W = rng.standard_normal((6, 5))
    state = {"fc.weight": W, "fc.weight_g": np.ones((6, 1)), "fc.weight_v": W}
    first, parts = weights(open_checkpoint(state))
    assert (first.name, first.rule, first.reason) == ("fc.weight", "", "")
    assert parts.tensors == ("fc.weight_g", "fc.weight_v")
    assert parts.reason == "a part of fc.weight"


def test_names_that_only_look_like_a_norm_are_weights_of_their_own(rng):
    state = {"fc.loss_g": rng.standard_normal((5, 3)), "fc.loss_v": rng.standard_normal((5, 3))}
    assert [w.tensors for w in weights(open_checkpoint(state))] == [("fc.loss_g",), ("fc.loss_v",)]


class NormalisedAsInBigGAN(torch.nn.Conv2d):
    """A convolution with the spectral norm of BigGAN's layers, written anew from its paper."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("u0", torch.randn(1, self.out_channels))
        self.register_buffer("sv0", torch.ones(1))

    def effective(self):
        W = self.weight.flatten(1)
        v = torch.nn.functional.normalize(self.u0 @ W)
        u = torch.nn.functional.normalize(v @ W.T)
        sigma = (v @ W.T @ u.T).squeeze()
        if self.training:
            self.u0[:] = u
        self.sv0[:] = sigma
        return self.weight / sigma


@pytest.mark.parametrize("n_steps", [0, 1, 40])
def test_the_spectral_norm_of_biggan_is_one_power_iteration(n_steps):
    torch.manual_seed(0)
    layer = NormalisedAsInBigGAN(6, 7, 3)
    with torch.no_grad():
        for _ in range(n_steps):
            layer.effective()
        weight, values = effective(torch.nn.Sequential(layer).eval())
        np.testing.assert_allclose(values, layer.eval().effective(), rtol=1e-5)
    assert weight.rule == "spectral norm: W / sigma"
    assert weight.tensors == ("0.weight", "0.u0", "0.sv0")


@pytest.mark.parametrize("is_scaled", [True, False])
def test_the_splines_of_a_kan_layer_are_one_matrix(is_scaled):
    torch.manual_seed(0)
    splines, scaler, basis = torch.randn(7, 5, 8), torch.rand(7, 5), torch.randn(3, 5, 8)
    state = {"0.base_weight": torch.randn(7, 5), "0.spline_weight": splines}
    if is_scaled:
        state["0.spline_scaler"] = scaler
    found = {w.name: w for w in weights(open_checkpoint(state))}
    assert set(found) == {"0.base_weight", "0.spline_weight"}
    weight = found["0.spline_weight"]
    assert (weight.shape, weight.read().shape, weight.reason) == ((7, 40), (7, 40), "")
    # The layer: each output is the sum over all inputs of its spline at the input.
    factors = scaler if is_scaled else torch.ones(7, 5)
    expected = torch.einsum("bic,oic,oi->bo", basis, splines, factors)
    values = torch.from_numpy(weight.read())
    torch.testing.assert_close(basis.flatten(1) @ values.T, expected, rtol=1e-4, atol=1e-5)


def test_splines_without_the_other_weight_of_their_layer_are_no_matrix_of_a_kan():
    for base in ({}, {"l.base_weight": np.ones((5, 7))}):
        state = {"l.spline_weight": np.ones((7, 5, 8))} | base
        assert all("spline" not in w.rule for w in weights(open_checkpoint(state)))


def test_a_vector_u0_without_its_sigma_or_of_another_length_is_none_of_a_spectral_norm(rng):
    W = rng.standard_normal((6, 5))
    for u, sigma in (((1, 5), (1,)), ((6,), (1,)), ((1, 6), (2,))):
        state = {"fc.weight": W, "fc.u0": np.ones(u), "fc.sv0": np.ones(sigma)}
        assert all(len(w.tensors) == 1 for w in weights(open_checkpoint(state)))
