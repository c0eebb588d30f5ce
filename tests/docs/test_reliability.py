"""The page of promises has a row for each, and each has its tests."""

from support.paths import ROOT
from support.reliability import PAGE, PROMISES


def test_the_page_has_every_promise_and_each_has_its_tests():
    page = PAGE.read_text(encoding="utf-8")
    assert all(text in page for text in PROMISES.values()), "run make reliability"
    for promise in PROMISES:
        assert (ROOT / "tests" / "reliability" / f"test_{promise}.py").is_file()
