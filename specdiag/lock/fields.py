"""Plain tables, as TOML gives them, -> frozen dataclasses and back, checked field by field.

The types of the fields are the schema. A `Check` in an `Annotated` type adds a condition, and a
class whose fields exclude each other lists in `FORMS` which fields are given together. Every
message is one line: the place, the invalid value, the expected value and the repair.
"""

import functools
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from specdiag.wording import is_text, shown

MAX_PART = 200  # bytes of a name in a path: file systems allow 255, with what is added to it
MAX_DEPTH = 50  # levels of nested tables and arrays, well within the limit of recursion

REPAIR = "correct it, or write the entry again with `specdiag lock`"
_EXPECTED = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    Any: "text, a finite number of at most 64 bits, true or false, an array or a table",
    dict: "a table",
    tuple: "an array",
}


class LockfileError(ValueError):
    """A lock that is invalid, or would be if it were written."""


@dataclass(frozen=True)
class Check:
    """A condition for a value beyond its type; `expected` is part of the message."""

    expected: str
    holds: Callable[[Any], object]


def refuse(where: str, problem: str, expected: str, repair: str = REPAIR) -> NoReturn:
    """Raise LockfileError with one line: place, problem, expected value and repair."""
    raise LockfileError(f"{where}: {problem}; expected {expected}; {repair}")


def _is_path(text: str) -> bool:
    parts = text.split("/")
    if any(len(part.encode()) > MAX_PART for part in parts):
        return False
    return text.isprintable() and not {"\\", ":"} & {*text} and not {"", ".", ".."} & {*parts}


def _is_url(text: str) -> bool:
    if not text.isprintable() or " " in text:
        return False
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port  # an invalid port raises an error when it is read
    except ValueError:
        return False
    if url.scheme == "file":
        return not host and url.path.startswith("/")
    loopback = host in {"localhost", "::1"} or re.fullmatch(r"127(\.\d{1,3}){3}", host)
    return bool(host and (url.scheme == "https" or (url.scheme == "http" and loopback)))


def _are_numbers(value: object) -> bool:
    return all(_has_type(float, v) for v in (value if isinstance(value, list) else [value]))


def _pattern(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern, re.ASCII).fullmatch


Text = Annotated[str, Check("one line of text", lambda s: s.strip() and s.isprintable())]
Module = Annotated[str, Check("the name of a Python module", _pattern("[A-Za-z][A-Za-z0-9_]*"))]
RelativePath = Annotated[
    str,
    Check(
        f"a relative path such as base/name, without '..', of names of at most {MAX_PART} bytes",
        _is_path,
    ),
]
Repo = Annotated[str, Check("a repository such as owner/name", _pattern(r"\w[\w.-]*/\w[\w.-]*"))]
Url = Annotated[str, Check("a URL: https, file:///, or http on this machine", _is_url)]
Sha256 = Annotated[str, Check("64 lowercase hexadecimal digits", _pattern("[0-9a-f]{64}"))]
Commit = Annotated[str, Check("40 lowercase hexadecimal digits", _pattern("[0-9a-f]{40}"))]
Size = Annotated[int, Check("a number of bytes", lambda n: 0 <= n < 2**63)]
NotNegative = Annotated[float, Check("a number that is not negative", lambda x: x >= 0)]
Numbers = Annotated[Any, Check("a number or an array of numbers", _are_numbers)]
Scalar = Annotated[
    Any, Check("text, a number, true or false", lambda v: not isinstance(v, list | dict))
]


