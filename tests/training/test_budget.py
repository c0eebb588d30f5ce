"""The share of a training's time that readings may take."""

import logging
import math

import numpy as np
import pytest

from specdiag.training.budget import FREE, Budget, work
from specdiag.training.collapse import how_collapsed
from specdiag.training.model import measurable
from specdiag.training.monitor import SpectralMonitor
from specdiag.training.readings import Reading


def weights(rng, sizes=(50, 60, 70, 80)):
    network = {f"{i}.weight": rng.normal(size=(n, n)) for i, n in enumerate(sizes)}
    return network, measurable(network, None, 50)


def at(seconds, *, spent, share=0.02):
    """Return the budget of a training that was resumed after some seconds."""
    budget = Budget(share)
    budget.before, budget.spent = seconds, spent
    return budget


def test_readings_may_take_the_share_or_one_second_if_that_is_more():
    assert at(0, spent=0).left == FREE == 1
    assert at(49, spent=0.25).left == 0.75
    assert at(1000, spent=5).left == pytest.approx(15)
    assert at(1000, spent=25).left == pytest.approx(-5)
    assert at(1000, spent=25, share=None).left == math.inf


def test_a_matrix_that_does_not_fit_waits_and_is_not_passed_over(rng, monkeypatch):
    from specdiag.compute.machine import using

    _, (a, b, c, d) = weights(rng)
    budget = Budget(0.02)
    for weight, seconds in ((a, 1), (b, 5), (c, 1), (d, 1)):
        budget.learn(weight, seconds)
    with using(jobs=1):
        assert budget.affordable([a, b, c, d], 3) == [a]
        assert budget.affordable([b, c, d, a], 3) == []
        assert budget.affordable([c, d, a, b], 3) == [c, d, a]
    with using(jobs=2):  # together
        assert budget.affordable([a, b, c, d], 5) == [a, b, c, d]
        assert budget.affordable([a, b, c, d], 4) == [a]


def test_an_unknown_matrix_takes_what_known_ones_take_for_their_work(rng):
    _, (a, b, c, _) = weights(rng)
    budget = Budget(0.02)
    assert 0 < budget.expected(c) < 0.1
    budget.learn(a, 1.0)
    budget.learn(b, 3.0)
    assert budget.expected(c) == pytest.approx(4 * work(c) / (work(a) + work(b)))
    budget.learn(c, 0.002)
    assert budget.expected(c) == 0.002


def broke(monitor):
    """Let a monitor have spent all that it may."""
    monitor.clock.before, monitor.clock.spent = 0.0, FREE
    return monitor


def test_without_time_the_first_reading_has_all_norms_and_says_so_once(rng, caplog):
    network, found = weights(rng)
    monitor = broke(SpectralMonitor(every=1))
    with caplog.at_level(logging.WARNING):
        values = monitor(1, network)
        assert monitor(2, network) == {}  # not even one spectrum fits
        monitor.clock.before = 1e9
        monitor(3, network)
    assert [r.norm for r in monitor.readings[:4]] == [
        pytest.approx(np.linalg.norm(W)) for W in network.values()
    ]
    assert all(math.isnan(r.rank) and math.isnan(r.alpha) for r in monitor.readings[:4])
    assert sorted(values) == [
        *(f"spectral/{w.name}/norm" for w in found),
        "spectral/collapsed",
        "spectral/not_finite",
    ]
    assert [r.rank for r in monitor.readings[4:]] == [50, 60, 70, 80]
    partial, left_out = [r.getMessage() for r in caplog.records]
    assert left_out.startswith("SpectralMonitor takes no reading at step 2: those so far took 1")
    assert left_out.endswith("come when that is below 2 % (budget=None leaves none out)")
    assert [partial] == [
        (
            "SpectralMonitor measures 0 of 4 matrices now and the others in turn, so that readings "
            "take at most 2 % of the time (budget=None measures all of them each time)"
        )
    ]


def test_every_matrix_comes_round(rng):
    network, found = weights(rng)
    monitor = SpectralMonitor(every=1)
    taken = []
    for step in range(1, 9):
        # Time for one matrix and the norms: a second one takes longer.
        monitor.clock.known = {
            w.name: (0.0 if w is found[(step - 1) % 4] else 1e9, 1.0) for w in found
        }
        monitor.clock.before, monitor.clock.spent, monitor._next = 0.0, FREE - 0.9, 0.0
        monitor(step, network)
        taken.append([r.name for r in monitor.readings[-4:] if not math.isnan(r.rank)])
    assert taken == 2 * [[w.name] for w in found]


def test_a_norm_that_falls_is_seen_without_a_spectrum(rng):
    network, found = weights(rng)
    monitor = SpectralMonitor(every=1)
    monitor.clock.known = {w.name: (1e9, 1.0) for w in found}  # a spectrum takes years
    monitor(1, network)
    network["1.weight"] = network["1.weight"] * 1e-4
    monitor._next = 0.0
    assert monitor(2, network)["spectral/collapsed"] == 1
    assert list(monitor.dead) == ["1.weight"]


def test_a_rank_that_falls_is_told_from_the_first_spectrum():
    first, ranked = Reading(step=1, name="a", norm=1.0), Reading(step=5, name="a", norm=2, rank=60)
    now = Reading(step=9, name="a", norm=1.5, rank=20)
    assert how_collapsed(first, now, 0.1, 50) == ""
    how = "its rank fell from 60 after step 5 to 20"
    assert how_collapsed(first, now, 0.1, 50, ranked=ranked) == how


def test_the_times_of_a_training_go_on_after_a_resume(rng):
    network, _ = weights(rng)
    monitor = SpectralMonitor(every=1)
    monitor(1, network)
    monitor.clock.before += 500
    again = SpectralMonitor(every=1)
    again.load_state_dict(monitor.state_dict())
    assert again.clock.spent == monitor.clock.spent > 0
    assert again.clock.elapsed == pytest.approx(monitor.clock.elapsed, abs=60)
    assert again.clock.elapsed >= 500


def test_without_a_budget_every_reading_is_of_all_matrices(rng):
    network, _ = weights(rng)
    monitor = broke(SpectralMonitor(every=1, budget=None))
    for step in (1, 2):
        monitor(step, network)
    assert [r.rank for r in monitor.readings] == 2 * [50, 60, 70, 80]
