"""The JSON of an evaluation -> R² by session and the covariance of the features.

A recipe writes it, `{"r2": {session: value}, "features": {...}}` with null for NaN, and it may be anybody's
recipe: everything in it is checked.
"""

import json
import math
from pathlib import Path
from typing import Any

from specdiag.dataset.schema import COLLECTION, FEATURES
from specdiag.files import find_file, open_file
from specdiag.wording import is_text, one_line, shown

_LARGEST = 100_000_000  # bytes; one of ten thousand sessions and features takes one million


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return `session_r2`, a dict by session, and the features under the names of COLLECTION.

    Features may be left out as a whole, by recipes that do not measure them.

    Raises
    ------
    ValueError
        In one line that begins with the path, when the file holds something else.
    OSError
        When it cannot be read.
    """
    try:
        return _checked(_loaded(path))
    except (ValueError, RecursionError) as error:
        wrong = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise ValueError(
            f"{path}: {wrong}; expected the R² by session and the features that a recipe wrote; make it "
            "again with `specdiag train NAME --force`, or remove it"
        ) from None


def _loaded(path: Path) -> Any:
    with open_file(find_file(path)) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"more than {_LARGEST:,} bytes")
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"not JSON ({one_line(error)})") from None


def _checked(found: Any) -> dict[str, Any]:
    sessions = _part(found, "", "r2")
    if not isinstance(sessions, dict) or not sessions or not all(map(is_text, sessions)):
        raise ValueError("r2 is no table of sessions")
    r2 = {name: _value(f"r2.{shown(name)}", v, (), "f") for name, v in sessions.items()}
    if "features" not in found:
        return {"session_r2": r2}
    return {"session_r2": r2} | {
        name: _value(
            f"features.{key}", _part(found["features"], "features.", key), spec.dims, spec.dtype
        )
        for name, key in FEATURES.items()
        for spec in [COLLECTION[name]]
    }


def _part(table: Any, where: str, key: str) -> Any:
    if not isinstance(table, dict) or key not in table:
        raise ValueError(f"{where}{key} is missing")
    return table[key]


def _value(where: str, value: Any, dims: tuple[str, ...], dtype: str) -> Any:
    """Return a value as the schema wants it: text, a truth value, a number, or a list of numbers."""
    if len(dims) == 2:
        if not isinstance(value, list) or (dims[1] == "ci_bound" and len(value) != 2):
            raise ValueError(f"{where} is no list of {'two ' * (dims[1] == 'ci_bound')}numbers")
        return [_value(f"{where}[{i}]", item, (), "f") for i, item in enumerate(value)]
    if dtype == "O" and isinstance(value, str) and is_text(value):
        return value
    if dtype == "b" and isinstance(value, bool):
        return value
    if dtype == "f" and value is None:
        return math.nan
    if dtype == "f" and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{where} is beyond the range of numbers") from None
    kind = {"O": "text", "b": "true or false", "f": "a number or null"}[dtype]
    raise ValueError(f"{where} is {shown(repr(value), quote=False)}, not {kind}")
