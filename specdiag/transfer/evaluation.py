"""R² by session and the covariance of the features <-> the JSON of an evaluation.

A recipe writes `{"r2": {session: value}, "features": {...}}`, with null for NaN. Recipes come from
anybody, so everything that is read is checked.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdiag.dataset.checks import check_range
from specdiag.dataset.schema.collection import ADDED, COLLECTION, FEATURES
from specdiag.files import read_file
from specdiag.outputs import write_output
from specdiag.wording import is_text, one_line, shown, without_nan

if TYPE_CHECKING:
    from specdiag.features.conditioning import FeatureSpectrum

_LARGEST = 100_000_000  # bytes; ten thousand sessions and features take one million


def write_evaluation(
    path: Path,
    r2: Mapping[str, float],
    features: "FeatureSpectrum | None" = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write the evaluation of a checkpoint: test R² by session, and its features if given.

    A recipe writes it as `job.folder / "evaluation.json"`. An earlier evaluation is replaced.

    Raises
    ------
    FileExistsError
        If another file has that name, and `overwrite` is false.
    """
    content: dict[str, Any] = {"r2": dict(r2)}
    if features is not None:
        content["features"] = {**asdict(features), "eigenvalues": features.eigenvalues.tolist()}
    text = json.dumps(without_nan(content), indent=1)
    write_output(path, text.encode(), overwrite=overwrite)


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return `session_r2`, a dict by session, and the features under the names of COLLECTION.

    There are no features if the recipe did not measure them.

    Raises
    ------
    ValueError
        In one line that begins with the path, if the file is not such an evaluation.
    OSError
        If it cannot be read.
    """
    content = read_file(path, _LARGEST)
    try:
        return _checked(_loaded(content))
    except (ValueError, RecursionError) as error:
        wrong = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise ValueError(
            f"{path}: {wrong}; expected the R² by session and the features that a recipe wrote; "
            "make it again with `specdiag train NAME --force`, or remove it"
        ) from None


def _loaded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"not JSON ({one_line(error)})") from None


def _checked(content: Any) -> dict[str, Any]:
    sessions = _part(content, "", "r2")
    if not isinstance(sessions, dict) or not sessions or not all(map(is_text, sessions)):
        raise ValueError("r2 is not a table of sessions")
    r2 = {name: _value(f"r2.{shown(name)}", v, (), "f") for name, v in sessions.items()}
    check_range("session_r2", list(r2.values()))
    evaluation: dict[str, Any] = {"session_r2": r2}
    if "features" in content:
        features = content["features"]
        for name, key in FEATURES.items():
            if name in ADDED and isinstance(features, dict) and key not in features:
                continue  # written by an earlier specdiag
            value, spec = _part(features, "features.", key), COLLECTION[name]
            evaluation[name] = _value(f"features.{key}", value, spec.dims, spec.dtype)
            if spec.dtype == "f":
                check_range(name, evaluation[name])
    return evaluation


def _part(table: Any, where: str, key: str) -> Any:
    if not isinstance(table, dict) or key not in table:
        raise ValueError(f"{where}{key} is missing")
    return table[key]


def _value(where: str, value: Any, dims: tuple[str, ...], dtype: str) -> Any:
    """Return a value of the type in the schema: text, boolean, number or list of numbers."""
    if len(dims) == 2:
        if not isinstance(value, list) or (dims[1] == "ci_bound" and len(value) != 2):
            raise ValueError(f"{where} is not a list of {'two ' * (dims[1] == 'ci_bound')}numbers")
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
            raise ValueError(f"{where} is out of the range of numbers") from None
    kind = {"O": "text", "b": "true or false", "f": "a number or null"}[dtype]
    raise ValueError(f"{where} is {shown(repr(value), quote=False)}, not {kind}")
