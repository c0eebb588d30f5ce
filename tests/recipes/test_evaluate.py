"""R² after stitching, and the features from the same pass."""

import numpy as np
import pytest

from recipes.data.arrays import to_arrays
from recipes.data.batches import Batches
from recipes.poyo.evaluate import evaluate, predict, r2_by_session, r2_score
from recipes.poyo.model import build, embedding_rows
from support.sessions import MODEL, params, session, sessions

torch = pytest.importorskip("torch")
pytest.importorskip("torch_brain")


def model_and_batches(recordings, **changed):
    declared = params(**changed)
    arrays = to_arrays(recordings, declared)
    model = build(declared, arrays, None)
    batches = Batches(
        arrays, **embedding_rows(model, arrays), model=MODEL, unit_dropout={"level": "off"}, seed=0
    )
    return model, batches


@pytest.fixture(scope="module")
def trained():
    return model_and_batches(sessions())


def test_r2_is_that_of_torchmetrics():
    from torchmetrics.functional import r2_score as theirs

    rng = np.random.default_rng(0)
    target = rng.normal(size=(200, 3)) * [1.0, 5.0, 0.1] + [0.0, 3.0, -1.0]
    prediction = target + rng.normal(size=(200, 3)) * [0.3, 4.0, 0.2]
    expected = float(theirs(torch.tensor(prediction), torch.tensor(target)))
    assert r2_score(target, prediction) == pytest.approx(expected, abs=1e-12)


def test_r2_is_one_minus_the_residual_part_of_the_variance():
    target = np.array([[0.0, 0.0], [2.0, 4.0]])
    prediction = np.array([[1.0, 0.0], [2.0, 4.0]])
    assert r2_score(target, prediction) == (0.5 + 1.0) / 2
    assert r2_score(target, np.tile(target.mean(axis=0), (2, 1))) == 0.0


def test_r2_is_that_of_torch_brains_stitcher_and_torchmetrics(trained):
    """The windows go one by one through both, in float64."""
    from torch_brain.utils.stitcher import stitch
    from torchmetrics.functional import r2_score as theirs

    model, batches = trained
    evaluation = evaluate(model, batches, "test", step=0.5)
    cache = {name: [] for name in batches.arrays.sessions}
    for batch in batches.evaluation("test", 3, 0.5):
        with torch.no_grad():
            output = model(**batch.inputs)
        for i, which in enumerate(batch.session):
            keep = batch.evaluated[i]
            times = batch.inputs["output_timestamps"][i][keep].double() + batch.start[i]
            parts = (torch.round(times, decimals=4), output[i][keep], batch.values[i][keep])
            cache[batches.arrays.sessions[which]].append(parts)
    for name, parts in cache.items():
        times, prediction, target = (torch.cat(values) for values in zip(*parts, strict=True))
        _, prediction = stitch(times, prediction.double())
        stitched, target = stitch(times, target.double())
        assert len(stitched) < len(times)  # windows overlap
        expected = float(theirs(prediction, target))
        assert evaluation.by_session[name] == pytest.approx(expected, abs=1e-6)
    assert evaluation.r2 == np.mean(list(evaluation.by_session.values()))


class GivenValues:
    """A model whose predictions are given: one value for all outputs of a window."""

    def __init__(self, answers):
        self.answers, self.readout = answers, None

    def eval(self):
        return self

    def __call__(self, **inputs):
        times = inputs["output_timestamps"]
        return self.answers.pop(0)[:, None, None].expand(*times.shape, 2)


def test_overlapping_windows_are_averaged_at_every_timestamp(trained):
    _, batches = trained
    (batch,) = batches.evaluation("test", 64, 0.5)
    start = torch.tensor(batch.start)
    predictions, seen = predict(GivenValues([start]), batches, "test", step=0.5)
    first = batches.arrays.times[: batches.arrays.output_offset[1]]
    for time, expected in ((20.2, 20.0), (20.7, 20.25), (21.2, 20.75), (21.7, 21.0)):
        i = np.argmin(np.abs(first - time))
        assert predictions[i].tolist() == [expected, expected]
    assert not seen[: np.searchsorted(first, 20.0) - 1].any()
    assert np.isnan(predictions[0]).all()


def test_only_evaluation_intervals_count(trained):
    _, batches = trained
    arrays = batches.arrays
    good = arrays.values.astype(float)
    good[~arrays.evaluated] = 1e6
    everywhere = np.ones(len(good), dtype=bool)
    assert set(r2_by_session(good, everywhere, arrays, "test").values()) == {1.0}


def test_features_are_the_readouts_input_at_every_output_of_every_window(trained):
    model, batches = trained
    spectrum = evaluate(model, batches, "test", step=0.5).features
    rows_seen = []
    hook = model.readout.register_forward_pre_hook(lambda _, args: rows_seen.append(args[0]))
    n = 0
    for batch in batches.evaluation("test", 5, 0.5):
        with torch.no_grad():
            model(**batch.inputs)
        rows_seen[-1] = rows_seen[-1][batch.mask]
        n += len(set(batch.interval.tolist()))
    hook.remove()
    features = torch.cat(rows_seen).double().numpy()
    assert spectrum.n_samples == len(features)
    assert spectrum.n_groups == 4  # two test trials in each of two sessions
    np.testing.assert_allclose(spectrum.trace, np.cov(features.T).trace(), rtol=1e-6)


def test_an_evaluation_is_without_dropout_and_does_not_change_the_weights(trained):
    model, batches = trained
    before = {k: v.clone() for k, v in model.named_parameters()}
    model.train()
    first = evaluate(model, batches, "test", step=0.5)
    assert evaluate(model, batches, "test", step=0.5).r2 == first.r2
    assert all(torch.equal(before[k], v) for k, v in model.named_parameters())


def test_a_session_that_cannot_be_evaluated_is_named():
    recording = session()
    recording.movement_phases.reach_period.start[:] = 0.0
    recording.movement_phases.reach_period.end[:] = 1.0
    model, batches = model_and_batches([recording])
    with pytest.raises(ValueError) as error:
        evaluate(model, batches, "test", step=0.5)
    assert str(error.value) == (
        "session c_20131003_center_out_reaching: 0 timestamps of the test windows lie in the "
        "evaluation intervals, two are needed; record longer, or declare other intervals"
    )
