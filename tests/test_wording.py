import csv
import errno
import io
import json
import math

from hypothesis import given
from hypothesis import strategies as st

from specdiag.wording import (
    accounting,
    counted,
    csv_cell,
    is_text,
    markdown_cell,
    number,
    numbered,
    one_line,
    p_value,
    part,
    printable_json,
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


ODD = st.text(st.sampled_from(list("ab=+-@,;|'\" \t\r\n\0\x1b\x9b\u202e\ud800\uff1d#2\\x0")))


@given(ODD, st.sampled_from(",;|\t"))
def test_no_cell_of_csv_is_a_formula_whatever_separator_a_spreadsheet_takes(text, separator):
    cell = csv_cell(text)
    assert cell.isprintable()
    assert csv_cell(cell) == cell
    file = io.StringIO()
    csv.writer(file).writerow(["name", cell, "-"])
    file.seek(0)
    (cells,) = csv.reader(file, delimiter=separator)
    assert not any(c.lstrip(' "').startswith((*"=+@", "\uff1d")) for c in cells)


def test_a_usual_name_is_a_cell_as_it_is():
    names = ["layers.0.q-proj.weight", "fc.weight[head 3]", "a=b", "12", "é", "it's"]
    assert [csv_cell(name) for name in names] == names


@given(st.lists(ODD.filter(is_text)))
def test_printable_json_has_the_same_content(texts):
    text = printable_json(json.dumps(texts, ensure_ascii=False, indent=1))
    assert json.loads(text) == texts
    assert all(line.isprintable() for line in text.split("\n"))


def test_nothing_in_a_cell_of_markdown_is_markup():
    assert markdown_cell("a|b\n<i> [x](y) `c` \\|") == (
        "a\\|b\\\\n\\<i> \\[x\\](y) \\`c\\` \\\\\\|"
    )
