"""A random generator -> the behaviour of simulated animals: trials and kinematics as plain arrays.

Times are in seconds, positions in centimetres (of the rat in metres). `files` puts the arrays into
the layout of the brainsets; the heading of `recordings` says which properties are realistic.
"""

from typing import Any

import numpy as np

BIN = 0.01  # s: the grid of all rates, and of the kinematics of reaching monkeys and of the rat
Table = dict[str, np.ndarray]

REACH = 8.0  # cm, from the centre to the eight targets
JERK = 3.0, 0.06  # cm and s: a jerk of the hand that is seen in its acceleration
MEAN_SPEED = 20.0  # cm/s: the depth of tuning is given at this speed


def grid(seconds: float, rate: float = 1 / BIN) -> np.ndarray:
    """Return the times of samples, shape (n_samples,)."""
    return np.arange(round(seconds * rate)) / rate


def smooth_noise(rng: np.random.Generator, n: int, width: int, *shape: int) -> np.ndarray:
    """Return noise of unit variance, shape (n, *shape), that is smooth over `width` samples."""
    kernel = np.hanning(2 * width + 1)
    kernel /= np.sqrt((kernel**2).sum())
    white = rng.standard_normal((n + 2 * width, *shape)).reshape(n + 2 * width, -1)
    columns = [np.convolve(column, kernel, mode="valid") for column in white.T]
    return np.stack(columns, axis=1).reshape(n, *shape)


def minimum_jerk(times: np.ndarray, moves: list[tuple[float, float, np.ndarray, float]]) -> Any:
    """Return the path of a hand, shape (n_times, 2), that starts at the centre and makes `moves`.

    A move is (start, duration, end point, bow to the side). The position along it follows
    10 s^3 - 15 s^4 + 6 s^5 [Flash & Hogan 1985], where s is the elapsed part of the duration.
    """
    path, place = np.zeros((len(times), 2)), np.zeros(2)
    for start, duration, end, bow in moves:
        s = np.clip((times - start) / duration, 0, 1)[:, None]
        step = end - place
        side = np.array([-step[1], step[0]]) / max(float(np.hypot(*step)), 1e-9)
        path += step * (10 * s**3 - 15 * s**4 + 6 * s**5) + side * bow * 16 * s**2 * (1 - s) ** 2
        place = end
    return path


def polar(angle: float, radius: float) -> np.ndarray:
    """Return a point of the plane in Cartesian coordinates, shape (2,)."""
    return radius * np.array([np.cos(angle), np.sin(angle)])


def derivative(values: np.ndarray, rate: float) -> np.ndarray:
    """Return the time derivative of regular samples; `rate` is in Hz."""
    return np.gradient(values, axis=0) * rate


def reaches(rng: np.random.Generator, seconds: float) -> tuple[Table, Table]:
    """Return trials and cursor of a centre-out session, sampled at 100 Hz.

    In a trial a target is shown, the go cue follows after a delay, and the hand reaches, holds and
    returns. One trial in ten fails: the hand stops half-way. About once a minute the hand jerks.
    """
    rows, moves, now = [], [], 0.5
    while now + 5.0 < seconds:
        target, failed = int(rng.integers(8)), rng.random() < 0.1
        go = now + rng.uniform(0.5, 1.0)
        onset = go + np.clip(rng.normal(0.25, 0.04), 0.15, 0.4)
        duration = np.clip(rng.normal(0.55, 0.08), 0.35, 0.9)
        goal = polar(target * np.pi / 4, REACH * (0.5 if failed else 1.0)) + rng.normal(0, 0.5, 2)
        moves.append((onset, duration, goal, rng.normal(0, 0.4)))
        stop = onset + duration + rng.uniform(0.3, 0.5)
        back = stop + rng.uniform(0.15, 0.3)
        duration = np.clip(rng.normal(0.7, 0.08), 0.45, 1.0)
        moves.append((back, duration, rng.normal(0, 0.4, 2), rng.normal(0, 0.4)))
        rows.append((now, go, stop, target, failed))
        now = back + duration + rng.uniform(0.3, 0.6)
    times = grid(seconds)
    position = minimum_jerk(times, moves) + 0.05 * smooth_noise(rng, len(times), 10, 2)
    for start in rng.uniform(0, seconds - 1, rng.poisson(seconds / 60)):
        there = polar(rng.uniform(0, 2 * np.pi), JERK[0])
        away, back = (start, JERK[1], there, 0.0), (start + 0.3, JERK[1], 0 * there, 0.0)
        position += minimum_jerk(times, [away, back])
    on, go, stop, target, failed = (np.array(column) for column in zip(*rows, strict=True))
    velocity = derivative(position, 1 / BIN)
    cursor = {"pos": position, "vel": velocity, "acc": derivative(velocity, 1 / BIN)}
    trials = {
        "start_time": on,  # the animal is at the centre when the target is shown
        "stop_time": stop,
        "target_on_time": on,
        "go_cue_time": go,
        "target_id": target.astype(float),
        "result": np.where(failed, "F", "R"),
    }
    return trials, {"timestamps": times, **cursor}


