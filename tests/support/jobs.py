"""Small jobs in a folder, without a lock."""

import os
import signal

from specdiag.lock.recipe import Job
from support.sessions import MODEL, params

PLAIN = MODEL | {"lin_dropout": 0.0, "ffn_dropout": 0.0}  # dropout differs between processes


def job(folder, *, parent=None, scale="desk", name="tiny", **changed):
    """Return a job with the params of a small entry; `changed` replaces parts of them."""
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        name=name,
        scale=scale,
        params=params(**changed),
        parent=parent,
        inputs={},
        folder=folder,
        output=folder / "model.ckpt",
    )


# Here because a process of several finds a function by its module's name, and a package of the
# networks for tests installs a `tests` of its own.
def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise KeyboardInterrupt


class StopAt:
    """Call `how` after step `at` of a training, and record all steps."""

    def __init__(self, at, how):
        self.at, self.how, self.steps = at, how, []

    def __call__(self, step, _):
        self.steps.append(step)
        if step == self.at:
            self.how()
