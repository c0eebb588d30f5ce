"""Recipes: modules in recipes/ beside a lock that declare its entries and build them.

A recipe is a module with two functions: `entries()` returns the entries that it declares, and
`build(job)` makes one of them and returns its metrics. A module without `build` declares entries
that cannot be built here yet. A third function, `measure(job, layers)`, is optional: it runs the
model of an entry, and returns the features of its layers (`specdiag.transfer.features`). Recipes
import each other with a dot, ``from ._tasks import AREA2``, since the package has another name for
each lock. Recipes are programs of the lock's author: `specdiag train` and `specdiag lock` run them,
`specdiag features` does if it is given layers or sessions, `specdiag verify` runs the claims beside
them, and `specdiag simulate` the simulation. No other command runs a program of a lock, unless
`figures` or `report` are given the lock as --study: then they run the modules in figures/ beside
it.
"""

import hashlib
import importlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from specdiag.lock.entry import LOCK_NAME, Cost, Entry, Key, Lock, Scale
from specdiag.lock.fields import REPAIR, LockfileError, plain, read, refuse
from specdiag.lock.lockfile import save
from specdiag.lock.place import inside
from specdiag.wording import shown

FOLDER = "recipes"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a recipe needs to build one entry.

    Attributes
    ----------
    name, scale, params
        As in the lock.
    parent : Path or None
        The parent's weights.
    inputs : mapping of str to Path
        Verified files by the `id` of the input. Brainsets are not among them: the recipe itself
        looks for them.
    folder : Path
        A folder for this build that is kept if the build is interrupted: save the states to
        resume from there. CSV and JSON files in it are kept beside the finished checkpoint.
    output : Path
        Path of the checkpoint to write, in that folder. An evaluation writes no checkpoint. For
        `measure`: path of the finished checkpoint, which is only read.
    cost : Cost or None
        As declared.
    devices, precision : int and str, or None
        Number of devices and precision of this run, if not as declared. They are not part of the
        declaration.
    nodes, node : int
        Number of machines that train this entry together, each with `devices` devices, and the
        number of this one. Node 0 leads; the others take part in the training and write nothing.
    yes : bool
        Whether to start a training that takes very long.
    log : {'csv', 'tensorboard', 'wandb'} or None
        The logger to which the training should write its numbers while it runs.
    logs : Path or None
        A folder for its files, which stays beside the checkpoint; it may not exist yet.
    """

    name: str
    scale: Scale
    params: Mapping[str, Any]
    parent: Path | None
    inputs: Mapping[str, Path]
    folder: Path
    output: Path
    cost: Cost | None = None
    devices: int | None = None
    nodes: int = 1
    node: int = 0
    precision: str | None = None
    yes: bool = False
    log: str | None = None
    logs: Path | None = None


def start(path: Path | None) -> tuple[Path, Path]:
    """Write an empty lock, by default here, and a folder for recipes; return the paths of both.

    An existing lock raises FileExistsError, and a link out of its folder OutsideError.
    """
    path = path or Path(LOCK_NAME)
    if path.exists():
        raise FileExistsError(f"{path} exists already; `specdiag lock` updates it")
    inside(path.parent, path.name)
    folder = path.parent / FOLDER
    package = inside(path.parent, f"{FOLDER}/__init__.py")
    package.parent.mkdir(parents=True, exist_ok=True)
    if not package.exists():
        text = f"Recipes: each declares entries of {LOCK_NAME}, and builds them."
        package.write_text(f'"""{text}"""\n')
    save(Lock(), path)
    return path, folder


def load_recipe(root: Path, name: str) -> ModuleType:
    """Return the recipe `name` of the lock in the folder `root`, as `load_module` does.

    A missing recipe raises FileNotFoundError.
    """
    if not (root / FOLDER / f"{name}.py").is_file():
        raise FileNotFoundError(f"no recipe {FOLDER}/{name}.py beside the lock; write it there")
    return load_module(root / FOLDER, name)


def load_module(folder: Path, name: str) -> ModuleType:
    """Return the module `name`, a path without ``.py``, of recipes/ or figures/ beside a lock.

    An error of the import raises RuntimeError: one line that begins with the place in the folder.
    A link out of the folder of the lock raises OutsideError, whatever it is.
    """
    root, folder = folder.parent, inside(folder.parent, folder.name)
    for file in folder.rglob("*"):  # whatever the module imports
        inside(root, file.relative_to(folder.parent))
    # Bytecode would hide an edit within the second after it was written, if the size is the same.
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module(f"{_package(folder)}.{name.replace('/', '.')}")
    except (Exception, SystemExit) as error:  # a user's program: it may raise anything
        raise RuntimeError(explained(error, folder, name)) from error
    finally:
        sys.dont_write_bytecode = writes_none


def _package(folder: Path) -> str:
    """Return the name of the package of a folder; no two folders have the same name.

    Under the name `recipes` a second lock in the same process would get the modules of the first.
    """
    folder = folder.resolve()
    name = f"{folder.name}_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        init = folder / "__init__.py"
        loader = SourceFileLoader(name, str(init))
        spec = ModuleSpec(name, loader, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        package = module_from_spec(spec)
        if init.is_file():
            loader.exec_module(package)
        logging.getLogger(name).setLevel(logging.INFO)  # show what recipes log
        sys.modules[name] = package
    return name


def explained(error: BaseException, folder: Path, name: str) -> str:
    """Return one line: the place in a folder that raised an error, and the text of the error."""
    folder = folder.resolve()  # as modules are loaded: it may be given through a link
    place, trace = f"{folder.name}/{name}.py: ", error.__traceback__
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(folder):
            place = f"{file.relative_to(folder.parent)}:{trace.tb_lineno}: "
        trace = trace.tb_next
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == folder.name:
        text += f"; import modules of {folder.name}/ with a dot: from ._name import ..."
    named = isinstance(error, ValueError | OSError | RuntimeError) and text
    return place + (text if named else f"{type(error).__name__}: {text}".rstrip(": "))


def declared(root: Path) -> list[Entry]:
    """Return the entries that all recipes declare, as they will be in the lock.

    Raises
    ------
    RuntimeError
        If a recipe cannot be imported or `entries()` fails.
    LockfileError
        If an entry is invalid; the message names recipe and entry.
    ValueError
        If two recipes declare an entry, or one declares a result.
    """
    entries: dict[Key, Entry] = {}
    for path in sorted(inside(root, FOLDER).glob("*.py")):
        if path.stem.startswith("_"):
            continue
        for entry in _entries(root, path.stem):
            checked = _checked(entry, f"{FOLDER}/{path.name}")
            if twin := entries.get(checked.key):
                raise ValueError(
                    f"{FOLDER}/{path.name}: declares {checked.name} ({checked.scale}), which "
                    f"{FOLDER}/{twin.recipe}.py declares, too; declare an entry once"
                )
            entries[checked.key] = checked
    return list(entries.values())


def _entries(root: Path, name: str) -> list[Any]:
    module = load_recipe(root, name)
    if not hasattr(module, "entries"):
        raise RuntimeError(
            f"{FOLDER}/{name}.py: no function entries(); write one, or begin the name of the "
            "module with an underscore"
        )
    try:
        return list(module.entries())
    except (Exception, SystemExit) as error:  # a user's program
        raise RuntimeError(explained(error, root / FOLDER, name)) from error


def _checked(entry: Any, where: str) -> Entry:
    """Return an entry as it is read from a lock: tuples as lists, with defaults, types checked."""
    if not isinstance(entry, Entry):
        text = f"{where}: entries() gave {entry!r}; expected Entry objects"
        raise RuntimeError(text)  # noqa: TRY004 - an error of the recipe
    where = f"{where}: entry {entry.name!r}"
    repair = "correct the recipe"
    if isinstance(entry.parent, str):
        refuse(f"{where}.parent", shown(entry.parent), f"Parent(name={entry.parent!r})", repair)
    try:
        checked: Entry = read(where, Entry, plain(entry))
    except LockfileError as error:
        raise LockfileError(str(error).replace(REPAIR, repair)) from None
    if checked.metrics or checked.environment or checked.file.sha256:
        raise ValueError(
            f"{where}: metrics, environment and the file's hashes are recorded, not declared"
        )
    return checked
