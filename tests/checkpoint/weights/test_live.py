"""The weight of a module in memory is the one that its forward pass uses in evaluation mode."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import specdiag
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import weights
from support.adapters import ADAPTERS, OTHERS, with_adapters


class Symmetric(nn.Module):
    def forward(self, X):
        return X.triu() + X.triu(1).T


class Noise(nn.Module):
    def forward(self, X):
        return X + torch.randn_like(X) if self.training else X


class LowRank(nn.Module):
    """Its two tensors have another shape than the weight, and it counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, A, B):
        self.calls += 1
        return A @ B

    def right_inverse(self, W):
        return W[:, :5].clone(), torch.eye(5, W.shape[1])


class EqualRate:
    """A hook of the form that torch's own hooks have."""

    name = "weight"

    def compute_weight(self, module):
        return 0.1 * module.weight_orig

    def __call__(self, module, _):
        module.weight = self.compute_weight(module)


def equal_rate(layer):
    weight = layer.weight.detach()
    del layer._parameters["weight"]
    layer.weight = weight
    layer.register_parameter("weight_orig", nn.Parameter(weight.clone()))
    layer.register_forward_pre_hook(EqualRate())


def several(*functions):
    def apply(layer):
        for function in functions:
            function(layer)

    return apply


def old(name, **options):
    def apply(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            getattr(nn.utils, name)(layer, **options)

    return apply


def custom(function):
    return lambda layer: parametrize.register_parametrization(layer, "weight", function())


def prune_direction(layer):
    prune.l1_unstructured(layer.parametrizations.weight, "original1", 0.3)


COMPUTED = {
    "weight norm": parametrizations.weight_norm,
    "old weight norm": old("weight_norm"),
    "old weight norm, one length": old("weight_norm", dim=None),
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": old("spectral_norm"),
    "orthogonal": parametrizations.orthogonal,
    "cayley": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"),
    "custom": custom(Symmetric),
    "chained": several(parametrizations.orthogonal, custom(Symmetric)),
    "two norms": several(parametrizations.weight_norm, parametrizations.spectral_norm),
    "random in training": custom(Noise),
    "low rank": custom(LowRank),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "pruned twice": several(
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        lambda layer: prune.random_structured(layer, "weight", 0.3, dim=1),
    ),
    "pruned direction": several(parametrizations.weight_norm, prune_direction),
    "pruned old direction": several(
        old("weight_norm"), lambda layer: prune.l1_unstructured(layer, "weight_v", 0.3)
    ),
    "hook of another": equal_rate,
}


def trained(change):
    torch.manual_seed(0)
    layer = nn.Linear(24, 24)
    change(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer.train()


def used_in_forward(layer):
    layer.eval()(torch.ones(1, 24))
    weight = layer.weight.detach().numpy().copy()
    layer.train()
    return weight


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("wrap", ["alone", "in a dict", "compiled names", "beside its optimizer"])
@pytest.mark.parametrize("kind", COMPUTED)
def test_the_weight_is_that_of_the_forward_pass_and_the_module_does_not_change(kind, wrap):
    layer = trained(COMPUTED[kind])
    model = nn.ModuleDict({"fc": layer})
    source = {
        "alone": model,
        "in a dict": {"net": model, "other": nn.Linear(2, 2)},
        "compiled names": nn.ModuleDict({"_orig_mod": model}),
        "beside its optimizer": (model, torch.optim.SGD(model.parameters(), 0.1)),
    }[wrap]
    before, random = state(model), torch.get_rng_state()
    checkpoint = open_checkpoint(source)
    found = {weight.name.removeprefix("net."): weight for weight in weights(checkpoint)}
    values = found["fc.weight"].read()
    assert layer.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in state(model).items())
    assert found["fc.weight"].rule
    used = [name for weight in found.values() for name in weight.tensors]
    assert sorted(used) == sorted(t.name for t in checkpoint.tensors)
    np.testing.assert_allclose(values, used_in_forward(layer), rtol=1e-5, atol=1e-7)


FROM_FILES = [
    "weight norm",
    "old weight norm",
    "old weight norm, one length",
    "spectral norm",
    "old spectral norm",
    "two norms",
    "pruned",
    "pruned twice",
    "pruned direction",
    "pruned old direction",
]


@pytest.mark.parametrize("kind", FROM_FILES)
def test_a_state_dict_gives_the_same_weight_where_its_names_tell_the_function(kind):
    layer = trained(COMPUTED[kind])
    for _ in range(3):  # so that old hooks have seen the values of other hooks
        layer(torch.ones(1, 24))
    tensors = {f"fc.{name}": value for name, value in state(layer).items()}
    found = {weight.name: weight for weight in weights(open_checkpoint(tensors))}
    assert {name for name, w in found.items() if len(w.shape) > 1} == {"fc.weight"}
    assert sorted(n for w in found.values() for n in w.tensors) == sorted(tensors)
    np.testing.assert_allclose(
        found["fc.weight"].read(), used_in_forward(layer), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("kind", sorted({*COMPUTED} - {*FROM_FILES}))
def test_a_state_dict_of_another_function_has_one_reason_or_no_rule(kind):
    layer = trained(COMPUTED[kind])
    found = {w.name: w for w in weights(open_checkpoint(state(layer))) if len(w.shape) > 1}
    if kind == "hook of another":  # its name is that of no known function
        assert [weight.rule for weight in found.values()] == [""]
    else:
        assert [weight.reason for weight in found.values()] == [
            "a parametrization whose function the file does not tell"
        ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Please use quant_min")
@pytest.mark.parametrize("n_steps", [0, 3])
def test_the_weight_of_quantisation_aware_training_is_rounded_as_in_forward(n_steps):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 9, bias=False))
    module.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    module = torch.ao.quantization.prepare_qat(module.train())
    for _ in range(n_steps):
        module(torch.randn(5, 12))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = [w for w in weights(open_checkpoint(module)) if w.name == "0.weight"]
    assert [w.rule for w in found] == ["rounded as in quantisation-aware training"]
    values = found[0].read()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    layer = module[0].eval()
    right = layer.weight_fake_quant(layer.weight).detach()
    np.testing.assert_array_equal(values, right)
    assert not torch.equal(right, layer.weight)


class Scaled(nn.Linear):
    def get_extra_state(self):
        return torch.ones(5, 5)

    def set_extra_state(self, state):
        pass


def test_the_extra_state_of_a_module_is_no_weight():
    module = nn.Sequential(Scaled(6, 7))
    for source in (module, module.state_dict()):
        found = {w.name: w.reason for w in weights(open_checkpoint(source))}
        reason = "what its module returns from get_extra_state: no parameter"
        assert found == {"0.weight": "", "0.bias": "", "0._extra_state": reason}


def test_no_gradient_is_kept_and_none_is_made():
    layer = trained(parametrizations.spectral_norm)
    layer(torch.ones(1, 24)).sum().backward()
    gradient = layer.parametrizations.weight.original.grad.clone()
    specdiag.alpha(layer, min_eigenvalues=10)
    assert torch.equal(layer.parametrizations.weight.original.grad, gradient)


def test_a_weight_that_the_module_cannot_compute_costs_only_itself():
    class Broken(nn.Module):
        def forward(self, X):
            return X

    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 60))
    parametrize.register_parametrization(model[0], "weight", Broken())
    model[0].parametrizations.weight[0].forward = None
    dataset = specdiag.alpha(model)
    reasons = dict(zip(dataset.layer.values, dataset.reason.values[0], strict=True))
    assert reasons["0.weight"].startswith("the module cannot compute it: TypeError: ")
    assert dataset.status.sel(layer="1.weight").item() == "fit"


