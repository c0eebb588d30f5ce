"""The matrices of several networks share the cores, and their digits depend on neither."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.compute.machine import using
from specdiag.htsr import measure
from specdiag.htsr.measure import Network, measure_networks
from specdiag.htsr.selection import matrices


@pytest.fixture(scope="module")
def states():
    rng = np.random.default_rng(0)
    sizes = [(90, 70), (60, 120), (500, 480)]
    return [{f"{i}.weight": rng.standard_normal(s) for i, s in enumerate(sizes)} for _ in "abc"]


def networks(states):
    return [Network(weights=matrices(open_checkpoint(state))) for state in states]


def test_networks_are_measured_at_the_same_time_each_with_its_own_function(states):
    together = threading.Barrier(3)

    def through(i):
        def waits_for_the_others(function, weight):
            together.wait(timeout=30)
            return replace(function(weight), reason=f"network {i}")

        return waits_for_the_others

    one_each = [
        replace(network, weights=network.weights[:1], through=through(i))
        for i, network in enumerate(networks(states))
    ]
    with using(jobs=3):
        layers = list(measure_networks(one_each))
    assert [[layer.reason for layer in found] for found in layers] == [
        ["network 0"],
        ["network 1"],
        ["network 2"],
    ]


@pytest.mark.parametrize("alone", [79, 8192])
def test_no_digit_depends_on_the_other_networks_nor_on_the_number_of_jobs(
    states, alone, monkeypatch
):
    monkeypatch.setattr(measure, "ALONE", alone)
    with using(jobs=1):
        single = [layer for one in networks(states) for layer in measure.measure(one.weights)]
    for jobs in (1, 2, 5):
        with using(jobs=jobs):
            together = [x for layers in measure_networks(networks(states)) for x in layers]
        for a, b in zip(single, together, strict=True):
            assert repr(a) == repr(b)
            np.testing.assert_array_equal(a.eigenvalues, b.eigenvalues)


def test_a_network_of_skipped_matrices_and_one_without_any_keep_their_place(states):
    small = {"0.weight": np.eye(3), "1.weight": np.ones((4, 4))}
    found = list(measure_networks([*networks([small]), Network(weights=[]), *networks(states[:1])]))
    assert [[layer.status for layer in layers] for layers in found] == [
        ["skipped", "skipped"],
        [],
        ["fit", "fit", "fit"],
    ]
