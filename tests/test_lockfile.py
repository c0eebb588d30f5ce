import datetime
import difflib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from hypothesis import assume, given
from hypothesis import strategies as st

import locks
from specdiag import lockfile
from specdiag.lockfile import (
    Entry,
    FileRecord,
    Input,
    Lock,
    LockfileError,
    Metric,
    Parent,
    declaration_digest,
    dumps,
    loads,
)

EXAMPLE = locks.EXAMPLE
REPAIR = "correct it, or write the entry anew with `specdiag lock`"


def message(action, *arguments):
    with pytest.raises(LockfileError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbered(n, parent=None, **fields):
    defaults = {"name": f"e{n}", "scale": "desk", "group": "g", "recipe": "r"}
    return Entry(**defaults | fields, parent=parent and Parent(name=f"e{parent}"))


# The format


def test_a_lock_is_written_as_people_can_read_it():
    first, second, third = dumps(EXAMPLE).split("\n[[checkpoint]]\n")[1:]
    assert dumps(EXAMPLE).startswith(
        "# Written by specdiag from what the recipes declare.\nlock-version = 1\n\n[[checkpoint]]\n"
    )
    assert [line for line in first.splitlines() if line.startswith("[")] == [
        "[checkpoint.params]",
        "[checkpoint.params.model]",
        "[[checkpoint.inputs]]",
        "[[checkpoint.inputs]]",
        "[checkpoint.source]",
        "[checkpoint.file]",
        "[checkpoint.metrics.r2]",
        "[[checkpoint.reported]]",
        "[[checkpoint.reported]]",
        "[checkpoint.cost]",
        "[checkpoint.environment]",
    ]
    assert second == (
        'name = "chronic"\nscale = "desk"\ngroup = "sweeps"\nkind = "evaluation"\n'
        'recipe = "chronic"\n\n[checkpoint.parent]\nname = "base/poyo"\n'
    )
    assert third == (
        'name = "transfer/area2"\nscale = "desk"\ngroup = "published"\nrecipe = "transfer"\n\n'
        f'[checkpoint.parent]\nname = "base/poyo"\nsha256 = "{"b" * 64}"\n'
    )


def test_a_short_entry_is_a_table_of_its_own():
    assert dumps(Lock(entries=(numbered(1),))).endswith(
        'lock-version = 1\n\n[[checkpoint]]\nname = "e1"\nscale = "desk"\ngroup = "g"\nrecipe = "r"\n'
    )


def test_a_lock_without_entries_is_one_line():
    assert dumps(Lock()).splitlines()[1:] == ["lock-version = 1"]
    assert loads("lock-version = 1") == Lock()


def test_weights_are_kept_under_scale_and_name_unless_the_file_says_otherwise():
    assert locks.BASE.path == "checkpoints/desk/base/poyo.ckpt"
    assert replace(locks.BASE, file=FileRecord(path="a.safetensors")).path == "a.safetensors"


@given(locks.locks())
def test_a_lock_that_was_written_is_read_as_it_was(lock):
    text = dumps(lock)
    assert loads(text) == Lock(entries=lockfile.ordered(lock.entries))
    assert dumps(loads(text)) == text


@given(locks.locks(min_size=2), st.data())
def test_the_order_of_entries_moves_no_byte(lock, data):
    shuffled = tuple(data.draw(st.permutations(lock.entries)))
    assert dumps(replace(lock, entries=shuffled)) == dumps(lock)


def test_the_order_of_keys_in_free_tables_moves_no_byte():
    one = numbered(1, params={"a": 1, "b": {"c": 1, "d": 2}}, environment={"e": 1, "f": 2})
    two = numbered(1, params={"b": {"d": 2, "c": 1}, "a": 1}, environment={"f": 2, "e": 1})
    assert dumps(Lock(entries=(one,))) == dumps(Lock(entries=(two,)))


def test_windows_line_ends_are_read():
    assert loads(dumps(EXAMPLE).replace("\n", "\r\n")) == EXAMPLE


@given(locks.locks(min_size=2), st.data())
def test_a_change_of_one_entry_changes_only_its_lines(lock, data):
    entries = lock.entries
    i = data.draw(st.integers(0, len(entries) - 1))
    changed = replace(
        entries[i],
        params=data.draw(st.dictionaries(locks.unicode, locks.values)),
        environment=data.draw(st.dictionaries(locks.unicode, locks.scalars)),
        reported=tuple(data.draw(st.lists(locks.reported))),
    )
    after = replace(lock, entries=(*entries[:i], changed, *entries[i + 1 :]))
    # No string of TOML holds a raw line end: this parts the text exactly.
    pairs = itertools.zip_longest(
        *(dumps(each).split("\n[[checkpoint]]\n") for each in (lock, after))
    )
    names = [e.key for e in lockfile.ordered(entries)]
    differing = [name for name, (a, b) in zip([None, *names], pairs, strict=True) if a != b]
    assert set(differing) <= {entries[i].key}


# Order


@given(locks.locks())
def test_parents_precede_their_children(lock):
    seen = set()
    for entry in loads(dumps(lock)).entries:
        assert entry.parent is None or (entry.parent.name, entry.scale) in seen
        seen.add(entry.key)


def test_entries_are_ordered_by_scale_and_name_where_parents_leave_it_open():
    entries = [
        numbered(1, scale="paper"),
        numbered(2, parent=9),
        numbered(3, parent=2),
        numbered(4),
        numbered(9),
    ]
    names = [e.name for e in lockfile.ordered(entries)]
    assert names == ["e4", "e9", "e2", "e3", "e1"]


def test_a_long_chain_of_parents_is_ordered():
    entries = [numbered(i, parent=i - 1 if i else None) for i in range(3000)]
    assert lockfile.ordered(reversed(entries)) == tuple(entries)


# What is refused

HEAD = "lock-version = 1\n"
E0 = '[[checkpoint]]\nname="a"\nscale="desk"\ngroup="g"\nrecipe="r"\n'
E1 = E0.replace('"a"', '"b"')
CHILD = '[checkpoint.parent]\nname="a"\n'
SHA = "a" * 64

TEXTS = {
    # the document
    "": f"lock-version: missing; expected 1; {REPAIR}",
    "lock-version = '1x'": f"lock-version: 1x; expected 1; {REPAIR}",
    "lock-version = true": f"lock-version: True; expected 1; {REPAIR}",
    "lock-version = 0": f"lock-version: 0; expected 1; {REPAIR}",
    "lock-version = 2\nnews = 1": "lock-version: 2; this specdiag reads 1; written by a newer "
    "specdiag: upgrade",
    HEAD + "checkpiont = []": "checkpiont: unknown key; expected lock-version or checkpoint; "
    + REPAIR,
    HEAD + "checkpoint = 1": f"checkpoint: 1; expected an array; {REPAIR}",
    HEAD + "checkpoint = ['a']": f"checkpoint[0]: 'a'; expected a table; {REPAIR}",
    HEAD + "name = [1": "not TOML: Unclosed array (at end of document); restore the file",
    HEAD + E0 + "name = 1": "not TOML: Cannot overwrite a value (at line 6, column 9); restore the "
    "file",
    "a = " + "[" * 9999: "nested too deeply; expected a lock; restore the file",
    HEAD
    + "<<<<<<< HEAD\n"
    + E0
    + "=======\n": "line 2 is a conflict marker of git (<<<<<<<); expected a "
    "merged file; take one side whole, then run `specdiag lock`",
    HEAD
    + E0
    + "=======\n"
    + E0
    + ">>>>>>> topic\n": "line 7 is a conflict marker of git (=======); "
    "expected a merged file; take one side whole, then run `specdiag lock`",
    # keys and types
    HEAD
    + E0
    + "shape = 1": "checkpoint[0].shape: unknown key; expected one of name, scale, group, kind, "
    "recipe, params, parent, inputs, source, file, metrics, reported, cost, environment; remove it, or "
    "upgrade specdiag",
    HEAD
    + E0
    + '"a\\nb" = 1': "checkpoint[0].'a\\nb': unknown key; expected one of name, scale, group, "
    "kind, recipe, params, parent, inputs, source, file, metrics, reported, cost, environment; remove "
    "it, or upgrade specdiag",
    HEAD
    + E0
    + "file.md5 = 1": "checkpoint[0].file.md5: unknown key; expected one of path, sha256, size, "
    "tensors; remove it, or upgrade specdiag",
    HEAD
    + E0.replace('group="g"\n', ""): "checkpoint[0].group: missing; expected one line of text; "
    + REPAIR,
    HEAD + E0.replace('"desk"', '"lab"'): "checkpoint[0].scale: 'lab'; expected 'paper' or 'desk'; "
    + REPAIR,
    HEAD
    + E0.replace('"desk"', "1"): f"checkpoint[0].scale: 1; expected 'paper' or 'desk'; {REPAIR}",
    HEAD
    + E0
    + "kind = 'model'": "checkpoint[0].kind: 'model'; expected 'checkpoint' or 'evaluation'; "
    + REPAIR,
    HEAD
    + E0.replace('"g"', '" "'): f"checkpoint[0].group: ' '; expected one line of text; {REPAIR}",
    HEAD
    + E0.replace('"g"', "1.5"): f"checkpoint[0].group: 1.5; expected one line of text; {REPAIR}",
    HEAD + E0 + "inputs = 1": f"checkpoint[0].inputs: 1; expected an array; {REPAIR}",
    HEAD + E0 + "params = []": f"checkpoint[0].params: an array; expected a table; {REPAIR}",
    HEAD + E0 + "cost = 2020-01-01": f"checkpoint[0].cost: a date; expected a table; {REPAIR}",
    HEAD
    + E0
    + "cost = {seconds=-1, hardware='x'}": "checkpoint[0].cost.seconds: -1; expected a number "
    f"that is not negative; {REPAIR}",
    # plain values
    HEAD
    + E0
    + "params.a = [1, {b = nan}]": "checkpoint[0].params.a[1].b: nan; expected text, a finite "
    f"number of at most 64 bits, true or false, an array or a table; {REPAIR}",
    HEAD + E0 + "params.'a b' = -inf": "checkpoint[0].params.'a b': -inf; expected text, a finite "
    f"number of at most 64 bits, true or false, an array or a table; {REPAIR}",
    HEAD
    + E0
    + "params.t = 2020-01-01T00:00:00Z": "checkpoint[0].params.t: a datetime; expected text, a "
    f"finite number of at most 64 bits, true or false, an array or a table; {REPAIR}",
    HEAD
    + E0
    + "params.t = 12:00:00": "checkpoint[0].params.t: a time; expected text, a finite number of "
    f"at most 64 bits, true or false, an array or a table; {REPAIR}",
    HEAD
    + E0
    + f"params.n = {2**63}": "checkpoint[0].params.n: a number of more than 64 bits; expected "
    "text, a finite number of at most 64 bits, true or false, an array or a table; " + REPAIR,
    HEAD
    + E0
    + f"params.n = 0x{'f' * 9999}": "checkpoint[0].params.n: a number of more than 64 bits; "
    "expected text, a finite number of at most 64 bits, true or false, an array or a table; "
    + REPAIR,
    HEAD
    + E0
    + "environment.a = []": "checkpoint[0].environment.a: an array; expected text, a number, "
    f"true or false; {REPAIR}",
    HEAD
    + E0
    + "metrics.r2 = {value = true, atol = 0}": "checkpoint[0].metrics.r2.value: true; expected a "
    f"finite number; {REPAIR}",
    HEAD
    + E0
    + "metrics.r2 = {value = nan, atol = 0}": "checkpoint[0].metrics.r2.value: nan; expected a "
    f"finite number; {REPAIR}",
    HEAD
    + E0
    + "metrics.r2 = {value = 1.0, atol = -0.1}": "checkpoint[0].metrics.r2.atol: -0.1; expected "
    f"a number that is not negative; {REPAIR}",
    HEAD + E0 + "metrics.r2 = 0.9": f"checkpoint[0].metrics.r2: 0.9; expected a table; {REPAIR}",
    HEAD + E0 + "reported = [{quantity='a', value='1', method='m', origin='o'}]": "checkpoint[0]."
    f"reported[0].value: '1'; expected a number or an array of numbers; {REPAIR}",
    HEAD
    + E0
    + "reported = [{quantity='a', value=[true], method='m', origin='o'}]": "checkpoint[0]."
    f"reported[0].value: an array; expected a number or an array of numbers; {REPAIR}",
    # hashes and sizes
    HEAD
    + E0
    + E1
    + "file = {sha256='abc', size=1, tensors='abc'}": "checkpoint[1].file.sha256: 'abc'; "
    f"expected 64 lowercase hexadecimal digits; {REPAIR}",
    HEAD
    + E0
    + f"file = {{sha256='{SHA.upper()}', size=1, tensors='{SHA}'}}": "checkpoint[0].file.sha256: "
    f"'{SHA.upper()}'; expected 64 lowercase hexadecimal digits; {REPAIR}",
    HEAD
    + E0
    + f"file = {{sha256='{SHA}', size=-1, tensors='{SHA}'}}": "checkpoint[0].file.size: -1; "
    f"expected a number of bytes; {REPAIR}",
    HEAD
    + E0
    + f"file = {{sha256='{SHA}', size=true, tensors='{SHA}'}}": "checkpoint[0].file.size: true; "
    f"expected a number of bytes; {REPAIR}",
    HEAD
    + E0
    + f"file = {{sha256='{SHA}', size=1}}": "checkpoint[0].file.tensors: missing; expected it "
    f"beside sha256, size; {REPAIR}",
    HEAD
    + E0
    + f"source = {{repo='a/b', revision='m', file='f', commit='{SHA}'}}": "checkpoint[0].source."
    f"commit: '{SHA}'; expected 40 lowercase hexadecimal digits; {REPAIR}",
    # forms
    HEAD
    + E0
    + "inputs = [{id='x', path='p', url='https://a/b'}]": "checkpoint[0].inputs[0]: path beside "
    f"url; expected exactly one of path, or url, or brainset and version; {REPAIR}",
    HEAD
    + E0
    + "inputs = [{id='x'}]": "checkpoint[0].inputs[0]: none of the keys that say which; expected "
    f"exactly one of path, or url, or brainset and version; {REPAIR}",
    HEAD
    + E0
    + "inputs = [{id='x', brainset='b'}]": "checkpoint[0].inputs[0].version: missing; expected "
    f"it beside brainset; {REPAIR}",
    HEAD
    + E0
    + "inputs = [{id='x', path='p'}, {id='x', path='q'}]": "checkpoint[0].inputs[1].id: 'x' "
    f"again; expected an id for each input; {REPAIR}",
    HEAD
    + E0
    + "source = {repo='a/b', file='f'}": "checkpoint[0].source.revision: missing; expected it "
    f"beside repo, file; {REPAIR}",
    HEAD
    + E0
    + "source = {repo='a', file='f', revision='m'}": "checkpoint[0].source.repo: 'a'; expected a "
    f"repository such as owner/name; {REPAIR}",
    HEAD
    + E0
    + f"source = {{url='https://a/b', commit='{SHA[:40]}'}}": "checkpoint[0].source.commit: a "
    f"commit beside a url; expected it beside repo alone; {REPAIR}",
    # relations
    HEAD
    + E0
    + E0: f"checkpoint[1].name: 'a' is that of checkpoint[0]; expected each but once; {REPAIR}",
    HEAD
    + E0
    + E0.replace('"a"', '"A"'): "checkpoint[1].name: 'A' differs by case alone from 'a' that of "
    f"checkpoint[0]; expected each but once; {REPAIR}",
    HEAD + E0 + E1 + "file.path = 'checkpoints/desk/a.ckpt'": "checkpoint[1].file.path: "
    f"'checkpoints/desk/a.ckpt' is that of checkpoint[0]; expected each but once; {REPAIR}",
    HEAD
    + E0.replace("desk", "paper")
    + E1
    + CHILD: "checkpoint[1].parent.name: no entry 'a' at desk scale; "
    f"expected an entry of the same scale; {REPAIR}",
    HEAD
    + E0
    + CHILD: "checkpoint[0].parent.name: a cycle, parent -> child: 'a' -> 'a'; expected parents "
    f"that end at an entry without one; {REPAIR}",
    HEAD
    + E0
    + CHILD.replace('a"', 'b"')
    + E1
    + CHILD: "checkpoint[0].parent.name: a cycle, parent -> "
    f"child: 'a' -> 'b' -> 'a'; expected parents that end at an entry without one; {REPAIR}",
    HEAD
    + E0
    + "kind='evaluation'": "checkpoint[0].parent: missing; expected the checkpoint that is "
    f"evaluated; {REPAIR}",
    HEAD
    + E0
    + E1
    + "kind='evaluation'\nfile={path='x'}\n"
    + CHILD: f"checkpoint[1].file: a table; expected none: an evaluation has no weights; {REPAIR}",
    HEAD
    + E0
    + E1
    + "kind='evaluation'\nsource={url='https://a/b'}\n"
    + CHILD: "checkpoint[1].source: a "
    f"table; expected none: an evaluation has no weights; {REPAIR}",
    HEAD
    + E0
    + E1
    + "kind='evaluation'\n"
    + CHILD
    + E1.replace('"b"', '"c"')
    + CHILD.replace('a"', 'b"'): (
        "checkpoint[2].parent.name: 'b' is an evaluation; expected a checkpoint: only they have weights; "
        + REPAIR
    ),
}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: re.sub(r"\W+", " ", TEXTS[text])[:50])
def test_a_text_that_is_no_lock_is_refused_in_one_line(text):
    assert message(loads, text) == f"checkpoints.lock: {TEXTS[text]}"


