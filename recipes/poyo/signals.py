"""Who runs a training, and how they hear of it: signals and a line on the terminal."""

import contextlib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # exit status, as of a shell


@contextlib.contextmanager
def terminated(*, processes: int) -> Iterator[list[bool]]:
    """Collect SIGTERM instead of dying of it; one that nobody acted upon ends the process afterwards.

    Processes that were started by another get SIGINT when that one dies, and save as well.
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
    """Show a line on the terminal: steps, time left, loss, learning rate, validation R² and the name.

    What it yields is called after every step with loss, learning rate and best R² so far. Nothing is shown
    where stderr is no terminal.
    """
    from tqdm import tqdm

    disable = None if shown else True  # None: unless it is a terminal
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
            if not bar.disable and bar.n % 10 == 0:  # reading the loss waits for a GPU
                known = f", R² {r2:.3f}" if math.isfinite(r2) else ""
                bar.set_postfix_str(f"loss {float(loss):.3f}, lr {rate:.1e}{known}", refresh=False)
            bar.update()

        yield show
