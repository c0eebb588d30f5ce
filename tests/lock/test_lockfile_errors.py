"""Every refusal of a lock, message by message."""

from dataclasses import replace
from pathlib import Path

import pytest

from specdiag.lock.entry import FileRecord, Input, Lock, Parent, Source
from specdiag.lock.lockfile import dumps, loads
from support.locks import REPAIR, message, numbered

HEAD = "lock-version = 1\n"
E0 = '[[checkpoint]]\nname="a"\nscale="desk"\ngroup="g"\nrecipe="r"\n'
E1, E2 = E0.replace('"a"', '"b"'), E0.replace('"a"', '"c"')
CHILD = '[checkpoint.parent]\nname="a"\n'
GRANDCHILD = CHILD.replace('"a"', '"b"')
SHA = "a" * 64
KEYS = (
    "name, scale, group, kind, recipe, params, parent, inputs, source, file, metrics, reported, "
    "cost, environment"
)
PLAIN = "text, a finite number of at most 64 bits, true or false, an array or a table"
HASH = "64 lowercase hexadecimal digits"

DOCUMENTS = [
    ("", f"lock-version: missing; expected 1; {REPAIR}"),
    ("lock-version = '1'", f"lock-version: '1'; expected a whole number; {REPAIR}"),
    ("lock-version = true", f"lock-version: true; expected a whole number; {REPAIR}"),
    ("lock-version = 0", f"lock-version: 0; expected 1; {REPAIR}"),
    (
        "lock-version = 2\nnews = 1",
        "lock-version: 2; expected 1; written by a newer specdiag: upgrade",
    ),
    (
        HEAD + "checkpiont = []",
        f"checkpiont: unknown key; expected lock-version or checkpoint; {REPAIR}",
    ),
    (HEAD + "checkpoint = 1", f"checkpoint: 1; expected an array; {REPAIR}"),
    (HEAD + "checkpoint = ['a']", f"checkpoint[0]: 'a'; expected a table; {REPAIR}"),
    (
        HEAD + "name = [1",
        (
            "not TOML: Unclosed array (at end of document); expected a lock as specdiag wrote it; "
            "restore the file"
        ),
    ),
    (
        HEAD + E0 + "name = 1\n",
        (
            "not TOML: Cannot overwrite a value (at line 7, column 9); expected a lock as specdiag "
            "wrote it; restore the file"
        ),
    ),
    (
        "a = " + "[" * 9999,
        "nested too deeply; expected tables of a few levels; restore the file",
    ),
    (
        f"{'.'.join(['a'] * 5000)} = 1",
        (
            "a key of more than 50 parts, or more than 400,000 dots; expected tables of a few "
            "levels; restore the file"
        ),
    ),
    (
        HEAD + "<<<<<<< HEAD\n" + E0 + "=======\n",
        (
            "line 2 is a conflict marker of git (<<<<<<<); expected a merged file; keep one side "
            "as it is, then run `specdiag lock`"
        ),
    ),
    (
        HEAD + E0 + "=======\n" + E0 + ">>>>>>> topic\n",
        (
            "line 7 is a conflict marker of git (=======); expected a merged file; keep one side "
            "as it is, then run `specdiag lock`"
        ),
    ),
    (
        HEAD + E0.replace('group="g"\n', ""),
        f"checkpoint[0].group: missing; expected one line of text; {REPAIR}",
    ),
    (
        HEAD + E0.replace('"g"', '" "'),
        f"checkpoint[0].group: ' '; expected one line of text; {REPAIR}",
    ),
    (
        HEAD + E0.replace('"g"', "1.5"),
        f"checkpoint[0].group: 1.5; expected one line of text; {REPAIR}",
    ),
    (
        HEAD + E0.replace('"desk"', '"lab"'),
        f"checkpoint[0].scale: 'lab'; expected 'paper' or 'desk'; {REPAIR}",
    ),
    (
        HEAD + E0.replace('"desk"', "1"),
        f"checkpoint[0].scale: 1; expected 'paper' or 'desk'; {REPAIR}",
    ),
]


@pytest.mark.parametrize(("text", "expected"), DOCUMENTS)
def test_an_invalid_text_is_refused_in_one_line(text, expected):
    assert message(loads, text) == f"checkpoints.lock: {expected}"


