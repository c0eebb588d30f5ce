"""Features as a headline, a table and JSON."""

import json

import click
import numpy as np

from specdiag.features.comparison.measured import Measured
from specdiag.features.covariance import FeatureCovariance
from specdiag.show.features import as_json, as_text


def measured(source, layer, deviations, n=1000, *, grouped=True):
    covariance = FeatureCovariance()
    samples = np.random.default_rng(0).normal(size=(n, len(deviations))) * deviations
    covariance.update(samples, groups=np.arange(n) if grouped else None)
    return Measured(source, layer, covariance.result())


def test_one_layer_has_a_headline_and_all_numbers():
    ((title, lines),) = as_text([measured("net", "readout", np.ones(4))])
    assert title == "net"
    assert lines[0].startswith(
        "readout: the features use about 4 of 4 directions (effective rank, 95 % interval 3.9"
    )
    assert "the condition number is about 1." in lines[0]
    assert any(line.startswith("participation ratio") for line in lines)


def test_without_intervals_the_headline_says_so():
    ((_, lines),) = as_text([measured("net", "readout", np.ones(4), grouped=False)])
    assert "(effective rank, of the sample)" in lines[0]
    ((_, lines),) = as_text([measured("net", "readout", np.zeros(4))])
    assert lines[0] == "readout: the 4 features do not vary"


def test_several_layers_have_a_row_each_and_a_profile():
    rows = [measured("net", f"layers.{i}", np.ones(4) * [1, 1, 1, 10.0**-i]) for i in range(3)]
    ((_, lines),) = as_text(rows)
    assert lines[0].split()[:3] == ["layer", "d", "samples"]
    assert [line.split()[0] for line in lines[2:5]] == ["layers.0", "layers.1", "layers.2"]
    assert lines[5].startswith("as shares of the width, the features use between ")


def test_the_table_fits_into_a_terminal_of_80_columns():
    rows = [measured("net", f"model.layers.{i}.attention.query", np.ones(4)) for i in range(3)]
    ((_, lines),) = as_text(rows, 80)
    assert max(len(click.unstyle(line)) for line in lines[:5]) <= 80


def test_the_table_has_the_condition_number_as_far_as_it_is_known():
    rows = [
        measured("net", "known", [3.0, 1.0]),
        measured("net", "bound", [1.0, 0.0]),
        measured("net", "wide", np.ones(40), 80),
        measured("net", "few", np.ones(9), 5),
        measured("net", "still", np.zeros(2)),
    ]
    ((_, lines),) = as_text(rows)
    cells = [click.unstyle(line).split("  ")[-1].strip() for line in lines[2:7]]
    assert abs(float(cells[0]) - 9) < 2
    assert cells[1].startswith(">= ")
    assert " - " in cells[2]
    assert cells[3:] == [">= 1", "unknown"]


def test_sources_are_apart_in_the_text_and_all_in_one_json():
    rows = [measured(source, "fc", np.ones(4)) for source in ("a", "b")]
    assert [title for title, _ in as_text(rows)] == ["a", "b"]
    content = json.loads(as_json(rows))
    assert [row["source"] for row in content["features"]] == ["a", "b"]
    assert content["profiles"] == []


def test_json_has_the_same_keys_for_every_layer_and_null_for_what_is_unknown():
    rows = [
        measured("net", "known", np.ones(4)),
        measured("net", "few", np.ones(4), 3),
        measured("net", "still", np.zeros(4)),
    ]
    content = json.loads(as_json(rows))
    keys = {tuple(row) for row in content["features"]}
    assert len(keys) == 1
    assert content["features"][1]["condition_number"] is None
    (profile,) = content["profiles"]
    assert profile["source"] == "net"
    assert set(profile) >= {"narrowest", "widest", "flat", "narrowest_share"}


def test_names_from_strangers_are_escaped():
    rows = [measured("net", "a\x1b[31m", np.ones(3)), measured("net", "b", np.ones(3))]
    ((_, lines),) = as_text(rows)
    assert "\x1b[31m" not in "\n".join(lines)
    ((_, lines),) = as_text(rows[:1])
    assert "\x1b[31m" not in "\n".join(lines)
