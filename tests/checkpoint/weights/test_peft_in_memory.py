"""Layers of peft whose weight is not the `weight` of a torch Linear, in memory and with a base."""

import copy
import warnings
from collections import OrderedDict

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights.find import open_weights, weights


class Experts(nn.Module):
    """Two stacks of matrices, as transformers has them."""

    def __init__(self):
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.randn(shape)) for shape in ((3, 9, 6), (3, 6, 9)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mha, self.fc, self.conv = (
            nn.MultiheadAttention(8, 2),
            nn.Linear(8, 8),
            nn.Conv2d(8, 8, 3, groups=4),
        )
        self.table, self.experts = nn.Embedding(30, 8), Experts()


def with_adapters(net=None, **options):
    torch.manual_seed(0)
    model = peft.get_peft_model(net or Net(), peft.LoraConfig(r=2, lora_alpha=6, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    return model


def found(model):
    checkpoint = open_checkpoint(model)
    all_weights = weights(checkpoint)
    whole = {weight.whole or weight.name: weight.tensors for weight in all_weights}
    used = [name for tensors in whole.values() for name in tensors]
    assert sorted(used) == sorted(t.name for t in checkpoint.tensors)
    return {weight.name.removeprefix("base_model.model."): weight for weight in all_weights}


def merged(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(model).merge_and_unload().state_dict()


@pytest.mark.parametrize("state", ["added", "merged", "disabled"])
def test_the_attention_of_torch_is_that_which_peft_merges(state):
    model = with_adapters(target_modules=["mha"])
    expected = merged(model)
    if state == "disabled":
        expected = copy.deepcopy(model).unload().state_dict()
        model.base_model.disable_adapter_layers()
    if state == "merged":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the attention has merged its output already
            model.merge_adapter()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = found(model)
    blocks = [parts[f"mha.in_proj_weight[{block}]"].read() for block in "qkv"]
    np.testing.assert_allclose(
        np.concatenate(blocks), expected["mha.in_proj_weight"], rtol=1e-4, atol=1e-5
    )
    out = parts["mha.out_proj.weight"].read()
    np.testing.assert_allclose(out, expected["mha.out_proj.weight"], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_attention_of_torch_is_merged_with_a_base(tmp_path):
    model = with_adapters(target_modules=["mha", "fc"])
    model.save_pretrained(tmp_path / "a")
    base = copy.deepcopy(model).unload().state_dict()
    save_file(
        {name: v.contiguous().clone() for name, v in base.items()}, tmp_path / "b.safetensors"
    )
    parts = {
        w.name: w for w in open_weights(tmp_path / "a", base=tmp_path / "b.safetensors").tensors
    }
    expected = merged(model)
    q = parts["mha.in_proj_weight[q]"].read()
    np.testing.assert_allclose(q, expected["mha.in_proj_weight"][:8], rtol=1e-4, atol=1e-5)
    for name in ("mha.out_proj.weight", "fc.weight"):
        np.testing.assert_allclose(parts[name].read(), expected[name], rtol=1e-4, atol=1e-5)


def test_parameters_of_stacked_experts_have_their_updates():
    model = with_adapters(target_modules=["fc"], target_parameters=["experts.up", "experts.down"])
    parts, expected = found(model), merged(model)
    for name in ("experts.up", "experts.down"):
        values = np.stack([parts[f"{name}[{i}]"].read() for i in range(3)])
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora", "tokens", "both"])
def test_a_table_with_an_adapter_stays_a_table(kind):
    options = {"use_dora": kind == "dora", "target_modules": ["fc", "table"]}
    if kind in ("tokens", "both"):
        rows = [1, 2] if kind == "tokens" else {"table": [3]}
        options = {"target_modules": ["fc"], "trainable_token_indices": rows}
    if kind == "tokens":
        options["trainable_token_indices"] = {"table": [1, 2]}
    parts = found(with_adapters(**options))
    (table,) = (w for name, w in parts.items() if name.startswith("table") and len(w.shape) > 1)
    assert (table.role, table.table) == ("embedding", "class")


def test_the_role_of_a_layer_is_that_below_its_adapters():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=1))
    weight = found(with_adapters(net, target_modules=["0"]))["0.weight"]
    assert (weight.role, weight.facts["groups"]) == ("convolution", 1)


@pytest.mark.parametrize("use_dora", [False, True])
def test_an_update_of_a_weight_that_is_computed_is_added_to_it(use_dora):
    """Peft cannot merge it: the forward pass is the oracle."""
    net = nn.Sequential(nn.Linear(8, 8, bias=False))
    model = with_adapters(net, target_modules=["0"], use_dora=use_dora)
    parametrizations.weight_norm(model.base_model.model[0].base_layer)
    (weight,) = found(model).values()
    with torch.no_grad():
        np.testing.assert_allclose(weight.read(), model(torch.eye(8)).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_layer_of_four_bits_is_dequantised_before_its_update(use_dora):
    bnb = pytest.importorskip("bitsandbytes")
    base = bnb.nn.Linear4bit(64, 32, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    model = with_adapters(nn.Sequential(base).to("cpu"), target_modules=["0"], use_dora=use_dora)
    layer = model.base_model.model[0]
    (weight,) = found(model).values()
    with torch.no_grad():
        expected = bnb.functional.dequantize_4bit(base.weight.data, base.weight.quant_state).float()
        expected += layer.get_delta_weight("default")
        if use_dora:
            lengths = layer.lora_magnitude_vector["default"].weight
            expected = torch._weight_norm(expected, lengths[:, None], 0)
    np.testing.assert_allclose(weight.read(), expected, rtol=1e-4, atol=1e-5)
    assert weight.rule == "with its adapters of peft: default"


def test_an_adapter_that_peft_cannot_merge_is_one_reason_for_all_its_tensors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = with_adapters(target_modules=["fc"], alora_invocation_tokens=[1])
    weight = found(model)["fc.weight"]
    assert weight.problem.startswith("the module cannot compute it: NotImplementedError: aLoRA")
    assert len(weight.tensors) == 3


KINDS = {
    "hira": peft.HiraConfig(r=2, target_modules=["fc"]),
    "c3a": peft.C3AConfig(block_size=4, target_modules=["fc"]),
    "oft": peft.OFTConfig(r=0, oft_block_size=4, target_modules=["fc"]),
    "vera": peft.VeraConfig(r=2, target_modules=["fc"]),
    "pvera": peft.PveraConfig(r=2, target_modules=["fc"]),
    "kasa": peft.LoraConfig(r=2, target_modules=["fc"], kasa_config=peft.KasaConfig()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_with_another_adapter_has_no_layer_without_it(kind):
    """In memory, peft merges it; from the names of its tensors, its formula is not known."""
    model = peft.get_peft_model(nn.Sequential(OrderedDict(fc=nn.Linear(8, 8))), KINDS[kind])
    np.testing.assert_allclose(
        found(model)["fc.weight"].read(), merged(model)["fc.weight"], rtol=1e-4, atol=1e-5
    )
    for source in (model, dict(model.state_dict())):
        measured = [
            name
            for name, w in found(source).items()
            if not w.reason and len(w.shape) > 1 and w.role != "buffer"
        ]
        assert measured == (["fc.weight"] if source is model else [])
    reasons = {w.reason for w in found(source).values() if w.reason}
    assert all("not computed" in reason or "buffer" in reason for reason in reasons)