BAD_PATHS = [
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "./a",
    "a\\b",
    "C:/a",
    "c:a",
    "a\0b",
    "a\nb",
]


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize(
    "where", ["name", "file.path", "inputs[0].path", "source.file", "parent.name"]
)
def test_a_path_stays_below_the_folder_of_the_lock(path, where):
    entry = {
        "name": numbered(1, name=path),
        "file.path": numbered(1, file=FileRecord(path=path)),
        "inputs[0].path": numbered(1, inputs=(Input(id="x", path=path),)),
        "source.file": numbered(1, source=lockfile.Source(repo="a/b", revision="main", file=path)),
        "parent.name": replace(numbered(1), parent=Parent(name=path)),
    }[where]
    found = path.replace("\0", "\\x00").replace("\n", "\\n")
    assert message(dumps, Lock(entries=(entry,))) == (
        f"checkpoints.lock: checkpoint[0].{where}: '{found}'; expected a relative path such as "
        f"base/name, without '..'; {REPAIR}"
    )


BAD_URLS = [
    *("", "a/b", "http://example.org/a", "ftp://example.org/a", "https:///a", "file://host/a"),
    *("file:a", "https://[::1", "https://a:99999/", "https://a/b c", "https://a/\tb"),
    *(
        "http://localhost.example.org/a",
        "http://127.0.0.1.example.org/a",
        "http://user@example.org/",
    ),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_is_https_or_stays_on_this_machine(url):
    lock = Lock(entries=(numbered(1, inputs=(Input(id="x", url=url),)),))
    found = url.replace("\t", "\\t")
    assert message(dumps, lock) == (
        f"checkpoints.lock: checkpoint[0].inputs[0].url: '{found}'; expected a URL: https, file:///, or "
        f"http on this machine; {REPAIR}"
    )


@pytest.mark.parametrize("recipe", ["", "a.b", "a/b", "../a", "_train", "1a", "a-b", "poyö", "a\n"])
def test_a_recipe_is_the_plain_name_of_a_module(recipe):
    found = recipe.replace("\n", "\\n")
    assert message(dumps, Lock(entries=(numbered(1, recipe=recipe),))) == (
        f"checkpoints.lock: checkpoint[0].recipe: '{found}'; expected the name of a Python module; {REPAIR}"
    )


PLAIN = "text, a finite number of at most 64 bits, true or false, an array or a table"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": None}, "name: nothing; expected a relative path such as base/name, without '..'"),
        ({"params": {"a": None}}, f"params.a: nothing; expected {PLAIN}"),
        ({"params": {"betas": (0.9, 0.95)}}, f"params.betas: a tuple; expected {PLAIN}"),
        ({"params": {"a": Path("x")}}, f"params.a: a {type(Path()).__name__}; expected {PLAIN}"),
        ({"params": {"a": "\ud800"}}, f"params.a: '\\ud800'; expected {PLAIN}"),
        ({"params": {1: 2}}, "params: the key '1'; expected keys that are text"),
        ({"metrics": {"r2": 0.9}}, "metrics.r2: 0.9; expected a table"),
    ],
)
def test_a_lock_that_could_not_be_read_is_not_written(fields, expected):
    lock = Lock(entries=(numbered(0), numbered(1, **fields)))
    assert message(dumps, lock) == f"checkpoints.lock: checkpoint[1].{expected}; {REPAIR}"


