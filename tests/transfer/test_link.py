import json
import math
import re

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import specdiag
from benchmarks._collection import collection, simulated
from specdiag.cli.main import cli
from specdiag.dataset.schema.collection import COLLECTION, COLLECTION_VERSION
from specdiag.dataset.schema.layers import SCHEMA, SCHEMA_VERSION
from specdiag.dataset.schema.link import LINK
from specdiag.dataset.schema.variable import missing_values
from specdiag.htsr.tail.alternatives import ALTERNATIVES
from specdiag.lock.lockfile import load
from specdiag.show.link import lines, sentences
from specdiag.transfer.link import ALL_TASKS, QUANTITIES, STRATIFICATIONS, quantities
from support.paths import ROOT

SEEDS = range(8)


def transfers(effect, motor=1, timing=1):
    """Return checkpoints of two tasks and two arms, with alpha correlated with R² in each task.

    Scratch has the higher alpha. `motor` and `timing` are the signs of the difference between arms;
    the relation between seeds has the same sign and the size `effect`.
    """
    rng, rows = np.random.default_rng(7), []
    alphas = {seed: 1.6 + 0.05 * rng.standard_normal() for seed in SEEDS}
    for task, sign in (("center_out", motor), ("interval_timing", timing)):
        for seed, base in alphas.items():
            for arm, alpha in (("pretrained", base), ("scratch", 3 + 0.3 * rng.standard_normal())):
                deviation = alpha - (1.6 if arm == "pretrained" else 3)
                level = 0.3 * sign * (arm == "scratch") + effect * sign * deviation
                rows.append(
                    {
                        "entry": f"{task}/{arm}",
                        "parent": "base" if arm == "pretrained" else "",
                        "task": task,
                        "arm": arm,
                        "seed": seed,
                        "alpha": alpha,
                        "r2": 0.5 + level + 0.003 * rng.standard_normal(),
                    }
                )
    return rows


def cell(linked, quantity, stratification, part=ALL_TASKS):
    return linked.sel(quantity=quantity, stratification=stratification, part=part)


def test_the_quantities_are_means_over_layers_whose_alpha_means_something():
    dataset = collection(
        [
            {"entry": "a", "alpha": 2.0, "condition_number": 1e6, "effective_rank": 3.0},
            {"entry": "b", "alpha": 1.5, "status": [*["fit"] * 5, "degenerate"]},
            {"entry": "c", "alpha": math.nan},
            {"entry": "d", "alpha": 3.0, "status": [*["degenerate"] * 4, "skipped", "failed"]},
            {"entry": "e", "alpha": 2.0},
        ],
        n_layers=6,
    )
    dataset.verdict[1, 0] = "no evidence"  # the lowest of the alphas
    dataset.verdict[4, :3] = "scales"  # three layers are too few for a mean
    linked = dict(zip(QUANTITIES, quantities(dataset), strict=True))
    nan = math.nan
    np.testing.assert_allclose(linked["mean alpha"], [2.0, 1.5, nan, nan, nan])
    np.testing.assert_allclose(linked["distance from 2"], [0.18, 0.5, nan, nan, nan])
    np.testing.assert_allclose(linked["alpha-hat"], [2.2, 1.65, nan, nan, nan])
    np.testing.assert_allclose(linked["stable rank"], [7.0, 7.56, nan, nan, 7.0])
    np.testing.assert_allclose(linked["fit fraction"], [1.0, 5 / 6, nan, 0.0, 1.0])
    np.testing.assert_allclose(linked["log condition number"], [6.0, nan, nan, nan, nan])
    np.testing.assert_allclose(linked["effective rank"], [3.0, nan, nan, nan, nan])
    dataset.verdict[:] = ""  # as in files of an earlier version
    without = dict(zip(QUANTITIES, quantities(dataset), strict=True))
    np.testing.assert_allclose(without["mean alpha"], [2.0, 1.44, nan, nan, 2.0])


def test_the_result_has_every_variable_of_its_schema():
    linked = specdiag.link(collection(transfers(0.0)), n_resamples=50)
    assert set(linked.variables) == set(LINK)
    assert all(linked[name].dims == spec.dims for name, spec in LINK.items())
    assert list(linked.stratification.values) == list(STRATIFICATIONS)
    assert list(linked.part.values) == [ALL_TASKS, "center_out", "interval_timing"]


