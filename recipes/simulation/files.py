"""Behaviour and spikes -> recordings in the layout of the brainsets, as torch_brain.data.Data.

The layouts are those of torch_brain 0.2.1's pipelines perich_miller_population_2018 and
vollan_moser_alternating_2025, and of the pipelines for area2_bump and dmfc_rsg in `pipelines`.
Parts that no recipe reads are left out: dates, theta chunks, channels of the probes, and further
columns of trials. The arguments of each function are the name of the session, the settings of the
simulation, a random generator and the number of units.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import behaviour, firing

Settings = Mapping[str, Any]
SPLIT_SEED = 42  # as in the pipelines
TIMING_RATE = 50.0  # Hz, of the targets of a Ready-Set-Go session
POOL = 2  # units of an animal, as a multiple of the largest number in a session


def center_out(session: str, settings: Settings, rng: np.random.Generator, count: int) -> Any:
    """Return reaches with `cursor` and `movement_phases`, as in Perich and Miller's recordings."""
    from torch_brain.data import Data, Interval, IrregularTimeSeries

    trials, cursor = behaviour.reaches(rng, settings["seconds"])
    times = cursor["timestamps"]
    on, go, stop = (trials[k] for k in ("target_on_time", "go_cue_time", "stop_time"))
    planned = np.zeros((len(times), 2))
    for target, start, end in zip(trials["target_id"], on, go, strict=True):
        planned[(times >= start + 0.1) & (times < end)] = behaviour.polar(target * np.pi / 4, 1.0)
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
    """Return reaches and bumps with `hand`, as in area2_bump of the Neural Latents Benchmark."""
    from torch_brain.data import Data, Interval, RegularTimeSeries

    trials, hand = behaviour.bumps(rng, settings["seconds"])
    felt = hand["vel"][:: round(1000 * behaviour.BIN)]
    recorded = _cosine(rng, settings, count, "S1", velocity=felt, lead=False)
    table = _benchmark_trials(rng, trials)
    onset = trials["move_onset_time"]
    onset = onset[np.isfinite(onset) & (table.split_indicator != "none")]
    parts = {
        "spikes": recorded["spikes"],
        "trials": table,
        "hand": RegularTimeSeries(sampling_rate=1000.0, domain_start=0.0, **hand),
        "nlb_eval_intervals": Interval(start=onset - 0.05, end=onset + 0.65),
    }
    return Data(
        **_monkey(session),
        units=recorded["units"],
        **parts,
        **_split(table),
        domain=_span(*parts.values()),
    )


def interval_timing(session: str, settings: Settings, rng: np.random.Generator, count: int) -> Any:
    """Return Ready-Set-Go trials, as in dmfc_rsg of the Neural Latents Benchmark."""
    from torch_brain.data import Data, Interval, RegularTimeSeries

    trials = behaviour.intervals(rng, settings["seconds"])
    rates = firing.timing_rates(rng, trials, behaviour.grid(settings["seconds"]), count)
    recorded = _spikes(rng, rates, [f"unit_{i}" for i in range(count)])
    table = _benchmark_trials(rng, trials)
    timed = table.select_by_mask(np.isfinite(table.tp) & (table.split_indicator != "none"))
    whole = _span(recorded["spikes"], table)
    times = np.arange(whole.start[0], whole.end[0] + 1 / TIMING_RATE, 1 / TIMING_RATE)
    last = np.searchsorted(timed.set_time, times, side="right") - 1  # trial with the latest Set
    remaining = 1000 * np.maximum(timed.go_time[np.maximum(last, 0)] - times, 0)
    targets = {
        "produced_interval": timed.tp[np.maximum(last, 0)],
        "time_to_go": np.where(last >= 0, remaining, 0.0),
    }
    start = {"sampling_rate": TIMING_RATE, "domain_start": float(times[0])}
    parts = {
        "spikes": recorded["spikes"],
        "trials": table,
        "set_to_go": Interval(timed.set_time, timed.go_time),
        **{
            name: RegularTimeSeries(value=values.astype(np.float32)[:, None], **start)
            for name, values in targets.items()
        },
    }
    return Data(
        **_monkey(session, "LINEAR_PROBE_SPIKES"),
        units=recorded["units"],
        **parts,
        **_split(timed),
        domain=_span(*parts.values()),
    )