def test_names_that_differ_by_the_form_of_an_accent_are_one_name():
    lock = Lock(entries=(numbered(1, name="é"), numbered(2, name="e\u0301")))
    assert message(dumps, lock) == (
        "checkpoints.lock: checkpoint[1].name: 'e\u0301' differs by case alone from 'é' that of "
        f"checkpoint[0]; expected each but once; {REPAIR}"
    )


def test_one_name_may_stand_at_both_scales():
    lock = Lock(entries=(numbered(1), numbered(1, scale="paper")))
    assert loads(dumps(lock)) == lock


# Any corruption of a single key

REQUIRED = {
    "": {"lock-version"},
    "checkpoint": {"name", "scale", "group", "recipe"},
    "parent": {"name"},
    "inputs": {"id", "path", "url", "brainset", "version"},
    "source": {"repo", "revision", "file", "url"},
    "reported": {"quantity", "value", "method", "origin"},
    "cost": {"seconds", "hardware"},
}
OTHERS = ["x", 1, 1.5, True, [], {}, datetime.date(2020, 1, 1), float("nan")]


def walk(node, path=()):
    """Yield the path of every key and item below `node`."""
    for key in node if isinstance(node, dict) else range(len(node)):
        yield (*path, key)
        if isinstance(node[key], dict | list):
            yield from walk(node[key], (*path, key))


