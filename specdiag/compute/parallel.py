"""Jobs -> their results, computed in threads within a budget of memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Job], Result], jobs: Iterable[tuple[Job, float]], budget: int
) -> Iterator[Result]:
    """Yield the result of the function for each job, in order, computed in threads.

    A job comes with the number of bytes that it takes. As many run at once as fit into the budget,
    with one BLAS thread each.
    """
    in_flight: deque[tuple[Future[Result], float]] = deque()
    if hasattr(os, "sched_getaffinity"):
        n_cores = len(os.sched_getaffinity(0))  # the cores that this process may use
    else:
        n_cores = os.cpu_count() or 1
    pool = ThreadPoolExecutor(n_cores)
    with threadpool_limits(1, user_api="blas"):
        try:
            for job, need in jobs:
                while in_flight and need + sum(size for _, size in in_flight) > budget:
                    yield in_flight.popleft()[0].result()
                in_flight.append((pool.submit(function, job), need))
            while in_flight:
                yield in_flight.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)
