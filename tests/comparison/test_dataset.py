import re

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import specdiag
from specdiag.comparison import matrices
from specdiag.comparison.conclusion import block
from specdiag.dataset.schema.comparison import COMPARISON
from specdiag.drawing import difference
from specdiag.drawing.drawings import drawings
from specdiag.htsr import esd
from specdiag.htsr.null.verdicts import MEANINGFUL
from specdiag.htsr.tail.posterior import alpha_posterior
from support.collections_ import as_version_1
from support.weights import heavy, light


def network(rng, blocks=4, side=64, alpha=2.0):
    """Return blocks of two heavy-tailed layers, an embedding table and a readout."""
    weights = {"unit_emb.weight": rng.standard_normal((100, side))}
    for i in range(blocks):
        for name, shape in (("fc1", (2 * side, side)), ("fc2", (side, 2 * side))):
            weights[f"blocks.{i}.{name}.weight"] = heavy(rng, shape, alpha)
            weights[f"blocks.{i}.{name}.bias"] = rng.standard_normal(shape[0])
    return weights | {"readout.weight": rng.standard_normal((2, side))}


def stored(weights, dtype=np.float32):
    return {name: W.astype(dtype) for name, W in weights.items()}


def block_matrices(weights):
    return [name for name in weights if name.startswith("blocks") and name.endswith("weight")]


@pytest.fixture
def first(rng):
    return stored(network(rng))


def conclusion(*networks, **options):
    return specdiag.compare(*networks, **options).conclusion.item()


def relations(dataset):
    return dict(zip(dataset.tensor.values, dataset.relation.values[0], strict=True))


def test_a_network_compared_with_itself_is_identical_with_exact_zeros(first):
    dataset = specdiag.compare(first, first)
    assert (
        dataset.conclusion == "identical: all 18 weights of model#1 and model#2 are bit-identical"
    )
    assert set(dataset.relation.values.ravel()) == {"identical"}
    measured = dataset.sel(layer=block_matrices(first)).squeeze()
    for name in ("alpha_difference", "rope_difference", "spectral_distance", "alpha_difference_ci"):
        assert (measured[name] == 0).all()
    assert (measured.subspace_overlap == 1).all()
    assert (dataset.relative_distance == 0).all()
    assert dataset.n_comparable == dataset.n_compared == 0


def test_the_conclusion_on_a_frozen_core_names_what_differs(first, rng):
    tuned = first | {
        "unit_emb.weight": rng.standard_normal((120, 64)).astype(np.float32),
        "readout.weight": first["readout.weight"] + 1,
    }
    dataset = specdiag.compare(first, tuned)
    assert dataset.conclusion == (
        "same spectrum by construction: all 8 measured matrices are bit-identical, so no alpha can "
        "differ; what differs: unit_emb, readout"
    )
    assert relations(dataset)["unit_emb.weight"] == "other shape"
    assert dataset.relation_reason.sel(tensor="unit_emb.weight").item() == "100x64 and 120x64"
    assert relations(dataset)["readout.weight"] == "different"


def test_the_same_numbers_stored_differently_are_equal(first):
    dataset = specdiag.compare(first, stored(first, np.float64))
    assert set(dataset.relation.values.ravel()) == {"equal"}
    assert (
        dataset.conclusion == "equal: all 18 weights of model#1 and model#2 hold the same numbers"
    )
    halves = {n: W.astype(ml_dtypes.bfloat16) for n, W in first.items()}
    singles = {n: W.astype(np.float32) for n, W in halves.items()}
    assert set(specdiag.compare(halves, singles).relation.values.ravel()) == {"equal"}


def test_minus_zero_is_equal_and_not_identical(first):
    a, b = (first | {"readout.weight": np.full((2, 64), x, np.float32)} for x in (0.0, -0.0))
    assert relations(specdiag.compare(a, b))["readout.weight"] == "equal"


@pytest.mark.parametrize("exponent", [1000, -1000, 0])
def test_weights_of_any_scale_are_compared_and_drawn(rng, exponent):
    first, second = ({"fc.weight": heavy(rng, (120, 80), 2.0)} for _ in range(2))
    scaled = [{"fc.weight": np.ldexp(n["fc.weight"], exponent)} for n in (first, second)]
    (pair,), (expected,) = (
        d.relative_distance.values.ravel()
        for d in (specdiag.compare(*scaled), specdiag.compare(first, second))
    )
    assert pair == expected
    drawn = [d for d in drawings(specdiag.alpha(*scaled)) if d.figure]
    assert [d.name for d in drawn] == [
        *("alpha_by_layer_00_model_1", "alpha_by_layer_01_model_2", "esd_00_000_fc.weight")
    ]


