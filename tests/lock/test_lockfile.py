import datetime as dt
import difflib
import hashlib
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

from specdiag.lock import lockfile
from specdiag.lock.entry import FileRecord, Input, Lock, Metric, Parent
from specdiag.lock.fields import LockfileError
from specdiag.lock.lockfile import declaration_digest, dumps, loads
from specdiag.lock.relations import ordered
from support import locks
from support.locks import REPAIR, message, numbered
from support.paths import ROOT

EXAMPLE = locks.EXAMPLE


START = 'lock-version = 1\n[[checkpoint]]\nname="a"\nscale="desk"\ngroup="g"\nrecipe="r"\n'


def outcome(text):
    """Return the lock in a text, or the message that refuses it."""
    try:
        return loads(text)
    except LockfileError as error:
        return str(error)


# The format


def test_a_lock_is_written_in_a_readable_form():
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
        'lock-version = 1\n\n[[checkpoint]]\nname = "e1"\nscale = "desk"\n'
        'group = "g"\nrecipe = "r"\n'
    )


def test_a_lock_without_entries_is_one_line():
    assert dumps(Lock()).splitlines()[1:] == ["lock-version = 1"]
    assert loads("lock-version = 1") == Lock()


def test_weights_are_kept_under_scale_and_name_unless_the_entry_gives_a_path():
    assert locks.BASE.path == "checkpoints/desk/base/poyo.ckpt"
    assert replace(locks.BASE, file=FileRecord(path="a.safetensors")).path == "a.safetensors"


@given(locks.locks())
def test_a_lock_that_was_written_is_read_as_it_was(lock):
    text = dumps(lock)
    assert loads(text) == Lock(entries=ordered(lock.entries))
    assert dumps(loads(text)) == text


@given(locks.locks(min_size=2), st.data())
def test_the_order_of_entries_changes_no_byte(lock, data):
    shuffled = tuple(data.draw(st.permutations(lock.entries)))
    assert dumps(replace(lock, entries=shuffled)) == dumps(lock)


def test_the_order_of_keys_in_free_tables_changes_no_byte():
    one = numbered(1, params={"a": 1, "b": {"c": 1, "d": 2}}, environment={"e": 1, "f": 2})
    two = numbered(1, params={"b": {"d": 2, "c": 1}, "a": 1}, environment={"f": 2, "e": 1})
    assert dumps(Lock(entries=(one,))) == dumps(Lock(entries=(two,)))


def test_a_whole_number_in_a_field_of_floats_is_written_as_a_float():
    whole, real = (numbered(1, metrics={"r2": Metric(value=v, atol=v)}) for v in (1, 1.0))
    assert dumps(Lock(entries=(whole,))) == dumps(Lock(entries=(real,)))


def test_tuples_in_params_are_written_as_lists():
    entry = numbered(1, params={"betas": (0.9, 0.95), "grid": [(1, 2)]})
    read = loads(dumps(Lock(entries=(entry,)))).entries[0]
    assert read.params == {"betas": [0.9, 0.95], "grid": [[1, 2]]}
    assert declaration_digest(read) == declaration_digest(entry)


def test_both_scales_may_have_the_same_name():
    lock = Lock(entries=(numbered(1), numbered(1, scale="paper")))
    assert loads(dumps(lock)) == lock


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
    # No string in the file contains a raw line end: this splits the text exactly.
    pairs = itertools.zip_longest(
        *(dumps(each).split("\n[[checkpoint]]\n") for each in (lock, after))
    )
    names = [e.key for e in ordered(entries)]
    differing = [name for name, (a, b) in zip([None, *names], pairs, strict=True) if a != b]
    assert set(differing) <= {entries[i].key}


# Order


@given(locks.locks())
def test_parents_precede_their_children(lock):
    seen = set()
    for entry in loads(dumps(lock)).entries:
        assert entry.parent is None or (entry.parent.name, entry.scale) in seen
        seen.add(entry.key)


def test_entries_without_relation_are_ordered_by_scale_and_name():
    entries = [
        numbered(1, scale="paper"),
        numbered(2, parent=9),
        numbered(3, parent=2),
        numbered(4),
        numbered(9),
    ]
    names = [e.name for e in ordered(entries)]
    assert names == ["e4", "e9", "e2", "e3", "e1"]