def shown(path):
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            bare = re.fullmatch("[A-Za-z0-9_-]+", key)
            safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in key)
            text += f".{key}" if bare else f".'{safe}'"
    return text.removeprefix(".")


def corrupt(document, data):
    """Change one key; return the path that an error names, and whether there must be one."""
    path = data.draw(st.sampled_from(sorted(walk(document), key=repr)))
    *above, key = path
    table = document
    for step in above:
        table = table[step]
    names = [step for step in above if isinstance(step, str)]
    free = names[1:2] in (["params"], ["environment"], ["metrics"])
    metric = names[1:2] == ["metrics"] and len(names) == 3
    value = table[key]
    hashed = key in {"sha256", "tensors", "commit"} and not free
    what = data.draw(st.sampled_from(["delete", "rename", "replace", *["mangle"] * hashed]))
    if what == "delete":
        del table[key]
        required = REQUIRED.get(names[-1] if names else "", ())
        return path, metric or (not free and key in required)
    if what == "mangle":
        table[key] = data.draw(
            st.sampled_from([value[:-1], value + "0", value[:-1] + "G", " " + value[1:], ""])
        )
        return path, True
    if what == "rename" and isinstance(key, str):
        assume(key + "_" not in table)
        table[key + "_"] = table.pop(key)
        return (*above, key + "_"), metric or not free
    other = data.draw(st.sampled_from([o for o in OTHERS if type(o) is not type(value)]))
    table[key] = other
    plain = names[1:2] in (["params"], ["environment"]) or "value" in path[2:]
    return path, not plain and not (isinstance(value, float) and other == 1)


