"""Tasks of the recipes: recordings, and the variables that are decoded from them.

The version of a task is the `brainset.origin_version` of its prepared recordings, so a recipe can
check it. The pipeline of torch_brain 0.2.1 for Perich and Miller reads the draft of dandiset
000688; the published version that it cites is 0.250122.1735.
"""

import re
from dataclasses import dataclass
from typing import Any

from specdiag.lock.entry import Input

Table = dict[str, Any]

# The sessions of POYO-MP: torch_brain, examples/poyo/configs/dataset/perich_miller_population_2018.
_CENTER_OUT = {
    "c": """20131003 20131022 20131023 20131031 20131101 20131203 20131204 20131219 20131220
            20150309 20150311 20150312 20150313 20150319 20150629 20150630 20150701 20150703
            20150706 20150707 20150708 20150709 20150710 20150713 20150714 20150715 20150716
            20151103 20151104 20151106 20151109 20151110 20151112 20151113 20151116 20151117
            20151119 20151120 20151201 20160909 20160912 20160914 20160915 20160919 20160921
            20160923 20160929 20161005 20161006 20161007 20161011 20161013 20161021""",
    "j": "20160405 20160406 20160407",
    "m": """20140203 20140217 20140218 20140303 20140304 20140306 20140307 20140626 20140627
            20140929 20141203 20150511 20150512 20150610 20150611 20150612 20150615 20150616
            20150617 20150623 20150625 20150626""",
}
_RANDOM_TARGET = {
    "c": """20131009 20131010 20131011 20131028 20131029 20131209 20131210 20131212 20131213
            20131217 20131218 20150316 20150317 20150318 20150320""",
    "m": "20140114 20140115 20140116 20140214 20140221 20140224",
}
POYO_MP_SESSIONS = tuple(
    f"{monkey}_{date}_{task}_reaching"
    for task, monkeys in (("center_out", _CENTER_OUT), ("random_target", _RANDOM_TARGET))
    for monkey, dates in monkeys.items()
    for date in dates.split()
)
_CHRONIC = "20131003 20131220 20150309 20150629 20150716 20151103 20151201 20160909 20161021"
CHRONIC_SESSIONS = tuple(f"c_{date}_center_out_reaching" for date in _CHRONIC.split())


@dataclass(frozen=True, kw_only=True)
class Task:
    """Recordings, the variable that is decoded from them, and the simulation that replaces them.

    Attributes
    ----------
    brainset, version : str
    sessions : tuple of str
        Names of the recordings. At desk scale sessions of the same names are simulated, or those
        of `desk_sessions`.
    target : dict
        The decoded variable: its scale, its weights in the loss and its evaluation intervals.
    windows : dict
        The intervals from which windows are drawn.
    simulation : dict or None
        Settings of the simulation at desk scale; None: desk scale uses the recordings, too. The
        seed belongs to the animal; each session is drawn from this seed and its own name.
    dim_out : int
        Number of outputs.
    new_readout : bool
        Whether the readout of the base is replaced because it does not fit.
    """

    brainset: str
    version: str
    sessions: tuple[str, ...]
    target: Table
    windows: Table
    simulation: Table | None
    desk_sessions: tuple[str, ...] | None = None
    dim_out: int = 2
    new_readout: bool = False

    def inputs(self) -> tuple[Input, ...]:
        """Return the recordings as an input of an entry."""
        return (Input(id="recordings", brainset=self.brainset, version=self.version),)

    def data(self, scale: str, fraction: float) -> Table:
        """Return `params["data"]`; `fraction` is the first part of the training intervals."""
        sessions = (scale == "desk" and self.desk_sessions) or self.sessions
        return {"sessions": list(sessions), "train_fraction": fraction, **self.windows}


# Training windows are drawn at random from the training intervals; windows of validation and test
# follow each other at half a window. `within` and `evaluate_in` name intervals of the recording, or
# give the time `from` and `to` `around` an event of each trial; all in seconds.
WINDOWS = {"window": 1.0, "within": "train_domain", "eval_step": 0.5}
# `units` is the smallest and the largest number of units of a session. Short sessions have few test
# trials: six reaches in two minutes (each of the nine sessions of the base), forty intervals in
# ten.
SIMULATION = {"seconds": 300.0, "units": [30, 60]}
BASE_SECONDS = 120.0

