"""Simulated recordings follow from their seed, and have the layout of real ones."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch_brain import datasets

from recipes._tasks import task_of
from recipes.data.arrays import to_arrays
from recipes.data.recordings import open_recordings
from recipes.simulation.recordings import VERSION, simulate, write_recordings
from support.desk import BUMP, CENTER_OUT, DESK, RAT, ROOT, RSG, SESSION, SETTINGS, SHORT


def bounds(interval):
    return np.stack([interval.start, interval.end], axis=1)


def contents(path):
    """Return all arrays and attributes of a file."""
    nodes = {}

    def keep(name, node):
        nodes[name] = node[()] if isinstance(node, h5py.Dataset) else None
        nodes.update({(name, key): value for key, value in node.attrs.items()})

    with h5py.File(path) as file:
        file.visititems(keep)
    return nodes


@pytest.mark.parametrize("entry", DESK, ids=lambda e: e.name)
def test_the_recordings_of_every_desk_entry_can_be_used(entry, simulated):
    opened = open_recordings(entry.params, simulated)
    assert list(opened) == entry.params["data"]["sessions"]
    arrays = to_arrays(opened.values(), entry.params)
    assert arrays.values.shape[1] == entry.params["model"]["dim_out"]
    assert np.isfinite(arrays.values[arrays.evaluated]).all()
    for split in ("train", "valid", "test"):
        lengths = arrays.intervals[split].end - arrays.intervals[split].start
        assert lengths.max() >= entry.params["data"]["window"]


@pytest.mark.parametrize(
    ("session", "dataset"),
    [
        (SESSION, datasets.PerichMillerPopulation2018),
        (RAT, datasets.VollanMoserAlternating2025),
        (BUMP, datasets.PeiPandarinathNLB2021),
        (RSG, datasets.PeiPandarinathNLB2021),
    ],
)
def test_the_classes_of_torch_brain_open_the_files(session, dataset, simulated):
    opened = dataset(root=simulated, recording_ids=[session], dirname=task_of(session).brainset)
    data = opened.get_recording(session)
    assert data.units.id[0].startswith(f"{session}/")
    for split in ("train", "valid", "test"):
        (start, *_), (end, *_) = bounds(opened.get_sampling_intervals(split)[session]).T
        index = datasets.DatasetIndex(session, start, end)
        assert len(opened[index].spikes.timestamps) > 0


@pytest.mark.parametrize("session", [SESSION, BUMP, RSG, RAT])
def test_the_same_seed_gives_the_same_arrays(session, tmp_path):
    short = {**SETTINGS[session], "seconds": 60.0}
    one, other = (
        contents(*write_recordings(tmp_path / copy, [session], short)) for copy in ("one", "other")
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=str(name))


def test_the_version_is_raised_when_the_arrays_change(simulated_data):
    """Files of the same version are kept on disk, so other arrays need another version."""
    spikes = [len(simulated_data[session].spikes) for session in (SESSION, BUMP, RSG, RAT)]
    assert (VERSION, spikes) == ("2", [56455, 149904, 176741, 29750])


def test_sessions_of_one_animal_differ_and_have_some_units_in_common(simulated_data):
    for a, b in combinations([s for s in CENTER_OUT if s[0] == "c"], 2):
        assert len(simulated_data[a].spikes) != len(simulated_data[b].spikes)
        seen = [{u.split("/")[1] for u in simulated_data[s].units.id} for s in (a, b)]
        assert 0 < len(seen[0] & seen[1]) < min(map(len, seen))


def test_another_seed_is_another_animal():
    one, other = (simulate(SESSION, {**SHORT, "seed": seed}) for seed in (99, 100))
    assert len(one.spikes) != len(other.spikes)
    assert not np.array_equal(one.cursor.pos, other.cursor.pos)


@pytest.mark.parametrize("session", SETTINGS)
def test_the_splits_do_not_overlap_and_lie_within_the_recording(session, simulated_data):
    data = simulated_data[session]
    splits = [bounds(getattr(data, f"{part}_domain")) for part in ("train", "valid", "test")]
    whole = np.concatenate(splits)
    whole = whole[np.argsort(whole[:, 0])]
    assert (whole[1:, 0] >= whole[:-1, 1]).all()
    assert whole[0, 0] >= data.domain.start[0]
    assert whole[-1, 1] <= data.domain.end[-1]


def test_a_file_of_the_same_settings_is_kept_and_one_of_others_is_replaced(tmp_path):
    (path,) = write_recordings(tmp_path, [SESSION], SHORT)
    before = path.stat()
    assert write_recordings(tmp_path, [SESSION], SHORT) == [path]
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    write_recordings(tmp_path, [SESSION], {**SHORT, "seed": 1})
    assert path.stat().st_ino != before.st_ino
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_recording_that_was_not_simulated_is_replaced_by_force_only(tmp_path):
    path = tmp_path / "perich_miller_population_2018" / f"{SESSION}.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["precious"] = 1
    message = (
        f"{path}: not a simulated recording; move it, name another folder, or replace it (--force, "
        "overwrite=True)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_recordings(tmp_path, [SESSION], SHORT)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_recordings(tmp_path, [SESSION], SHORT)
    assert path.read_bytes() == b"damaged"
    write_recordings(tmp_path, [SESSION], SHORT, overwrite=True)
    with h5py.File(path) as file:
        assert "simulation" in file.attrs


@pytest.mark.parametrize(
    ("session", "changed", "message"),
    [
        (
            "c_2013_center_out_reaching",
            {},
            (
                "c_2013_center_out_reaching: unknown name of a session; expected a name such as "
                "c_20131003_center_out_reaching, of_24365_2, han_area2_bump_train or "
                "haydn_dmfc_rsg_train"
            ),
        ),
        (
            "c_20131009_random_target_reaching",
            {},
            (
                "c_20131009_random_target_reaching: sessions of this kind are not simulated; name "
                "a center_out_reaching or an open-field session"
            ),
        ),
        (
            "lt_26648_1",
            {},
            (
                "lt_26648_1: sessions of this kind are not simulated; name a center_out_reaching "
                "or an open-field session"
            ),
        ),
        (
            SESSION,
            {"task": "open_field"},
            (
                f"{SESSION}: simulation.task is 'open_field'; sessions of "
                "perich_miller_population_2018 are simulated as 'center_out'"
            ),
        ),
        (
            SESSION,
            {"speed": 1},
            (
                f"{SESSION}: simulation has seconds, seed, speed, task, units; expected seconds, "
                "seed, task and units"
            ),
        ),
        (
            SESSION,
            {"units": [9, 3]},
            (
                f"{SESSION}: simulation.units is [9, 3]; expected a smallest and a largest number, "
                "such as [30, 60]"
            ),
        ),
        (
            SESSION,
            {"seconds": 20.0},
            (
                f"{SESSION}: simulation.seconds is 20.0; give at least 60, for training, "
                "validation and test"
            ),
        ),
    ],
)
def test_invalid_settings_of_a_simulation_are_refused(session, changed, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        simulate(session, {**SHORT, **changed})


def command(*arguments):
    line = [sys.executable, "-m", "specdiag", "simulate", *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_writes_the_named_recordings_and_prints_their_paths(tmp_path):
    names = ["--session", RAT, "--session", RSG]
    lines = [
        f"{tmp_path}/vollan_moser_alternating_2025/{RAT}.h5",
        f"{tmp_path}/dmfc_rsg/{RSG}.h5",
    ]
    assert command(tmp_path, *names) == (0, "\n".join(lines) + "\n", "")
    assert all(Path(line).is_file() for line in lines)


def test_the_command_refuses_a_session_that_no_entry_declares(tmp_path):
    status, out, err = command(tmp_path, "--session", "c_1")
    assert (status, out) == (2, "")
    known = ", ".join(sorted(SETTINGS))
    expected = f"Error: no desk entry has the session c_1; expected one of {known}"
    assert err.splitlines()[-1] == expected
    assert list(tmp_path.iterdir()) == []
