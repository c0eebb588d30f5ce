"""A Dataset with texts that netCDF cannot hold -> the same, with these texts escaped."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from specdiag.wording import counted, is_text, printable, some

if TYPE_CHECKING:
    import xarray as xr

_log = logging.getLogger(__name__)


def escaped(dataset: "xr.Dataset") -> "xr.Dataset":
    r"""Return the Dataset with texts that netCDF can hold; a warning names those that it cannot.

    HDF5 holds neither NUL nor half of a surrogate pair in a text. Such a text is written
    as tables show it, `a\x00b`. If another label has that name, it gets a number: `a\x00b#2`.
    """
    texts = {}
    odd: dict[str, str] = {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind not in "OUT":
            continue
        values = [str(text) for text in np.ravel(variable.values)]
        if all(map(_can_be_held, values)):
            continue
        labels = distinct(values) if variable.dims == (name,) else [*map(_held, values)]
        odd |= {old: new for old, new in zip(values, labels, strict=True) if old != new}
        array = np.array(labels, dtype=object).reshape(variable.shape)
        texts[name] = (variable.dims, array, variable.attrs)
    if texts:
        some_texts = some([f"'{new}'" for new in odd.values()])
        _log.warning(
            "%s that netCDF cannot hold: written as %s", counted(len(odd), "text"), some_texts
        )
        dataset = dataset.assign({name: texts[name] for name in texts})
    attrs = {
        key: _held(text) if isinstance(text, str) else text for key, text in dataset.attrs.items()
    }
    return dataset.assign_attrs(attrs)


def distinct(names: Sequence[str]) -> list[str]:
    r"""Return different names as different ones that netCDF can hold: `a\x00b`, `a\x00b#2`."""
    taken = {name for name in names if _can_be_held(name)}
    numbers: Counter[str] = Counter()
    labels = []
    for name in names:
        label = text = _held(name)
        while name != text and label in taken:
            numbers[text] += 1
            label = f"{text}#{numbers[text] + 1}"
        taken.add(label)
        labels.append(label)
    return labels


def _held(text: str) -> str:
    return text if _can_be_held(text) else printable(text)


def _can_be_held(text: str) -> bool:
    return is_text(text) and "\0" not in text
