"""What was added to a network: Datasets and sentences, with updates of every kind."""

import ml_dtypes
import numpy as np
import peft
import pytest
import torch
from torch import nn

import specdiag
from specdiag.comparison.updates.update import value_of
from specdiag.dataset.netcdf import load_spectra
from specdiag.dataset.schema.updates import UPDATES
from support.weights import heavy

ROLES = ("query", "key", "value")


@pytest.fixture
def base(rng):
    return {
        f"layer.{i}.attention.self.{role}.weight": heavy(rng, (96, 96), 2.5).astype(np.float32)
        for i in range(3)
        for role in ROLES
    } | {"layer.0.bias": np.zeros(96, np.float32)}


def matrices(network):
    return [name for name, W in network.items() if W.ndim == 2]


def with_product(rng, network, part, rank=4, size=0.2):
    """Return the network with a product of this rank added to the matrices of this name."""
    changed = dict(network)
    for name in matrices(network):
        if part in name:
            W = network[name]
            D = rng.normal(size=(len(W), rank)) @ rng.normal(size=(rank, W.shape[1]))
            D *= size * np.linalg.norm(W) / np.linalg.norm(D)
            changed[name] = (W + D).astype(W.dtype)
    return changed


def mapped(network, function):
    return {n: function(W) if W.ndim == 2 else W for n, W in network.items()}


def test_a_low_rank_update_is_named_with_its_role(rng, base):
    dataset = specdiag.delta(base, with_product(rng, base, "value"))
    values = [name for name in matrices(base) if "value" in name]
    chosen = dataset.isel(checkpoint=0).sel(layer=values)
    assert set(chosen.update_kind.values) == {"low rank"}
    assert set(chosen["rank"].values) == {4}
    assert set(chosen.role.values) == {"value"}
    assert list(chosen.depth.values) == [0, 1, 2]
    assert chosen.relative_norm.values == pytest.approx(0.2)
    others = dataset.isel(checkpoint=0).drop_sel(layer=values)
    assert set(others.update_kind.values) == {"none"}
    assert "an update of rank 4 in 3 of 3 value projections" in dataset.conclusion
    assert dataset.conclusion.endswith("nothing in 6 of 9 matrices")


def test_the_dataset_has_the_spectrum_of_the_difference(rng, base):
    after = with_product(rng, base, "key")
    dataset = specdiag.delta(base, after)
    name = "layer.1.attention.self.key.weight"
    D = after[name].astype(np.float64) - base[name]
    spectrum = specdiag.spectrum(dataset, name)
    assert spectrum == pytest.approx(specdiag.eigenvalues(D))
    row = dataset.isel(checkpoint=0).sel(layer=name)
    assert row.stable_rank.item() == pytest.approx(
        np.linalg.norm(D) ** 2 / np.linalg.norm(D, 2) ** 2
    )
    assert row.frobenius_norm.item() == pytest.approx(np.linalg.norm(D))
    p = spectrum[:4] / spectrum[:4].sum()
    assert row.update_effective_rank.item() == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_the_dataset_is_written_and_read_with_all_its_variables(rng, base, tmp_path):
    dataset = specdiag.delta(base, with_product(rng, base, "value"))
    specdiag.save_spectra(dataset, tmp_path / "updates.nc")
    again = load_spectra(tmp_path / "updates.nc")
    assert again.attrs["kind"] == "updates"
    for name in UPDATES:
        np.testing.assert_array_equal(again[name].values, dataset[name].values)
    assert len(specdiag.summary(again)) == 9
    with pytest.raises(ValueError, match="not of compare, delta or collect"):
        specdiag.concat([again])


def sentence(before, after):
    return specdiag.delta(before, after).conclusion


def test_the_sentence_of_a_copy_of_rounding_and_of_scaling(base):
    assert sentence(base, dict(base)) == (
        "nothing was added: 9 matrices with the same numbers in both"
    )
    rounded = mapped(base, lambda W: W.astype(ml_dtypes.bfloat16))
    assert sentence(base, rounded).startswith("nothing was added above rounding: 9 of 9 matrices")
    scaled = sentence(base, mapped(base, lambda W: (1.1 * W).astype(np.float32)))
    assert scaled.startswith("spectra scaled by 1.1 (singular values moved by 0.1 of their norm)")
    assert "directions kept (overlap 1;" in scaled


def test_the_sentence_of_rotated_outputs(rng, base):
    def rotated(W):
        Q = np.linalg.qr(rng.normal(size=(len(W), len(W))))[0]
        return (Q @ W).astype(np.float32)

    text = sentence(base, mapped(base, rotated))
    assert text.startswith("spectra kept")
    assert "directions of outputs unrelated and of inputs kept" in text