@given(locks.locks(min_size=1), st.data())
def test_any_corrupt_key_is_named_or_harmless(lock, data):
    document = tomllib.loads(dumps(lock))
    path, fatal = corrupt(document, data)
    try:
        read = loads(tomli_w.dumps(document))
    except LockfileError as error:
        # A missing key is named, or its table, which says what it may hold.
        place = str(error).removeprefix("checkpoints.lock: ")
        named = {shown(path), shown(path).removesuffix("_"), shown(path[:-1])}
        assert any(place.startswith((f"{n}: ", f"{n}.", f"{n}[")) for n in named if n), place
    else:
        assert not fatal
        assert loads(dumps(read)) == read


@given(
    st.text(max_size=60)
    | st.builds(lambda a, b: HEAD + E0 + a + b, st.text("[]{}=.'\"\n#a1"), st.text())
)
def test_any_text_is_a_lock_or_a_lockfile_error(text):
    try:
        lock = loads(text)
    except LockfileError as error:
        assert str(error).startswith("checkpoints.lock: ")
        assert "\n" not in str(error)
    else:
        assert loads(dumps(lock)) == lock


# Files


def test_a_lock_is_saved_and_loaded(tmp_path):
    path = tmp_path / "checkpoints.lock"
    lockfile.save(EXAMPLE, path)
    assert path.read_bytes() == dumps(EXAMPLE).encode()
    assert lockfile.load(path) == EXAMPLE
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints.lock"]


