"""R² after stitching, and the features of the same pass."""

import numpy as np
import pytest

from recipes.data.arrays import to_arrays
from recipes.data.batches import Batches
from recipes.poyo.evaluate import evaluate, predict, r2_by_session, r2_score
from recipes.poyo.model import build, embedding_rows
from support.sessions import MODEL, params, session, sessions

torch = pytest.importorskip("torch")
pytest.importorskip("torch_brain")


def made(recordings, **changed):
    declared = params(**changed)
    held = to_arrays(recordings, declared)
    model = build(declared, held, None)
    batches = Batches(
        held, **embedding_rows(model, held), model=MODEL, unit_dropout={"level": "off"}, seed=0
    )
    return model, batches


@pytest.fixture(scope="module")
def trained():
    return made(sessions())


def test_r2_is_that_of_torchmetrics():
    from torchmetrics.functional import r2_score as theirs

    rng = np.random.default_rng(0)
    target = rng.normal(size=(200, 3)) * [1.0, 5.0, 0.1] + [0.0, 3.0, -1.0]
    prediction = target + rng.normal(size=(200, 3)) * [0.3, 4.0, 0.2]
    found = theirs(torch.tensor(prediction), torch.tensor(target))
    assert r2_score(target, prediction) == pytest.approx(float(found), abs=1e-12)


def test_r2_by_hand():
    target = np.array([[0.0, 0.0], [2.0, 4.0]])
    prediction = np.array([[1.0, 0.0], [2.0, 4.0]])
    assert r2_score(target, prediction) == (0.5 + 1.0) / 2
    assert r2_score(target, np.tile(target.mean(axis=0), (2, 1))) == 0.0


def test_r2_is_that_of_upstreams_stitcher_and_metric(trained):
    """The same windows one by one, by torch_brain's own stitcher and torchmetrics, in float64."""
    from torch_brain.utils.stitcher import stitch
    from torchmetrics.functional import r2_score as theirs

    model, batches = trained
    found = evaluate(model, batches, "test", step=0.5)
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
        assert found.by_session[name] == pytest.approx(float(theirs(prediction, target)), abs=1e-6)
    assert found.r2 == np.mean(list(found.by_session.values()))


class Said:
    """A model that says what it is told, by the first output timestamp of a window."""

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
    predictions, seen = predict(Said([start]), batches, "test", step=0.5)
    first = batches.arrays.times[: batches.arrays.output_offset[1]]
    for time, expected in ((20.2, 20.0), (20.7, 20.25), (21.2, 20.75), (21.7, 21.0)):
        i = np.argmin(np.abs(first - time))
        assert predictions[i].tolist() == [expected, expected]
    assert not seen[: np.searchsorted(first, 20.0) - 1].any()
    assert np.isnan(predictions[0]).all()


def test_only_evaluation_intervals_count(trained):
    _, batches = trained
    held = batches.arrays
    good = held.values.astype(float)
    good[~held.evaluated] = 1e6
    everywhere = np.ones(len(good), dtype=bool)
    assert set(r2_by_session(good, everywhere, held, "test").values()) == {1.0}


def test_features_are_the_readouts_input_at_every_output_of_every_window(trained):
    model, batches = trained
    found = evaluate(model, batches, "test", step=0.5).features
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
    assert found.n_samples == len(features)
    assert found.n_groups == 4  # two test trials in each of two sessions
    np.testing.assert_allclose(found.trace, np.cov(features.T).trace(), rtol=1e-6)


def test_evaluation_has_no_dropout_and_leaves_the_weights(trained):
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
    model, batches = made([recording])
    with pytest.raises(ValueError) as error:
        evaluate(model, batches, "test", step=0.5)
    assert str(error.value) == (
        "session c_20131003_center_out_reaching: 0 timestamps of the test windows lie in the evaluation "
        "intervals, two are needed; record longer, or declare other intervals"
    )