def test_noise_that_is_added_is_called_noise(rng, base):
    noise = mapped(base, lambda W: W + (0.01 * W.std() * rng.normal(size=W.shape)).astype("f4"))
    dataset = specdiag.delta(base, noise)
    assert set(dataset.update_kind.values.ravel()) == {"full rank"}
    assert (
        "an update of full rank (as of noise in 9) in 3 of 3 query projections"
        in dataset.conclusion
    )
    shares = dataset.leading_share.values
    assert np.mean(shares <= dataset.leading_share_limit.values) > 0.8


def test_several_networks_after_are_checkpoints(rng, base):
    first, second = with_product(rng, base, "query", 2), with_product(rng, base, "key", 3)
    dataset = specdiag.delta(base, first, second)
    assert dataset.sizes["checkpoint"] == 2
    ranks = dataset["rank"].sel(layer="layer.0.attention.self.key.weight").values
    assert np.isnan(ranks[0])
    assert ranks[1] == 3
    assert len(dataset.conclusion.splitlines()) == 2


def test_matrices_that_cannot_be_compared_have_a_reason(base):
    first, second, third, *_ = matrices(base)
    after = {name: W for name, W in base.items() if name != first}
    after[second] = np.ones((4, 96), np.float32)
    after[third] = np.full((96, 96), np.nan, np.float32)
    after["extra.weight"] = np.eye(60, dtype=np.float32)
    dataset = specdiag.delta(base, after).isel(checkpoint=0)
    reasons = dict(zip(dataset.layer.values, dataset.reason.values, strict=True))
    assert reasons[first].startswith("not in ")
    assert reasons[second] == "other shape: 96x96 and 4x96"
    assert reasons[third] == "9,216 of 9,216 values are NaN or infinite"
    assert reasons["extra.weight"].startswith("not in ")
    assert dataset.update_kind.sel(layer=[first, second, third]).values.tolist() == ["", "", ""]


@pytest.mark.parametrize("factor", [1e-160, 1e160])
def test_weights_of_any_scale_are_compared(rng, base, factor):
    both = [mapped(base, np.float64), with_product(rng, mapped(base, np.float64), "value")]
    dataset = specdiag.delta(*(mapped(one, lambda W: W * factor) for one in both))
    name = "layer.0.attention.self.value.weight"
    row = dataset.isel(checkpoint=0).sel(layer=name)
    assert (row.update_kind.item(), row["rank"].item()) == ("low rank", 4)
    assert row.relative_norm.item() == pytest.approx(0.2)
    norm = np.linalg.norm(both[1][name] - both[0][name])
    assert row.frobenius_norm.item() == pytest.approx(factor * norm)


def test_wrong_arguments_are_errors(base):
    with pytest.raises(ValueError, match=r"delta\(\) needs a network before and at least one"):
        specdiag.delta(base)
    with pytest.raises(ValueError, match="no matrix in common"):
        specdiag.delta(base, {"other.weight": np.eye(60, 61)})


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(64, 48), nn.Linear(64, 48)
        self.conv = nn.Conv2d(8, 16, 3)


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"init_lora_weights": "gaussian"}], ids=str
)
def test_an_adapter_that_peft_merged_shows_its_rank(options, tmp_path):
    torch.manual_seed(0)
    net = _Net()
    before = {name: W.detach().clone().numpy() for name, W in net.state_dict().items()}
    config = peft.LoraConfig(r=5, target_modules=["v_proj", "conv"], **options)
    model = peft.get_peft_model(net, config)
    with torch.no_grad():
        for name, W in model.named_parameters():
            if "lora_B" in name:
                W.normal_(std=0.1)
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload().state_dict()
    found = specdiag.delta(before, merged).isel(checkpoint=0)
    unmerged = specdiag.delta(before, str(tmp_path)).isel(checkpoint=0)
    for dataset in (found, unmerged):
        kinds = dict(zip(dataset.layer.values, dataset.update_kind.values, strict=True))
        assert kinds["q_proj.weight"] == "none"
        for name in ("v_proj.weight", "conv.weight"):
            assert kinds[name] == "low rank"
            assert dataset["rank"].sel(layer=name).item() == 5
    np.testing.assert_allclose(found.overlap, unmerged.overlap, rtol=1e-4)


def test_every_variable_has_a_value_for_an_update_that_was_not_compared(base):
    from specdiag.comparison.updates.update import Update
    from specdiag.htsr.layers import Layer

    update = Update(layer=Layer(name="a", shape=(), dtype="", status="absent"))
    for name, spec in UPDATES.items():
        if name != "side":
            assert np.size(value_of(update, name)) == (2 if "side" in spec.dims else 1)
