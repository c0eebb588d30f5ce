"""Simulated recordings in the layout of the brainsets: a torch_brain.data.Data each.

The layouts are those of torch_brain 0.2.1's pipelines perich_miller_population_2018 and
vollan_moser_alternating_2025; area2_bump and dmfc_rsg are laid out as pei_pandarinath_nlb_2021 is,
the pipeline of a sister data set. Left out is what no recipe reads: dates, theta chunks and channels
of the probes, and columns of trials beyond those that are named here. Each function is called with the session's name, the settings of
the simulation, a random generator and the number of units.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from recipes import _simulated_tasks as tasks
from recipes import _simulated_units as units

Settings = Mapping[str, Any]
SPLIT_SEED = 42  # the pipelines'
POOL = 2  # units of an animal, as a multiple of the most that a session has


def center_out(session: str, settings: Settings, rng: np.random.Generator, count: int) -> Any:
    """Return reaches with `cursor` and `movement_phases`, as Perich and Miller's."""
    from torch_brain.data import Data, Interval, IrregularTimeSeries

    trials, cursor = tasks.reaches(rng, settings["seconds"])
    times = cursor["timestamps"]
    on, go, stop = (trials[k] for k in ("target_on_time", "go_cue_time", "stop_time"))
    planned = np.zeros((len(times), 2))
    for target, start, end in zip(trials["target_id"], on, go, strict=True):
        planned[(times >= start + 0.1) & (times < end)] = tasks.polar(target * np.pi / 4, 1.0)
    how = {"velocity": cursor["vel"], "lead": True, "planned": planned}
    series = IrregularTimeSeries(**cursor, domain="auto")
    ends = np.append(on[1:], min(stop[-1] + 1.0, series.domain.end[-1]))
    table = Interval(start=on, end=ends, **trials)
    table.is_valid = (trials["result"] == "R") & (ends - on > 0.5) & (ends - on < 6.0)
    outliers = _outliers(cursor)
    data = Data(
        **_monkey(session),
        **_cosine(rng, settings, count, "M1", **how),
        trials=table,
        movement_phases=_phases(table, series.domain, outliers),
        cursor=series,
        cursor_outlier_segments=outliers,
        domain=series.domain,
    )
    _, valid, test = table.select_by_mask(table.is_valid).split(
        [0.7, 0.1, 0.2], shuffle=True, random_seed=SPLIT_SEED
    )
    data.train_domain = data.domain.difference((valid | test).dilate(1.0))
    data.valid_domain, data.test_domain = valid, test
    return data


def area2_bump(session: str, settings: Settings, rng: np.random.Generator, count: int) -> Any:
    """Return reaches and bumps with `hand`, as somatosensory area 2 of the Neural Latents Benchmark."""
    from torch_brain.data import Data, Interval, RegularTimeSeries

    trials, hand = tasks.bumps(rng, settings["seconds"])
    felt = hand["vel"][:: round(1000 * tasks.BIN)]
    data = Data(
        **_monkey(session),
        **_cosine(rng, settings, count, "S1", velocity=felt, lead=False),
        trials=Interval(**trials, **_benchmark_split(rng, len(trials["start"]))),
        domain="auto",
    )
    data.hand = RegularTimeSeries(sampling_rate=1000.0, domain_start=0.0, **hand)
    onset = trials["move_onset_time"]
    onset = onset[np.isfinite(onset)]
    data.nlb_eval_intervals = Interval(start=onset - 0.05, end=onset + 0.65)
    _split_trials(data)
    return data


def interval_timing(session: str, settings: Settings, rng: np.random.Generator, count: int) -> Any:
    """Return Ready-Set-Go trials without behaviour, as dmfc_rsg of the Neural Latents Benchmark."""
    from torch_brain.data import Data, Interval

    trials = tasks.intervals(rng, settings["seconds"])
    rates = units.timing_rates(rng, trials, tasks.grid(settings["seconds"]), count)
    data = Data(
        **_monkey(session),
        **_spikes(rng, rates, [f"unit_{i}" for i in range(count)]),
        trials=Interval(**trials, **_benchmark_split(rng, len(trials["start"]))),
        domain="auto",
    )
    _split_trials(data)
    return data


def open_field(session: str, settings: Settings, rng: np.random.Generator, count: int) -> Any:
    """Return a foraging rat with `samples`, as Vollan and Moser's; none of their model's outputs."""
    from torch_brain.data import ArrayDict, Data, IrregularTimeSeries

    path = tasks.foraging(rng, settings["seconds"])
    tuning = units.spatial_units(rng, count)
    rates = units.spatial_rates(rng, tuning, path)
    moves = path["speed"] > 0.05  # m/s: the brainset has no samples of a resting animal
    domain = _runs(path["timestamps"], moves)
    fields = {k: v[moves].astype(np.float32) for k, v in path.items() if k != "timestamps"}
    missing = ["id"] + [
        f"lmt_{population}_{name}"
        for population in ("mec", "hc", "mec_hc")
        for name in ("theta", "hd", "id", "pos_x", "pos_y")
    ]
    n = int(moves.sum())
    absent = {name: np.full(n, np.nan, np.float32) for name in missing}
    places = np.where(tuning["kind"] == 1, "hc", "mec")
    order = np.argsort(places == "hc", kind="stable")  # as the brainset: mec, then hc
    names = [f"{p}_{i}" for p in ("mec", "hc") for i in range((places == p).sum())]
    recorded = _spikes(rng, rates[:, order], names, domain)
    recorded["units"] = ArrayDict(
        id=np.array(names),
        location=places[order],
        probe_id=np.ones(count, int),
        shank_id=np.ones(count, int),
        shank_pos=np.linspace(0, 3000, count),
        mean_rate=recorded["units"].count / settings["seconds"],
        ks2_label=np.full(count, "good"),
        is_grid=(tuning["kind"][order] == 0).astype(int),
    )
    subject = session.split("_")[1]
    data = Data(
        **_description(
            session, subject, "RATTUS_NORVEGICUS", "NEUROPIXELS_SPIKES", "NAVIGATION_OPEN_FIELD"
        ),
        **recorded,
        samples=IrregularTimeSeries(
            timestamps=path["timestamps"][moves], domain=domain, **fields, **absent
        ),
        domain=domain,
    )
    data.train_domain, data.valid_domain, data.test_domain = domain.split(
        [0.7, 0.1, 0.2], shuffle=True, random_seed=SPLIT_SEED
    )
    return data


