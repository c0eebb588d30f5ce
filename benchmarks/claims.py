"""The outcomes of the published claims: results/claims.csv from a collection, and docs/claims.md.

python -m benchmarks.claims spectra.nc      # desk scale, all seeds: writes the CSV
python -m benchmarks.claims --write-docs    # writes the tables of docs/claims.md from the CSV
"""

import argparse
import csv
import io
from pathlib import Path

from benchmarks._pages import DOCS, write_tables
from specdiag.show import claims as claim_tables
from specdiag.transfer.claims import Measured
from specdiag.transfer.verification import findings_of_lock, measure_for_lock

LOCK = DOCS.parent / "checkpoints.lock"
RESULTS = Path(__file__).with_name("results") / "claims.csv"
HEADER = ("scale", "seed", "entry", "quantity", "value", "is_published")


def as_csv(measured):
    """Return values as CSV, sorted, with all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(
        sorted(
            (measured.scale, seed, *key, value, int(source is measured.fetched))
            for source in (measured.trained, measured.fetched)
            for seed, values in source.items()
            for key, value in values.items()
        )
    )
    return text.getvalue()


def read_values(path):
    """Return the values of the CSV that `as_csv` wrote."""
    values = {"0": {}, "1": {}}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            seed = values[row["is_published"]].setdefault(int(row["seed"]), {})
            seed[row["entry"], row["quantity"]] = float(row["value"])
    return Measured(scale=row["scale"], trained=values["0"], fetched=values["1"])


def tables():
    """Return the tables of docs/claims.md by name."""
    measured = read_values(RESULTS)
    return claim_tables.tables(findings_of_lock(LOCK, measured), measured)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spectra", nargs="?", help="a collection of all seeds")
    parser.add_argument("--write-docs", action="store_true", help="tables of docs/claims.md")
    options = parser.parse_args()
    if options.spectra:
        from specdiag import open_spectra

        RESULTS.write_text(as_csv(measure_for_lock(LOCK, open_spectra(options.spectra))))
    if options.write_docs:
        write_tables(DOCS / "claims.md", tables())


if __name__ == "__main__":
    main()
