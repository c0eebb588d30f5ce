"""Recipes beside a lock: each lock runs its own."""

import logging

import pytest

from specdiag.lock.recipe import declared, explained, load_recipe

RECIPE = """
import logging

from specdiag.lock.entry import Entry

from ._settings import RATE


def entries():
    logging.getLogger(__name__).info("rate %s", RATE)
    return [Entry(name="net", scale="desk", group="g", recipe="net", params={"rate": RATE})]
"""


def make(folder, rate):
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "net.py").write_text(RECIPE)
    (folder / "recipes" / "_settings.py").write_text(f"RATE = {rate}\n")
    return folder


def test_two_locks_in_one_process_run_their_own_recipes_of_the_same_name(tmp_path):
    folders = [make(tmp_path / name, rate) for name, rate in (("first", 1), ("second", 2))]
    rates = [declared(folder)[0].params["rate"] for folder in (*folders, folders[0])]
    assert rates == [1, 2, 1]


def test_a_recipe_is_imported_once_per_process(tmp_path):
    folder = make(tmp_path, 1)
    module = load_recipe(folder, "net")
    module.RATE = 3
    assert load_recipe(folder, "net").RATE == 3


def test_the_error_of_an_import_without_a_dot_gives_the_right_form(tmp_path):
    error = ModuleNotFoundError("No module named 'recipes'", name="recipes")
    assert explained(error, tmp_path / "recipes", "net") == (
        "recipes/net.py: ModuleNotFoundError: No module named 'recipes'; import modules of "
        "recipes/ with a dot: from ._name import ..."
    )


def test_the_error_of_an_init_of_recipes_gives_its_place(tmp_path):
    folder = make(tmp_path, 1)
    (folder / "recipes" / "__init__.py").write_text('raise ValueError("no licence")\n')
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^recipes/__init__\.py:1: no licence$"):
            load_recipe(folder, "net")


def test_the_log_of_a_recipe_is_shown(tmp_path, caplog):
    folder = make(tmp_path, 7)
    declared(folder)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.INFO] == ["rate 7"]


def test_the_place_of_an_error_is_given_for_a_folder_behind_a_link(tmp_path):
    folder = make(tmp_path / "real", 1)
    (folder / "recipes" / "_settings.py").write_text("RATE = 1 / 0\n")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(RuntimeError, match=r"^recipes/_settings\.py:1: ZeroDivisionError: "):
        load_recipe(tmp_path / "link", "net")