def _description(session: str, subject: str, species: str, tech: str, task: str) -> dict[str, Any]:
    from torch_brain.data import DeviceDescription, SessionDescription, SubjectDescription

    return {
        "subject": SubjectDescription(id=subject, species=species),
        "session": SessionDescription(id=session, task=task),
        "device": DeviceDescription(id=f"{subject}_simulated", recording_tech=tech),
    }


def _monkey(session: str) -> dict[str, Any]:
    subject = session.split("_", maxsplit=1)[0]
    return _description(session, subject, "Macaca mulatta", "UTAH_ARRAY_SPIKES", "REACHING")


def _spikes(
    rng: np.random.Generator, rates: np.ndarray, names: list[str], domain: Any = "auto"
) -> dict[str, Any]:
    """Return spikes and units as `extract_spikes_from_nwbfile` of torch_brain makes them."""
    from torch_brain.data import ArrayDict, IrregularTimeSeries

    times, index = units.poisson(rng, rates)
    return {
        "spikes": IrregularTimeSeries(timestamps=times, unit_index=index, domain=domain),
        "units": ArrayDict(
            id=np.array(names),
            unit_number=np.arange(len(names)),
            count=np.bincount(index, minlength=len(names)),
        ),
    }


def _cosine(
    rng: np.random.Generator, settings: Settings, count: int, area: str, **how: Any
) -> dict[str, Any]:
    """Return spikes and units of an array in a reaching monkey's cortex."""
    tuning = units.cosine_units(settings["seed"], rng, count, POOL * settings["units"][1])
    names = [f"group_{area}/elec{e}/unit_{i}" for i, e in enumerate(tuning["electrode"])]
    return _spikes(rng, units.cosine_rates(rng, tuning, **how), names)


def _phases(trials: Any, domain: Any, outliers: Any) -> Any:
    """Return when the animal held, reached and returned, or did none of these, without outliers."""
    from torch_brain.data import Data, Interval

    valid = trials.select_by_mask(trials.is_valid)
    phases = Data(
        hold_period=Interval(start=valid.target_on_time, end=valid.go_cue_time),
        reach_period=Interval(start=valid.go_cue_time, end=valid.stop_time),
        return_period=Interval(start=valid.stop_time, end=valid.end),
        invalid=trials.select_by_mask(~trials.is_valid),
        domain="auto",
    )
    phases.random_period = domain.difference(phases.domain)
    for name in phases.keys():  # noqa: SIM118 (not a mapping)
        setattr(phases, name, getattr(phases, name).difference(outliers))
    return phases


def _outliers(cursor: tasks.Table) -> Any:
    """Return when the hand moves too fast or too far, by the rules of Perich and Miller's pipeline."""
    from scipy.ndimage import binary_dilation, binary_erosion

    fast = binary_dilation(np.hypot(*cursor["acc"].T) > 1500.0, np.ones(2, bool))  # cm/s^2
    far = binary_dilation((np.abs(cursor["pos"]) > 10).any(axis=1), np.ones(400, bool))  # cm
    far = binary_erosion(far, np.ones(100, bool))
    return _runs(cursor["timestamps"], fast | far)


def _runs(times: np.ndarray, mask: np.ndarray) -> Any:
    """Return the intervals in which a mask of regular samples is true."""
    from torch_brain.data import Interval

    edges = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
    step = times[1] - times[0]
    return Interval(
        start=times[np.flatnonzero(edges == 1)],
        end=times[np.flatnonzero(edges == -1) - 1] + step,
    )


def _benchmark_split(rng: np.random.Generator, n: int) -> tasks.Table:
    """Return the benchmark's split of trials: three in four to train, one to `val`, few to none."""
    part = np.where(np.arange(n) % 4 == 3, "val", "train")
    part[rng.random(n) < 0.03] = "none"
    part = rng.permutation(part)
    return {
        "split_indicator": part,
        "train_mask_nwb": part == "train",
        "test_mask_nwb": part == "val",
    }


def _split_trials(data: Any) -> None:
    """Split trials as pei_pandarinath_nlb_2021 does: `val` is the test, a fifth of `train` validates."""
    trials = data.trials
    data.train_domain, data.valid_domain = trials.select_by_mask(trials.train_mask_nwb).split(
        [0.8, 0.2], shuffle=True, random_seed=SPLIT_SEED
    )
    data.test_domain = trials.select_by_mask(trials.test_mask_nwb)
