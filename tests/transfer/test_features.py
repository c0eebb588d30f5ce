"""An entry of a lock -> the features of its model: read from its evaluation, or measured anew."""

import json

import numpy as np
import pytest

from specdiag.features.covariance import FeatureCovariance
from specdiag.lock.lockfile import find, load
from specdiag.transfer.features import read_features, run_features
from support.commands import run_forked as run

RECIPE = """
import numpy as np
from safetensors.numpy import load_file, save_file

from specdiag.features.covariance import FeatureCovariance
from specdiag.lock.entry import Entry, Parent
from specdiag.transfer.evaluation import write_evaluation

SESSIONS = ["monday", "tuesday", "wednesday"]


def entries():
    params = {"data": {"sessions": SESSIONS}}
    kind = {"scale": "desk", "group": "g", "recipe": "net"}
    yield Entry(name="net", params=params, **kind)
    yield Entry(name="again", params=params, kind="evaluation", parent=Parent(name="net"), **kind)
    yield Entry(name="bare", params={"features": False}, **kind)


def samples(session):
    return np.random.default_rng([ord(letter) for letter in session]).normal(size=(300, 5))


def build(job):
    weights = job.parent or job.output
    if not job.parent:
        save_file({"fc.weight": np.diag([3.0, 2.0, 1.0, 1.0, 0.5])}, job.output)
    features = None
    if job.params.get("features", True):
        features = measured(weights, job.params, "fc").result()
    write_evaluation(job.folder / "evaluation.json", {"monday": 0.5}, features)
    return {"r2": (0.5, 0.01)}


def measured(weights, params, layer):
    weight = load_file(weights)["fc.weight"]
    covariance = FeatureCovariance()
    for session in params["data"]["sessions"]:
        covariance.update(samples(session) @ weight, groups=np.arange(300))
    return covariance


def measure(job, layers):
    return {layer: measured(job.output, job.params, layer) for layer in layers or ["fc"]}
"""


@pytest.fixture(scope="module")
def lock(tmp_path_factory):
    """The path of a lock whose entries are trained."""
    folder = tmp_path_factory.mktemp("lock")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "net.py").write_text(RECIPE)
    assert run(folder, "lock", "--init")[0] == 0
    status, _, err = run(folder, "train", "--all")
    assert status == 0, err
    return folder / "checkpoints.lock"


@pytest.fixture
def changed(lock):
    """A function that changes the recipe, which is restored afterwards."""
    recipe = lock.parent / "recipes" / "net.py"

    def change(old, new):
        assert old in RECIPE
        recipe.write_text(RECIPE.replace(old, new))

    yield change
    recipe.write_text(RECIPE)


def entry(lock, name="net"):
    return load(lock), find(load(lock), name, "desk")


def test_a_model_that_runs_again_has_the_features_of_its_evaluation(lock):
    read = read_features(lock.parent, *entry(lock))
    ((layer, covariance),) = run_features(lock, *entry(lock)).items()
    assert layer == "fc"
    again = covariance.result()
    np.testing.assert_allclose(again.eigenvalues, read.eigenvalues, rtol=1e-12)
    for name in ("n_samples", "n_groups", "n_blocks", "numerical_rank", "precision"):
        assert getattr(again, name) == getattr(read, name)
        assert type(getattr(again, name)) is type(getattr(read, name))
    for name in ("effective_rank", "condition_number", "participation_ratio", "trace"):
        np.testing.assert_allclose(getattr(again, name), getattr(read, name), rtol=1e-12)
        interval = getattr(read, f"{name}_interval")
        np.testing.assert_allclose(getattr(again, f"{name}_interval"), interval, rtol=1e-9)
    assert str(again) == str(read)


def test_an_evaluation_has_the_features_of_its_parents_weights(lock):
    read = read_features(lock.parent, *entry(lock, "again"))
    ran = run_features(lock, *entry(lock, "again"))["fc"].result()
    np.testing.assert_allclose(ran.eigenvalues, read.eigenvalues, rtol=1e-12)


@pytest.mark.parametrize(
    ("patterns", "n"), [(["monday"], 1), (["*esday"], 2), (["t*", "monday"], 2), (["*"], 3)]
)
def test_sessions_are_chosen_by_name_or_pattern(lock, patterns, n):
    assert run_features(lock, *entry(lock), sessions=patterns)["fc"].n_samples == 300 * n


def test_layers_are_given_to_the_recipe_as_they_are(lock):
    assert list(run_features(lock, *entry(lock), layers=["b", "a.*"])) == ["b", "a.*"]


