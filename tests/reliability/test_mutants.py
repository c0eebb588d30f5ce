"""Damaged inputs of sixteen kinds: one line that names the file, in bounded time and memory."""

import pytest

from support.mutants import tried
from support.reliability import record


def check(summary):
    assert not summary.faults, summary.faults[:3]
    return sum(summary.kinds.values())


def test_damaged_inputs_end_in_one_line_that_names_the_file():
    assert check(tried(0, 1000)) == 1000


@pytest.mark.slow
def test_a_tenth_of_the_mutants_ends_in_one_line_within_the_bounds():
    summary = tried(0, 10_000)
    record(
        "mutants",
        damaged_files=check(summary),
        kinds_of_files=len(summary.kinds),
        seconds_at_most=round(summary.most_seconds, 1),
        megabytes_at_most=round(summary.most_bytes / 1e6),
    )