def read(where: str, hint: Any, value: object) -> Any:
    """Return `value`, plain, as an instance of the type `hint`.

    Raises
    ------
    LockfileError
        If the value is invalid; the message begins with `where` and the path to the invalid part.
    """
    origin, args = get_origin(hint), get_args(hint)
    if type(None) in args:  # a type or None, and None is an absent key
        return read(where, args[0], value)
    if origin is Annotated and _has_type(args[0], value):
        result = read(where, args[0], value)
        if args[1].holds(result):
            return result
    elif origin is tuple and isinstance(value, list):
        return tuple(read(f"{where}[{i}]", args[0], v) for i, v in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        return {k: read(f"{where}.{k_}", args[1], value[k]) for k, k_ in keys(where, value)}
    elif is_dataclass(hint) and isinstance(value, dict):
        return _read_table(where, hint, value)
    elif origin is Literal and isinstance(value, str) and value in args:
        return value
    elif hint is Any:
        return _read_plain(where, value)
    elif hint in {str, int, float} and _has_type(hint, value):
        return float(value) if hint is float else value  # type: ignore[arg-type]
    refuse(where, _text_of(value), _expected(hint))


def _read_plain(where: str, value: object, depth: int = 0) -> object:
    if depth > MAX_DEPTH:
        refuse(where, "nested too deeply", f"at most {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [_read_plain(f"{where}[{i}]", v, depth + 1) for i, v in enumerate(value)]
    if isinstance(value, dict):
        pairs = keys(where, value)
        return {k: _read_plain(f"{where}.{k_}", value[k], depth + 1) for k, k_ in pairs}
    if any(_has_type(kind, value) for kind in (bool, str, int, float)):
        return value
    refuse(where, _text_of(value), _expected(Any))


def _has_type(hint: Any, value: object) -> bool:
    """Return whether a value has a plain type: true is not a number, and 1 is also a float."""
    if isinstance(value, bool):
        return hint in {bool, Any}
    if isinstance(value, int):
        return hint in {int, float, Any} and -(2**63) <= value < 2**63
    if isinstance(value, float):
        return hint in {float, Any} and math.isfinite(value)
    if isinstance(value, str):
        return hint in {str, Any} and is_text(value)
    return hint is Any


def _read_table(where: str, cls: Any, table: dict[str, object]) -> Any:
    hints = _hints(cls)
    for key, shown_key in keys(where, table):
        if key not in hints:
            known = f"one of {', '.join(hints)}"
            refuse(f"{where}.{shown_key}", "unknown key", known, "remove it, or upgrade specdiag")
    _check_forms(where, cls, table)
    for item in fields(cls):
        if item.name not in table and default(item) is MISSING:
            refuse(f"{where}.{item.name}", "missing", _expected(hints[item.name]))
    return cls(**{k: read(f"{where}.{k}", hints[k], table[k]) for k in hints if k in table})


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {item.name: hints[item.name] for item in fields(cls)}


def _check_forms(where: str, cls: Any, table: Collection[str]) -> None:
    forms = getattr(cls, "FORMS", ((),))
    given = [form for form in forms if {*form} & {*table}]
    if len(given) > 1 or (not given and () not in forms):
        named = " beside ".join(k for form in given for k in form if k in table)
        expected = " / ".join(" and ".join(form) for form in forms)
        refuse(where, named or "a key is missing", f"exactly one of {expected}")
    for key in (k for form in given for k in form if k not in table):
        beside = ", ".join(k for k in given[0] if k in table)
        refuse(f"{where}.{key}", "missing", f"it together with {beside}")


def default(item: "Field[Any]") -> object:
    """Return the default of a field of a dataclass, or MISSING."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def keys(where: str, table: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the keys of a table in alphabetical order, each with its text in a message."""
    for key in table:
        if not isinstance(key, str) or not is_text(key):
            refuse(where, f"the key {shown(str(key))}", "keys that are text")
    for key in sorted(table):
        yield key, key if re.fullmatch("[A-Za-z0-9_-]{1,80}", key) else shown(key)


def plain(value: Any) -> Any:
    """Return a dataclass as plain tables and lists, without the keys that have their default.

    All tuples become lists, also those in a table of free keys.
    """
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((item, getattr(value, item.name)) for item in fields(value))
        return {item.name: plain(v) for item, v in pairs if v != default(item)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _expected(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return str(args[1].expected)
    if origin is Literal:
        return " or ".join(map(shown, args))
    return "a table" if is_dataclass(hint) else _EXPECTED[origin or hint]


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    if isinstance(value, int | float):
        return str(value)
    names = {list: "an array", dict: "a table", type(None): "nothing"}
    return names.get(type(value)) or f"a {type(value).__name__}"