@pytest.mark.parametrize("change", ["rotated", "rescaled", "transposed twice and rotated"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_tensors_with_the_same_spectrum_have_that_relation(rng, change, dtype):
    first = stored(network(rng), dtype)
    second = dict(first)
    for name in block_matrices(first):
        n, m = first[name].shape
        W = first[name].astype(float)
        if change != "rescaled":
            W = W @ np.linalg.qr(rng.standard_normal((m, m)))[0]
        if change.startswith("transposed"):
            W = (W.T @ np.linalg.qr(rng.standard_normal((n, n)))[0]).T
        second[name] = (W * (1e-3 if change == "rescaled" else 1)).astype(dtype)
    dataset = specdiag.compare(first, second)
    assert dataset.conclusion == (
        "different weights, same spectrum: all 8 measured matrices are the same in all "
        "eigenvalues, up to rounding and to the scale of the weights"
    )
    assert abs(dataset.alpha_difference.sel(layer=block_matrices(first))).max() < 1e-9


def test_the_differences_of_a_layer_agree_with_their_formulas(first, rng):
    name = "blocks.1.fc1.weight"
    second = first | {name: first[name] + rng.standard_normal(first[name].shape).astype(np.float32)}
    dataset = specdiag.compare(first, second)
    cell = dataset.sel(layer=name, comparison="model#2")
    A, B = first[name].astype(float), second[name].astype(float)
    a, b, c = (esd.eigenvalues(W) for W in (A, B, B - A))
    expected = matrices.alpha_difference(alpha_posterior(a), alpha_posterior(b))
    assert cell.alpha_difference == pytest.approx(expected.value)
    assert cell.alpha_difference == pytest.approx(np.diff(cell.alpha).item())
    assert tuple(cell.alpha_difference_ci.values) == pytest.approx(expected.interval)
    assert cell.rope_difference == pytest.approx(np.diff(cell.rope_probability).item())
    assert cell.spectral_distance == pytest.approx(matrices.spectral_distance(a, b))
    assert tuple(cell.subspace_overlap.values) == matrices.subspace_overlap(A, B, 10)
    assert cell.n_leading == 10
    assert cell.added_alpha == pytest.approx(alpha_posterior(c).mean)
    assert cell.added_stable_rank == pytest.approx(c.sum() / c[0])
    distance = dataset.relative_distance.sel(tensor=name)
    assert distance == pytest.approx(np.linalg.norm(B - A) / np.linalg.norm(A))


def test_swapping_the_arguments_changes_every_sign(rng):
    a, b = (stored(network(rng)) for _ in range(2))
    there, back = specdiag.compare(a, b), specdiag.compare(b, a)
    for name in ("alpha_difference", "rope_difference", "mean_alpha_difference"):
        np.testing.assert_allclose(there[name].values, -back[name].values, rtol=1e-12)
    for name in ("alpha_difference_ci", "mean_alpha_difference_ci"):
        np.testing.assert_allclose(there[name].values, -back[name].values[..., ::-1], rtol=1e-9)
    for name in ("sign_p", "wilcoxon_p", "spectral_distance"):
        np.testing.assert_allclose(there[name].values, back[name].values)


def test_an_update_of_noise_has_a_large_q_and_one_of_a_heavy_tail_a_small_one(first, rng):
    noise, tail = "blocks.0.fc1.weight", "blocks.1.fc1.weight"
    second = first | {
        noise: (first[noise] + light(rng, first[noise].shape)).astype(np.float32),
        tail: (first[tail] + heavy(rng, first[tail].shape, 1.6)).astype(np.float32),
    }
    q = specdiag.compare(first, second).added_null_q.sel(layer=[noise, tail]).values.ravel()
    assert q[0] > 0.05 >= q[1]


def test_what_rounding_adds_has_no_alpha_and_no_stable_rank(first):
    halves = specdiag.compare(first, stored(first, np.float16))
    measured = halves.sel(layer=block_matrices(first))
    assert (measured.added_rank == 0).all()
    for name in ("added_alpha", "added_stable_rank", "added_null_q"):
        assert np.isnan(measured[name]).all()


def test_a_low_rank_update_has_its_rank(first, rng):
    name = "blocks.0.fc2.weight"
    update = 0.1 * rng.standard_normal((64, 4)) @ rng.standard_normal((4, 128))
    second = first | {name: (first[name] + update).astype(np.float32)}
    cell = specdiag.compare(first, second).sel(layer=name).squeeze()
    assert cell.added_rank == 4
    assert np.isnan(cell.added_alpha)


def untrained(weights, rng):
    """Return a network of the same shapes without any heavy tail."""
    return stored({n: light(rng, W.shape) if W.ndim > 1 else W for n, W in weights.items()})


def test_a_network_of_larger_alpha_differs_and_the_conclusion_names_what_is_assumed(rng):
    first, second = (stored(network(rng, blocks=6, alpha=alpha)) for alpha in (1.6, 2.4))
    dataset = specdiag.compare(first, second)
    n = dataset.n_compared.item()
    mean = dataset.mean_alpha_difference.item()
    low, high = dataset.mean_alpha_difference_seed_ci.values[0]
    limit = dataset.intraclass_correlation_limit.item()
    assert dataset.conclusion == (
        f"mean alpha of model#2 is {mean:.2f} higher than of model#1 over {n} of 12 layers (95 % "
        f"interval {low:.2f} to {high:.2f}, assuming that all layers of a network share half of "
        "their scatter between seeds (intraclass correlation 0.5); the claim would not hold if "
        f"more than {limit:.0%} were shared)"
    )
    assert low > 0
    assert 0.5 < limit < 1
    assert n >= 10


def test_two_untrained_networks_have_no_means_to_compare(rng):
    first, second = (untrained(network(rng, blocks=6), rng) for _ in range(2))
    dataset = specdiag.compare(first, second)
    assert dataset.conclusion == (
        "no alpha of model#1 or model#2 can be told from noise, so no means over 12 layers are "
        "compared"
    )
    assert (dataset.n_comparable, dataset.n_compared) == (12, 0)
    assert np.isnan(dataset.mean_alpha_difference)
    assert np.isfinite(dataset.alpha_difference.sel(layer=block_matrices(first))).all()


def test_a_trained_network_has_no_mean_to_compare_with_an_untrained_one(first, rng):
    dataset = specdiag.compare(first, untrained(first, rng))
    n = int((dataset.verdict[0].isin(MEANINGFUL)).sum())
    assert n >= 6
    assert dataset.conclusion == (
        "mean alpha is not compared: layers whose alpha means something in both: 0 of 8 "
        f"({n} in model#1, 0 in model#2), and at least 4 are needed"
    )


def test_means_take_only_layers_whose_alpha_means_something_in_both(rng):
    first, second = (stored(network(rng, blocks=6)) for _ in range(2))
    noise = "blocks.2.fc1.weight"
    second[noise] = light(rng, second[noise].shape).astype(np.float32)
    dataset = specdiag.compare(first, second)
    chosen = dataset.verdict.isin(MEANINGFUL).all("checkpoint")
    assert not chosen.sel(layer=noise)
    assert dataset.n_compared == chosen.sum()
    assert dataset.n_comparable == 12
    expected = dataset.alpha_difference.where(chosen).mean()
    assert dataset.mean_alpha_difference.item() == pytest.approx(expected.item())


def test_two_draws_of_one_network_do_not_differ(rng):
    text = conclusion(*(stored(network(rng)) for _ in range(2)))
    assert re.match("no difference of mean alpha is shown: [+-]|undecided: ", text)


@pytest.mark.parametrize("blocks", [2, 1])
def test_few_layers_or_blocks_give_no_interval(rng, blocks):
    a, b = (stored(network(rng, blocks=blocks, alpha=1.6)) for _ in range(2))
    dataset = specdiag.compare(a, b)
    expected = (
        "over 4 of 4 layers in 2 blocks, too few for an interval"
        if blocks == 2
        else "layers whose alpha means something in both: 2 of 2 (2 in model#1, 2 in model#2), and "
        "at least 4 are needed"
    )
    assert dataset.conclusion.item().endswith(expected)
    assert np.isnan(dataset.mean_alpha_difference_ci).all()
    assert np.isnan(dataset.mean_alpha_difference_seed_ci).all()


def test_the_conclusion_counts_matrices_that_were_not_compared(first, rng):
    other = stored(network(rng))
    collapsed = dict(first)
    for name in block_matrices(first)[4:6]:
        collapsed[name] = np.zeros_like(first[name])
    del other["blocks.3.fc2.weight"]
    dataset = specdiag.compare(collapsed, other)
    assert dataset.conclusion.item().endswith(
        "; not compared: 3 matrices (2 degenerate in model#1 but fit in model#2, 1 only in model#1)"
    )
    layer = dataset.sel(layer=block_matrices(first)[4])
    assert list(layer.status.values) == ["degenerate", "fit"]
    assert np.isnan(layer.alpha_difference).all()


def test_equal_matrices_are_counted_also_when_no_other_can_be_compared(first):
    name = "blocks.2.fc1.weight"
    dead = first | {name: np.zeros_like(first[name])}
    assert conclusion(first, dead) == (
        "7 of 8 measured matrices are bit-identical; no other alpha could be compared; not "
        "compared: 1 matrix (1 fit in model#1 but degenerate in model#2)"
    )
    short = first | {name: first[name][:100]}
    assert conclusion(first, short) == (
        "7 of 8 measured matrices are bit-identical; no other alpha could be compared; not "
        "compared: 1 matrix (1 other shape)"
    )


def test_a_finetuned_network_is_different_even_if_it_moved_little(first, rng):
    moved = {
        name: (W + 1e-3 * W.std() * rng.standard_normal(W.shape)).astype(np.float32)
        for name, W in first.items()
    }
    dataset = specdiag.compare(first, moved)
    assert set(dataset.relation.values.ravel()) == {"different"}
    assert dataset.n_comparable == 8


def test_a_coarser_copy_is_compared_on_eigenvalues_that_both_resolve(first):
    halves = {name: W.astype(ml_dtypes.bfloat16) for name, W in first.items()}
    dataset = specdiag.compare(first, halves)
    measured = dataset.sel(layer=block_matrices(first)).squeeze()
    assert set(dataset.relation.sel(tensor=block_matrices(first)).values.ravel()) == {"rounded"}
    assert dataset.conclusion == (
        "equal except for rounding: all 18 weights of model#1 and model#2, in other dtypes"
    )
    assert (measured.alpha_difference == 0).all()
    assert (measured.spectral_distance < 1e-3).all()


def test_tensors_without_a_partner_are_listed(first):
    second = {n: W for n, W in first.items() if "blocks.3" not in n} | {"extra.weight": np.eye(60)}
    by_name = relations(specdiag.compare(first, second))
    assert by_name["blocks.3.fc1.weight"] == "only in first"
    assert by_name["extra.weight"] == "only in second"
    assert len(by_name) == 19


def test_invalid_values_fail_only_their_own_layer(first):
    broken = first | {"blocks.0.fc1.weight": np.full_like(first["blocks.0.fc1.weight"], np.nan)}
    dataset = specdiag.compare(first, broken)
    cell = dataset.sel(layer="blocks.0.fc1.weight")
    assert dataset.conclusion.item().endswith(
        "not compared: 1 matrix (1 fit in model#1 but failed in model#2)"
    )
    assert list(cell.status.values) == ["fit", "failed"]
    assert np.isnan(cell.alpha_difference).all()
    assert relations(dataset)["blocks.0.fc1.weight"] == "different"
    same = specdiag.compare(broken, broken)
    assert relations(same)["blocks.0.fc1.weight"] == "identical"


def test_networks_without_a_common_name_are_refused(first):
    other = {"conv.weight": np.eye(60), "head.weight": np.eye(60)}
    with pytest.raises(ValueError, match="in common") as error:
        specdiag.compare(first, other)
    assert str(error.value) == (
        "model#1 and model#2 have no matrix in common: the first has unit_emb.weight, "
        "blocks.0.fc1.weight, blocks.0.fc2.weight and 7 more, the other conv.weight, head.weight; "
        "compare networks of one architecture, or pair their names (--rename OLD NEW)"
    )
    with pytest.raises(ValueError, match="at least two checkpoints"):
        specdiag.compare(first)
    with pytest.raises(
        ValueError, match="min_eigenvalues is 0: expected a whole number, at least 2"
    ):
        specdiag.compare(first, first, min_eigenvalues=0)


def test_prefixes_of_wrappers_do_not_hide_a_partner(first):
    for prefix in ("module.", "bert."):
        wrapped = {f"{prefix}{name}": W for name, W in first.items()}
        assert conclusion(first, wrapped).startswith("identical")


def test_several_networks_are_each_compared_with_the_first(first, rng):
    other = stored(network(rng))
    dataset = specdiag.compare(first, first, other)
    assert list(dataset.comparison.values) == ["model#2", "model#3"]
    assert dataset.conclusion.values[0].startswith("identical")
    alone = specdiag.compare(first, other)
    np.testing.assert_array_equal(
        dataset.alpha_difference.values[1], alone.alpha_difference.values[0]
    )


def test_modules_and_kernels_are_compared(rng):
    torch.manual_seed(0)
    nets = [
        torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3), torch.nn.Linear(64, 64)) for _ in range(2)
    ]
    dataset = specdiag.compare(*nets)
    assert (dataset.status == "fit").all()
    assert np.isfinite(dataset.subspace_overlap).all()
    assert dataset.n_comparable == 2


