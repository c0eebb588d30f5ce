"""Whether matrices collapse under the published optimizer, and whether by its weight decay.

    python -m benchmarks.collapse [--write-docs]

Runs the trainings that have no row in benchmarks/results/collapse_runs.csv yet. collapse.csv has a
row a matrix and reading: the values of SpectralMonitor and, of the same step, the norm of the
gradient and LAMB's trust ratio. `--write-docs` trains nothing and writes the tables of
docs/collapse.md from these files; `python -m figures` draws its picture. Data, model and seed are
those of two desk entries of the lock. One thread.
"""

import argparse
import copy
import logging
from pathlib import Path

from benchmarks._collapse_tables import tables
from benchmarks._pages import DOCS, write_tables
from benchmarks._results import append, read
from recipes._published import BASE, adamw, lamb
from recipes.data.recordings import open_recordings
from recipes.poyo.run import evaluate_checkpoint
from recipes.poyo.train import train
from specdiag.lock.lockfile import load
from specdiag.lock.recipe import Job
from specdiag.training.monitor import SpectralMonitor

EVERY, NO_DECAY = 25, {"weight_decay": 0.0}
ONE, SEVERAL = "cross_subject/t_20130819_scratch", BASE
RUNS = {  # entry, optimizer, steps
    "nine sessions, SparseLamb 0.032, decay 1e-4": (SEVERAL, lamb(0.032, 16), 500),
    "nine sessions, SparseLamb 0.032, decay 0": (SEVERAL, lamb(0.032, 16) | NO_DECAY, 500),
    "the same for longer, decay 1e-4": (SEVERAL, lamb(0.032, 16), 1200),
    "the same for longer, decay 0": (SEVERAL, lamb(0.032, 16) | NO_DECAY, 1200),
    "one session, SparseLamb 8e-3, decay 1e-4": (ONE, lamb(8e-3, 16), 1200),
    "nine sessions, AdamW 2e-3, decay 1e-4": (SEVERAL, adamw(2e-3), 500),
}


def trust_ratio(weight, state, group):
    """Return the ratio that SparseLamb will use in this step, by the formulas of its docstring."""
    (beta1, beta2), gradient = group["betas"], weight.grad
    mean = beta1 * state.get("exp_avg", 0.0) + (1 - beta1) * gradient
    square = beta2 * state.get("exp_avg_sq", 0.0) + (1 - beta2) * gradient**2
    update = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * weight
    return float(weight.norm().clamp(max=group["weight_norm_clamp"]) / update.norm())


class Watch:
    """Read spectra after steps, and gradients and trust ratios before the optimizer moves."""

    def __init__(self, job):
        self.job, self.monitor, self.rows = job, SpectralMonitor(every=EVERY, budget=None), []
        self.step, self.about_to = 0, {}

    def before(self, optimizer, *_):
        """Measure all parameters of at least two dimensions, if the step will be read."""
        import torch

        self.step += 1
        if self.step % EVERY and self.step > 1:
            return
        lamb = "weight_norm_clamp" in optimizer.defaults
        with torch.no_grad():
            self.about_to = {
                id(w): (
                    float(w.grad.norm()),
                    trust_ratio(w, optimizer.state[w], group) if lamb else "",
                )
                for group in optimizer.param_groups
                for w in group["params"]
                if w.grad is not None and w.ndim > 1
            }

    def after(self, step, model):
        """Read the spectra, and keep the weights of the last step."""
        from recipes.poyo import checkpoints as _checkpoints

        before = len(self.monitor.readings)
        self.monitor(step, model)
        weights = dict(model.named_parameters())
        for r in self.monitor.readings[before:]:
            gradient, ratio = self.about_to[id(weights[r.name])]
            self.rows.append(
                {
                    "step": step,
                    "matrix": r.name,
                    "norm": r.norm,
                    "rank": r.rank,
                    "alpha": r.alpha,
                    "gradient": gradient,
                    "trust_ratio": ratio,
                    "collapsed": int(r.name in self.monitor.dead),
                }
            )
        if step == self.job.params["training"]["steps"]:
            state = {f"model.{k}": v for k, v in model.state_dict().items()}
            _checkpoints.write(self.job.folder / "last.ckpt", {"state_dict": state})
            for name in self.monitor.dead:
                state[f"model.{name}"].zero_()
            _checkpoints.write(self.job.folder / "cut.ckpt", {"state_dict": state})


def measure(name, folder):
    """Train one of RUNS; return its row, and the rows of its readings."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    entry, optimizer, steps = RUNS[name]
    entries = {(e.name, e.scale): e for e in load(DOCS.parent / "checkpoints.lock").entries}
    params = copy.deepcopy(entries[entry, "desk"].params) | {"optimizer": optimizer}
    params["training"]["steps"] = steps
    work = folder / name.replace(" ", "_").replace(",", "")
    work.mkdir(parents=True, exist_ok=True)
    for left in work.iterdir():  # a resumed training has no first readings
        left.unlink()
    job = Job(
        name=name,
        scale="desk",
        params=params,
        parent=None,
        inputs={},
        folder=work,
        output=work / "model.ckpt",
    )
    sessions, watch = list(open_recordings(params, folder / "simulated").values()), Watch(job)
    hook = register_optimizer_step_pre_hook(watch.before)
    try:
        done = train(job, sessions, on_step=watch.after)
    finally:
        hook.remove()
    r2 = {
        f"r2_{w}": evaluate_checkpoint(job, sessions, work / f"{w}.ckpt").r2
        for w in ("last", "cut", "model")
    }
    row = {"run": name, "best_step": done["best_step"], "loss": done["loss"], **r2}
    return row, [{"run": name, **reading} for reading in watch.rows]


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=DOCS.parent / "build" / "collapse", help="of checkpoints"
    )
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    if options.write_docs:
        write_tables(DOCS / "collapse.md", tables(read("collapse_runs"), read("collapse")))
        return
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    done = {row["run"] for row in read("collapse_runs")}
    for name in RUNS:
        if name not in done:
            row, readings = measure(name, options.folder)
            append("collapse", readings, list(readings[0]), digits=4)
            append("collapse_runs", [row], list(row), digits=4)
            print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
