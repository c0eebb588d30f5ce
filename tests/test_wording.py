import errno
import math

from specdiag.wording import (
    accounting,
    counted,
    number,
    numbered,
    one_line,
    p_value,
    part,
    some,
    tally,
)


def test_a_count_agrees_with_its_noun():
    texts = [counted(n, "matrix", "matrices") for n in (0, 1, 1234)]
    assert texts == ["0 matrices", "1 matrix", "1,234 matrices"]
    assert [counted(n, "layer") for n in (1, 2)] == ["1 layer", "2 layers"]


def test_long_lists_end_with_the_number_of_further_names():
    assert some(["a", "b", "c"], 3) == "a, b, c"
    assert some(["a", "b", "c", "d"], 3) == "a, b, c and 1 more"


def test_the_accounting_names_every_status_that_occurs():
    counts = {"n_fit": 37, "n_degenerate": 0, "n_skipped": 4, "n_walked": 41}
    assert accounting(counts) == "41 matrices: 37 measured, 4 skipped"
    assert accounting({"degenerate": 1}) == "1 matrix: 1 degenerate"
    assert accounting({}) == "0 matrices"


def test_the_message_of_a_system_error_has_no_number():
    assert one_line(OSError(errno.ENOSPC, "No space left", "a.nc")) == "a.nc: No space left"
    assert one_line(OSError(errno.ENOSPC, "No space left")) == "No space left"


def test_equal_names_are_numbered():
    assert numbered(["a", "b", "a"]) == ["a#1", "b", "a#2"]


def test_words_are_counted_in_order_of_their_first_occurrence():
    assert tally(["ok", "missing", "ok"]) == "2 ok, 1 missing"


def test_a_part_agrees_with_its_verb():
    texts = [part(n, total, "layer") for n, total in ((3, 5), (1, 5), (0, 1), (0, 5))]
    assert texts == [
        "3 of 5 layers are",
        "1 of 5 layers is",
        "0 of 1 layer is",
        "0 of 5 layers are",
    ]


def test_a_p_value_is_never_printed_as_0():
    values = (0.5, 0.0123, 4e-4, 1e-5, 1e-9, 0.0, math.nan)
    assert [p_value(p) for p in values] == [
        *("0.5", "0.012", "0.0004", "1e-05", "< 1e-05", "< 1e-05", "-")
    ]


def test_a_number_that_is_not_finite_is_a_dash():
    assert [number(x, ".2f") for x in (1.0, math.nan, math.inf)] == ["1.00", "-", "-"]