def test_a_lock_that_is_refused_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "checkpoints.lock"
    lockfile.save(EXAMPLE, path)
    bad = Lock(entries=(numbered(1, params={"lr": float("inf")}),))
    assert message(lockfile.save, bad, path) == (
        f"{path}: checkpoint[0].params.lr: inf; expected {PLAIN}; {REPAIR}"
    )
    assert lockfile.load(path) == EXAMPLE


def test_a_lock_that_would_be_too_large_to_read_is_not_written(tmp_path):
    path = tmp_path / "checkpoints.lock"
    lock = Lock(entries=(numbered(1, params={"x": "x" * 20_000_000}),))
    assert message(lockfile.save, lock, path) == (
        f"{path}: more than 20,000,000 bytes; expected a checkpoints.lock; name the file"
    )
    assert not path.exists()


def file_of(content):
    def make(path):
        path.write_bytes(content)

    return make


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Path.mkdir, "not a regular file; expected a checkpoints.lock; name the file"),
        (os.mkfifo, "not a regular file; expected a checkpoints.lock; name the file"),
        (
            file_of(b"#" * 20_000_001),
            "more than 20,000,000 bytes; expected a checkpoints.lock; name the file",
        ),
        (
            file_of(b"lock-version = 1 # \xff"),
            "byte 19 is not UTF-8; expected TOML text; restore the file",
        ),
        (
            file_of(b"lock-version = 1\n\n]"),
            "not TOML: Invalid statement (at line 3, column 1); restore the file",
        ),
    ],
)
def test_what_is_no_lock_file_is_named(make, expected, tmp_path):
    path = tmp_path / "checkpoints.lock"
    make(path)
    assert message(lockfile.load, path) == f"{path}: {expected}"


