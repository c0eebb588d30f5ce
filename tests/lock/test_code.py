"""The digest of a recipe's program: what changes it, what does not, and hostile modules."""

import re

import pytest

from specdiag.lock.code import code_digest, program

RECIPE = '''
"""How much does a rate matter?"""

import numpy as np

from ._settings import RATE
from .nets import small


def entries():
    return [RATE]


class Net:
    """A net."""

    def width(self, n: int = 3) -> int:
        """Return the width."""
        return n + 1  # one more


def build(job):
    from .nets.large import layers

    return f"{job!r:>{RATE}}", 'text', 1.0, 0x10, lambda x: x * 2
'''
FILES = {
    "net.py": RECIPE,
    "_settings.py": "RATE = 3\n",
    "nets/__init__.py": "",
    "nets/small.py": "from ..shared.tools import tool\nfrom . import parts\n",
    "nets/parts.py": "import scipy.stats\n",
    "nets/large.py": "layers = 3\n",
    "shared/tools.py": "tool = 1\n",  # in a folder without __init__.py
    "_claims.py": "CLAIMS = ()\n",
    "other.py": "from ._settings import RATE\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "recipes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def digest(root):
    return code_digest(root, "net")


def replaced(root, old, new, name="net.py"):
    """Return the digest after a change of a module."""
    path = root / "recipes" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return digest(root)


def test_the_program_is_all_modules_that_are_imported_with_a_dot(root):
    modules = program(root, "net")
    assert set(modules) == {
        *("net.py", "_settings.py", "nets/__init__.py", "nets/small.py"),
        *("nets/parts.py", "nets/large.py", "shared/tools.py"),
    }
    assert set().union(*(m.libraries for m in modules.values())) == {"numpy", "scipy"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # one more", "  # two"),
        ('"""A net."""', '"""Another docstring."""'),
        ('        """Return the width."""\n', ""),
        ('\n"""How much does a rate matter?"""\n', ""),
        ("'text'", '"text"'),
        ("0x10", "16"),
        ("lambda x: x * 2", "(lambda x: (x\n * 2))"),
        ("\n\n\n", "\n\n\n\n"),
        ("return [RATE]", "return [RATE, RATE]"),  # entries(): what it declares is in the lock
    ],
)
def test_comments_docstrings_formatting_and_declarations_are_no_part_of_it(root, old, new):
    assert digest(root) == replaced(root, old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n + 1", "n + 2"),
        ("n + 1", "n - 1"),
        ("n: int = 3", "n: int = 4"),
        ("n: int = 3", "*, n: int = 3"),
        ("1.0", "1"),
        ("0x10", "'16'"),
        ("'text'", "b'text'"),
        ("{job!r:", "{job!s:"),
        ("class Net", "class Web"),
        ("    return f", "    job()\n    return f"),
        ("import numpy as np", "import numpy"),
        ("x * 2", "x * True"),
    ],
)
def test_a_change_of_the_program_changes_it(root, old, new):
    assert digest(root) != replaced(root, old, new)


@pytest.mark.parametrize("name", [n for n in FILES if n not in ("_claims.py", "other.py")])
def test_a_change_of_an_imported_module_changes_it(root, name):
    before = digest(root)
    with (root / "recipes" / name).open("a") as file:
        file.write("\nMORE = 1\n")
    assert digest(root) != before


@pytest.mark.parametrize("name", ["_claims.py", "other.py"])
def test_a_module_that_is_not_imported_is_no_part_of_it(root, name):
    assert digest(root) == replaced(root, "=" if name == "_claims.py" else "RATE", "x=", name)


def test_a_module_that_is_added_or_removed_changes_it(root):
    before = digest(root)
    (root / "recipes" / "__init__.py").write_text("import os\n")
    after = digest(root)
    (root / "recipes" / "nets" / "large.py").unlink()
    assert len({before, after, digest(root)}) == 3


def test_a_missing_recipe_has_none(root):
    assert code_digest(root, "nobody") is None
    assert code_digest(root / "elsewhere", "net") is None


def test_a_module_behind_a_link_that_leads_out_is_not_read(root):
    outside = root.parent / "outside.py"
    outside.write_text("RATE = 4\n")
    settings = root / "recipes" / "_settings.py"
    settings.unlink()
    without = digest(root)
    settings.symlink_to(outside)
    assert digest(root) == without


def test_the_order_in_which_modules_import_each_other_is_no_matter(root):
    (root / "recipes" / "_settings.py").write_text("from .net import build\nRATE = 3\n")
    assert digest(root) == digest(root)
    assert re.fullmatch("[0-9a-f]{64}", digest(root))


def test_it_is_the_same_in_all_versions_of_python_and_specdiag(root):
    """Python 3.11, 3.12 and 3.13 gave this digest: with another one all checkpoints are stale."""
    source = """
@d
class A(B, c=1):
    x: int = 1_000

    async def f(self, a, /, b=2, *c, d, **e) -> None:
        async with g() as h, i():
            yield [j async for j in h if not j], {**e}, {k: v for k, v in c}, {1}, a[1:2, ...]
        return


def build(job):
    global y
    try:
        assert (z := f"{job:{y}}{y!r} {{}}" u"ä\\n" f"\\x00"), 1e-9
    except* (E, F) as error:
        raise G from error
    match job:
        case {"a": [1, *_], **rest} | A(x=-1j) if rest:
            del rest
        case None | b"a":
            lambda a, *b: (yield) if a else ~a @ b << 2 ** 3 != 4 is not None
"""
    (root / "recipes" / "net.py").write_text(source)
    module = program(root, "net")["net.py"]
    assert module.digest == "91a3b6f2f8788843b87ea8ef84e2d2c9a2dc250884dc0a048ce1a96d33a161a5"


N = 250_000  # characters, the most of a module that is parsed
HOSTILE = {
    "not Python": "def (",
    "a null byte": "x = 1\0",
    "an unknown encoding": "# coding: nobody\n",
    "an encoding that is no text": "# coding: zlib\n",
    "deep brackets": "(" * 5000,
    "deep signs": "x = " + "-" * 200_000 + "1",
    "many lists": "x = [" + "[]," * 80_000 + "]",
    "many names": "a;" * 120_000,
    "a long sum": "x = 1" + "+1" * 120_000,
    "a long name": f"from . import {'a' * 5000}",
    "many names of modules": "from . import " + ", ".join(f"b{i}" for i in range(30_000)),
    "an import of 60,000 parts": "from .a" + ".a" * 60_000 + " import b",
    "the same in UTF-7": "# coding: utf-7\nfrom .a" + "+AC4-a" * 40_000 + " import b",
    "Punycode": "# coding: punycode\n" + "x" * 100_000 + "-" + "a" * 100_000,
    "dots beyond the folder": "from ......x import y\nfrom ..... import z",
    "a huge number": "x = 0x" + "f" * 200_000,
    "a large module": "x = 1\n" * 200_000,
    "a surrogate": "x = '\\ud800'",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_module_has_a_digest(root, source):
    (root / "recipes" / "net.py").write_text(source)
    before = digest(root)
    (root / "recipes" / "net.py").write_text(source + "\n\nMORE = 1\n")
    assert re.fullmatch("[0-9a-f]{64}", before)
    assert digest(root) != before
