"""Features of two networks: ratios, overlap of their directions, CKA, and the Dataset of both."""

import json
import math

import numpy as np
import pytest

import specdiag
from specdiag.features.comparison.compare import RATIOS, compare_features, comparisons
from specdiag.features.comparison.dataset import as_dataset, measured_of
from specdiag.features.comparison.measured import Measured
from specdiag.features.comparison.subspaces import overlap, similarity
from specdiag.features.covariance import FeatureCovariance
from specdiag.features.files.measure import features_of
from specdiag.show.report import report


def covariance_of(x, groups):
    covariance = FeatureCovariance()
    covariance.update(x, groups=groups)
    return covariance


def measured(x, groups=None, source="a", layer="x"):
    covariance = covariance_of(x, np.arange(len(x)) if groups is None else groups)
    return Measured(source, layer, covariance.result(), covariance)


def of_array(x, source):
    return measured_of(source, [features_of(x, source, "row")])[0]


def rotation(rng, d, angle):
    from scipy.linalg import expm

    a = rng.normal(size=(d, d))
    return expm(angle * (a - a.T) / np.linalg.norm(a - a.T, 2))


def unbiased_hsic(k, m):
    """The U-statistic of Song et al. (2012), JMLR 13, equation 5, from the two Gram matrices."""
    n = len(k)
    k, m = (x - np.diag(np.diag(x)) for x in (k, m))
    one = np.ones(n)
    products = np.trace(k @ m) + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
    return (products - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def centred_alignment(x, y):
    """Linear CKA as in equation 3 of Kornblith et al. (2019), from centred Gram matrices."""
    x, y = x - x.mean(0), y - y.mean(0)
    k, m = x @ x.T, y @ y.T
    return np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))


class TestAlignment:
    def features(self, n=60, d=5):
        rng = np.random.default_rng(3)
        x = rng.normal(size=(n, d)) + 7
        return x, x @ rng.normal(size=(d, 4)) + 2 * rng.normal(size=(n, 4)) - 3

    def similarity(self, x, y, groups):
        blocks = covariance_of(np.hstack([x, y]), groups).blocks().values()
        return similarity(list(blocks), x.shape[1])

    def test_of_single_rows_is_the_known_unbiased_estimate(self):
        x, y = self.features()
        found = self.similarity(x, y, np.arange(len(x)))
        k, m = x @ x.T, y @ y.T
        expected = unbiased_hsic(k, m) / math.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
        assert found.value.value == pytest.approx(expected, rel=1e-9)
        assert found.biased == pytest.approx(centred_alignment(x, y), rel=1e-12)

    def test_does_not_change_with_scale_offset_and_rotation(self):
        x, y = self.features()
        rng = np.random.default_rng(0)
        turned = 1e3 * (y @ rotation(rng, y.shape[1], 2.0)) + 1e4
        groups = np.arange(len(x)) // 2
        first, second = (self.similarity(x, z, groups).value for z in (y, turned))
        assert first == pytest.approx(second, rel=1e-6)

    def test_of_the_same_features_is_1_and_of_unrelated_ones_about_0(self):
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(2, 300, 50))
        same = self.similarity(x, 2 * x, np.arange(300))
        assert same.value.value == pytest.approx(1)
        unrelated = self.similarity(x, y, np.arange(300))
        assert unrelated.value.low == 0
        assert unrelated.value.value < 0.05
        assert unrelated.biased > 0.12  # the published estimate is not near 0


class TestOverlap:
    def blocks(self, x):
        return list(covariance_of(x, np.arange(len(x))).blocks().values())

    def test_of_the_same_directions_is_1_and_of_turned_ones_less(self):
        rng = np.random.default_rng(0)
        scale = np.r_[10, 8, 6, np.ones(9)]
        x = rng.normal(size=(4000, 12)) * scale
        y = rng.normal(size=(4000, 12)) * scale
        same = overlap(self.blocks(x), self.blocks(y), paired=False)
        assert same.n == 3
        assert same.value.high == 1
        assert same.value.low > 0.98
        turn = rotation(rng, 12, 1.0)
        truth = float((turn[:3, :3] ** 2).sum()) / 3
        turned = overlap(self.blocks(x), self.blocks(y @ turn), paired=False)
        assert turned.value.low <= truth <= turned.value.high
        assert turned.value.high < 0.95

    def test_needs_directions_that_the_samples_tell_apart(self):
        x, y = np.random.default_rng(0).normal(size=(2, 300, 20))
        found = overlap(self.blocks(x), self.blocks(y), paired=False)
        assert found.n == 0
        assert math.isnan(found.value.value)