def test_a_lock_that_is_not_there_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        lockfile.load(tmp_path / "checkpoints.lock")


def test_the_lock_is_found_from_any_folder_below_it(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    path = tmp_path / "checkpoints.lock"
    lockfile.save(EXAMPLE, path)
    assert lockfile.find_lock(tmp_path) == path
    assert lockfile.find_lock(tmp_path / "a" / "b") == path
    monkeypatch.chdir(tmp_path / "a")
    assert lockfile.find_lock(Path()) == path


def test_without_a_lock_the_error_says_how_to_start_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        lockfile.find_lock(tmp_path)
    assert str(caught.value) == (
        f"no checkpoints.lock in {tmp_path} or above it; start one with `specdiag lock --init`"
    )


# Entries


def test_an_entry_is_found_by_name_and_scale():
    assert lockfile.find(EXAMPLE, "base/poyo", "desk") is locks.BASE


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("base/poyp", "desk", "no entry 'base/poyp' at desk scale; did you mean 'base/poyo'?"),
        ("rat", "desk", "no entry 'rat' at desk scale; `specdiag list` shows all names"),
        ("chronic", "paper", "no entry 'chronic' at paper scale; `specdiag list` shows all names"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name, scale, expected):
    with pytest.raises(ValueError) as caught:
        lockfile.find(EXAMPLE, name, scale)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "other"},
        {"params": {}},
        {"params": {**locks.BASE.params, "compile": 0}},
        {"parent": Parent(name="x")},
        {"inputs": ()},
        {"inputs": (locks.BASE.inputs[0], replace(locks.BASE.inputs[1], sha256="e" * 64))},
    ],
)
def test_a_change_of_what_the_recipe_declares_changes_the_digest(change):
    assert declaration_digest(replace(locks.BASE, **change)) != declaration_digest(locks.BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"file": FileRecord()},
        {"metrics": {}},
        {"environment": {}},
        {"reported": ()},
        {"source": None},
        {"inputs": (locks.BASE.inputs[0], replace(locks.BASE.inputs[1], size=None))},
    ],
)
def test_what_came_out_leaves_the_digest_alone(change):
    assert declaration_digest(replace(locks.BASE, **change)) == declaration_digest(locks.BASE)


@given(locks.locks())
def test_the_digest_survives_the_file(lock):
    entries = lockfile.ordered(lock.entries)
    assert [declaration_digest(e) for e in loads(dumps(lock)).entries] == [
        declaration_digest(e) for e in entries
    ]


