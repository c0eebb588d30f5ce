import json
import math

import ml_dtypes
import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.htsr.measure import measure
from specdiag.htsr.null.ladder import null_test
from specdiag.htsr.selection import matrices
from specdiag.htsr.tail.alternatives import likelihood_ratios
from specdiag.htsr.tail.goodness_of_fit import goodness_of_fit
from specdiag.htsr.tail.kind import tail_kind


def measured(arrays, pattern=None, **settings):
    return list(measure(matrices(open_checkpoint(arrays), pattern), **settings))


def fit_only(arrays, pattern=None, **settings):
    """Measure without the tests of the fit, which take longer than the fit."""
    return measured(arrays, pattern, **settings)


def one(W, **settings):
    (layer,) = fit_only({"a.weight": W}, **settings)
    return layer


def heavy(rng, n, m, alpha=2.5):
    """Return a matrix whose eigenvalues are drawn from a power law."""
    values = (1 - rng.random(min(n, m))) ** (-1 / (alpha - 1))
    U, _, V = np.linalg.svd(rng.standard_normal((n, m)), full_matrices=False)
    return U * np.sqrt(values) @ V


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e12])
def test_alpha_and_status_do_not_depend_on_the_scale(rng, factor):
    W = heavy(rng, 120, 80)
    one_layer, other = one(W), one(W * factor)
    assert other.status == "fit"
    assert other.tail.alpha == pytest.approx(one_layer.tail.alpha, rel=1e-9)
    assert other.tail.ks_distance == pytest.approx(one_layer.tail.ks_distance, rel=1e-9)
    assert (other.rank, other.n_spikes) == (one_layer.rank, one_layer.n_spikes)
    assert other.mp_edge == pytest.approx(one_layer.mp_edge * factor**2, rel=1e-9)


@pytest.mark.parametrize(("exponent", "divided"), [(1023, 700), (-1025, -700)])
def test_values_whose_squares_leave_float64_are_divided_by_a_power_of_two(rng, exponent, divided):
    W = heavy(rng, 120, 80)
    W = np.ldexp(np.round(W / np.abs(W).max() * 2**20), -20)  # 20 digits, so that none is lost
    layer, other = one(W), one(np.ldexp(W, exponent))
    assert (other.status, other.exponent) == ("fit", divided)
    assert other.reason == (
        f"divided by 2^{divided}: multiply eigenvalues and xmin by 2^{2 * divided}"
    )
    assert numbers(other) == pytest.approx(numbers(layer), rel=1e-9, nan_ok=True)
    assert other.frobenius_norm == pytest.approx(
        math.nan if exponent == 1023 else np.ldexp(layer.frobenius_norm, exponent), nan_ok=True
    )