VELOCITY = {
    "variable": "cursor.vel",
    "mean": 0.0,
    "std": 20.0,
    "loss_weights": {
        "movement_phases.random_period": 1.0,
        "movement_phases.hold_period": 0.1,
        "movement_phases.reach_period": 5.0,
        "movement_phases.return_period": 1.0,
        "movement_phases.invalid": 0.1,
        "cursor_outlier_segments": 0.0,
    },
    "evaluate_in": {
        "center_out_reaching": "movement_phases.reach_period",
        "random_target_reaching": "movement_phases.random_period",
    },
}

# The published rule for one reaching session: pairs [number of training windows, batch].
SESSION_BATCH = [[0, 16], [256, 32], [1024, 64]]


def reaching(
    *sessions: str,
    desk_sessions: tuple[str, ...] | None = None,
    seconds: float = SIMULATION["seconds"],
) -> Task:
    """Return cursor velocity of reaching monkeys [Perich, Gallego & Miller 2018].

    The name of a session begins with the letter of the monkey. This letter is the seed of the
    simulation; `seconds` is the length of a simulated session.
    """
    seed = ord(sessions[0][0])
    return Task(
        brainset="perich_miller_population_2018",
        version="dandi/000688/draft",
        sessions=sessions,
        desk_sessions=desk_sessions,
        target=VELOCITY,
        windows=WINDOWS,
        simulation={"task": "center_out", **SIMULATION, "seconds": seconds, "seed": seed},
    )


def timing(target: Table, windows: Table) -> Task:
    """Return the timing of an interval in dorsomedial frontal cortex [Sohn et al. 2019].

    It is evaluated from Set to Go. Trials are those of the training file of the benchmark: its
    `train` part, split 80 to 20 (seed 42) into training and validation, and its `val` part as test.
    """
    return Task(
        brainset="dmfc_rsg",
        version="dandi/000130/0.220113.0407",
        sessions=("haydn_dmfc_rsg_train",),
        target={**target, "evaluate_in": "set_to_go"},
        windows={**WINDOWS, **windows, "split_seed": 42},
        simulation={"task": "interval_timing", **SIMULATION, "seconds": 600.0, "seed": 130},
        dim_out=1,
        new_readout=True,
    )


PRODUCED_INTERVAL = {"variable": "produced_interval.value", "mean": 750.0, "std": 150.0}  # ms
TIME_TO_GO = {"variable": "time_to_go.value", "rate": 50.0, "mean": 300.0, "std": 300.0}  # Hz, ms
# Intervals shorter than a window are dropped; these are 0.05 s longer.
FROM_SET = {"within": {"around": "set", "from": 0.0, "to": 1.05}}
FULL_TRIAL = {"within": "trial"}

AFTER_ONSET = {"around": "move_onset", "from": -0.05, "to": 0.65}  # passive trials have no onset
AREA2 = Task(
    brainset="area2_bump",
    version="dandi/000127/0.220113.0359",
    sessions=("han_area2_bump_train",),
    target={"variable": "hand.vel", "mean": 0.0, "std": 20.0, "evaluate_in": AFTER_ONSET},
    windows={**WINDOWS, "split_seed": 42},  # the split of `timing`
    simulation={"task": "center_out", **SIMULATION, "seed": 127},
)


def foraging(session: str) -> Task:
    """Return the position of a rat in an open field [Vollan, Gardner, Moser & Moser 2025]."""
    position = {"variable": "samples.x, samples.y", "mean": 0.0, "std": 0.4}
    return Task(
        brainset="vollan_moser_alternating_2025",
        version="sharing_v4",
        sessions=(session,),
        target={**position, "evaluate_in": "domain"},
        windows=WINDOWS,
        simulation={"task": "open_field", **SIMULATION, "seed": int(session.split("_")[1])},
        new_readout=True,
    )


def task_of(session: str) -> Task:
    """Return the task to which a session belongs, by its name.

    Raises
    ------
    ValueError
        If no brainset has sessions with such a name.
    """
    if re.fullmatch(r"[a-z]_\d{8}_(center_out|random_target)_reaching", session):
        return reaching(session)
    if re.fullmatch(r"(of|lt|ww|mmaze)_\d+_\d+", session):
        return foraging(session)
    for task in (AREA2, timing(PRODUCED_INTERVAL, FROM_SET)):
        if session in task.sessions:
            return task
    raise ValueError(
        f"{session}: unknown name of a session; expected a name such as "
        "c_20131003_center_out_reaching, of_24365_2, han_area2_bump_train or haydn_dmfc_rsg_train"
    )