def bumps(rng: np.random.Generator, seconds: float) -> tuple[Table, Table]:
    """Return trials and hand of a session with active reaches and passive bumps, sampled at 1 kHz.

    In half of the trials the handle pushes the resting hand. These trials have a bump time, but no
    go cue and no onset of a movement (NaN).
    """
    rows, moves, now = [], [], 0.4
    while now + 3.5 < seconds:
        direction, passive = int(rng.integers(8)), rng.random() < 0.5
        cue = now + rng.uniform(0.5, 0.9)
        if passive:
            push, onset, go = cue, np.nan, np.nan
            moves.append((push, 0.13, polar(direction * np.pi / 4, rng.normal(2.5, 0.3)), 0.0))
            home, end = push + 0.25, push + rng.uniform(0.8, 1.0)
        else:
            push, go, onset = np.nan, cue, cue + np.clip(rng.normal(0.25, 0.04), 0.15, 0.4)
            duration = np.clip(rng.normal(0.5, 0.07), 0.35, 0.8)
            goal = polar(direction * np.pi / 4, REACH) + rng.normal(0, 0.5, 2)
            moves.append((onset, duration, goal, rng.normal(0, 0.4)))
            end = onset + duration + rng.uniform(0.25, 0.4)
            home = end
        moves.append((home, 0.5, rng.normal(0, 0.4, 2), 0.0))
        rows.append((now, end, passive, 45.0 * direction, push, go, onset))
        now = max(end, home + 0.5) + rng.uniform(0.1, 0.3)
    columns = (np.array(column) for column in zip(*rows, strict=True))
    start, end, passive, direction, push, go, onset = columns
    trials = {
        "start": start,
        "end": end,
        "result": np.full(len(start), "R"),
        "ctr_hold_bump": passive,
        "bump_dir": np.where(passive, direction, np.nan),
        "cond_dir": direction,
        "bump_time": push,
        "target_on_time": go,
        "go_cue_time": go,
        "move_onset_time": onset,
    }
    times = grid(seconds, 1000.0)
    position = minimum_jerk(times, moves) + 0.05 * smooth_noise(rng, len(times), 100, 2)
    return trials, {"pos": position, "vel": derivative(position, 1000.0)}


def intervals(rng: np.random.Generator, seconds: float) -> Table:
    """Return the trials of a Ready-Set-Go session [Sohn et al. 2019].

    The animal measures the time from Ready to Set, which is drawn from a short or a long prior, and
    reproduces it. The reproduced time is biased towards the mean of the prior and has noise that
    grows with the time. One trial in 25 is aborted.
    """
    priors = {True: [480, 560, 640, 720, 800], False: [800, 900, 1000, 1100, 1200]}
    rows, now, short = [], 0.3, bool(rng.integers(2))
    while now + 5.0 < seconds:
        short = short != (rng.random() < 0.1)  # priors come in blocks
        ts = float(rng.choice(priors[short]))
        measured = ts * rng.normal(1, 0.1)
        tp = (0.7 * measured + 0.3 * np.mean(priors[short])) * rng.normal(1, 0.06)
        target_on = now + rng.uniform(0.25, 0.4)
        ready = target_on + rng.uniform(0.25, 0.5)
        set_, go = ready + ts / 1000, ready + (ts + tp) / 1000
        end = go + rng.uniform(0.5, 0.6)
        if aborted := rng.random() < 0.04:
            go, tp, end = np.nan, np.nan, set_ + 0.2
        fields = (now, end, target_on, ready, set_, go, ts, tp, 180.0 * rng.integers(2))
        rows.append((*fields, rng.random() < 0.5, short, aborted))
        now = end + rng.uniform(0.4, 0.6)
    names = [
        "start",
        "end",
        "target_on_time",
        "ready_time",
        "set_time",
        "go_time",
        "ts",
        "tp",
        "theta",
        "is_eye",
        "is_short",
        "is_outlier",
    ]
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def foraging(rng: np.random.Generator, seconds: float) -> Table:
    """Return the path of a rat in a square of 1.5 m, sampled at 100 Hz, pauses included.

    Heading and speed are smooth random walks. The animal turns at walls and pauses every few
    seconds.
    """
    times = grid(seconds)
    turn = np.deg2rad(90) * smooth_noise(rng, len(times), 40)  # rad/s
    speed = 0.25 * np.exp(0.35 * smooth_noise(rng, len(times), 60) - 0.06)
    now = rng.exponential(3.0)
    while now < seconds:
        pause = rng.uniform(0.5, 1.5)
        edge = np.clip((np.abs(times - now - pause / 2) - pause / 2) / 0.2, 0, 1)
        speed *= edge
        now += pause + 1.0 + rng.exponential(2.5)
    place, heading = np.zeros(2), rng.uniform(-np.pi, np.pi)
    path, headings = np.empty((len(times), 2)), np.empty(len(times))
    for i in range(len(times)):
        heading += turn[i] * BIN
        ahead = place + 0.15 * np.array([np.cos(heading), np.sin(heading)])
        if np.abs(ahead).max() > 0.73:  # turn towards the centre
            away = np.arctan2(-place[1], -place[0]) - heading
            heading += 4.0 * BIN * np.sign(np.sin(away)) * 2
        place = np.clip(
            place + speed[i] * BIN * np.array([np.cos(heading), np.sin(heading)]), -0.75, 0.75
        )
        path[i], headings[i] = place, heading
    theta = 2 * np.pi * np.cumsum(8.0 + 0.5 * smooth_noise(rng, len(times), 100)) * BIN
    return {
        "timestamps": times,
        "x": path[:, 0],
        "y": path[:, 1],
        "z": 0.04 + 0.003 * smooth_noise(rng, len(times), 20),
        "hd": np.angle(np.exp(1j * headings)),
        "speed": speed,
        "theta": np.angle(np.exp(1j * theta)),
    }
