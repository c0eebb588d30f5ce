"""Spectra of a network while it trains, and matrices that collapse."""

import csv
import logging

import numpy as np
import pytest

from specdiag.training.monitor import SpectralMonitor
from specdiag.training.readings import Reading

torch = pytest.importorskip("torch")


def network():
    """Return two matrices of full rank; the second one's output is not used."""
    torch.manual_seed(0)
    used = torch.nn.Linear(64, 64, bias=False)
    unused = torch.nn.Linear(64, 64, bias=False)
    return torch.nn.ModuleDict(
        {"used": used, "unused": unused, "unit_emb": torch.nn.Embedding(60, 64)}
    )


def train(decay, *, steps, lr=8e-3, monitor=None):
    from recipes.poyo.lamb import SparseLamb

    model = network()
    optimizer = SparseLamb(model.parameters(), lr=lr, weight_decay=decay)
    x = torch.randn(16, 64)
    for step in range(1, steps + 1):
        loss = (model["used"](x) - x).square().mean() + 0 * model["unused"](x).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if monitor:
            monitor(step, model)
    return model


def norm(model, name):
    return float(model[name].weight.detach().double().norm())


@pytest.mark.parametrize("decay", [1e-6, 1e-4, 1e-2, 1.0])
def test_lamb_shrinks_a_matrix_without_gradient_for_any_decay(decay):
    before = norm(network(), "unused")
    expected = before * (1 - 8e-3) ** 50
    assert norm(train(decay, steps=50), "unused") == pytest.approx(expected, rel=1e-4)


def test_lamb_without_decay_does_not_change_a_matrix_without_gradient():
    assert torch.equal(train(0.0, steps=50)["unused"].weight, network()["unused"].weight)


def test_a_collapse_is_logged_once(caplog):
    monitor = SpectralMonitor(every=100, collapsed=0.1)
    with caplog.at_level(logging.WARNING):
        train(1e-4, steps=600, monitor=monitor)
    assert list(monitor.dead) == ["unused.weight"]
    (record,) = caplog.records
    first = norm(train(1e-4, steps=1), "unused")
    now = norm(train(1e-4, steps=300), "unused")
    assert record.getMessage() == (
        f"unused.weight has collapsed by step 300: its norm fell from {first:.3g} after step 1 to "
        f"{now:.3g}"
    )


def test_no_matrix_collapses_without_decay():
    monitor = SpectralMonitor(every=100, collapsed=0.1)
    train(0.0, steps=400, monitor=monitor)
    assert monitor.dead == {}


def test_a_fall_of_the_rank_is_logged():
    monitor, model = SpectralMonitor(every=1), network()
    monitor(1, model)
    with torch.no_grad():
        model["used"].weight[:, 40:] = 0
    monitor(2, model)
    assert monitor.dead == {"used.weight": "its rank fell from 64 after step 1 to 40"}


def test_values_that_are_not_finite_are_no_collapse_and_are_logged_once(caplog):
    monitor, model = SpectralMonitor(every=1), network()
    monitor(1, model)
    with torch.no_grad():
        model["used"].weight[0, 0] = float("nan")
    with caplog.at_level(logging.WARNING):
        values = [monitor(step, model) for step in (2, 3)][-1]
    assert (monitor.dead, monitor.not_finite) == ({}, {"used.weight": 2})
    assert [r.getMessage() for r in caplog.records] == [
        "used.weight, step 2: some of its values are not finite"
    ]
    assert np.isnan(monitor.readings[-2].rank)
    assert (values["spectral/not_finite"], values["spectral/collapsed"]) == (1, 0)
    assert "spectral/used.weight/norm" not in values


def test_weights_near_the_limits_of_float64_are_finite(rng):
    W = rng.normal(size=(60, 80))
    for scale in (1e200, 1e-200):
        monitor = SpectralMonitor(every=1)
        monitor(1, {"a.weight": W * scale})
        assert monitor.not_finite == monitor.dead == {}
        assert monitor.readings[0].norm == pytest.approx(np.linalg.norm(W) * scale)


def test_readings_are_those_of_the_measured_checkpoint():
    from specdiag.checkpoint.reader import open_checkpoint
    from specdiag.htsr.measure import measure
    from specdiag.htsr.selection import matrices

    monitor, model = SpectralMonitor(every=7), network()
    monitor(1, model)
    layers = {
        layer.name: layer
        for layer in measure(matrices(open_checkpoint(model)), gof=False)
        if layer.status == "fit"
    }
    assert [r.name for r in monitor.readings] == list(layers) == ["used.weight", "unused.weight"]
    for r in monitor.readings:
        layer = layers[r.name]
        assert r.norm == layer.frobenius_norm
        assert r.rank == layer.rank
        assert (r.alpha, (r.alpha_low, r.alpha_high)) == (
            layer.posterior.mean,
            layer.posterior.interval,
        )


def test_tied_weights_are_read_once_and_those_of_an_embedding_table_never():
    model = network()
    model["head"] = torch.nn.Linear(64, 60, bias=False)
    model["head"].weight = model["unit_emb"].weight
    model["again"] = torch.nn.Linear(64, 64, bias=False)
    model["again"].weight = model["used"].weight
    monitor = SpectralMonitor()
    monitor(1, model)
    assert [r.name for r in monitor.readings] == ["used.weight", "unused.weight"]