def test_a_long_chain_of_parents_is_ordered():
    entries = [numbered(i, parent=i - 1 if i else None) for i in range(3000)]
    assert ordered(reversed(entries)) == tuple(entries)


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
OTHERS = ["x", 1, 1.5, True, [], {}, dt.date(2020, 1, 1), float("nan")]


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
    """Change one key; return the path that an error names, and whether an error must follow."""
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
    result = outcome(tomli_w.dumps(document))
    if isinstance(result, Lock):
        assert not fatal
        assert loads(dumps(result)) == result
    else:
        # The message names a missing key, or its table with the expected keys.
        place = result.removeprefix("checkpoints.lock: ")
        named = {shown(path), shown(path).removesuffix("_"), shown(path[:-1])}
        assert any(place.startswith((f"{n}: ", f"{n}.", f"{n}[")) for n in named if n), place


@given(
    st.text(max_size=60)
    | st.builds(lambda a, b: START + a + b, st.text("[]{}=.'\"\n#a1"), st.text())
)
def test_any_text_is_a_lock_or_a_lockfile_error(text):
    result = outcome(text)
    if isinstance(result, Lock):
        assert loads(dumps(result)) == result
    else:
        assert result.startswith("checkpoints.lock: ")
        assert "\n" not in result


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
        f"{path}: checkpoint[0].params.lr: inf; expected text, a finite number of at most 64 bits, "
        f"true or false, an array or a table; {REPAIR}"
    )
    assert lockfile.load(path) == EXAMPLE


def test_a_lock_that_would_be_too_large_to_read_is_not_written(tmp_path):
    path = tmp_path / "checkpoints.lock"
    lock = Lock(entries=(numbered(1, params={"x": "x" * 4_000_000}),))
    assert message(lockfile.save, lock, path) == (
        f"{path}: more than 4,000,000 bytes; expected a checkpoints.lock; name the file"
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
            "more than 4,000,000 bytes; expected a checkpoints.lock; name the file",
        ),
        (
            file_of(b"lock-version = 1 # \xff"),
            "byte 19 is not UTF-8; expected TOML text; restore the file",
        ),
        (
            file_of(b"lock-version = 1\n\n]"),
            (
                "not TOML: Invalid statement (at line 3, column 1); expected a lock as specdiag "
                "wrote it; restore the file"
            ),
        ),
    ],
)
def test_an_invalid_file_is_named(make, expected, tmp_path):
    path = tmp_path / "checkpoints.lock"
    make(path)
    assert message(lockfile.load, path) == f"{path}: {expected}"


def test_a_missing_lock_is_a_file_not_found_error(tmp_path):
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


def test_without_a_lock_the_error_gives_the_command_that_starts_one(tmp_path):
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
        (
            "base/poyp",
            "desk",
            "no entry 'base/poyp' at desk scale; did you mean 'base/poyo' (desk)?",
        ),
        ("rat", "desk", "no entry 'rat' at desk scale; `specdiag list` shows all names"),
        ("chronic", "paper", "no entry 'chronic' at paper scale; did you mean 'chronic' (desk)?"),
    ],
)
def test_the_error_of_an_unknown_name_gives_similar_names(name, scale, expected):
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
def test_a_change_of_the_declaration_changes_the_digest(change):
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
def test_results_do_not_change_the_digest(change):
    assert declaration_digest(replace(locks.BASE, **change)) == declaration_digest(locks.BASE)


@given(locks.locks())
def test_the_digest_is_the_same_after_writing_and_reading(lock):
    entries = ordered(lock.entries)
    assert [declaration_digest(e) for e in loads(dumps(lock)).entries] == [
        declaration_digest(e) for e in entries
    ]


def test_the_hash_of_the_parent_is_not_part_of_the_digest():
    assert declaration_digest(locks.FINETUNED) == declaration_digest(
        replace(locks.FINETUNED, parent=Parent(name="base/poyo"))
    )


def test_the_digest_is_that_of_canonical_json():
    text = b'{"inputs":[{"id":"x","path":"p"}],"params":{"a":[1,2.0]},"parent":"e2","recipe":"r"}'
    entry = numbered(1, 2, params={"a": [1, 2.0]}, inputs=(Input(id="x", path="p", size=3),))
    assert declaration_digest(entry) == hashlib.sha256(text).hexdigest()


# Several processes


def test_an_entry_is_amended_and_the_others_are_unchanged(tmp_path):
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
    """Start a process that writes to its output when it is ready, then waits for a line."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


AMEND = """
import sys
from dataclasses import replace
from pathlib import Path
from specdiag.lock.lockfile import amend
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
from specdiag.lock.lockfile import load, save
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
        "import sys; from pathlib import Path; from specdiag.lock.lockfile import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()"
    )
    with start(code, path) as process:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    lockfile.amend(path, ("chronic", "desk"), lambda e: replace(e, group="killed"))
    assert lockfile.find(lockfile.load(path), "chronic", "desk").group == "killed"