def test_a_parametrized_module_of_two_names_is_measured_once():
    layer = nn.Linear(60, 60)
    parametrizations.weight_norm(layer)
    dataset = specdiag.alpha(nn.ModuleDict({"a": layer, "b": layer}))
    assert dataset.status.values[0].tolist() == ["fit", "skipped"]
    assert dataset.reason.values[0, 1] == "tied to a.weight, measured once"


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize("kind", ["lora", "patterns", "dora", "loha", "lokr", *OTHERS])
def test_the_weight_of_a_layer_with_adapters_is_that_which_peft_merges(kind, is_merged):
    model = with_adapters((ADAPTERS | OTHERS)[kind])
    if is_merged:
        model.merge_adapter()
    before = state(model)
    found = {w.name.removeprefix("base_model.model."): w for w in weights(open_checkpoint(model))}
    values = {name: weight.read() for name, weight in found.items()}
    assert all(torch.equal(before[name], value) for name, value in state(model).items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns that they are merged already
        merged = copy.deepcopy(model).merge_and_unload()
    for name, value in merged.state_dict().items():
        if len(value.shape) > 1:
            key = name if name in found else name.replace("head", "head.modules_to_save.default")
            np.testing.assert_allclose(values[key], value.numpy(), rtol=1e-5, atol=1e-6)
            assert not found[key].reason
    assert found["fc.weight"].rule == "with its adapters of peft: default"
    assert found["fc.weight"].role == "linear"


def test_a_disabled_adapter_does_not_change_the_weight():
    model = with_adapters(ADAPTERS["lora"])
    base = model.base_model.model.fc.base_layer.weight.detach().clone()
    model.merge_adapter()
    with model.disable_adapter():
        found = {w.name: w for w in weights(open_checkpoint(model))}
        weight = found["base_model.model.fc.weight"]
        np.testing.assert_allclose(weight.read(), base, rtol=1e-5, atol=1e-6)
    assert weight.rule == "without its adapters"


def test_a_parameter_without_a_shape_is_listed():
    model = nn.Sequential(nn.LazyLinear(64), nn.Linear(64, 64))
    found = {t.name: t for t in open_checkpoint(model).tensors}
    assert found["0.weight"].problem == "a parameter that is not initialised yet"
    measured = specdiag.alpha(model)
    assert measured.layer.values.tolist() == ["0.weight", "0.bias", "1.weight"]
    assert measured.status.values.tolist() == [["skipped", "skipped", "fit"]]


class Foreign:
    """An array of another library."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def test_arrays_of_other_libraries_are_read(rng):
    import xarray as xr

    W = rng.standard_normal((60, 70))
    for source in (
        {"w": Foreign(W)},
        {"params": {"w": {"kernel": Foreign(W)}}},
        {"w": xr.DataArray(W)},
        xr.Dataset({"w": (("a", "b"), W)}),
        [Foreign(W)],
        Foreign(W),
    ):
        (tensor,) = open_checkpoint(source).tensors
        np.testing.assert_array_equal(tensor.read(), W)


def test_an_array_that_numpy_cannot_convert_has_a_problem(rng):
    class Remote(Foreign):
        def __array__(self, dtype=None, copy=None):
            raise TypeError("it is on another machine")

    (tensor,) = open_checkpoint({"w": Remote(rng.standard_normal((3, 3)))}).tensors
    assert tensor.problem == "NumPy cannot read it: it is on another machine"
