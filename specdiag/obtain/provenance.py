"""A recipe -> where its program comes from; a build -> its environment."""

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import NamedTuple

from specdiag.lock.code import code_digest, program
from specdiag.lock.recipe import FOLDER

_ALWAYS = {"numpy", "torch", "lightning", "torch_brain"}
_TIMEOUT = 60.0  # seconds


class Provenance(NamedTuple):
    """Where the program of a recipe comes from."""

    code: str | None  # its digest
    commit: str | None  # of its git repository, with "-dirty" if its modules differ from the commit
    libraries: frozenset[str]  # packages that its modules import, by the name of the import


@functools.cache
def provenance(root: Path, recipe: str) -> Provenance:
    """Return where a recipe comes from, as it was at the first call of this process.

    Called right after the recipe was imported: a process imports it once, so it goes on with this
    program if the files change.
    """
    modules = program(root, recipe)
    libraries = frozenset[str]().union(*(m.libraries for m in modules.values()))
    return Provenance(code_digest(root, recipe), _commit(root, modules), libraries)


def _commit(root: Path, modules: Iterable[str]) -> str | None:
    """Return the commit of the git repository that holds the modules, or None without one."""
    folder = root / FOLDER
    # No settings of another repository, as in a hook; names of files are no patterns.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    variables["GIT_LITERAL_PATHSPECS"] = "1"
    options = ["--porcelain=v2", "--branch", "--ignored", "--untracked-files=all"]
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "status", *options, "--"]
    command += modules
    try:
        done = subprocess.run(  # noqa: S603 - names of files after --
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one of another user
        return None
    lines = done.stdout.decode(errors="replace").splitlines()
    commit = next((x.split()[2] for x in lines if x.startswith("# branch.oid ")), "(initial)")
    is_changed = any(not line.startswith("# ") for line in lines)
    return None if commit == "(initial)" else commit + "-dirty" * is_changed


def environment(seconds: float, recipe: Provenance) -> dict[str, str | int | float]:
    """Return the environment of a build: commit, versions, machine, device, threads and seconds."""
    names = sorted((_ALWAYS | recipe.libraries) - sys.stdlib_module_names)
    versions = {name: _version(name) for name in names if name in sys.modules}
    values: dict[str, str | int | float] = {
        **{name: text for name, text in versions.items() if text},
        "specdiag": version("specdiag"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "seconds": round(seconds, 1),
    }
    if recipe.commit:
        values["commit"] = recipe.commit
    if torch := sys.modules.get("torch"):
        values["threads"] = torch.get_num_threads()
        values["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return values


def _version(name: str) -> str | None:
    """Return the version of the installed package that is imported by a name, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        packages = packages_distributions().get(name)  # reads all packages: some 0.1 s
        return version(packages[0]) if packages else None