def test_a_layer_that_is_too_small_for_a_posterior_is_left_out_of_the_means(first, rng):
    small = {f"blocks.{i}.fc1.weight": rng.standard_t(3.0, (12, 64)) for i in (4, 5)}
    second = stored(network(rng))
    whole = specdiag.compare(first, second, min_eigenvalues=10)
    dataset = specdiag.compare(
        first | stored(small),
        second | stored({name: rng.permuted(W) for name, W in small.items()}),
        min_eigenvalues=10,
    )
    assert (dataset.status.sel(layer=list(small)) == "fit").all()
    assert dataset.alpha_difference.sel(layer=list(small)).isnull().all()
    for name in (
        "n_comparable",
        "n_compared",
        "n_blocks",
        "mean_alpha_difference",
        "mean_rope_difference",
    ):
        assert dataset[name] == whole[name]
    assert dataset.conclusion.item() == (
        whole.conclusion.item() + "; not compared: 2 matrices (2 too small for a posterior)"
    )


def test_the_dataset_matches_its_schema_and_survives_a_file(first, rng, tmp_path):
    dataset = specdiag.compare(first, stored(network(rng)))
    for name, spec in COMPARISON.items():
        assert dataset[name].dims == spec.dims
        assert dataset[name].attrs["long_name"] == spec.long_name
    specdiag.save_spectra(dataset, tmp_path / "pair.nc")
    assert specdiag.open_spectra(tmp_path / "pair.nc").equals(dataset)


