"""Readings of a training become histories; a change is an event."""

import math
from dataclasses import replace

import numpy as np
import pytest

from specdiag.htsr.layers import Layer
from specdiag.training.logged import read_table
from specdiag.training.readings import Reading
from specdiag.training.trajectory import Event, medians, reading_of, trajectory

FIRST = Reading(step=1, name="a", norm=2.0, rank=64, alpha=4, alpha_low=3, alpha_high=5)


def at(step, **values):
    return replace(FIRST, step=step, **values)


def history(*readings, **settings):
    (only,) = trajectory(readings, **settings).histories
    return only


def test_a_fall_of_norm_or_rank_is_a_collapse():
    one = history(FIRST, at(2), at(3, norm=1e-3))
    assert one.state == "collapsed"
    assert one.events == (Event(3, "collapsed", "its norm fell from 2 after step 1 to 0.001"),)
    two = history(FIRST, at(2, rank=40, alpha=math.nan))
    assert two.events == (Event(2, "collapsed", "its rank fell from 64 after step 1 to 40"),)
    assert history(FIRST, at(2, norm=0.5), share=0.3).state == "collapsed"


def test_a_matrix_that_comes_back_has_not_collapsed_at_the_end():
    one = history(FIRST, at(2, norm=1e-4), at(3, norm=1.0))
    assert (one.state, one.events[1]) == ("ok", Event(3, "back", "its norm is 1, its rank 64"))


def test_values_that_are_not_finite_are_no_collapse():
    nothing = Reading(step=2, name="a")
    one = history(FIRST, nothing)
    assert one.state == "not finite"
    assert one.events == (Event(2, "not finite", "some of its values are not finite"),)


def test_a_matrix_of_low_rank_from_the_start_is_degenerate_and_no_alarm():
    one = history(at(1, rank=3, alpha=math.nan), at(2, rank=4, alpha=math.nan))
    assert (one.state, one.events) == ("degenerate", ())


def test_a_matrix_of_zeros_at_first_can_grow():
    one = history(at(1, norm=0.0, rank=0, alpha=math.nan), at(2))
    assert (one.state, one.events) == ("ok", ())


def test_alpha_moved_if_its_intervals_are_apart():
    apart = at(2, alpha=2, alpha_low=1, alpha_high=2.9)
    assert history(FIRST, apart).moved == -1
    assert history(replace(apart, step=0), FIRST).moved == 1
    assert history(FIRST, at(2, alpha_low=4, alpha_high=6)).moved == 0
    assert history(FIRST, Reading(step=2, name="a")).moved == 0


def test_steps_are_in_order_and_the_last_of_two_readings_counts():
    one = trajectory([at(20), FIRST, at(3), at(20, norm=7.0)])
    assert one.steps == [1, 3, 20]
    assert one.histories[0].last.norm == 7.0


def test_medians_are_of_the_matrices_that_always_had_an_alpha():
    others = [at(1, name="b", alpha=9), at(2, name="b", alpha=math.nan)]
    assert medians(trajectory([FIRST, at(2, alpha=3), *others])) == {1: (4, 1), 2: (3, 1)}


def test_a_layer_that_cannot_be_read_has_no_reading():
    layer = Layer(name="a", shape=(60, 60), dtype="float32", status="failed", reason="cut short")
    assert reading_of(1, layer) is None
    finite = replace(layer, reason="1 of 9 values are NaN or infinite")
    assert np.isnan(reading_of(1, finite).norm)
    assert reading_of(1, replace(layer, status="skipped")) is None


LOGGED = """epoch,step,spectral/a.weight/alpha,spectral/a.weight/norm,spectral/b/alpha,\
spectral/n,loss
0,9,4.5,2.0,,6,0.5
0,9,,,3.0,,
0,19,,,,,0.25
1,29,2.5,1.0,nan,5,
"""


def test_the_metrics_of_a_logger_are_readings(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(LOGGED)
    found = [(r.step, r.name, r.alpha, r.norm) for r in read_table(path)]
    np.testing.assert_equal(
        found,
        [
            (9, "a.weight", 4.5, 2.0),
            (9, "b", 3.0, math.nan),
            (29, "a.weight", 2.5, 1.0),
            (29, "b", math.nan, math.nan),
        ],
    )


def test_a_matrix_without_numbers_is_not_finite_if_the_logger_counted_one(tmp_path):
    path = tmp_path / "metrics.csv"
    header = "step,spectral/a/norm,spectral/a/alpha,spectral/b/norm,spectral/not_finite,loss\n"
    path.write_text(f"{header}1,2,3,4,0,\n2,,,,,7\n8,,,4,1,\n9,,,,1,\n")
    a, b = trajectory(read_table(path)).histories
    assert (a.state, [event.step for event in a.events]) == ("not finite", [8])
    assert (b.state, b.last.step) == ("ok", 8)  # one is counted, so two were not read


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("4.5", "x", "line 2: spectral/a.weight/alpha is 'x', not a number"),
        ("2.0", "-2", "line 2: spectral/a.weight/norm is '-2': no measurement gives that"),
        ("0,9,4.5", "0,inf,4.5", "line 2: step is 'inf', not a number"),
        ("0,9,4.5", "0,-9,4.5", "line 2: step is '-9': no training has that"),
        ("step", "steps", "column step is missing, which loggers of Lightning write"),
    ],
)
def test_invalid_metrics_are_an_error_of_one_line(old, new, wrong, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(LOGGED.replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        read_table(path)
    assert str(error.value) == f"{path}: {wrong}"


def test_readings_of_the_norm_alone_leave_the_spectra_as_they_are():
    alone = Reading(step=2, name="a", norm=1.9)
    one = history(FIRST, alone, at(3, alpha=3.5), Reading(step=4, name="a", norm=1.8))
    assert (one.state, one.events) == ("ok", ())
    assert [r.step for r in one.spectra] == [1, 3]
    assert one.last.norm == 1.8
    fallen = history(FIRST, at(2, rank=8, alpha=math.nan), Reading(step=3, name="a", norm=1.8))
    assert (fallen.state, len(fallen.events)) == ("collapsed", 1)
    unread = history(Reading(step=1, name="a", norm=2.0), at(5), at(9, rank=4, alpha=math.nan))
    assert unread.events == (Event(9, "collapsed", "its rank fell from 64 after step 5 to 4"),)


def test_a_median_is_of_the_last_alphas_of_matrices_that_are_read_in_turn():
    turns = [at(1), at(2, name="b", alpha=2), at(3, alpha=3)]
    found = medians(trajectory(turns))
    np.testing.assert_equal(found, {1: (math.nan, 2), 2: (3.0, 2), 3: (2.5, 2)})
