"""Colours, fonts and titles of figures; figure -> file."""

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from specdiag.outputs import write_output
from specdiag.wording import short

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe & Ito (2008), Color Universal Design: all common kinds of colour vision tell them apart.
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000")
_ARM_COLORS = {
    "base": "#000000",
    "pretrained": "#0072b2",
    "plastic": "#56b4e9",
    "scratch": "#d55e00",
    "scratch_tuned": "#e69f00",
    "evaluation": "#cc79a7",
}
MARKERS = "osD^vP*X<>hp"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def arm_color(arm: str) -> str:
    """Return the colour of an arm in all figures; grey for an unknown one."""
    return _ARM_COLORS.get(arm, "#777777")


@contextmanager
def style() -> Iterator[None]:
    """Draw with the settings of this package, then restore the user's settings of matplotlib."""
    import matplotlib as mpl

    with warnings.catch_warnings():
        # The font may have no sign for a letter of a name.
        warnings.filterwarnings("ignore", message="Glyph")
        settings: Any = {k: v for k, v in mpl.rcParamsDefault.items() if k != "backend"}
        settings |= {
            "svg.fonttype": "none",  # text stays text: it can be read, searched and edited
            "svg.hashsalt": "specdiag",  # the same figure gives the same bytes
            "pdf.fonttype": 42,  # TrueType, as journals ask for
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
        with mpl.rc_context(settings):
            yield


def save_figure(figure: "Figure", path: Path, *, overwrite: bool = False) -> None:
    """Write a figure in the format of its extension, whole or not at all, without the date.

    Raises
    ------
    FileExistsError
        If a file that is not a figure of specdiag has that name, and `overwrite` is false.
    """
    write_output(path, rendered(figure, path.suffix[1:].lower()), overwrite=overwrite)


def rendered(figure: "Figure", kind: str) -> bytes:
    """Return a figure as png, svg or pdf; equal figures give equal bytes.

    Its parts are placed once, for all formats, and stay there: matplotlib itself places them, and
    goes through all of a drawing for it, every time that it writes a figure.
    """
    content = io.BytesIO()
    metadata = {
        "svg": {"Date": None, "Creator": "specdiag"},
        "pdf": {"CreationDate": None, "Creator": "specdiag"},
        "png": {"Software": "specdiag"},
    }.get(kind)
    with style():
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
    return content.getvalue()


def inline_svg(content: bytes, label: str, prefix: str) -> str:
    """Return an SVG of matplotlib for use inside a page.

    The label becomes its alternative text. Ids get the prefix, so that they are unique in the page.
    Black and white become the colours of the page. The style sheet is removed, because it would
    apply to the whole page.
    """
    root = ET.fromstring(content)  # noqa: S314 - our own
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.find("{*}style") is not None:
                parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        node.attrib = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
        for key, value in node.attrib.items():
            node.attrib[key] = _page_value(key, value, prefix)
    width = root.attrib.pop("width")
    del root.attrib["height"]
    root.attrib |= {"role": "img", "aria-label": label, "style": f"max-width: {width}"}
    return ET.tostring(root, encoding="unicode")


def _page_value(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return prefix + value
    if key == "href":
        return value.replace("#", f"#{prefix}", 1)
    value = value.replace("url(#", f"url(#{prefix}")
    if key == "style":
        value = value.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")
    return value


def mark_decades(axis: "Axis") -> None:
    """Label the decades of a logarithmic axis as text: 10⁻², and not as mathematics.

    The parser of mathematics in matplotlib takes a third of the time of a figure, and many small
    ticks as much: an axis of four decades and more has none.
    """
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axis.set_major_formatter(_power_of_ten)
    axis.set_minor_formatter(NullFormatter())
    low, high = axis.get_view_interval()
    if high > 1e4 * low:
        axis.set_minor_locator(NullLocator())
    if low < high * 1e-100:  # matplotlib asks for ticks beyond the numbers of float64
        first, last = (round(math.log10(min(max(end, 1e-300), 1e300))) for end in (low, high))
        decades = range(first, last + 1, (last - first) // 6)
        axis.set_major_locator(FixedLocator([10.0**decade for decade in decades]))


def _power_of_ten(value: float, _position: float = 0) -> str:
    return "10" + str(round(math.log10(value))).translate(_SUPERSCRIPTS)


def slug(name: str) -> str:
    """Return the part of a name that is safe in a file name on every file system."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)[-80:]


def short_title(name: str, longest: int = 52) -> str:
    """Return the name of a layer or checkpoint as a title or label: its end if it is long."""
    # A dollar would begin mathematics; a legend leaves out what begins with an underscore.
    text = short(name, longest).replace("$", r"\$")
    return f"'{text}'" if text.startswith("_") else text
