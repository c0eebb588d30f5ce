"""Time of a training -> how much of it its readings may take, and which matrices that allows.

The time that all readings have taken so far stays below a share of the time since the training
began. What one reading may not take is left to later ones, so that large matrices come, too.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from specdiag.checkpoint.weights.weight import Weight
from specdiag.compute.machine import current

FREE = 1.0  # seconds that readings may take before the share allows as much
SLOW = 1e-10  # seconds for each unit of work, until a reading has measured it:
DOUBT = 4  # times as long on a busy machine
OVERHEAD = 4e7  # units of work of the smallest matrix


class Budget:
    """Time that readings have taken, and what they may take.

    Parameters
    ----------
    share : float or None
        The largest share of the time of the training; None for no limit.
    """

    def __init__(self, share: float | None) -> None:
        self.share = share
        self.spent = self.before = 0.0  # seconds; `before` is the training before it was resumed
        # Seconds on one core and units of work of the last measurement of each matrix, by name.
        self.known: dict[str, tuple[float, float]] = {}
        self._began: float | None = None

    def begin(self) -> None:
        """Start the clock of the training, once."""
        if self._began is None:
            self._began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds that the training has taken so far, those before it was resumed included."""
        return self.before + (0 if self._began is None else time.perf_counter() - self._began)

    @property
    def left(self) -> float:
        """Seconds that readings may still take now."""
        if self.share is None:
            return math.inf
        return max(FREE, self.share * self.elapsed) - self.spent

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time within as that of readings."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent += time.perf_counter() - start

    def expected(self, weight: Weight) -> float:
        """Return the seconds that a matrix will take on one core."""
        if weight.name in self.known:
            return self.known[weight.name][0]
        if not self.known:
            return DOUBT * SLOW * work(weight)
        seconds, units = (sum(values) for values in zip(*self.known.values(), strict=True))
        return seconds / units * work(weight)

    def learn(self, weight: Weight, seconds: float) -> None:
        """Remember how long a matrix took on one core."""
        self.known[weight.name] = seconds, work(weight)

    def affordable(self, weights: Sequence[Weight], left: float) -> list[Weight]:
        """Return the first of the weights that can be measured together in the seconds left.

        A matrix that does not fit is not passed over: it waits until the time allows it.
        """
        chosen: list[Weight] = []
        total = longest = 0.0
        for weight in weights:
            total += self.expected(weight)
            longest = max(longest, self.expected(weight))
            if max(total / current().n_jobs, longest) > left:
                break
            chosen.append(weight)
        return chosen


def work(weight: Weight) -> float:
    """Return the arithmetic of measuring a matrix: its Gram matrix and the eigenvalues of that."""
    n, m = max(weight.shape[:2]), min(weight.shape[:2])
    return OVERHEAD + math.prod(weight.shape[2:]) * m * m * (n + 4 * m / 3)
