"""The command line, run in a folder as a user runs it."""

import json
import os
import subprocess
import sys

from support.paths import ROOT


def run(folder, *arguments, **environment):
    """Run the command line in a folder; returns status, stdout, stderr."""
    command = [sys.executable, "-m", "specdiag", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def states(folder):
    status, out, err = run(folder, "list", "--json")
    assert (status, err) == (0, "")
    return {row["name"]: row["state"] for row in json.loads(out)["checkpoints"]}


def change(lock, old, new):
    recipe = lock.parent / "recipes" / "toy.py"
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new, 1))