FORMS = "exactly one of path / url / brainset and version"
ENTRIES = [
    ("kind = 'model'", "kind: 'model'; expected 'checkpoint' or 'evaluation'"),
    ("inputs = 1", "inputs: 1; expected an array"),
    ("params = []", "params: an array; expected a table"),
    ("cost = 2020-01-01", "cost: a date; expected a table"),
    (
        "cost = {seconds = -1, hardware = 'x'}",
        "cost.seconds: -1; expected a number that is not negative",
    ),
    # plain values
    ("params.a = [1, {b = nan}]", f"params.a[1].b: nan; expected {PLAIN}"),
    ("params.'a b' = -inf", f"params.'a b': -inf; expected {PLAIN}"),
    ("params.t = 2020-01-01T00:00:00Z", f"params.t: a datetime; expected {PLAIN}"),
    ("params.t = 12:00:00", f"params.t: a time; expected {PLAIN}"),
    (f"params.n = {2**63}", f"params.n: a number of more than 64 bits; expected {PLAIN}"),
    (f"params.n = 0x{'f' * 9999}", f"params.n: a number of more than 64 bits; expected {PLAIN}"),
    (
        f"params.a = {'{a = ' * 60}1{'}' * 60}",
        f"params.{'.'.join(['a'] * 52)}: nested too deeply; expected at most 50 levels",
    ),
    ("environment.a = []", "environment.a: an array; expected text, a number, true or false"),
    ("metrics.r2 = 0.9", "metrics.r2: 0.9; expected a table"),
    (
        "metrics.r2 = {value = true, atol = 0}",
        "metrics.r2.value: true; expected a finite number",
    ),
    (
        "metrics.r2 = {value = nan, atol = 0}",
        "metrics.r2.value: nan; expected a finite number",
    ),
    (
        "metrics.r2 = {value = 1.0, atol = -0.1}",
        "metrics.r2.atol: -0.1; expected a number that is not negative",
    ),
    (
        "reported = [{quantity = 'a', value = '1', method = 'm', origin = 'o'}]",
        "reported[0].value: '1'; expected a number or an array of numbers",
    ),
    (
        "reported = [{quantity = 'a', value = [true], method = 'm', origin = 'o'}]",
        "reported[0].value: an array; expected a number or an array of numbers",
    ),
    # hashes and sizes
    (
        "file = {sha256 = 'abc', size = 1, tensors = 'abc'}",
        f"file.sha256: 'abc'; expected {HASH}",
    ),
    (
        f"file = {{sha256 = '{SHA.upper()}', size = 1, tensors = '{SHA}'}}",
        f"file.sha256: '{SHA.upper()}'; expected {HASH}",
    ),
    (
        f"file = {{sha256 = '{SHA}', size = -1, tensors = '{SHA}'}}",
        "file.size: -1; expected a number of bytes",
    ),
    (
        f"file = {{sha256 = '{SHA}', size = true, tensors = '{SHA}'}}",
        "file.size: true; expected a number of bytes",
    ),
    (
        f"file = {{sha256 = '{SHA}', size = 1}}",
        "file.tensors: missing; expected it together with sha256, size",
    ),
    (
        f"source = {{repo = 'a/b', revision = 'm', file = 'f', commit = '{SHA}'}}",
        f"source.commit: '{SHA}'; expected 40 lowercase hexadecimal digits",
    ),
    # keys that go together
    ("file.md5 = 1", "file.md5: unknown key; expected one of path, sha256, size, tensors"),
    (
        "inputs = [{id = 'x', path = 'p', url = 'https://a/b'}]",
        f"inputs[0]: path beside url; expected {FORMS}",
    ),
    (
        "inputs = [{id = 'x'}]",
        f"inputs[0]: a key is missing; expected {FORMS}",
    ),
    (
        "inputs = [{id = 'x', brainset = 'b'}]",
        "inputs[0].version: missing; expected it together with brainset",
    ),
    (
        "inputs = [{id = 'x', path = 'p'}, {id = 'x', path = 'q'}]",
        "inputs[1].id: 'x' again; expected a different id per input",
    ),
    (
        "source = {repo = 'a/b', file = 'f'}",
        "source.revision: missing; expected it together with repo, file",
    ),
    (
        "source = {repo = '../b', file = 'f', revision = 'm'}",
        "source.repo: '../b'; expected a repository such as owner/name",
    ),
    (
        f"source = {{url = 'https://a/b', commit = '{SHA[:40]}'}}",
        "source.commit: a commit beside url; expected a commit beside repo only",
    ),
    # evaluations
    ("kind = 'evaluation'", "parent: missing; expected the checkpoint that is evaluated"),
    (
        f"kind = 'evaluation'\nfile = {{sha256 = '{SHA}', size = 1, tensors = '{SHA}'}}\n" + CHILD,
        "file.sha256: given; expected no value: an evaluation has no weights",
    ),
    (
        "kind = 'evaluation'\nsource = {url = 'https://a/b'}\n" + CHILD,
        "source: given; expected no value: an evaluation has no weights",
    ),
    (
        CHILD,
        (
            "parent.name: a cycle, parent -> child: 'a' -> 'a'; expected parents that end at an "
            "entry without one"
        ),
    ),
    ("shape = 1", f"shape: unknown key; expected one of {KEYS}"),
    ('"a\\nb" = 1', f"'a\\nb': unknown key; expected one of {KEYS}"),
]