def test_a_comparison_of_the_first_version_is_read_and_drawn(first, rng, tmp_path):
    dataset = specdiag.compare(first, stored(network(rng)))
    added = ("group", "n_first_seeds", "n_second_seeds", "n_comparable", "seed_basis")
    added += ("added_null_q",)
    former = [*added, *(name for name in COMPARISON if name.startswith("intraclass"))]
    as_version_1(dataset.drop_vars(former)).to_netcdf(tmp_path / "pair.nc", engine="h5netcdf")
    with specdiag.open_spectra(tmp_path / "pair.nc") as read:
        assert read.group.values.tolist() == ["model#1", "model#2"]
        assert (read.n_first_seeds, read.n_comparable) == (1, dataset.n_compared)
        assert read.seed_basis.item() == "assuming an intraclass correlation of 0.5"
        assert len(difference.draw_all(read, tmp_path / "pair.svg")) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.layer.3.attention.self.query.weight", "encoder.layer.3"),
        ("proc_layers.11.0.1.net.3.weight", "proc_layers.11"),
        ("enc_atn.to_q.weight", "enc_atn"),
        ("0.weight", "0"),
        ("fc1.weight", "fc1"),
        ("weight", "weight"),
    ],
)
def test_the_block_of_a_layer_ends_at_its_first_number(name, expected):
    assert block(name) == expected