def test_the_hash_of_the_parent_is_no_part_of_the_digest():
    assert declaration_digest(locks.FINETUNED) == declaration_digest(
        replace(locks.FINETUNED, parent=Parent(name="base/poyo"))
    )


def test_the_digest_is_that_of_canonical_json():
    text = b'{"inputs":[{"id":"x","path":"p"}],"parent":"e2","params":{"a":[1,2.0]},"recipe":"r"}'
    entry = numbered(1, 2, params={"a": [1, 2.0]}, inputs=(Input(id="x", path="p", size=3),))
    import hashlib

    assert declaration_digest(entry) == hashlib.sha256(text).hexdigest()


# Several processes


def test_an_entry_is_amended_and_the_others_stay(tmp_path):
    path = tmp_path / "checkpoints.lock"
    lockfile.save(EXAMPLE, path)
    before = path.read_text()
    metrics = {"r2": Metric(value=0.8, atol=0.02)}
    changed = lockfile.amend(path, locks.FINETUNED.key, lambda e: replace(e, metrics=metrics))
    assert changed == replace(locks.FINETUNED, metrics=metrics)
    assert lockfile.find(lockfile.load(path), *changed.key) == changed
    difference = list(difflib.ndiff(before.splitlines(), path.read_text().splitlines()))
    assert [line for line in difference if line[0] != " "] == [
        *("+ ", "+ [checkpoint.metrics.r2]", "+ value = 0.8", "+ atol = 0.02")
    ]


def test_amending_keeps_name_and_scale(tmp_path):
    path = tmp_path / "checkpoints.lock"
    lockfile.save(EXAMPLE, path)
    with pytest.raises(ValueError) as caught:
        lockfile.amend(path, ("chronic", "desk"), lambda e: replace(e, name="acute"))
    assert str(caught.value) == (
        "the change of ('chronic', 'desk') gave ('acute', 'desk'); expected the same key"
    )
    assert lockfile.load(path) == EXAMPLE


def start(code, *arguments):
    """Start a process that writes to its output once it is ready, then waits for a line."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )


AMEND = """
import sys
from dataclasses import replace
from pathlib import Path
from specdiag.lockfile import amend
path, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for i in range(10):
    amend(path, (name, "desk"), lambda e: replace(e, environment={"n": e.environment["n"] + 1}))
"""


def test_processes_that_amend_at_once_lose_nothing(tmp_path):
    path = tmp_path / "checkpoints.lock"
    entries = tuple(numbered(i, environment={"n": 0}) for i in range(5))
    lockfile.save(Lock(entries=entries), path)
    processes = [start(AMEND, path, name) for name in ["e0", "e0", "e1", "e2", "e3", "e4"]]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    counts = [e.environment["n"] for e in lockfile.load(path).entries]
    assert counts == [20, 10, 10, 10, 10]


SAVE = """
import sys
from pathlib import Path
from specdiag.lockfile import load, save
path, locks = Path(sys.argv[1]), [load(Path(name)) for name in sys.argv[2:]]
while True:
    for lock in locks:
        save(lock, path)
        sys.stdout.write("."); sys.stdout.flush()
"""


def test_a_killed_writer_leaves_the_old_lock_or_the_new_one(tmp_path):
    path, old, new = (tmp_path / name for name in ("checkpoints.lock", "old", "new"))
    lockfile.save(EXAMPLE, old)
    lockfile.save(Lock(entries=tuple(numbered(i) for i in range(50))), new)
    chance = random.Random(20)
    for _ in range(20):
        with start(SAVE, path, old, new) as process:
            process.stdout.read(chance.randint(1, 3))
            for _ in range(chance.randint(0, 20)):  # some way into the next save
                dumps(EXAMPLE)
            os.kill(process.pid, signal.SIGKILL)
        assert path.read_bytes() in {old.read_bytes(), new.read_bytes()}


def test_a_killed_holder_of_the_lock_lets_the_others_go_on(tmp_path):
    path = tmp_path / "checkpoints.lock"
    lockfile.save(EXAMPLE, path)
    code = (
        "import sys; from pathlib import Path; from specdiag.lockfile import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()"
    )
    with start(code, path) as process:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    lockfile.amend(path, ("chronic", "desk"), lambda e: replace(e, group="killed"))
    assert lockfile.find(lockfile.load(path), "chronic", "desk").group == "killed"
