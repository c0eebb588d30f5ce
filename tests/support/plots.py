"""Reading drawn figures: their points, their text, and whether that overlaps."""

from itertools import combinations

import numpy as np


def points(ax, label):
    """Return the points of the lines with a label, in the order of drawing."""
    lines = [line for line in ax.get_lines() if line.get_label() == label]
    return np.concatenate([line.get_xydata() for line in lines])


def r2_of(dataset, entry):
    return dataset.r2.values[dataset.entry.values == entry]


def texts(figure):
    """Return the boxes of all text that shows, in pixels, by text."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    beyond = []  # the ends of its axis: such a tick is there, and is not drawn
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        beyond += [
            t for tick in ticks if not low <= tick.get_loc() <= high for t in tick.get_children()
        ]
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent()) for t in shown if t not in beyond]


def assert_text_is_readable(figure):
    """Assert that no text overlaps another one or the frame of the figure."""
    boxes = texts(figure)
    for text, box in boxes:
        for low, high, end in (
            (box.x0, box.x1, figure.bbox.x1),
            (box.y0, box.y1, figure.bbox.y1),
        ):
            assert low >= -1, text
            assert high <= end + 1, text
    for (a, first), (b, second) in combinations(boxes, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), (a, b)
