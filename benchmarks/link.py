"""How often `specdiag link` finds a relation of spectra and R² that is absent, and one that exists.

    python -m benchmarks.link [--full] [--write-docs]

Collections are simulated (`benchmarks._collection`), a scenario after the other. Each scenario has
a row in benchmarks/results/link.csv, written when it is done; those that have a row of as many
simulations are not repeated. `--write-docs` writes the tables of docs/link.md from that file. Fast
takes about a minute on one core, full about ten.
"""

import argparse

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._collection import simulated
from benchmarks._pages import DOCS, table_of, write_tables
from benchmarks._results import read, write
from specdiag.transfer.link import STRATIFICATIONS, Design, correlations, quantities

N_RESAMPLES = 199  # 5 % is a whole number of them
ONE_SESSION = {"sessions": 1}

# No relation beyond what task, arm, data, session and base give to alpha and R², each by itself.
NULL = {
    "nothing but frozen children": {"confounded": False, "inherited": 0.0, **ONE_SESSION},
    "and levels of task, arm and data": {"inherited": 0.0, **ONE_SESSION},
    "and half of the variance from base and session": ONE_SESSION,
    "and 80 % of it": {"inherited": 0.8, **ONE_SESSION},
    "three sessions, 80 %": {"inherited": 0.8},
    "two seeds": {"seeds": 2},
    "four seeds, one lacks a child": {"seeds": 4, "lost": 1, **ONE_SESSION},
}
# The same, and alpha correlated with R² in what is left.
PLANTED = {
    f"effect {effect:+g}, {seeds} seeds": {"effect": effect, "seeds": seeds, **ONE_SESSION}
    for seeds in (3, 5)
    for effect in (-0.3, -0.6, -0.9)
}


def measured(settings, count):
    """Return the share of simulations with p <= 5 %, and the coverage for `alike`."""
    from scipy.stats import spearmanr

    p, rho, intervals = [], [], []
    for i in range(count):
        dataset = simulated(np.random.default_rng([20, i]), **settings)
        alpha, design = quantities(dataset)[0], Design(dataset)
        result = correlations(
            alpha, design, None, is_feature=False, n_resamples=N_RESAMPLES, seed=i
        )
        p.append([spearmanr(alpha, design.r2).pvalue, *result["p"]])
        rho.append(result["rho"][-1])
        intervals.append(result["rho_ci"][-1])
    rates = dict(
        zip(("naive", *STRATIFICATIONS), np.mean(np.array(p) <= 0.05, axis=0), strict=True)
    )
    low, high = np.array(intervals).T
    covered = np.mean((low <= np.mean(rho)) & (np.mean(rho) <= high))
    return {
        "n_simulations": count,
        "n_checkpoints": len(design.r2),
        **{name: round(float(rate), 4) for name, rate in rates.items()},
        "mean rho": round(float(np.mean(rho)), 4),
        "coverage": round(float(covered), 4),
    }


def measured_so_far():
    """Return the rows in the file by scenario."""
    return {row["scenario"]: row for row in read("link")}


def tables(rows):
    """Return the tables of docs/link.md."""
    return {
        "false": table_of([shown(rows[name]) for name in NULL if name in rows]),
        "power": table_of(
            [
                {
                    "planted": name,
                    "simulations": f"{rows[name]['n_simulations']:.0f}",
                    "mean rho": f"{rows[name]['mean rho']:+.2f}",
                    "found": f"{rows[name]['alike']:.0%}",
                    "coverage": f"{rows[name]['coverage']:.1%}",
                }
                for name in PLANTED
                if name in rows
            ]
        ),
    }


def shown(row):
    """Return a row of the table of false findings; `alike` has its Monte-Carlo error."""
    rates = {name: f"{row[name]:.1%}" for name in ("naive", *STRATIFICATIONS)}
    error = np.sqrt(0.05 * 0.95 / row["n_simulations"])
    rates["alike"] += f" ± {error:.1%}"
    return {
        "scenario": row["scenario"],
        "simulations": f"{row['n_simulations']:.0f}",
        "checkpoints": f"{row['n_checkpoints']:.0f}",
        **rates,
        "coverage of alike": f"{row['coverage']:.1%}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="2,000 simulations a scenario, not 200")
    parser.add_argument("--write-docs", action="store_true", help="tables of docs/link.md")
    options = parser.parse_args()
    count = 2000 if options.full else 200
    rows = measured_so_far()
    with threadpool_limits(1):
        for name, settings in (NULL | PLANTED).items():
            if rows.get(name, {}).get("n_simulations", 0) < count:
                rows[name] = {"scenario": name, **measured(settings, count)}
                write("link", list(rows.values()))
            print(rows[name], flush=True)
    if options.write_docs:
        write_tables(DOCS / "link.md", tables(measured_so_far()))


if __name__ == "__main__":
    main()