def open_field(session: str, settings: Settings, rng: np.random.Generator, count: int) -> Any:
    """Return a foraging rat with `samples`, as Vollan and Moser's; outputs of models are NaN."""
    from torch_brain.data import ArrayDict, Data, IrregularTimeSeries

    path = behaviour.foraging(rng, settings["seconds"])
    tuning = firing.spatial_units(rng, count)
    rates = firing.spatial_rates(rng, tuning, path)
    moves = path["speed"] > 0.05  # m/s: the brainset has no samples of pauses
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
    order = np.argsort(places == "hc", kind="stable")  # as in the brainset: mec, then hc
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


def _monkey(session: str, tech: str = "UTAH_ARRAY_SPIKES") -> dict[str, Any]:
    subject = session.split("_", maxsplit=1)[0]
    task = "REACHING" if tech == "UTAH_ARRAY_SPIKES" else "TIMING"
    return _description(session, subject, "Macaca mulatta", tech, task)


def _spikes(
    rng: np.random.Generator, rates: np.ndarray, names: list[str], domain: Any = "auto"
) -> dict[str, Any]:
    """Return spikes and units as `extract_spikes_from_nwbfile` of torch_brain does."""
    from torch_brain.data import ArrayDict, IrregularTimeSeries

    times, index = firing.poisson(rng, rates)
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
    """Return spikes and units of an electrode array in the cortex of a reaching monkey."""
    tuning = firing.cosine_units(settings["seed"], rng, count, POOL * settings["units"][1])
    names = [f"group_{area}/elec{e}/unit_{i}" for i, e in enumerate(tuning["electrode"])]
    return _spikes(rng, firing.cosine_rates(rng, tuning, **how), names)


def _phases(trials: Any, domain: Any, outliers: Any) -> Any:
    """Return the periods of holding, reaching, returning and other behaviour, without outliers."""
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


def _outliers(cursor: behaviour.Table) -> Any:
    """Return when the hand is too fast or too far, by the rules of Perich and Miller's pipeline."""
    from scipy.ndimage import binary_dilation, binary_erosion

    fast = binary_dilation(np.hypot(*cursor["acc"].T) > 1500.0, np.ones(2, bool))  # cm/s^2
    far = binary_dilation((np.abs(cursor["pos"]) > 10).any(axis=1), np.ones(400, bool))  # cm
    far = binary_erosion(far, np.ones(100, bool))
    return _runs(cursor["timestamps"], fast | far)


def _runs(times: np.ndarray, mask: np.ndarray) -> Any:
    """Return the intervals in which a mask over regular samples is true."""
    from torch_brain.data import Interval

    edges = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
    step = times[1] - times[0]
    return Interval(
        start=times[np.flatnonzero(edges == 1)],
        end=times[np.flatnonzero(edges == -1) - 1] + step,
    )


def _benchmark_trials(rng: np.random.Generator, trials: behaviour.Table) -> Any:
    """Return trials with a benchmark split: 3 of 4 are `train`, 1 of 4 `val`, a few `none`."""
    from torch_brain.data import Interval

    n = len(trials["start"])
    part = np.where(np.arange(n) % 4 == 3, "val", "train")
    part[rng.random(n) < 0.03] = "none"
    times = [name for name in trials if name.endswith("_time")]
    return Interval(**trials, split_indicator=rng.permutation(part), timekeys=times)


def _split(trials: Any) -> dict[str, Any]:
    """Return the domains: `val` is the test; a fifth of `train` is the validation."""
    train, valid = trials.select_by_mask(trials.split_indicator == "train").split(
        [0.8, 0.2], shuffle=True, random_seed=SPLIT_SEED
    )
    test = trials.select_by_mask(trials.split_indicator == "val")
    return {"train_domain": train, "valid_domain": valid, "test_domain": test}


def _span(*parts: Any) -> Any:
    """Return one interval from the first start to the last end of time series and intervals."""
    from torch_brain.data import Interval

    domains = [part if isinstance(part, Interval) else part.domain for part in parts]
    return Interval(
        float(min(domain.start.min() for domain in domains)),
        float(max(domain.end.max() for domain in domains)),
    )
