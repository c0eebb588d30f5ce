"""Handling of SIGTERM and the progress line of a training."""

import contextlib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # exit status, as in a shell


@contextlib.contextmanager
def terminated(*, processes: int) -> Iterator[list[bool]]:
    """Record SIGTERM in the list that is yielded instead of ending the process at once.

    The process ends with the usual exit status when the block is left. With several `processes`
    SIGINT is recorded, too: child processes get it when their parent dies, and save as well.
    """
    stop: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = [signal.SIGTERM, signal.SIGINT][: 2 if processes > 1 else 1]
    previous = [signal.signal(s, lambda *_: stop.append(True)) for s in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
    if stop:
        raise SystemExit(TERMINATED)


@contextlib.contextmanager
def progress_line(
    name: str, *, total: int, done: int, shown: bool
) -> Iterator[Callable[[Any, float, float], None]]:
    """Show a line on the terminal: steps, time left, loss, learning rate, validation R² and name.

    The function that is yielded is called after every step with the loss, the learning rate and the
    best R² so far. Nothing is shown if stderr is not a terminal.
    """
    from tqdm import tqdm

    disable = None if shown else True  # None: show the line on a terminal only
    with tqdm(
        desc=name,
        total=total,
        initial=done,
        file=sys.stderr,
        bar_format="{n}/{total}, {remaining} left{postfix}, {desc}",  # numbers within 80 columns
        disable=disable,
        leave=False,
    ) as bar:

        def show(loss: Any, rate: float, r2: float) -> None:
            if not bar.disable and bar.n % 10 == 0:  # reading the loss waits for the GPU
                best = f", R² {r2:.3f}" if math.isfinite(r2) else ""
                bar.set_postfix_str(f"loss {float(loss):.3f}, lr {rate:.1e}{best}", refresh=False)
            bar.update()

        yield show