class TestComparison:
    def test_of_the_same_features_has_no_difference(self):
        x = np.random.default_rng(0).normal(size=(800, 6)) * [5, 4, 3, 2, 1, 1]
        found = compare_features(of_array(x, "a"), of_array(x, "b"))
        assert found.paired
        for name in RATIOS:
            assert getattr(found, f"{name}_ratio") == pytest.approx(1)
            low, high = getattr(found, f"{name}_ratio_interval")
            assert 0.85 < low <= 1 <= high < 1.15
        assert found.cka == pytest.approx(1)
        assert "use as many directions, as far as the samples tell" in found.conclusion
        assert "the condition number of b is not clearly different" in found.conclusion

    def test_says_which_uses_fewer_directions(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(800, 6)), rng.normal(size=(900, 6)) * [5, 1, 1, 1, 1, 1]
        found = compare_features(measured(x, source="wide"), measured(y, source="flat"))
        assert not found.paired
        assert found.conclusion.startswith(
            "flat uses fewer directions than wide (effective rank 0."
        )
        assert "the condition number of flat is larger (2" in found.conclusion
        assert any("no CKA: it needs files" in note for note in found.notes)

    def test_pairs_need_the_same_groups(self):
        x = np.random.default_rng(0).normal(size=(400, 4)) * [4, 3, 2, 1]
        a, b = measured(x), measured(x + 0.3 * x[::-1], source="b")
        other = measured(x + 0.3 * x[::-1], np.arange(400) + 1000, source="b")
        paired, unpaired = compare_features(a, b), compare_features(a, other)
        assert (paired.paired, unpaired.paired) == (True, False)
        low, high = paired.effective_rank_ratio_interval
        assert high - low < np.ptp(unpaired.effective_rank_ratio_interval)

    def test_an_unknown_condition_number_gives_a_bound(self):
        x = np.random.default_rng(0).normal(size=(500, 3))
        flat = np.column_stack([x[:, 0], x[:, 0], x[:, 1]])
        found = compare_features(measured(x), measured(flat, source="b"))
        low, high = found.condition_number_ratio_interval
        assert math.isnan(found.condition_number_ratio)
        assert low > 1e6
        assert high == math.inf
        assert "the condition number of b is larger (at least" in found.conclusion

    def test_without_groups_there_are_ratios_and_no_intervals(self):
        x = np.random.default_rng(0).normal(size=(500, 3))
        a, b = (measured(y, np.zeros(500), source) for y, source in ((x, "a"), (x[:, :2], "b")))
        found = compare_features(a, b)
        assert found.effective_rank_ratio == pytest.approx(2 / 3, rel=0.02)
        assert np.isnan(found.effective_rank_ratio_interval).all()
        assert any("no intervals" in note for note in found.notes)
        assert any("3 and 2 features" in note for note in found.notes)
        assert found.conclusion.startswith(
            "whether b uses more directions than a is unknown (effective rank 0.6"
        )
        assert "how the condition numbers differ is unknown (" in found.conclusion
        assert found.conclusion.count(" times, without an interval)") == 2

    def test_how_features_that_do_not_vary_differ_is_unknown(self):
        x = np.random.default_rng(0).normal(size=(100, 3))
        found = compare_features(measured(x), measured(np.ones((100, 3)), source="b"))
        assert found.conclusion == (
            "whether b uses more directions than a is unknown; "
            "how the condition numbers differ is unknown"
        )

    def test_rows_that_are_not_the_same_samples_have_no_alignment(self):
        x = np.random.default_rng(0).normal(size=(500, 3))
        found = compare_features(of_array(x, "a"), of_array(x[:400], "b"))
        assert math.isnan(found.cka)
        assert any("not the same samples" in note for note in found.notes)

    def test_layers_are_compared_with_those_of_the_same_name(self):
        x = np.random.default_rng(0).normal(size=(50, 3))
        layers = [measured(x, source=s, layer=n) for s, n in (("a", "1"), ("a", "2"), ("b", "2"))]
        (only,) = comparisons([*layers, measured(x, source="b", layer="3")])
        assert (only.first_layer, only.second_layer) == ("2", "2")
        other = [measured(x, source="b", layer=n) for n in ("3", "4")]
        with pytest.raises(ValueError, match="no layer in common: a has 1, 2; b 3, 4"):
            comparisons([*layers[:2], *other])