def test_overall_and_within_a_task_it_is_scipys_spearman():
    dataset = collection(transfers(0.3))
    linked = specdiag.link(dataset, n_resamples=50)
    alpha = dataset.alpha.mean("layer").values
    for part in linked.part.values:
        here = (dataset.task.values == part) | (part == ALL_TASKS)
        expected = stats.spearmanr(alpha[here], dataset.r2.values[here]).statistic
        assert cell(linked, "mean alpha", "overall", part).rho.item() == pytest.approx(expected)
        assert cell(linked, "mean alpha", "overall", part).n.item() == here.sum()


def test_checkpoints_with_the_spectrum_of_their_base_are_counted_once():
    linked = specdiag.link(collection(transfers(0.0)), n_resamples=50)
    for stratification in STRATIFICATIONS:
        assert cell(linked, "mean alpha", stratification).n.item() == 4 * len(SEEDS)
        assert cell(linked, "mean alpha", stratification).n_units.item() == 3 * len(SEEDS)
    alike = cell(linked, "mean alpha", "alike").arrangements.item()
    assert alike == pytest.approx(
        math.factorial(len(SEEDS)) ** 3
    )  # bases, and scratch of each task
    assert linked.n_spectra == 3 * len(SEEDS)


def test_a_planted_relation_among_seeds_is_found_with_its_sign():
    linked = specdiag.link(collection(transfers(0.5)))
    alike = cell(linked, "mean alpha", "alike")
    assert alike.rho.item() > 0.5
    assert alike.p_holm.item() <= 0.05
    assert 0 < alike.rho_ci.values[0] < alike.rho.item() < alike.rho_ci.values[1]
    first = sentences(linked)[0]
    assert first.startswith(
        "Among trainings that differ only in their seed, R2 is correlated with mean alpha (rho +0."
    )
    assert f"n = {4 * len(SEEDS)}, {3 * len(SEEDS)} different" in first


def test_a_difference_between_arms_is_not_a_relation():
    linked = specdiag.link(collection(transfers(0.0)))
    assert cell(linked, "mean alpha", "overall").p.item() < 0.01
    assert cell(linked, "mean alpha", "alike").p.item() > 0.05
    first, *others = sentences(linked)
    assert re.match(
        r"Among trainings that differ only in their seed, none of \d quantities is significantly "
        r"correlated with R2: the nearest is .* \(rho .*\)\. A correlation may still exist\.",
        first,
    )
    assert any(
        line.startswith("Over all checkpoints together mean alpha is correlated with R2 (rho +")
        and line.endswith(
            "but task, arm and data size influence both: no evidence that it predicts R2."
        )
        for line in others
    )


def test_a_sign_that_differs_between_tasks_because_of_arms_is_ascribed_to_them():
    linked = specdiag.link(collection(transfers(0.0, motor=-1, timing=1)))
    (sentence,) = (line for line in sentences(linked) if "sign of mean alpha" in line)
    assert re.match(
        "The sign of mean alpha differs between tasks, all arms together, so that differences "
        r"between arms may be the reason: center_out \(rho -.*\); interval_timing \(rho \+.*\)\. "
        "So does that of .*",
        sentence,
    )


def test_a_sign_that_differs_among_seeds_too_is_not_ascribed_to_arms():
    linked = specdiag.link(collection(transfers(0.5, motor=-1, timing=1)))
    assert any(
        line.startswith(
            "The sign of mean alpha differs between tasks, among trainings that differ only in "
            "their seed:"
        )
        for line in sentences(linked)
    )


def test_the_same_sign_in_all_tasks_is_not_reported():
    linked = specdiag.link(collection(transfers(0.5)))
    assert not any("sign of" in line for line in sentences(linked))


def reported(prefix, method):
    """Return the published R² and alphas of the lock, by one method."""
    lock = load(ROOT / "checkpoints.lock")
    tasks = {"area2": "area2_bump", "dmfc": "interval_timing"}
    rows = []
    for entry in lock.entries:
        r2 = [q.value for q in entry.reported if q.quantity == "r2"]
        alpha = [
            q.value
            for q in entry.reported
            if q.quantity.startswith("mean_alpha") and q.method.startswith(method)
        ]
        if entry.name.startswith(prefix) and r2 and alpha:
            arm = "plastic" if "finetune_all" in entry.name else "pretrained"
            key = entry.name.split("/")[-1].split("_")[0]
            rows.append(
                {
                    "entry": entry.name,
                    "parent": entry.parent.name if entry.parent else "",
                    "task": tasks.get(key, "center_out"),
                    "arm": arm if entry.parent else ("base" if key == "poyo" else "scratch"),
                    "alpha": alpha[-1],
                    "r2": r2[-1],
                }
            )
    return rows


