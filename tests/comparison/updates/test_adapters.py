"""Ranks of adapters, from their factors."""

from dataclasses import replace

import numpy as np
import peft
import pytest
import torch

import specdiag
from specdiag.checkpoint.weights.find import open_weights
from specdiag.comparison.updates.adapters import adapter_updates, noise_rank
from specdiag.htsr import esd
from support.adapters import ADAPTERS, with_adapters

SHAPES = [(40, 30), (30, 40), (6, 50), (50, 6), (8, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", [1, 4, 20])
def test_the_eigenvalues_of_a_product_are_those_of_its_matrix(rng, shape, rank):
    B, A = rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, shape[1]))
    expected = esd.eigenvalues(B @ A)
    found = esd.eigenvalues_of_product(B, A)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12 * expected[0])


def test_the_positions_of_a_kernel_are_pooled(rng):
    B, A = rng.normal(size=(12, 3)), rng.normal(size=(3, 8 * 9))
    kernel = (B @ A).reshape(12, 8, 3, 3)
    expected = esd.eigenvalues(kernel)
    found = esd.eigenvalues_of_product(B, A, 9)
    assert found == pytest.approx(expected, abs=1e-12 * expected[0])


def test_factors_that_are_not_finite_are_an_error(rng):
    with pytest.raises(ValueError, match="1 of 12 values of a factor are NaN or infinite"):
        esd.eigenvalues_of_product(np.full((4, 1), 1.0), np.r_[np.nan, np.ones(11)][None])


@pytest.mark.parametrize("name", ["lora", "rslora", "patterns", "adalora", "of a transposed layer"])
def test_the_factors_of_an_update_multiply_to_it(name, tmp_path):
    with_adapters(ADAPTERS[name]).save_pretrained(tmp_path)
    weights = open_weights(tmp_path).tensors
    found = [w for w in weights if getattr(w, "factors", None)]
    assert found
    for weight in found:
        left, right, _ = weight.factors()
        np.testing.assert_allclose((left @ right).reshape(weight.shape), weight.read(), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ADAPTERS if "whole" not in name])
def test_an_adapter_has_the_ranks_of_its_updates(name, tmp_path):
    with_adapters(ADAPTERS[name]).save_pretrained(tmp_path)
    weights = {w.name: w for w in open_weights(tmp_path).tensors}
    found = adapter_updates(weights.values())
    assert found
    for update in found:
        W = weights[update.name].read()
        singular = np.linalg.svd(W.reshape(len(W), -1).astype(float), compute_uv=False)
        p = singular**2 / np.sum(singular**2)
        p = p[p > 1e-9]
        assert update.rank == len(p) <= update.max_rank
        assert update.effective_rank == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4)
        assert update.stable_rank == pytest.approx(1 / p[0], rel=1e-4)
        assert update.frobenius_norm == pytest.approx(np.linalg.norm(singular), rel=1e-5)


def test_a_dead_update_has_rank_0_and_no_product_is_formed(tmp_path):
    torch.manual_seed(0)
    model = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.Linear(200, 300)),
        peft.LoraConfig(r=6, target_modules=["0", "1"]),
    )
    with torch.no_grad():
        dict(model.named_parameters())["base_model.model.1.lora_B.default.weight"].normal_()
    model.save_pretrained(tmp_path)

    def read():
        raise AssertionError("the product was formed")

    weights = [replace(w, read=read) for w in open_weights(tmp_path).tensors]
    dead, used = adapter_updates(weights)
    assert (dead.rank, dead.reason) == (0, "")
    assert (used.rank, used.max_rank) == (6, 6)
    assert used.noise_rank == 6  # its B is nothing but noise


def test_a_merged_adapter_has_the_same_ranks(tmp_path):
    model = with_adapters(ADAPTERS["lora"])
    model.save_pretrained(tmp_path)
    base = {n: W.detach().numpy() for n, W in model.unload().state_dict().items()}
    alone = adapter_updates(open_weights(tmp_path).tensors)
    merged = adapter_updates(open_weights(tmp_path, base=base).tensors)
    assert len(merged) == len(alone)
    by_shape = {tuple(u.shape): u for u in alone}
    for update in merged:
        other = by_shape[tuple(update.shape)]
        assert replace(update, name="") == replace(other, name="")
    assert {u.name for u in merged} <= set(base)


@pytest.mark.parametrize(("n", "r"), [(64, 4), (256, 8), (512, 16)])
def test_noise_has_its_whole_rank_in_95_percent(rng, n, r):
    found = [noise_rank(rng.normal(size=(n, r))) for _ in range(300)]
    assert 0.91 < np.mean(np.array(found) == r) < 0.985


def test_directions_that_were_learned_are_no_noise(rng):
    found = []
    for _ in range(200):
        B = rng.normal(size=(400, 8))
        B += 3 * rng.normal(size=(400, 2)) @ rng.normal(size=(2, 8))
        found.append(noise_rank(B))
    assert np.mean(np.array(found) == 6) > 0.9


def test_the_rank_of_noise_is_unknown_where_nothing_tells(rng):
    assert np.isnan(noise_rank(rng.normal(size=(100, 1))))
    assert np.isnan(noise_rank(rng.normal(size=(10, 4))))
    assert np.isnan(noise_rank(np.zeros((100, 4))))


def test_an_adapter_of_rank_64_is_measured_from_its_factors(rng, tmp_path):
    torch.manual_seed(0)
    model = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(256, 256)), peft.LoraConfig(r=64, target_modules=["0"])
    )
    with torch.no_grad():
        for name, W in model.named_parameters():
            if "lora_B" in name:
                W.normal_()
    model.save_pretrained(tmp_path)
    dataset = specdiag.alpha(str(tmp_path))
    (name,) = dataset.layer.values
    B, A = _factors(model)
    spectrum = specdiag.spectrum(dataset, name)
    assert spectrum == pytest.approx(esd.eigenvalues(8 / 64 * B @ A), abs=1e-9)
    assert (spectrum[64:] == 0).all()
    assert dataset["rank"].item() == 64


def _factors(model):
    tensors = {n: W.detach().double().numpy() for n, W in model.named_parameters()}
    return next(W for n, W in tensors.items() if "lora_B" in n), next(
        W for n, W in tensors.items() if "lora_A" in n
    )
