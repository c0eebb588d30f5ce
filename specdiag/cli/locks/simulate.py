"""The command that writes simulated recordings."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdiag.cli.options import lock_option, open_lock
from specdiag.cli.outputs import force_option

if TYPE_CHECKING:
    from specdiag.lock.entry import Lock


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--session", "names", multiple=True, metavar="NAME", help="Write only this session; repeatable."
)
@force_option
@lock_option
def simulate(out: Path, names: tuple[str, ...], force: bool, lock_path: Path | None) -> None:
    """Write the simulated recordings of the lock's desk entries.

    The recordings are HDF5 files in the layout of torch_brain's processed brainsets,
    OUT/BRAINSET/SESSION.h5. They are drawn from the seeds that the entries declare. Simulated
    recordings that exist are kept, or replaced if they were made with other settings. The command
    prints the path of each file. It needs torch_brain: pip install 'specdiag[recipes]'.

    \b
    Examples:
      specdiag simulate recordings
      specdiag simulate recordings --session c_20131003_center_out_reaching
    """  # noqa: D301
    from specdiag.lock.recipe import FOLDER, explained, load_recipe

    path, lock = open_lock(lock_path)
    settings = _settings(lock)
    if not settings:
        raise click.UsageError("no entry of this lock has simulated recordings")
    if unknown := [name for name in names if name not in settings]:
        raise click.UsageError(
            f"no desk entry has the session {unknown[0]}; expected one of "
            f"{', '.join(sorted(settings))}"
        )
    recipe = load_recipe(path.parent, "simulation/recordings")
    forced = {"overwrite": True} if force else {}
    for session in names or settings:
        try:
            (file,) = recipe.write_recordings(out, [session], settings[session], **forced)
        except ImportError as error:
            raise RuntimeError(f"{error}; run: pip install 'specdiag[recipes]'") from error
        except (AttributeError, LookupError, TypeError) as error:  # such as a missing setting
            where = path.parent / FOLDER
            raise RuntimeError(explained(error, where, "simulation/recordings")) from error
        click.echo(file)


def _settings(lock: "Lock") -> dict[str, Any]:
    """Return the settings of the simulation of every session that an entry of a lock uses."""
    settings: dict[str, Any] = {}
    for entry in lock.entries:
        if "simulation" not in entry.params:
            continue
        data = entry.params.get("data")
        sessions = data.get("sessions") if isinstance(data, dict) else None
        if not isinstance(sessions, list) or not all(isinstance(s, str) for s in sessions):
            raise ValueError(
                f"{entry.name} ({entry.scale}): params.simulation without params.data.sessions; "
                "declare the names of the sessions"
            )
        settings |= dict.fromkeys(sessions, entry.params["simulation"])
    return settings