@pytest.mark.parametrize("method", ["specdiag", "weightwatcher", "wwj"])
@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3, 5, 9)])
@pytest.mark.filterwarnings("error")
def test_a_spectrum_of_few_distinct_values_has_no_exponent(rng, method, values):
    U, _, V = np.linalg.svd(rng.standard_normal((120, 90)), full_matrices=False)
    W = U * np.sqrt(np.resize(values, 90)) @ V
    for stored in (W, W.astype(np.float32), W.astype(np.float16)):
        layer = one(stored, method=method)
        assert (layer.status, layer.reason) == (
            "degenerate",
            f"its eigenvalues are only {len(values)} values, to rounding",
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_eigenvalues_of_a_wide_random_matrix_are_distinct(rng, dtype):
    W = rng.standard_normal((60, 60_000)).astype(dtype)
    layer = one(W, min_eigenvalues=50)
    assert (layer.status, layer.reason, layer.verdict) == ("fit", "", "")
    assert layer.gaussian_p > 0.05


def numbers(layer):
    """Return all numbers of a layer that must not depend on its scale or orientation."""
    ratios = {f"{k} {i}": x for k, v in layer.likelihood_ratios.items() for i, x in enumerate(v)}
    posterior = {
        name: getattr(layer.posterior, name)
        for name in ("mean", "sd", "below_2", "rope", "n_tail", "short_tail", "n_windows")
    }
    low, high = layer.posterior.interval
    return (
        ratios
        | posterior
        | {
            "low": low,
            "high": high,
            "alpha of the fit": layer.tail.alpha,
            "distance": layer.tail.ks_distance,
            "n_tail of the fit": layer.tail.n_tail,
            "rank": layer.rank,
            "stable rank": layer.stable_rank,
            "entropy": layer.entropy,
            "spikes": layer.n_spikes,
            "gof p": layer.gof_p,
            "null p": layer.null_p,
            "log10 factor": layer.kind.log10_factor,
            "slope": layer.kind.slope,
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_number_depends_on_scale_or_rotation(seed):
    rng = np.random.default_rng(seed)
    W = heavy(rng, 120, 80)
    Q, _ = np.linalg.qr(rng.standard_normal((120, 120)))
    expected = numbers(*measured({"a": W}, gof=True))
    for same in (W * 1e-12, W * 1e12, W.T, Q @ W):
        values = numbers(*measured({"a": same}, gof=True))
        assert values == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_alpha_of_float32_weights_does_not_depend_on_the_scale_either(rng, factor):
    W = heavy(rng, 120, 80).astype(np.float32)
    scaled = W * np.float32(2.0 ** round(math.log2(factor)))  # exact in float32
    assert one(scaled).tail.alpha == pytest.approx(one(W).tail.alpha, rel=1e-9)


def test_a_transpose_and_a_rotation_have_the_same_alpha(rng):
    W = heavy(rng, 120, 80)
    Q, _ = np.linalg.qr(rng.standard_normal((120, 120)))
    expected = one(W)
    for same in (W.T, Q @ W):
        assert one(same).tail.alpha == pytest.approx(expected.tail.alpha, rel=1e-9)
        assert one(same).status == expected.status


@pytest.mark.parametrize(
    ("W", "status", "reason"),
    [
        (np.zeros((80, 80)), "degenerate", "rank 0: fewer than 50 eigenvalues above rounding"),
        (np.full((80, 80), 0.3), "degenerate", "rank 1: fewer than 50 eigenvalues above rounding"),
        (np.eye(80), "degenerate", "the eigenvalues of its tail differ by no more than rounding"),
        (np.ones((1, 300)), "skipped", "too few eigenvalues: 1 of at least 50"),
        (np.ones((300, 1)), "skipped", "too few eigenvalues: 1 of at least 50"),
        (np.ones((0, 300)), "skipped", "too few eigenvalues: 0 of at least 50"),
        (np.eye(80) > 0, "skipped", "bool values, not real weights"),
        (np.eye(80, dtype=np.int8), "skipped", "int8 values, not real weights"),
        (np.eye(80) * 1j, "skipped", "complex128 values, not real weights"),
        (np.full((80, 80), np.nan), "failed", "6,400 of 6,400 values are NaN or infinite"),
        (
            np.ones((2, 60, 60)),
            "skipped",
            (
                "ambiguous: a kernel of 60 taps, 2x60 (axes:rct), or 2 matrices of 60x60 "
                "(axes:src); --split says which"
            ),
        ),
    ],
)
def test_every_unusual_matrix_has_one_status_with_its_reason(W, status, reason):
    layer = one(W)
    assert (layer.status, layer.reason) == (status, reason)
    assert math.isnan(layer.tail.alpha)
    assert layer.tail.n_tail == 0


def test_a_rotated_identity_is_as_degenerate_as_the_identity(rng):
    Q, _ = np.linalg.qr(rng.standard_normal((80, 80)))
    assert one(Q).status == one(Q.astype(np.float32)).status == "degenerate"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_tail_of_one_repeated_value_is_degenerate_in_every_dtype(rng, dtype):
    W = np.zeros((128, 128))
    for i, scale in ((0, 1), (64, 2)):
        Q, _ = np.linalg.qr(rng.standard_normal((64, 64)))
        W[i : i + 64, i : i + 64] = scale * Q
    layer = one(W.astype(dtype))
    assert layer.status == "degenerate" or layer.tail.alpha < 10


def test_the_seed_is_passed_to_the_tests_of_the_fit(rng):
    W = heavy(rng, 100, 60)
    (full,) = measured({"a": W}, gof=True, seed=3)
    (other,) = measured({"a": W})
    resolved = full.eigenvalues
    assert full.gof_p == goodness_of_fit(resolved, seed=3)
    tail = resolved[: full.tail.n_tail]
    assert full.likelihood_ratios == likelihood_ratios(tail, full.tail.xmin)
    test = null_test(full.posterior.mean, W.shape, lambda: W, W.dtype, seed=3)
    for name in (
        "gaussian_p",
        "scales_p",
        "null_p",
        "row_scale_sd",
        "column_scale_sd",
        "offset_share",
    ):
        assert getattr(full, name) == getattr(test, name)
    assert full.kind == other.kind == tail_kind(resolved, W.shape)
    assert math.isnan(other.gof_p)
    assert other.likelihood_ratios == {}


@pytest.mark.parametrize("size", [49, 50, 51])
def test_fifty_eigenvalues_are_enough(rng, size):
    layer = one(rng.standard_normal((200, size)))
    assert layer.status == ("skipped" if size < 50 else "fit")


@pytest.mark.parametrize(("rank", "status"), [(10, "degenerate"), (49, "degenerate"), (50, "fit")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_low_rank_is_degenerate_in_spite_of_rounding(rng, rank, status, dtype):
    product = (rng.standard_normal((256, rank)) @ rng.standard_normal((rank, 128))).astype(dtype)
    layer = one(product)
    assert (layer.rank, layer.status) == (rank, status)


def test_low_rank_with_real_noise_is_measured(rng):
    W = rng.standard_normal((256, 10)) @ rng.standard_normal((10, 128))
    layer = one(W + 1e-3 * rng.standard_normal(W.shape))
    assert (layer.rank, layer.status) == (128, "fit")
    assert layer.n_spikes == 10


def test_bfloat16_is_measured(rng):
    W = rng.standard_normal((512, 256)).astype(ml_dtypes.bfloat16)
    layer = one(W)
    assert (layer.dtype, layer.status, layer.rank) == ("bfloat16", "fit", 256)


@pytest.mark.parametrize(
    "name",
    [
        "unit_emb.weight",
        "model.session_emb.weight",
        "embeddings.word_embeddings.weight",
        "embed_tokens.weight",
        "transformer.wte.weight",
        "pos_embed",
        "token_embedding.weight",
    ],
)
def test_embedding_tables_are_skipped_unless_asked_for(rng, name):
    table = {name: rng.standard_normal((300, 64)), "head.weight": rng.standard_normal((64, 64))}
    skipped, _ = measured(table)
    assert (skipped.status, skipped.reason) == ("skipped", "embedding table, by its name")
    assert measured(table, include_embeddings=True)[0].status == "fit"


@pytest.mark.parametrize(
    "name",
    ["patch_embed.proj.weight", "embeddings.dense.weight", "member.weight", "time_embed.0.weight"],
)
def test_a_matrix_inside_a_module_called_embedding_is_measured(rng, name):
    assert measured({name: rng.standard_normal((64, 64))})[0].status == "fit"


def test_a_tied_matrix_is_measured_once(rng):
    W = rng.standard_normal((80, 60))
    first, second = measured({"encoder.weight": W, "decoder.weight": W})
    assert first.status == "fit"
    assert (second.status, second.reason) == ("skipped", "tied to encoder.weight, measured once")


@pytest.mark.parametrize("copy", [np.asarray, np.copy])
def test_a_head_tied_to_an_embedding_table_is_none_either(rng, copy):
    """A file may hold both names of one memory, two copies, or the table alone."""
    W = rng.standard_normal((80, 60))
    table, head = measured({"wte.weight": W, "head.weight": copy(W)})
    assert (table.status, head.status) == ("skipped", "skipped")
    assert head.reason == "tied to wte.weight, an embedding table"
    both = measured({"wte.weight": W, "head.weight": copy(W)}, include_embeddings=True)
    assert [layer.status for layer in both] == ["fit", "skipped"]


def test_a_bit_identical_copy_is_measured_once(rng):
    W = heavy(rng, 80, 60)
    first, copy, negative, rounded = measured(
        {"a.weight": W, "b.weight": W.copy(), "c.weight": -W, "d.weight": W.astype(np.float32)}
    )
    assert (first.status, negative.status, rounded.status) == ("fit", "fit", "fit")
    assert (copy.status, copy.reason) == (
        "skipped",
        "a copy of a.weight bit for bit, measured once",
    )


def test_only_requested_tensors_count_as_tied(rng):
    W = rng.standard_normal((80, 60))
    (decoder,) = measured({"enc.weight": W, "dec.weight": W}, "dec*")
    assert decoder.status == "fit"


@pytest.mark.parametrize("shape", [(300, 80), (40, 60), (60, 40, 3, 2)])
def test_every_number_of_a_matrix_follows_from_its_singular_values(rng, shape):
    W = rng.standard_normal(shape) * rng.lognormal(size=shape[1]).reshape(
        -1, *[1] * (len(shape) - 2)
    )
    slices = W.reshape(*shape[:2], -1)
    s = np.concatenate(
        [np.linalg.svd(slices[:, :, i], compute_uv=False) for i in range(slices.shape[2])]
    )
    layer = one(W, min_eigenvalues=20)
    p = s**2 / (s**2).sum()
    assert layer.rank == len(s)
    assert layer.spectral_norm == pytest.approx(s.max(), rel=1e-9)
    assert layer.frobenius_norm == pytest.approx(np.linalg.norm(W.ravel()), rel=1e-9)
    assert layer.stable_rank == pytest.approx((s**2).sum() / s.max() ** 2, rel=1e-9)
    assert layer.entropy == pytest.approx(-(p * np.log(p)).sum() / math.log(len(s)), rel=1e-9)
    assert layer.alpha_hat == pytest.approx(layer.alpha * math.log10(s.max() ** 2), rel=1e-9)


def test_entropy_is_of_the_eigenvalues_above_rounding(rng):
    U, _, V = np.linalg.svd(rng.standard_normal((120, 100)), full_matrices=False)
    s = np.concatenate([np.linspace(1, 2, 60), np.zeros(40)])
    layer = one(U * s @ V)
    p = s[:60] ** 2 / (s**2).sum()
    assert (layer.rank, layer.status) == (60, "fit")
    assert layer.entropy == pytest.approx(-(p * np.log(p)).sum() / math.log(60), rel=1e-6)


def test_the_edge_of_a_bulk_that_is_only_rounding_is_nan(rng):
    layer = one(rng.standard_normal((200, 60)) @ rng.standard_normal((60, 200)))
    assert (layer.status, layer.rank) == ("fit", 60)
    assert math.isnan(layer.mp_edge)
    assert math.isnan(layer.n_spikes)


@pytest.mark.parametrize(("side", "status"), [(32, "fit"), (33, "skipped")])
def test_a_tensor_of_three_axes_is_a_kernel_without_evidence_if_it_is_short(rng, side, status):
    assert one(rng.standard_normal((90, 8, side))).status == status


def test_layers_of_different_sizes_are_returned_in_order(rng):
    sides = [300, 60, 200, 50, 250, 70, 55]
    names = [f"layer{i}.weight" for i in range(len(sides))]
    weights = {n: rng.standard_normal((s, s)) for n, s in zip(names, sides, strict=True)}
    layers = measured(weights)
    assert [(x.name, len(x.eigenvalues)) for x in layers] == list(zip(names, sides, strict=True))


def test_eigenvalues_do_not_depend_on_other_matrices_measured_at_the_same_time(rng):
    weights = {f"l{i}.weight": rng.standard_normal((150, 150)) for i in range(6)}
    together = measured(weights)
    for layer in together:
        alone = measured({layer.name: weights[layer.name]})[0]
        np.testing.assert_array_equal(alone.eigenvalues, layer.eigenvalues)


def test_a_pattern_without_a_match_is_an_error_that_names_some_matrices():
    with pytest.raises(ValueError) as error:
        measured({"a.weight": np.eye(60), "b.weight": np.eye(60)}, "c*")
    assert str(error.value) == (
        "no matrix of model matches 'c*'; it has 2, such as a.weight, b.weight"
    )


def test_a_checkpoint_without_matrices_is_an_error():
    with pytest.raises(ValueError) as error:
        measured({"bias": np.ones(3)})
    assert str(error.value) == "model: no weight matrix: 1 tensor, none with two axes or more"


@pytest.mark.realdata
def test_the_trained_encoder_has_the_alphas_that_weightwatcher_reports(minilm):
    """weightwatcher 0.7.7: 37 encoder matrices, alpha 2.46 to 12.35, mean 4.18."""
    layers = list(measure(matrices(open_checkpoint(minilm))))
    fit = {x.name: x.tail for x in layers if x.status == "fit"}
    alphas = [tail.alpha for tail in fit.values()]
    assert len(fit) == 37
    assert min(alphas) == pytest.approx(2.459722, abs=1e-6)
    assert max(alphas) == pytest.approx(12.354853, abs=1e-6)
    assert np.mean(alphas) == pytest.approx(4.175127, abs=1e-6)
    query = fit["encoder.layer.0.attention.self.query.weight"]
    assert query.xmin * 384 == pytest.approx(5.2988, abs=1e-4)
    assert query.n_tail == 82


@pytest.mark.realdata
def test_the_measured_matrices_are_those_of_the_published_base(published, rng):
    """Of its 106 matrices, without embeddings and readout, 8 were fit and 98 had collapsed."""
    listed = json.loads((published / "alpha_standard.json").read_text())["layers"]
    weights = {
        "unit_emb.weight": rng.standard_normal((900, 128)),
        "readout.weight": np.ones((2, 128)),
    }
    for entry in listed:
        alive = not math.isnan(entry["alpha"])
        weights[entry["layer"]] = rng.standard_normal(entry["shape"]) * alive
    layers = fit_only({f"model.{name}": W for name, W in weights.items()})
    walked = [x for x in layers if x.status != "skipped"]
    assert [x.name for x in walked] == [entry["layer"] for entry in listed]
    assert sum(x.status == "fit" for x in walked) == 8
    assert sum(x.status == "degenerate" for x in walked) == 98
