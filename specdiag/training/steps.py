"""Folder of a training run -> its checkpoints in the order of their steps.

The names of checkpoints tell their steps: `step-500.ckpt`, `epoch=3-step=1200.ckpt` (Lightning),
`checkpoint-500/` (transformers), `global_step500/` (DeepSpeed), `iter_0005000/` (Megatron),
`checkpoint_2_500.pt` (fairseq), `epoch_12.pth`, `model_500.safetensors`. Nothing is opened here.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from specdiag.checkpoint.formats.folder import holds_network, whole_networks
from specdiag.files import DistantPath
from specdiag.wording import counted, shown, some

_SHARE = 0.5  # of the names with a word, whose numbers differ: else another word tells the step
_MOST_LEVELS = 2  # of folders below the one that is given
_MOST_FOLDERS = 1000
# Words before the number of a step, the most telling one first, with what they count.
_WORDS = (
    (r"checkpoint_\d+_", "step"),
    (r"(?<![a-z])(?:global[-_]?)?steps?", "step"),
    (r"(?<![a-z])it(?:er(?:ation)?s?)?", "step"),
    (r"(?<![a-z])(?:updates?|batch(?:es)?)", "step"),
    (r"(?<![a-z])(?:checkpoint|ckpt)", "step"),
    (r"(?<![a-z])ep(?:ochs?)?", "epoch"),
)
_NUMBER = r"[-_=. ]*(?<!=-)(\d{1,15})([km](?![a-z0-9]))?(?!\d)"
_LAST = re.compile(r".*(?<!\d)(?<!\d\.)(?<!=-)(\d{1,15})([km](?![a-z0-9]))?(?!\d|\.\d)", re.DOTALL)
_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # 1,000
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:[0-2]\d|3[01]))"
    r"(?:[-_t. ](?:[01]\d|2[0-3])[-_.:]?[0-5]\d[-_.:]?[0-5]\d)?(?!\d)"
)
_COPY = re.compile(r"-v\d+$")  # of Lightning, beside a file of the same step
_THOUSANDS = {"k": 1_000, "m": 1_000_000}


class Run(NamedTuple):
    """The checkpoints of a training run.

    Attributes
    ----------
    unit : str
        What their numbers count: ``'step'``, ``'epoch'``, or ``'checkpoint'``: the files as given.
    checkpoints : list of (int, Path)
        Number and path, in the order of the numbers.
    notes : list of str
        What is left out.
    """

    unit: str
    checkpoints: list[tuple[int, Path]]
    notes: list[str]


def run_in(folder: Path) -> Run:
    """Return the checkpoints of the run in a folder, or in the one subfolder that has some.

    Raises
    ------
    ValueError
        If the folder is one checkpoint, or several runs.
    FileNotFoundError
        If it has no checkpoint with a number in its name.
    OSError
        If it cannot be listed.
    """
    next(folder.iterdir(), None)  # raises PermissionError if it may not be listed
    level = [folder]
    for _ in range(_MOST_LEVELS + 1):
        found = [(path, run) for path in level if (run := _run(path)).checkpoints]
        if len(found) == 1:
            return found[0][1]
        if found:
            names = [shown(os.path.relpath(path, folder), quote=False) for path, _ in found]
            raise ValueError(f"{folder}: {len(found)} runs ({some(names, 10)}); name one of them")
        level = [sub for path in level for sub in _folders(path)][:_MOST_FOLDERS]
    if holds_network(folder):
        raise ValueError(
            f"{folder}: one checkpoint; expected a folder with a file or folder for each step"
        )
    raise FileNotFoundError(
        f"{folder}: no checkpoint with a number in its name, such as step-500.ckpt, "
        "epoch=3-step=1200.ckpt or checkpoint-500/"
    )


def run_of(paths: Sequence[Path]) -> Run:
    """Return the run whose checkpoints are these files and folders.

    Without numbers in their names, they are counted in the order in which they are given.
    """
    names = {path: _name(path, paths) for path in paths}
    unit, numbers = _numbers(names)
    if not numbers:
        return Run("checkpoint", list(enumerate(dict.fromkeys(paths), 1)), [])
    return _ordered(unit, numbers, [path for path in paths if path not in numbers])


def _name(path: Path, paths: Sequence[Path]) -> str:
    """Return what distinguishes a path from the others: they may differ in a folder alone."""
    if isinstance(path, DistantPath):
        return str(path)
    here = [other.absolute() for other in paths if not isinstance(other, DistantPath)]
    common = Path(os.path.commonpath([other.parent for other in here]))
    name = path.absolute().relative_to(common)
    return str(name) if path.is_dir() else _stem(name)


def _run(folder: Path) -> Run:
    """Return the checkpoints directly in a folder; none if no name has a number."""
    files = [folder / name for name in whole_networks(_files(folder))]
    names = {path: _stem(Path(path.name)) for path in files}
    for sub in _folders(folder):
        has_word = any(re.search(word + _NUMBER, sub.name.lower()) for word, _ in _WORDS)
        # A folder with another number is often one of several runs: version_0, seed_1.
        if holds_network(sub, below=has_word) and (has_word or sub.name.isdecimal()):
            names[sub] = sub.name
    unit, numbers = _numbers(names)
    return _ordered(unit, numbers, [path for path in names if path not in numbers])


def _ordered(unit: str, numbers: dict[Path, int], others: Sequence[Path]) -> Run:
    """Return a run in order; of two checkpoints with one number, the last one written."""
    by_number: dict[int, Path] = {}
    repeated = []
    for path, number in numbers.items():
        first = by_number.setdefault(number, path)
        if first != path:
            old, new = sorted((first, path), key=_written)
            by_number[number] = new
            repeated.append(old)
    notes = []
    an = "an" if unit == "epoch" else "a"
    if numbers and others:
        notes.append(f"not read, without a number of {an} {unit}: {_listed(others)}")
    if repeated:
        notes.append(f"not read, of the same {unit} as a later file: {_listed(repeated)}")
    return Run(unit, sorted(by_number.items()), notes)


def _numbers(names: dict[Path, str]) -> tuple[str, dict[Path, int]]:
    """Return what the numbers in names count, and the number of each that has one.

    A word counts if most of its numbers differ: in `checkpoint_2_500` it is not the first one.
    """
    names = {path: _COMMA.sub("", name) for path, name in names.items()}
    dates = [match[1] for name in names.values() if (match := _DATE.search(name))]
    if len(dates) == len(names) and len(set(dates)) > 1:  # a date, with its time, is one number
        names = {
            path: _DATE.sub(lambda match: re.sub(r"\D", "", match[0]), name)
            for path, name in names.items()
        }
    schemes = [(_after(word), unit) for word, unit in _WORDS]
    found = [(unit, _found(number_in, names)) for number_in, unit in schemes]
    telling = [
        (unit, numbers)
        for unit, numbers in found
        if numbers and len(set(numbers.values())) > _SHARE * (len(numbers) - 1)
    ]
    if not telling:
        return "step", _found(_last, names)
    unit, numbers = max(telling, key=lambda pair: len(pair[1]))  # of equals the first
    last = _found(_last, {path: _COPY.sub("", names[path]) for path in numbers})
    differ = len(set(last.values())) == len(numbers) and set(last.values()).isdisjoint(
        numbers.values()
    )
    if len(set(numbers.values())) < len(numbers) and differ:
        return "step", last
    return unit, numbers


def _found(number_in: Callable[[str], int | None], names: dict[Path, str]) -> dict[Path, int]:
    numbers = {path: number_in(name.lower()) for path, name in names.items()}
    return {path: number for path, number in numbers.items() if number is not None}


def _after(word: str) -> Callable[[str], int | None]:
    pattern = re.compile(word + _NUMBER)

    def number_in(name: str) -> int | None:
        matches = list(pattern.finditer(name))
        return _value(matches[-1]) if matches else None

    return number_in


def _last(name: str) -> int | None:
    """Return the last number of a name that is no part of a decimal fraction."""
    match = _LAST.match(name)
    return _value(match) if match else None


def _value(match: re.Match[str]) -> int:
    return int(match[1]) * _THOUSANDS.get(match[2] or "", 1)


def _stem(path: Path) -> str:
    """Return a path without its suffix, which may have a digit: .h5, .pt2."""
    return re.sub(r"(\.tar)?\.[A-Za-z][A-Za-z0-9]{0,11}(\.tar)?$", "", str(path))


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _listed(paths: Iterable[Path]) -> str:
    names = [shown(path.name, quote=False) for path in paths]
    return f"{counted(len(names), 'checkpoint')} ({some(names, 5)})"


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(sub for sub in folder.iterdir() if sub.is_dir() and sub.name[:1] != ".")
    except OSError:
        return []


def _files(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError:
        return []