def test_the_published_values_decide_nothing_and_their_estimates_are_shown():
    rows = reported(("base/", "transfer/"), "bayes_report")
    assert [(row["alpha"], row["r2"]) for row in rows] == [
        *((1.62, 0.904), (1.62, 0.834), (3.31, 0.313)),  # base; area2_bump, frozen and scratch
        *((1.62, 0.798), (2.63, 0.845)),  # timing, frozen and scratch
    ]
    linked = specdiag.link(collection(rows))
    overall = cell(linked, "mean alpha", "overall")
    expected = stats.spearmanr(*zip(*((row["alpha"], row["r2"]) for row in rows), strict=True))
    assert overall.rho.item() == pytest.approx(expected.statistic)
    assert (overall.n.item(), overall.n_units.item()) == (5, 3)
    # As published: the lower alpha has the higher R² in the motor task, and the lower one in
    # timing.
    assert cell(linked, "mean alpha", "overall", "area2_bump").rho.item() == pytest.approx(-1)
    assert cell(linked, "mean alpha", "overall", "interval_timing").rho.item() == pytest.approx(1)
    assert np.isnan(linked.p_holm).all()
    assert sentences(linked)[0] == (
        "Too few seeds to say whether spectra predict R2: only one seed each, and a p-value below "
        "5 % needs more than 40 ways to exchange seeds. Train more seeds."
    )
    assert not any("sign of" in line for line in sentences(linked))
    row = next(line for line in lines(linked) if line.startswith("mean alpha"))
    assert f"{expected.statistic:+.2f} (5, 3)" in row
    assert any("-1.00 (2, 2)" in line and "+1.00 (2, 2)" in line for line in lines(linked))


def test_the_published_augmentation_decides_nothing_either():
    rows = reported(("augmentation/",), "alpha_report")
    assert len(rows) == 6
    linked = specdiag.link(collection(rows))
    overall = cell(linked, "mean alpha", "overall")
    assert (overall.n.item(), overall.n_units.item()) == (6, 4)
    assert overall.arrangements.item() == pytest.approx(24)
    assert np.isnan(linked.p_holm).all()


def test_missing_values_are_counted_and_not_compared():
    rows = transfers(0.0)
    rows[0]["r2"], rows[1]["alpha"], rows[2]["status"] = math.nan, math.nan, ["degenerate"] * 4
    linked = specdiag.link(collection(rows), n_resamples=50)
    assert linked.attrs == {
        "schema_version": 2,
        "n_checkpoints": 32,
        "n_without_r2": 1,
        "n_without_spectrum": 1,
        "n_without_alpha": 2,
        "n_without_verdicts": 0,
        # The two seeds without the same child are exchanged with each other.
        "n_without_counterpart": 0,
        # The base of rows[0] and rows[2] is degenerate in rows[2] alone.
        "n_spectra": 23,
        "n_resamples": 50,
        "seed": 0,
    }
    assert cell(linked, "mean alpha", "overall").n.item() == 29
    assert cell(linked, "fit fraction", "overall").n.item() == 30
    assert cell(linked, "effective rank", "overall").n.item() == 0
    assert lines(linked)[0] == (
        "32 checkpoints, 23 different spectra; without R2 1, without spectrum 1, without mean "
        "alpha 2 (fewer than 4 layers whose alpha means something)"
    )
    old = collection(rows)
    old.verdict[:] = ""
    assert lines(specdiag.link(old, n_resamples=50))[1] == (
        "30 checkpoints without verdicts (files of an earlier version, or methods of others): "
        "means of alpha are over all of their fit layers, which were not compared with random "
        "entries of any row and column scales; measure them again"
    )


def test_left_out_tasks_are_predicted_by_least_squares():
    rng = np.random.default_rng(3)
    arms = np.array(["pretrained", "scratch"] * 9)
    tasks = np.repeat(["a", "b", "c"], 6)
    fraction, alpha = 10.0 ** -rng.integers(0, 3, 18), 2 + rng.random(18)
    r2 = 0.5 + 0.2 * (arms == "scratch") + 0.1 * np.log10(fraction) - 0.3 * alpha
    rows = [
        {"entry": f"{i}", "arm": a, "task": t, "train_fraction": f, "alpha": x, "r2": y}
        for i, (a, t, f, x, y) in enumerate(zip(arms, tasks, fraction, alpha, r2, strict=True))
    ]
    linked = specdiag.link(collection(rows), n_resamples=20).sel(quantity="mean alpha")
    np.testing.assert_allclose(linked.error, 0, atol=1e-9)
    base = np.column_stack([np.ones(18), arms == "scratch", np.log10(fraction)])
    for task in "abc":
        here = tasks == task
        slope = np.linalg.lstsq(base[~here], r2[~here])[0]
        expected = np.abs(base[here] @ slope - r2[here]).mean()
        assert linked.baseline_error.sel(part=task).item() == pytest.approx(expected)
    errors = linked.baseline_error.values
    assert errors[0] == pytest.approx(errors[1:].mean())
    assert linked.n_error.values.tolist() == [18, 6, 6, 6]


