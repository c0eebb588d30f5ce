"""One way to read the axes of a tensor: rows, columns, taps of a kernel, and stacked matrices."""

from dataclasses import dataclass, replace
from math import prod

from specdiag.checkpoint.weights.pieces import reshaped, slices
from specdiag.checkpoint.weights.weight import Weight

MAX_SLICES = 512  # the most experts that a published layer has; more matrices are pooled
AXES = "axes:"  # before letters for all axes, of a split or as the role of a tensor
AMBIGUOUS = "ambiguous"  # at the start of a reason
FEW = 9  # a side as short is taken for taps
MAX_TAPS = 32  # along an axis of the kernel of an image, without other evidence


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the axes of a tensor are; every axis is in one of the four groups.

    Attributes
    ----------
    rows, columns : tuple of int
        The axes that together are the rows and the columns of a matrix.
    taps : tuple of int
        The positions of a kernel. Each is one matrix, and their eigenvalues are pooled.
    stack : tuple of int
        Axes along which matrices or kernels are stacked.
    pooled : bool
        Whether the eigenvalues of the stacked matrices are pooled, however few they are.
    why : str
        The evidence for it, for the rule of a weight.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    taps: tuple[int, ...] = ()
    stack: tuple[int, ...] = ()
    pooled: bool = False
    why: str = ""

    @property
    def key(self) -> object:
        """Equal for readings that have the same eigenvalues."""
        stack, taps = ((), self.stack + self.taps) if self.pooled else (self.stack, self.taps)
        return frozenset((self.rows, self.columns)), taps, stack

    @property
    def letters(self) -> str:
        """The reading as `specdiag.checkpoint.weights.split` takes it, such as 'axes:src'."""
        groups = {"r": self.rows, "c": self.columns, "t": self.taps, "s": self.stack}
        places = {axis: letter for letter, axes in groups.items() for axis in axes}
        return AXES + "".join(places[axis] for axis in sorted(places))

    def apply(self, weight: Weight) -> list[Weight]:
        """Return the matrices or kernels: (rows, columns) or (rows, columns, *taps).

        More than 512 matrices are too many for a table of layers: they are one weight, whose
        eigenvalues are pooled as those of the taps of a kernel are.
        """
        if self.pooled or prod(weight.shape[axis] for axis in self.stack) > MAX_SLICES:
            one = replace(self, taps=self.stack + self.taps, stack=())
            return [one._arranged(weight, f"{self.text(weight.shape)}, pooled")]
        parts, axes = [weight], list(range(len(weight.shape)))
        for axis in sorted(self.stack):
            parts = [part for stack in parts for part in slices(stack, axes.index(axis))]
            axes.remove(axis)
        inner = replace(
            self,
            rows=tuple(map(axes.index, self.rows)),
            columns=tuple(map(axes.index, self.columns)),
            taps=tuple(map(axes.index, self.taps)),
            stack=(),
        )
        why = f" ({self.why})" if self.why and self.stack else ""
        parts = [replace(part, rule=part.rule + why) for part in parts] if why else parts
        return [inner._arranged(part, inner.text(part.shape)) for part in parts]

    def _arranged(self, weight: Weight, rule: str) -> Weight:
        axes = self.rows + self.columns + self.taps
        if axes == tuple(range(len(weight.shape))) and len(self.rows) == len(self.columns) == 1:
            return weight
        sizes = [prod(weight.shape[axis] for axis in group) for group in (self.rows, self.columns)]
        why = f" ({self.why})" if self.why and not self.stack else ""
        shape = (*sizes, *(weight.shape[axis] for axis in self.taps))
        return reshaped(weight, shape, axes, f"read as {rule}{why}")

    def text(self, shape: tuple[int, ...]) -> str:
        """Return the reading in words, such as 'a kernel of 32 taps, 8x256'."""
        n, m = (prod(shape[axis] for axis in group) for group in (self.rows, self.columns))
        taps = [shape[axis] for axis in self.taps]
        count = " times ".join(f"{shape[axis]:,}" for axis in self.stack)
        if len(taps) > 1:
            kind = f"{'x'.join(map(str, taps))} kernels" if count else "a kernel"
            kind += "" if count else f" of {'x'.join(map(str, taps))} taps"
        else:
            kind = "kernels" if count else "a kernel"
            kind += f" of {taps[0]:,} taps" if taps else ""
        if not taps:
            kind = "matrices" if count else "a matrix"
            return f"{count} {kind} of {n}x{m}".strip()
        return f"{count} {kind}, {n}x{m}".strip()


def by_letters(letters: str) -> Reading:
    """Return the reading that letters for all axes tell, such as 'src' in 'axes:src'."""
    rows, columns, taps, stack = (
        tuple(i for i, letter in enumerate(letters) if letter == kind) for kind in "rcts"
    )
    return Reading(rows=rows, columns=columns, taps=taps, stack=stack)


def are_taps(sides: tuple[int, ...]) -> bool:
    """Return whether sides can be those of the kernel of an image: 3x3, 1x7, 16x16 or 1x3x3."""
    return max(sides) <= MAX_TAPS and (
        max(sides) <= 11 or 1 in sides or len({*sides[-2:]}) == 1 < len(sides)
    )


def kernel(n_axes: int, why: str = "") -> Reading:
    """Return the reading of a kernel in torch's order: (out, in, *taps)."""
    return Reading(rows=(0,), columns=(1,), taps=tuple(range(2, n_axes)), why=why)


def input_first(n_axes: int, why: str = "") -> Reading:
    """Return the reading of a kernel in the order of TensorFlow and flax: (*taps, in, out)."""
    taps = tuple(range(n_axes - 2))
    return Reading(rows=(n_axes - 1,), columns=(n_axes - 2,), taps=taps, why=why)


def stacked(why: str = "") -> Reading:
    """Return the reading of matrices that are stacked along the first of three axes."""
    return Reading(rows=(1,), columns=(2,), stack=(0,), why=why)


def depthwise(n_axes: int, why: str = "") -> Reading:
    """Return the reading of a kernel of Keras, (*taps, in, multiplier), on one channel each."""
    rows, taps = (n_axes - 2, n_axes - 1), tuple(range(n_axes - 2))
    return Reading(rows=rows, columns=(), taps=taps, why=why)


def heads_out(why: str = "") -> Reading:
    """Return the reading of a projection to heads, (in, heads, size), as one matrix."""
    return Reading(rows=(0,), columns=(1, 2), why=why)


def heads_in(why: str = "") -> Reading:
    """Return the reading of a projection from heads, (heads, size, out), as one matrix."""
    return Reading(rows=(0, 1), columns=(2,), why=why)