def test_readings_are_taken_at_the_given_interval_and_written_to_a_file(tmp_path):
    monitor = SpectralMonitor(every=10, log=tmp_path / "spectra.csv", pattern="used*")
    train(1e-4, steps=25, monitor=monitor)
    assert [r.step for r in monitor.readings] == [1, 10, 20]
    rows = list(csv.DictReader((tmp_path / "spectra.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [1, 10, 20]
    assert [float(row["alpha"]) for row in rows] == [r.alpha for r in monitor.readings]


def test_a_resumed_training_compares_with_the_first_reading(tmp_path):
    log = tmp_path / "spectra.csv"
    train(1e-4, steps=30, monitor=SpectralMonitor(every=10, log=log))
    again = SpectralMonitor(every=10, log=log)
    for step in (16, 20):  # after a state that was saved at step 15
        again(step, network())
    assert sorted({r.step for r in again.readings}) == [1, 10, 20]
    assert [r.step for r in again._first.values()] == [1, 1]


def test_another_training_has_its_own_first_readings(rng):
    one = {"a.weight": rng.normal(size=(60, 80)), "b.weight": np.full((60, 80), np.nan)}
    other = {"a.weight": 1e-6 * one["a.weight"], "b.weight": rng.normal(size=(60, 80))}
    monitor = SpectralMonitor(every=1, budget=None)
    for step, model in ((1, one), (2, one), (1, other), (2, other)):
        values = monitor(step, model)
    assert (monitor.dead, monitor.not_finite) == ({}, {})
    assert values["spectral/collapsed"] == values["spectral/not_finite"] == 0
    np.testing.assert_allclose(
        monitor._first["a.weight"].norm, float(np.linalg.norm(other["a.weight"]))
    )


def test_a_collapse_after_an_earlier_state_was_restored_is_logged_again(rng, caplog):
    whole = {"a.weight": rng.normal(size=(60, 80))}
    gone = {"a.weight": 1e-6 * whole["a.weight"]}
    monitor = SpectralMonitor(every=1, budget=None)
    for step, model in ((1, whole), (2, gone), (3, gone), (2, whole)):
        values = monitor(step, model)
    assert (monitor.dead, values["spectral/collapsed"]) == ({}, 0)
    for step, model in ((3, gone), (4, gone)):
        monitor(step, model)
    assert [" by step " in r.getMessage() for r in caplog.records] == [True, True]
    monitor(4, gone)
    assert list(monitor.dead) == ["a.weight"]


def test_a_model_without_matrices_is_told_once(rng, caplog):
    monitor = SpectralMonitor(every=1)
    for step in (1, 2):
        monitor(step, {"a.weight": rng.normal(size=(3, 3))})
    (record,) = caplog.records
    assert record.getMessage().startswith("SpectralMonitor measures nothing at step 1: the model")


def test_a_training_without_matrices_is_resumed(tmp_path):
    log = tmp_path / "spectra.csv"
    for step in (1, 2):
        SpectralMonitor(every=1, log=log)(step, {"a.weight": np.eye(3)})
    assert log.read_text() == "step,name,norm,rank,alpha,alpha_low,alpha_high,stable_rank\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"every": 0}, "every is 0: expected a whole number, at least 1"),
        ({"every": 1.5}, "every is 1.5: expected a whole number, at least 1"),
        ({"min_eigenvalues": None}, "min_eigenvalues is None: expected a whole number, at least 2"),
        ({"collapsed": float("nan")}, "collapsed is nan: expected a share from 0 to 1"),
        ({"budget": 0}, "budget is 0: expected a share of the time up to 1, or None"),
        ({"budget": 2}, "budget is 2: expected a share of the time up to 1, or None"),
        ({"log": "run.pt"}, "log is 'run.pt': expected a name that ends in .csv"),
    ],
)
def test_an_invalid_setting_is_refused_before_the_training(setting, message):
    with pytest.raises(ValueError) as error:
        SpectralMonitor(**setting)
    assert str(error.value) == message


def test_a_reading_has_plain_numbers(rng):
    monitor = SpectralMonitor(every=1)
    monitor(1, {"a.weight": rng.normal(size=(60, 80))})
    (r,) = monitor.readings
    assert isinstance(r, Reading)
    np.testing.assert_allclose(r.rank, 60)
    assert r.alpha_low < r.alpha < r.alpha_high


def test_a_reading_changes_neither_weights_nor_random_numbers_nor_threads():
    model = network()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    SpectralMonitor()(1, model)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_a_table_that_cannot_be_written_costs_no_training(rng, tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir()
    monitor = SpectralMonitor(every=1, log=folder / "x.spectra.csv", budget=None)
    model = {"w": rng.standard_normal((60, 60))}
    monitor(1, model)
    (folder / "x.spectra.csv").unlink()
    folder.rmdir()
    assert monitor(2, model)
    assert monitor(3, model)
    assert [r.step for r in monitor.readings] == [1, 2, 3]
    assert caplog.text.count("x.spectra.csv is not written any more") == 1


def test_a_missing_folder_of_the_table_is_named_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"^log is '.*x\.csv': there is no folder '.*none'"):
        SpectralMonitor(log=tmp_path / "none" / "x.csv")
