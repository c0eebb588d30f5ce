"""Functions and commands -> processor time, its ratio in pairs, and peak memory.

Wall time on a shared machine changes by half from minute to minute; processor time of one core by a
few percent, and the ratio of two runs, one right after the other, by less. So every number here is
processor time, and every ratio the median over pairs.
"""

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks._pages import table

# One BLAS thread each: two stall where other work keeps the cores busy.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# With bytecode, as an installed package has it, even where the environment writes none.
BYTECODE = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(Path(__file__).parents[1] / "build" / "bytecode"),
}
SPECDIAG = str(Path(sys.executable).with_name("specdiag"))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row of the table: the median of its pairs, their range, and the bar if it has one."""

    what: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    bar: float = math.nan
    at_least: bool = False
    note: str = ""

    @property
    def result(self):
        """'met', 'missed', 'not measured', or '' without a bar."""
        if math.isnan(self.value):
            return "not measured"
        if math.isnan(self.bar):
            return ""
        is_met = self.value >= self.bar if self.at_least else self.value <= self.bar
        return "met" if is_met else "missed"

    def cells(self):
        """Return the cells of a row of Markdown."""
        values = "" if math.isnan(self.value) else f"{self.value:.3g}"
        if not math.isnan(self.low) and len({f"{x:.3g}" for x in (self.low, self.high)}) > 1:
            values += f" ({self.low:.3g} to {self.high:.3g})"
        limit = f"at {'least' if self.at_least else 'most'} {self.bar:g}"
        return [self.what, values, "" if math.isnan(self.bar) else limit, self.result, self.note]


def as_table(rows):
    """Return the Markdown table of measured rows."""
    return table(["what", "median (range)", "bar", "", "remark"], [row.cells() for row in rows])


def ratio_of(what, first, second, pairs, *, warm=True, **fields):
    """Return the row of seconds(first) / seconds(second); both return the seconds that they took.

    The first pair is not counted if `warm` is true. A side that fails leaves a row without values.
    """
    try:
        seconds = [(first(), second()) for _ in range(pairs + warm)][warm:]
    except RuntimeError as error:
        return Measured(what=what, **fields | {"note": str(error).splitlines()[-1]})
    ratios = [a / b for a, b in seconds]
    a, b = (median(side) for side in zip(*seconds, strict=True))
    note = fields.pop("note", "{a:.3g} s over {b:.3g} s").format(a=a, b=b)
    row = {"value": median(ratios), "low": min(ratios), "high": max(ratios), "note": note}
    return Measured(what=what, **row, **fields)


def seconds_of(what, run, times, **fields):
    """Return the row of the seconds that a run takes: the median, without the first run."""
    try:
        seconds = [run() for _ in range(times + 1)][1:]
    except RuntimeError as error:
        return Measured(what=what, **fields | {"note": str(error).splitlines()[-1]})
    row = {"value": median(seconds), "low": min(seconds), "high": max(seconds)}
    return Measured(what=what, **row, **fields)


def processor_time(function):
    """Return the seconds of processor time that a function takes in this process."""
    start = time.process_time()
    function()
    return time.process_time() - start


def run(command, **environment):
    """Run a command from an empty folder; return its seconds of processor time.

    Its children are counted, too. A command that fails raises RuntimeError with what it wrote.
    """
    return _run(command, environment)[0]


def run_and_peak(arguments, **environment):
    """Run `specdiag ARGUMENTS`; return its seconds of processor time and its peak bytes (Linux).

    The peak is the process's own VmHWM: ru_maxrss begins with that of the parent.
    """
    code = (
        "import sys; from specdiag.cli.main import cli; cli(sys.argv[1:], standalone_mode=False); "
        "print(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')))"
    )
    seconds, output = _run([sys.executable, "-c", code, *arguments], environment)
    return seconds, int(output.rsplit("VmHWM:", 1)[1].split()[0]) * 1024


def _run(command, environment):
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        command = [str(part) for part in command]
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ONE_THREAD | BYTECODE | environment,
            cwd=folder,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[-2000:]}")
    return usage.ru_utime + usage.ru_stime, text


@contextlib.contextmanager
def one_core():
    """Keep this process, and those that it starts, on one core (Linux)."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
