"""A Dataset whose texts netCDF cannot hold, or a terminal would run -> the same, escaped."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from specdiag.wording import counted, distinct, is_text, printable, some

if TYPE_CHECKING:
    import xarray as xr

_log = logging.getLogger(__name__)


def escaped(dataset: "xr.Dataset") -> "xr.Dataset":
    r"""Return the Dataset with all texts printable, as tables show them; a warning names some.

    HDF5 holds neither NUL nor half of a surrogate pair in a text. Names that would become equal
    get a number: `a\x00b`, `a\x00b#2`. Of attributes, only such texts are escaped.
    """
    texts = {}
    odd: dict[str, str] = {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind not in "OUT":
            continue
        values = [str(text) for text in np.ravel(variable.values)]
        if all(map(str.isprintable, values)):
            continue
        labels = distinct(values) if variable.dims == (name,) else [*map(printable, values)]
        odd |= {old: new for old, new in zip(values, labels, strict=True) if old != new}
        array = np.array(labels, dtype=object).reshape(variable.shape)
        texts[name] = (variable.dims, array, variable.attrs)
    if texts:
        some_texts = some([f"'{new}'" for new in odd.values()])
        _log.warning(
            "%s with characters that cannot be shown: written as %s",
            *(counted(len(odd), "text"), some_texts),
        )
        dataset = dataset.assign({name: texts[name] for name in texts})
    attrs = {
        key: printable(text) if isinstance(text, str) and not _can_be_held(text) else text
        for key, text in dataset.attrs.items()
    }
    return dataset.assign_attrs(attrs)


def _can_be_held(text: str) -> bool:
    return is_text(text) and "\0" not in text
