"""A recipe -> the digest of its program: of its module, and of all modules of recipes/ it imports.

The programs are parsed and never run. The digest is that of the syntax tree, so comments, line
breaks, the style of quotes and docstrings do not change it, and no version of Python does. Not part
of it are the function `entries` of the recipe, whose result is the declaration, and modules that
are imported by other means than a statement with a dot, such as ``from ._model import build``.
"""

import ast
import functools
import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from specdiag.files import File, OutsideError, find_file, open_file
from specdiag.lock.fields import MAX_DEPTH, MAX_PART
from specdiag.lock.place import inside
from specdiag.lock.recipe import FOLDER

MAX_MODULE = 250_000  # bytes; a longer module, and one that does not parse, is hashed as it is
MAX_PROGRAM = 1_000_000  # bytes of the modules of a recipe; further ones are hashed as they are
MAX_MODULES = 500  # of one recipe; further ones are left out
# Of a name such as a.a.a of 100,000 parts, the parser of Python makes a string of each beginning.
_LONG_NAME = re.compile(r"(?<!\w)\w+(?:[\s\\]*\.[\s\\]*\w+){100}")

Parts = tuple[str, ...]  # of the name of a module in recipes/: ('poyo', 'run')


class Module(NamedTuple):
    """What a module contributes to a recipe."""

    digest: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]  # dots, name, and names imported from it
    libraries: frozenset[str]  # the packages that it imports


def program(root: Path, recipe: str) -> dict[str, Module]:
    """Return the modules of a recipe by their paths in recipes/; none if the recipe is missing.

    `root` is the folder of the lock.
    """
    found: dict[str, Module] = {}
    waiting: list[Parts] = [(recipe,)]
    seen, size = {*waiting}, 0
    while waiting and len(found) < MAX_MODULES:
        parts = waiting.pop(0)
        name, path = _found(root, parts)
        if path is None:
            continue
        file = find_file(path)
        size += file.size
        is_short = file.size <= MAX_MODULE and size <= MAX_PROGRAM
        read = functools.partial(_parsed, is_recipe=parts == (recipe,)) if is_short else _hashed
        found[name] = module = read(file)
        package = parts if name.endswith("__init__.py") else parts[:-1]
        for other in _imported(module, package):
            if other not in seen and all(len(part.encode()) <= MAX_PART for part in other):
                seen.add(other)
                waiting.append(other)
    return found


def code_digest(root: Path, recipe: str) -> str | None:
    """Return the SHA-256 digest of the program of a recipe, or None if the recipe is missing."""
    modules = program(root, recipe)
    text = "".join(f"{name} {module.digest}\n" for name, module in sorted(modules.items()))
    return hashlib.sha256(text.encode()).hexdigest() if modules else None


def _found(root: Path, parts: Parts) -> tuple[str, Path | None]:
    """Return the file of a module or package, and its path in recipes/; links do not lead out."""
    names = [f"{'/'.join(parts)}.py"] if parts else []
    for name in ("/".join((*parts, "__init__.py")), *names):
        with suppress(OutsideError):
            if (root / FOLDER / name).is_file():
                return name, inside(root, f"{FOLDER}/{name}")
    return "", None


def _imported(module: Module, package: Parts) -> Iterator[Parts]:
    """Yield the names in recipes/ that a module of `package` imports; not all are modules."""
    for i in range(len(package) + 1):
        yield package[:i]
    for dots, name, names in module.imports:
        if dots - 1 > len(package) or name.count(".") >= MAX_DEPTH:
            continue
        base = package[: len(package) - dots + 1]
        parts = (*base, *name.split(".")) if name else base
        for i in range(len(base), len(parts) + 1):
            yield parts[:i]
        for inner in names:
            yield (*parts, inner)


@functools.lru_cache(maxsize=1024)
def _hashed(file: File) -> Module:
    """Return a module with the digest of its bytes."""
    digest = hashlib.sha256()
    with open_file(file) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return Module(digest.hexdigest(), (), frozenset())


@functools.lru_cache(maxsize=1024)
def _parsed(file: File, *, is_recipe: bool) -> Module:
    """Return a module with the digest of its syntax tree."""
    with open_file(file) as stream:
        content = stream.read(file.size)
    try:
        source = content.decode("utf-8-sig")
        if _LONG_NAME.search(source):
            return _hashed(file)
        with warnings.catch_warnings(action="ignore"):  # of escape sequences
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _hashed(file)
    if is_recipe:
        tree.body = [n for n in tree.body if getattr(n, "name", None) != "entries"]
    digest = hashlib.sha256()
    imports, libraries = list[tuple[int, str, tuple[str, ...]]](), set[str]()
    for node in _nodes(tree, digest):
        if isinstance(node, ast.ImportFrom) and node.level:
            imports.append((node.level, node.module or "", tuple(a.name for a in node.names)))
        elif isinstance(node, ast.ImportFrom):
            libraries.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            libraries |= {alias.name.partition(".")[0] for alias in node.names}
    return Module(digest.hexdigest(), tuple(imports), frozenset(libraries))


def _nodes(tree: ast.AST, digest: Any) -> Iterator[ast.AST]:
    """Yield all nodes of a tree, and update a digest by each node and value.

    Fields that are absent are left out: later versions of Python have more of them. `ast.dump`
    writes them, differently in each version, and fails at deeply nested expressions.
    """
    waiting: list[Any] = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.AST):
            yield item
            fields = [(k, v) for k, v in _fields(item) if v is not None and v != []]
            digest.update(f"({type(item).__name__} {len(fields)}\n".encode())
            for name, value in reversed(fields):
                waiting += [value, f"{name}="]
        elif isinstance(item, list):
            digest.update(f"[{len(item)}\n".encode())
            waiting += reversed(item)
        else:
            digest.update(f"{_text(item)}\n".encode())


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list) and _has_docstring(node, value):
            yield name, value[1:]
        elif isinstance(node, ast.JoinedStr):  # Python 3.12 adds empty texts
            yield name, [v for v in value if getattr(v, "value", None) != ""]
        elif name not in {"kind", "type_comment"}:  # u"text"; comments
            yield name, value


def _has_docstring(node: ast.AST, body: list[Any]) -> bool:
    return (
        isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and bool(body)
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )


def _text(value: Any) -> str:
    """Return a value of a tree as text of ASCII characters: 1, 1.0, True and '1' differ."""
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)  # of any size
    return ascii(value)