FAMILIES = {  # not among those on which the rules were chosen
    "k^-1.5": lambda d: np.arange(1, d + 1) ** -1.5,
    "two levels": lambda d: np.r_[np.full(3, 4.0), np.full(d - 3, 0.5)],
    "linear": lambda d: np.arange(d, 0, -1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("design", ["apart", "paired", "changed"])
def test_intervals_cover_the_truth(design):
    """At least 90 % over all families, where 95 % are meant."""
    d, hits = 10, {}
    for number, family in enumerate(FAMILIES.values()):
        for repeat in range(25):
            rng = np.random.default_rng([number, repeat])
            for name, hit in covered(rng, family(d), design):
                hits.setdefault(name, []).append(hit)
    assert len(hits) == (4 if design == "apart" else 5)
    for name, found in hits.items():
        assert np.mean(found) >= 0.9, (name, np.mean(found), len(found))


def covered(rng, scale, design, n=300):
    d = len(scale)
    x = rng.normal(size=(n, d)) * np.sqrt(scale)
    change = rotation(rng, d, 1.0)
    if design == "changed":
        change = np.eye(d) + 0.2 * rng.normal(size=(d, d)) / math.sqrt(d)
    source = rng.normal(size=(n, d)) * np.sqrt(scale) if design == "apart" else x
    second = change.T @ np.diag(scale) @ change
    groups = np.arange(n) + (n if design == "apart" else 0)
    found = compare_features(measured(x), measured(source @ change, groups, "b"))
    truths = [summaries(np.diag(scale)), summaries(second)]
    for name in RATIOS:
        low, high = getattr(found, f"{name}_ratio_interval")
        yield name, low * (1 - 1e-9) <= truths[1][name] / truths[0][name] <= high * (1 + 1e-9)
    if k := found.n_leading:
        a, b = (np.linalg.eigh(s)[1][:, ::-1][:, :k] for s in (np.diag(scale), second))
        truth = float(((a.T @ b) ** 2).sum()) / k
        low, high = found.subspace_overlap_interval
        yield "overlap", low - 1e-9 <= truth <= high + 1e-9
    if design != "apart":
        value = similarity(
            list(covariance_of(np.hstack([x, x @ change]), groups).blocks().values()), d
        ).value
        cross = np.diag(scale) @ change
        truth = (cross**2).sum() / math.sqrt((scale**2).sum() * (second**2).sum())
        yield "cka", value.low - 1e-9 <= truth <= value.high + 1e-9


def summaries(covariance):
    values = np.linalg.eigvalsh(covariance)
    p = values / values.sum()
    return {
        "condition_number": values[-1] / values[0],
        "effective_rank": math.exp(-(p * np.log(p)).sum()),
        "participation_ratio": 1 / (p @ p),
    }


class TestDataset:
    @pytest.fixture
    def files(self, tmp_path):
        rng = np.random.default_rng(0)
        x = (rng.normal(size=(300, 8)) * np.arange(1, 9)).astype(np.float32)
        np.savez(tmp_path / "a.npz", x=x, trial=np.arange(300) // 5)
        np.savez(tmp_path / "b.npz", x=x[:, :6], trial=np.arange(300) // 5)
        return [tmp_path / "a.npz", tmp_path / "b.npz"]

    def test_has_the_numbers_of_both_and_their_ratios(self, files):
        dataset = specdiag.measure_features(*files, groups="trial")
        assert dict(dataset.sizes) == {
            "checkpoint": 2,
            "layer": 1,
            "ci_bound": 2,
            "feature_rank": 8,
            "comparison": 1,
        }
        first = dataset.isel(checkpoint=0, layer=0)
        expected = covariance_of(np.load(files[0])["x"], np.arange(300) // 5).result()
        assert float(first.effective_rank) == expected.effective_rank
        assert tuple(first.effective_rank_ci.values) == expected.effective_rank_interval
        np.testing.assert_array_equal(first.feature_eigenvalue.values, expected.eigenvalues)
        assert int(dataset.n_features.values[1, 0]) == 6
        assert np.isnan(dataset.feature_eigenvalue.values[1, 0, 6:]).all()

    def test_the_shrunken_spectrum_has_the_estimated_effective_rank(self):
        x = np.random.default_rng(0).normal(size=(100, 40))
        one = specdiag.measure_features(x, groups="row").isel(checkpoint=0, layer=0)
        p = one.shrunken_eigenvalue.values / one.shrunken_eigenvalue.values.sum()
        assert math.exp(-(p * np.log(p)).sum()) == pytest.approx(float(one.effective_rank))
        assert p.max() < (one.feature_eigenvalue.values / one.feature_eigenvalue.values.sum()).max()

    def test_is_written_read_and_made_a_table(self, files, tmp_path):
        dataset = specdiag.measure_features(*files, groups="trial")
        specdiag.save_spectra(dataset, tmp_path / "f.nc")
        again = specdiag.open_spectra(tmp_path / "f.nc").load()
        assert dataset.equals(again)
        assert json.loads(again.attrs["provenance"])["settings"]["groups"]
        table = specdiag.summary(dataset)
        assert list(table.checkpoint) == [str(file) for file in files]
        assert table.effective_rank_ratio.isna().tolist() == [True, False]

    def test_arrays_and_tensors_are_sources(self):
        torch = pytest.importorskip("torch")
        x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        dataset = specdiag.measure_features(x, x.double().numpy(), groups=np.arange(200) // 2)
        assert list(dataset.checkpoint.values) == ["array 1", "array 2"]
        assert dataset.precision.values.tolist() == [["float32"], ["float64"]]
        assert dataset.cka.values[0, 0] == pytest.approx(1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "needs at least one file or array"),
            (
                [np.zeros(3)],
                r"array 1: features 3 float64: features have shape \(samples, d\)",
            ),
            ([np.zeros((1, 3))], "1 sample"),
            ([np.eye(3) * np.nan], "NaN"),
        ],
    )
    def test_wrong_sources_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            specdiag.measure_features(*arguments)

    def test_a_file_that_is_given_twice_is_refused(self, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, np.eye(9))
        with pytest.raises(ValueError, match=r"x\.npy is given twice"):
            specdiag.measure_features(path, f"{tmp_path}/./x.npy")

    def test_features_that_do_not_vary_are_measured(self):
        dataset = specdiag.measure_features(np.ones((50, 3)), np.eye(50)[:, :3])
        assert float(dataset.trace.values[0, 0]) == 0
        assert np.isnan(dataset.effective_rank_ratio.values).all()

    def test_a_layer_that_one_source_lacks_is_missing(self):
        x = np.random.default_rng(0).normal(size=(50, 3))
        rows = [measured(x, source=s, layer=n) for s, n in (("a", "1"), ("a", "2"), ("b", "2"))]
        dataset = as_dataset(rows, [])
        np.testing.assert_array_equal(dataset.n_samples.values, [[50, 50], [np.nan, 50]])
        assert len(specdiag.summary(dataset)) == 3

    def test_functions_of_weights_refuse_it_and_its_own_drawing_takes_it(self, files, tmp_path):
        import matplotlib as mpl

        mpl.use("agg")
        dataset = specdiag.measure_features(*files, groups="trial")
        specdiag.save_spectra(dataset, tmp_path / "f.nc")
        for wrong in (
            lambda: specdiag.spectrum(dataset, "x"),
            lambda: specdiag.plot.esd(dataset, "x"),
            lambda: specdiag.plot.alpha_by_layer(dataset),
            lambda: report(dataset),
        ):
            with pytest.raises(ValueError, match="a Dataset of features, without weights"):
                wrong()
        for taken in (dataset, dataset.isel(checkpoint=0), dataset.isel(layer=0)):
            left, right = specdiag.plot.feature_spectrum(taken, "x")
            assert len(left.lines) >= 2
            assert right.get_ylim()[1] > 1
            assert right.get_position().x0 > left.get_position().x1
        with pytest.raises(ValueError, match="no layer 'y'"):
            specdiag.plot.feature_spectrum(dataset, "y")