def test_the_order_of_checkpoints_does_not_matter_and_the_seed_decides(rng):
    dataset = simulated(rng, seeds=2, sessions=1, effect=-0.5)
    first = specdiag.link(dataset, n_resamples=100, seed=3)
    again = specdiag.link(dataset, n_resamples=100, seed=3)
    assert first.identical(again)
    shuffled = dataset.isel(checkpoint=rng.permutation(dataset.sizes["checkpoint"]))
    moved = specdiag.link(shuffled, n_resamples=100, seed=3)
    for name in ("rho", "n", "n_units", "arrangements", "error", "baseline_error"):
        np.testing.assert_allclose(moved[name], first[name], atol=1e-9)


def test_a_seed_without_one_child_is_counted_and_changes_nothing_else():
    rows = [row for row in transfers(0.3) if row["arm"] == "pretrained"]
    dataset = collection(rows[1:])  # without one task of the first seed
    rest = dataset.isel(checkpoint=dataset.seed.values != 0)
    linked, expected = (specdiag.link(d, n_resamples=99) for d in (dataset, rest))
    alike = cell(linked, "mean alpha", "alike")
    assert alike.arrangements.item() == pytest.approx(math.factorial(len(SEEDS) - 1))
    assert alike.n.item() == 2 * (len(SEEDS) - 1)
    assert alike.rho.item() == pytest.approx(cell(expected, "mean alpha", "alike").rho.item())
    assert alike.n_without_counterpart.item() == linked.attrs["n_without_counterpart"] == 1
    assert lines(linked)[1] == (
        "1 checkpoint left out of the seed test 'alike': no second seed with the same entries"
    )
    assert expected.attrs["n_without_counterpart"] == 0


def test_too_few_arrangements_for_all_quantities_decide_nothing():
    scratch = [row for row in transfers(0.5) if row["arm"] == "scratch" and row["seed"] < 5]
    order = (3, 1, 5, 2, 4)
    scratch = [
        row | {"effective_rank": order[row["seed"]], "top1_fraction": row["seed"]}
        for row in scratch
    ]
    one = [row for row in scratch if row["task"] == "center_out"]  # 5! = 120 arrangements
    linked = specdiag.link(collection(one), n_resamples=99)
    alike = cell(linked, "mean alpha", "alike")
    assert alike.arrangements.item() == pytest.approx(120)
    assert np.isfinite(alike.p)
    assert np.isnan(linked.p_holm.sel(stratification="alike")).all()
    assert sentences(linked)[0] == (
        "Too few seeds to say whether spectra predict R2: their seeds can be exchanged in 120 "
        "ways, and a p-value of one of 4 quantities below 5 % needs more than 160 ways to exchange "
        "seeds. Train more seeds."
    )
    both = specdiag.link(collection(scratch), n_resamples=99)  # 120² of them, and 120 in each task
    assert np.isfinite(cell(both, "mean alpha", "alike").p_holm)
    assert np.isnan(cell(both, "mean alpha", "alike", "center_out").p_holm)


def test_a_quantity_of_the_same_order_as_another_is_tested_once():
    rows = transfers(0.3)
    above = [row | {"alpha": row["alpha"] + 2} for row in rows]  # |alpha - 2| is alpha - 2
    for given, repeats in ((rows, False), (above, True)):
        linked = specdiag.link(collection(given), n_resamples=99)
        alpha, distance = (cell(linked, q, "alike") for q in ("mean alpha", "distance from 2"))
        assert (distance.same_order_as.item() == "mean alpha") == repeats
        assert (distance.rho.item() == alpha.rho.item()) == repeats
        assert np.isnan(distance.p_holm) == repeats
        line = "distance from 2: same order as mean alpha, not tested twice"
        assert (line in lines(linked)) == repeats
    tested = linked.p.sel(part=ALL_TASKS, stratification="alike")[
        (linked.same_order_as.sel(part=ALL_TASKS, stratification="alike") == "").values
    ]
    n = int(np.isfinite(tested).sum())
    smallest = linked.p_holm.sel(part=ALL_TASKS, stratification="alike").min().item()
    assert smallest == pytest.approx(n * tested.min().item())