def test_running_a_model_changes_no_file_of_the_lock(lock):
    def contents():
        return {p: p.read_bytes() for p in lock.parent.rglob("*") if p.is_file()}

    before = contents()
    run_features(lock, *entry(lock), sessions=["monday"])
    assert contents() == before


def test_an_unknown_session_is_refused_with_those_that_there_are(lock):
    with pytest.raises(ValueError) as error:
        run_features(lock, *entry(lock), sessions=["sunday"])
    assert str(error.value) == (
        "net (desk) has no session 'sunday'; it has 'monday', 'tuesday', 'wednesday'"
    )


def test_sessions_that_are_not_declared_are_refused(lock):
    with pytest.raises(ValueError, match=r"^bare \(desk\) declares no params\.data\.sessions$"):
        run_features(lock, *entry(lock, "bare"), sessions=["monday"])


def test_an_evaluation_without_features_says_how_to_run_the_model(lock):
    with pytest.raises(ValueError, match=r"measured no features; --layer NAME runs its model$"):
        read_features(lock.parent, *entry(lock, "bare"))


def test_a_recipe_without_measure_is_named(lock, changed):
    changed("def measure(job, layers)", "def other(job, layers)")
    status, out, err = run(lock.parent, "features", "net", "--layer", "fc")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == (
        "specdiag: recipes/net.py has no function measure(job, layers), which runs a model under "
        "specdiag.attach; docs/features.md has an example"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "measure() of recipes/net.py returned {}; expected a mapping of layers to what"),
        ("3", "measure() of recipes/net.py returned 3; expected a mapping of layers to what"),
        ("{'fc': 3}", "measure() of recipes/net.py returned {'fc': 3}; expected a mapping"),
        ("1 / 0", "recipes/net.py:44: ZeroDivisionError: division by zero"),
        ("exit(3)", "recipes/net.py:44: SystemExit: 3"),
        ("{'fc': FeatureCovariance()}", "net: no samples of fc: not called, or all was masked"),
    ],
)
def test_a_recipe_that_fails_is_named_in_one_line(lock, changed, body, message):
    changed("return {layer: measured", f"return {body}\n    return {{layer: measured")
    status, out, err = run(lock.parent, "features", "net", "--layer", "fc")
    assert (status, out) == (1, "")
    assert "Traceback" not in err
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize("option", ["--layer", "--sessions"])
def test_an_empty_name_is_a_usage_error(lock, option):
    status, out, err = run(lock.parent, "features", "net", option, "")
    assert (status, out) == (2, "")
    assert err.endswith("Error: --layer or --sessions: the name is empty\n")


def test_layers_without_samples_are_left_out_and_told(lock, changed):
    changed("return {layer: measured", "return {'unused': FeatureCovariance()} | {layer: measured")
    status, out, err = run(lock.parent, "features", "net", "--layer", "fc")
    assert status == 0
    assert err.splitlines()[-1] == "net: without samples, and left out: unused"
    assert "fc: the features use about" in out


def test_what_a_recipe_prints_does_not_get_into_the_json(lock, changed):
    changed("return {layer: measured", "print('hello')\n    return {layer: measured")
    status, out, err = run(lock.parent, "features", "net", "--layer", "fc", "--json")
    assert status == 0
    assert "hello" in err
    content = json.loads(out)
    (one,) = content.pop("features")
    assert (one["layer"], one["n_features"], one["n_samples"]) == ("fc", 5, 900)
    assert content == {"profiles": [], "comparisons": []}


def test_code_that_changed_since_the_training_is_told(lock, changed):
    changed("0.5, 0.01", "0.5, 0.02")
    status, out, err = run(lock.parent, "features", "net")
    assert status == 0
    assert err == "specdiag: net (desk) is stale: its recipe's code changed since it was trained\n"
    assert "of 5 directions" in out


def test_an_evaluation_that_was_edited_is_refused(lock):
    path = lock.parent / "checkpoints" / "desk" / "net.ckpt.evaluation.json"
    content = path.read_text()
    path.write_text(content.replace("0.5", "0.6", 1))
    try:
        status, out, err = run(lock.parent, "features", "net")
    finally:
        path.write_text(content)
    assert (status, out) == (1, "")
    assert "changed since it was made" in err


def test_a_missing_entry_says_what_makes_it(lock, tmp_path):
    (tmp_path / "checkpoints.lock").write_bytes(lock.read_bytes())
    status, out, err = run(tmp_path, "features", "net", "--layer", "fc")
    assert (status, out) == (1, "")
    assert err == (
        "specdiag: net is missing at desk scale; `specdiag train net --scale desk` makes it\n"
    )


def test_the_classes_are_those_of_specdiag(lock):
    (covariance,) = run_features(lock, *entry(lock)).values()
    assert isinstance(covariance, FeatureCovariance)