@pytest.mark.parametrize(("text", "expected"), ENTRIES)
def test_an_invalid_entry_is_refused_in_one_line(text, expected):
    repair = "remove it, or upgrade specdiag" if "unknown key" in expected else REPAIR
    assert message(loads, HEAD + E0 + text) == (
        f"checkpoints.lock: checkpoint[0].{expected}; {repair}"
    )


RELATIONS = [
    (
        E0 + E0,
        "[1].name: 'a' is also that of checkpoint[0]; expected a different one for each entry",
    ),
    (
        E0 + E0.replace('"a"', '"A"'),
        (
            "[1].name: 'A' is on some file systems 'a' of checkpoint[0]; expected a different one "
            "for each entry"
        ),
    ),
    (
        E0.replace('"a"', '"é"') + E0.replace('"a"', '"e\u0301"'),
        (
            "[1].name: 'e\u0301' is on some file systems 'é' of checkpoint[0]; expected a "
            "different one for each entry"
        ),
    ),
    (
        E0 + E1 + "file.path = 'checkpoints/desk/a.ckpt'",
        (
            "[1].file.path: 'checkpoints/desk/a.ckpt' is also that of checkpoint[0]; expected a "
            "different one for each entry"
        ),
    ),
    (
        E0.replace("desk", "paper") + E1 + CHILD,
        "[1].parent.name: no entry 'a' at desk scale; expected an entry of the same scale",
    ),
    (
        E0 + GRANDCHILD + E1 + CHILD,
        (
            "[0].parent.name: a cycle, parent -> child: 'a' -> 'b' -> 'a'; expected parents that "
            "end at an entry without one"
        ),
    ),
    (
        E0 + E1 + "kind = 'evaluation'\n" + CHILD + E2 + GRANDCHILD,
        (
            "[2].parent.name: 'b' is an evaluation; expected a checkpoint: an evaluation has no "
            "weights"
        ),
    ),
]


@pytest.mark.parametrize(("text", "expected"), RELATIONS)
def test_entries_that_contradict_each_other_are_refused_in_one_line(text, expected):
    assert message(loads, HEAD + text) == f"checkpoints.lock: checkpoint{expected}; {REPAIR}"


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
        "source.file": numbered(1, source=Source(repo="a/b", revision="main", file=path)),
        "parent.name": replace(numbered(1), parent=Parent(name=path)),
    }[where]
    shown = path.replace("\0", "\\x00").replace("\n", "\\n")
    assert message(dumps, Lock(entries=(entry,))) == (
        f"checkpoints.lock: checkpoint[0].{where}: '{shown}'; expected a relative path such as "
        f"base/name, without '..', of names of at most 200 bytes; {REPAIR}"
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
    shown = url.replace("\t", "\\t")
    assert message(dumps, lock) == (
        f"checkpoints.lock: checkpoint[0].inputs[0].url: '{shown}'; expected a URL: https, "
        f"file:///, or http on this machine; {REPAIR}"
    )


@pytest.mark.parametrize("recipe", ["", "a.b", "a/b", "../a", "_train", "1a", "a-b", "poyö", "a\n"])
def test_a_recipe_is_the_plain_name_of_a_module(recipe):
    shown = recipe.replace("\n", "\\n")
    assert message(dumps, Lock(entries=(numbered(1, recipe=recipe),))) == (
        f"checkpoints.lock: checkpoint[0].recipe: '{shown}'; expected the name of a Python module; "
        f"{REPAIR}"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"name": None},
            (
                "name: nothing; expected a relative path such as base/name, without '..', of names "
                "of at most 200 bytes"
            ),
        ),
        ({"params": {"a": None}}, f"params.a: nothing; expected {PLAIN}"),
        ({"params": {"a": Path("x")}}, f"params.a: a {type(Path()).__name__}; expected {PLAIN}"),
        ({"params": {"a": "\ud800"}}, f"params.a: '\\ud800'; expected {PLAIN}"),
        ({"params": {1: 2}}, "params: the key '1'; expected keys that are text"),
        ({"metrics": {"r2": 0.9}}, "metrics.r2: 0.9; expected a table"),
    ],
)
def test_an_invalid_lock_is_not_written(fields, expected):
    lock = Lock(entries=(numbered(0), numbered(1, **fields)))
    assert message(dumps, lock) == f"checkpoints.lock: checkpoint[1].{expected}; {REPAIR}"


@pytest.mark.parametrize(
    "path",
    ["checkpoints.lock", "recipes/net.py", ".git/config.ckpt", "a/.b/c.ckpt", "weights", ".ckpt"],
)
def test_weights_cannot_replace_other_files(path):
    assert message(dumps, Lock(entries=(numbered(1, file=FileRecord(path=path)),))) == (
        f"checkpoints.lock: checkpoint[0].file.path: '{path}'; expected a path that ends in .ckpt, "
        f".pt, .pth, .bin or .safetensors, in no hidden folder; {REPAIR}"
    )
