"""A trained POYO -> the features of its layers, from the windows of its evaluation."""

from dataclasses import replace

import numpy as np
import pytest

from recipes.poyo.evaluate import evaluate
from support.jobs import job
from support.sessions import NAMES, sessions

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("torch_brain")

LATENTS = 2 * 4  # of a window of a second: two in each quarter of it


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A job whose checkpoint is that of an untrained model, with its recordings."""
    from recipes.data.arrays import to_arrays
    from recipes.poyo.checkpoints import write
    from recipes.poyo.model import build

    job_ = job(tmp_path_factory.mktemp("poyo"))
    job_ = replace(job_, params={**job_.params, "data": {**job_.params["data"], "eval_step": 0.5}})
    model = build(job_.params, to_arrays(sessions(), job_.params), None)
    write(job_.output, {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}})
    return job_


@pytest.fixture
def measure(made, monkeypatch):
    """A function that measures layers on the recordings of the tests."""
    from recipes.poyo import features

    monkeypatch.setattr(features, "recordings", lambda _: sessions())
    return lambda *layers: features.measure(made, layers)


@pytest.fixture(scope="module")
def evaluation(made):
    from recipes.poyo.run import loaded

    model, batches = loaded(made, sessions(), made.output)
    return evaluate(model, batches, "test", step=0.5)


def test_without_layers_the_features_are_those_of_the_evaluation(measure, evaluation):
    ((name, covariance),) = measure().items()
    spectrum = covariance.result()
    assert name == "readout"
    assert (spectrum.n_samples, spectrum.n_groups) == (evaluation.features.n_samples, 4)
    np.testing.assert_allclose(
        spectrum.eigenvalues, evaluation.features.eigenvalues, rtol=1e-5, atol=1e-12
    )


def test_every_layer_is_measured_with_the_tokens_that_count(measure, evaluation):
    measured = measure("*")
    n_windows = 4 * 3  # test trials of two seconds, windows of one at half a second
    outputs, latents = evaluation.features.n_samples, n_windows * LATENTS
    assert len(measured) == 15
    for name, covariance in measured.items():
        decodes = name == "readout" or (name.startswith("dec_") and not name.endswith("to_kv"))
        expected = outputs if decodes else latents
        if name != "enc_atn.to_kv":  # which reads spikes
            assert covariance.n_samples == expected, name
        assert covariance.result().n_groups == 4
    assert latents < measured["enc_atn.to_kv"].n_samples < 12 * 1000


def test_layers_are_in_the_order_of_the_forward_pass(measure):
    assert list(measure("readout", "dec_ffn", "proc_layers.0", "enc_*.to_q")) == [
        "enc_atn.to_q",
        "proc_layers.0",
        "dec_ffn",
        "readout",
    ]


def test_a_processing_layer_which_is_never_called_as_a_whole_has_the_input_of_its_first_part(
    measure,
):
    (whole,) = measure("proc_layers.0").values()
    (part,) = measure("proc_layers.0.0").values()
    np.testing.assert_array_equal(whole.result().eigenvalues, part.result().eigenvalues)


def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(measure):
    with pytest.raises(ValueError, match=r"prok\.\*"):
        measure("prok.*")


def test_every_recipe_of_the_study_can_measure():
    from specdiag.lock.recipe import load_recipe
    from support.paths import ROOT

    names = [p.stem for p in (ROOT / "recipes").glob("[!_]*.py")]
    assert len(names) == 10
    assert all(hasattr(load_recipe(ROOT, name), "measure") for name in names)
    assert NAMES
