"""Recipes: modules in recipes/ beside a lock that declare its entries, and build them.

Recipes import each other with a dot, ``from ._tasks import AREA2``: they have no name of their own that
two locks could share.

A recipe is a module with two functions: `entries()` returns what it declares, and `build(job)` makes one of
them and returns its metrics. A module without `build` declares what nobody can make here yet. Recipes are
programs of whoever wrote the lock: they are run by `specdiag train` and `specdiag lock`, the claims beside
them by `specdiag verify`, and by nothing else.
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

from specdiag.lock.entry import Cost, Entry, Key, Scale
from specdiag.lock.fields import plain, read

FOLDER = "recipes"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a recipe gets to build one entry.

    Attributes
    ----------
    name, scale : str
    params : mapping
        As in the lock.
    parent : Path or None
        The parent's weights.
    inputs : mapping of str to Path
        Verified files, by the `id` of the input; those that are brainsets are the recipe's to find.
    folder : Path
        A folder of the entry's own, which outlives an interrupted build: save what resumes there. CSV and
        JSON files in it are kept beside the checkpoint when it is finished.
    output : Path
        Where to leave the checkpoint, in that folder. An evaluation leaves nothing.
    cost : Cost or None
        As declared.
    devices, precision : int and str, or None
        What to train on and in, where it is not to be as declared: what this run is given, and no part
        of what is built.
    nodes, node : int
        How many machines train this entry together, with so many devices each, and which of them this
        is. All but the first, 0, take part in the training, and leave nothing.
    yes : bool
        Whether to start what will take very long.
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


def load_recipe(root: Path, name: str) -> ModuleType:
    """Return the module of a recipe.

    Parameters
    ----------
    root : Path
        The folder of the lock.
    name : str
        Name of the module, or its path below recipes/ without ``.py``.

    Raises
    ------
    FileNotFoundError
        When there is no such recipe.
    RuntimeError
        When importing it fails.
    """
    if not (root / FOLDER / f"{name}.py").is_file():
        raise FileNotFoundError(f"no recipe {FOLDER}/{name}.py beside the lock; write it there")
    return load_module(root / FOLDER, name)


def load_module(folder: Path, name: str) -> ModuleType:
    """Return a module of a folder beside a lock: of recipes/ or figures/.

    Parameters
    ----------
    folder : Path
    name : str
        Path of the module below the folder, without ``.py``.

    Raises
    ------
    RuntimeError
        If importing it fails: in one line that begins with the place in the folder.
    """
    try:
        return importlib.import_module(f"{_package(folder)}.{name.replace('/', '.')}")
    except (Exception, SystemExit) as error:  # a program of the user: it may raise anything
        raise RuntimeError(explained(error, folder, name)) from error


def _package(folder: Path) -> str:
    """Return the name under which the modules of a folder are imported: each folder has its own.

    Under the one name `recipes` a second lock in the same process would get the modules of the
    first.
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
    """Return where in a folder an error was raised, and its text, in one line."""
    place, trace = f"{folder.name}/{name}.py: ", error.__traceback__
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(folder):
            place = f"{file.relative_to(folder.parent)}:{trace.tb_lineno}: "
        trace = trace.tb_next
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == folder.name:
        text += f"; import what lies in {folder.name}/ with a dot: from ._name import ..."
    named = isinstance(error, ValueError | OSError | RuntimeError) and text
    return place + (text if named else f"{type(error).__name__}: {text}".rstrip(": "))


def declared(root: Path) -> list[Entry]:
    """Return what all recipes declare, as the lock will hold it.

    Raises
    ------
    RuntimeError
        When a recipe cannot be imported or `entries()` fails.
    LockfileError
        When it declares what no lock can hold; the message names recipe and entry.
    """
    found: dict[Key, Entry] = {}
    for path in sorted((root / FOLDER).glob("*.py")):
        if path.stem.startswith("_"):
            continue
        for entry in _entries(load_recipe(root, path.stem), root, path.stem):
            checked = _checked(entry, f"{FOLDER}/{path.name}")
            if twin := found.get(checked.key):
                raise ValueError(
                    f"{FOLDER}/{path.name}: declares {checked.name} ({checked.scale}), which "
                    f"{FOLDER}/{twin.recipe}.py declares too; an entry has one declaration"
                )
            found[checked.key] = checked
    return list(found.values())


def _entries(module: ModuleType, root: Path, name: str) -> list[Any]:
    if not hasattr(module, "entries"):
        raise RuntimeError(
            f"{FOLDER}/{name}.py: no function entries(); declare what it builds, or begin its "
            "name with an underscore"
        )
    try:
        return list(module.entries())
    except (Exception, SystemExit) as error:  # somebody's program
        raise RuntimeError(explained(error, root / FOLDER, name)) from error


def _checked(entry: Any, where: str) -> Entry:
    """Return an entry as it comes back from a lock: tuples as lists, defaults filled, all types right."""
    if not isinstance(entry, Entry):
        text = f"{where}: entries() gave {entry!r}; expected Entry objects"
        raise RuntimeError(text)  # noqa: TRY004 - the recipe's fault, not of whoever calls
    where = f"{where}: entry {entry.name!r}"
    checked: Entry = read(where, Entry, plain(entry))
    if checked.metrics or checked.environment or checked.file.sha256:
        raise ValueError(
            f"{where}: metrics, environment and the file's hashes are recorded, not declared"
        )
    return checked