def test_families_of_different_children_are_ranked_apart():
    rows = [row for row in transfers(0.0) if row["arm"] == "pretrained"]
    first = [row for row in rows if row["seed"] < 4]
    second = [r | {"alpha": r["alpha"] + 9, "r2": r["r2"] + 9} for r in rows if r["seed"] >= 4]
    second = [row for row in second if row["task"] == "center_out"]
    linked = cell(specdiag.link(collection(first + second), n_resamples=99), "mean alpha", "alike")
    apart = [
        (np.argsort(np.argsort([r[name] for r in part if r["task"] == task])) - 1.5)
        for name in ("alpha", "r2")
        for part, task in (
            (first, "center_out"),
            (first, "interval_timing"),
            (second, "center_out"),
        )
    ]
    expected = np.corrcoef(np.concatenate(apart[:3]), np.concatenate(apart[3:]))[0, 1]
    assert linked.rho.item() == pytest.approx(expected)
    assert linked.n_without_counterpart.item() == 0


def test_an_incomplete_dataset_and_a_wrong_number_are_errors():
    dataset = collection(transfers(0.0))
    with pytest.raises(ValueError) as error:
        specdiag.link(dataset.drop_vars(["r2", "task"]))
    assert str(error.value) == (
        "the dataset has no task, r2: expected a collection of checkpoints with their R2, as "
        "`specdiag spectra` writes it"
    )
    with pytest.raises(ValueError) as error:
        specdiag.link(dataset, n_resamples=0)
    assert str(error.value) == "n_resamples is 0: expected a whole number, at least 1"


@pytest.fixture
def file(tmp_path):
    """A file of a collection, as `specdiag.save_spectra` writes it."""
    dataset = collection(transfers(0.5)).assign_coords(layer=list("abcd"))
    sizes = {**dataset.sizes, "ci_bound": 2, "alternative": len(ALTERNATIVES), "sample": 0}
    sizes |= {"session": 0, "feature_rank": 0}
    for name, spec in (SCHEMA | COLLECTION).items():
        if name not in dataset.variables:
            dataset[name] = (spec.dims, missing_values(spec, sizes))
    dataset["ci_bound"], dataset["alternative"] = ["lower", "upper"], list(ALTERNATIVES)
    dataset["state"] = dataset.entry.copy(data=["ok"] * dataset.sizes["checkpoint"])
    dataset["seed"], dataset["r2"] = dataset.seed.astype(float), dataset.r2 - 0.1
    dataset.attrs |= {"schema_version": COLLECTION_VERSION, "kind": "collection"}
    dataset.attrs["provenance"] = "{}"
    specdiag.save_spectra(dataset, tmp_path / "spectra.nc")
    return tmp_path / "spectra.nc"


def test_the_command_prints_tables_and_ends_with_the_sentences(file):
    done = CliRunner().invoke(cli, ["link", str(file)])
    assert (done.exit_code, done.stderr) == (0, "")
    expected = specdiag.link(specdiag.open_spectra(file))
    assert done.stdout.splitlines() == lines(expected)
    assert done.stdout.splitlines()[-1] == sentences(expected)[-1]


def test_json_has_every_number_with_its_n(file):
    done = CliRunner().invoke(cli, ["link", str(file), "--json", "--seed", "5"])
    result, expected = json.loads(done.stdout), specdiag.link(specdiag.open_spectra(file), seed=5)
    assert result["verdict"] == sentences(expected)
    assert len(result["correlations"]) == len(QUANTITIES) * 3 * len(STRATIFICATIONS)
    one = next(
        c
        for c in result["correlations"]
        if (c["quantity"], c["part"], c["stratification"]) == ("mean alpha", "center_out", "alike")
    )
    there = cell(expected, "mean alpha", "alike", "center_out")
    assert one["rho"] == there.rho.item()
    assert (one["n"], one["n_units"]) == (16, 16)
    assert {"rho_ci", "p", "p_holm", "arrangements"} < one.keys()
    assert result["checkpoints"][0]["effective rank"] is None
    assert result["counts"]["n_checkpoints"] == 32
    assert "schema_version" not in result["counts"]


def test_a_file_that_is_not_a_collection_is_one_line_of_help(file, tmp_path):
    dataset = specdiag.open_spectra(file).drop_vars(list(COLLECTION)).drop_encoding()
    dataset.attrs |= {"schema_version": SCHEMA_VERSION, "kind": "spectra"}
    specdiag.save_spectra(dataset, tmp_path / "alone.nc")
    done = CliRunner().invoke(cli, ["link", str(tmp_path / "alone.nc")])
    assert isinstance(done.exception, ValueError)
    assert str(done.exception) == (
        f"{tmp_path / 'alone.nc'}: expected a collection of checkpoints with their R2, as "
        "`specdiag spectra` writes it"
    )