@pytest.mark.realdata
def test_a_trained_encoder_with_new_tokens_has_a_frozen_core(minilm, tmp_path, rng):
    weights = load_file(minilm)
    table = "embeddings.word_embeddings.weight"
    weights[table] = rng.standard_normal(weights[table].shape).astype(np.float32)
    save_file(weights, tmp_path / "tuned.safetensors")
    assert conclusion(minilm, tmp_path / "tuned.safetensors") == (
        "same spectrum by construction: all 37 measured matrices are bit-identical, so no alpha "
        "can differ; what differs: embeddings.word_embeddings"
    )


def test_equal_weights_are_measured_once_and_give_the_same_dataset(rng, tmp_path):
    state = {f"{i}.weight": rng.standard_normal((80, 60 + i)) for i in range(6)}
    state["kernel.weight"] = rng.standard_normal((40, 30, 3, 3))
    other = {name: W.copy() for name, W in state.items()}
    other["0.weight"][79, 59] += 1e-9
    other["1.weight"] = other["1.weight"].astype(np.float32)
    changed = specdiag.compare(state, other)
    for name, network in (("first", state), ("second", other)):
        alone = specdiag.alpha(network)
        i = ("first", "second").index(name)
        for variable in ("alpha", "alpha_ci", "null_p", "null_q", "verdict", "rank", "tail_slope"):
            np.testing.assert_array_equal(
                changed[variable].values[i], alone[variable].values[0], err_msg=variable
            )
        np.testing.assert_array_equal(
            specdiag.spectrum(changed.isel(checkpoint=[i]), "5.weight"),
            specdiag.spectrum(alone, "5.weight"),
        )
    assert changed.relation.sel(tensor="5.weight").item() == "identical"
    assert changed.relation.sel(tensor="0.weight").item() == "different"
