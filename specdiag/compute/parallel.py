"""Jobs -> their results, computed in threads within the machine's cores and memory."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from itertools import zip_longest
from threading import RLock
from typing import TypeVar

from threadpoolctl import threadpool_limits

from specdiag.compute.machine import current, n_cores

THREADS = "specdiag-job"  # names of threads begin with it

Job = TypeVar("Job")
Result = TypeVar("Result")

_mutex = RLock()  # a generator can be closed by its own thread at any time
_wanted: list[int] = []  # threads of BLAS, of each `in_parallel` that runs
_limits: list[threadpool_limits] = []  # that were set since none did


def in_parallel(
    function: Callable[[Job], Result],
    jobs: Sequence[tuple[Job, float]],
    *,
    alone: Callable[[Job], bool] = lambda _: False,
    ahead: Callable[[Job], object] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Yield the number of each job and the result of the function, in the order of completion.

    As many jobs run at once as there are cores, and as fit into the memory (`compute.machine`); a
    job that needs more than that runs when nothing else does. The one that needs most begins; where
    it does not fit into what is left, the smallest ones that fit go first. So all cores are busy up
    to the end, which small jobs share.

    The number of BLAS threads is limited in the libraries that are loaded when it begins: what
    `function` imports must bring no other one.

    Parameters
    ----------
    function : function of a job
        Its arrays are freed when it returns: only the result is kept.
    jobs : sequence of (job, bytes)
        Each with the memory that it takes.
    alone : function of a job
        Whether a job runs before the others and by itself, with as many BLAS threads as the process
        may use cores, whatever the limit of jobs is: the last bits depend on their number. All
        others have one each.
    ahead : function of a job, optional
        It is called, in a thread of its own, for the job that is the next to begin, if that fits
        into the memory that is left, such as to transfer what that job reads. Its errors are left
        to the job.
    """
    single = [i for i, (job, _) in enumerate(jobs) if alone(job)]
    others = sorted(set(range(len(jobs))) - set(single), key=lambda i: (-jobs[i][1], i))
    with _next_job(ahead) as for_next:
        if single:
            with _blas_threads(n_cores()):
                for i, later in zip_longest(single, [*single[1:], *others[:1]]):
                    fits = later is not None and jobs[i][1] + jobs[later][1] <= current().n_bytes
                    if later is not None and fits:
                        for_next(jobs[later][0])
                    yield i, function(jobs[i][0])
        if others:
            with _blas_threads(1):
                yield from _together(function, jobs, deque(others), for_next)


@contextmanager
def _blas_threads(n: int) -> Iterator[None]:
    """Let BLAS use n threads, or fewer if others who do so at the same time want fewer.

    The number is one for the whole process. It is as before when the last of them has left.
    """
    with _mutex:
        _wanted.append(n)
        _limits.append(threadpool_limits(min(_wanted), user_api="blas"))
    try:
        yield
    finally:
        with _mutex:
            _wanted.remove(n)
            if _wanted:
                _limits.append(threadpool_limits(min(_wanted), user_api="blas"))
            while _limits and not _wanted:
                _limits.pop().restore_original_limits()


@contextmanager
def _next_job(ahead: Callable[[Job], object] | None) -> Iterator[Callable[[Job], None]]:
    """Yield a function that starts `ahead` for a job, unless it is busy with another one."""
    if ahead is None:
        yield lambda _: None
        return
    pool, last = ThreadPoolExecutor(1), list[tuple[Job, Future[object]]]()

    def start(job: Job) -> None:
        if not last or (last[0][1].done() and last[0][0] is not job):
            last[:] = [(job, pool.submit(copy_context().run, ahead, job))]

    try:
        yield start
    finally:
        pool.shutdown(cancel_futures=True)


def _together(
    function: Callable[[Job], Result],
    jobs: Sequence[tuple[Job, float]],
    waiting: deque[int],
    ahead: Callable[[Job], None],
) -> Iterator[tuple[int, Result]]:
    """Yield the results of the jobs whose numbers wait, the largest first, in threads."""
    n_jobs, left = current().n_jobs, current().n_bytes
    pool, is_stopped = ThreadPoolExecutor(n_jobs, THREADS), False
    running: dict[Future[Result], int] = {}

    def start() -> None:
        nonlocal left
        while waiting and len(running) < n_jobs:
            if jobs[waiting[0]][1] <= left or not running:
                i = waiting.popleft()
            elif jobs[waiting[-1]][1] <= left:
                i = waiting.pop()
            else:
                break
            left -= jobs[i][1]
            running[pool.submit(copy_context().run, function, jobs[i][0])] = i
        if waiting and jobs[waiting[0]][1] <= left:
            ahead(jobs[waiting[0]][0])

    try:
        start()
        while running:
            finished = [
                (done, running.pop(done))
                for done in wait(running, return_when=FIRST_COMPLETED).done
            ]
            left += sum(jobs[i][1] for _, i in finished)
            start()  # before the results are used, which may take long
            for done, i in finished:
                yield i, done.result()
    except (KeyboardInterrupt, SystemExit):
        is_stopped = True  # a matrix may take minutes more
        raise
    finally:
        pool.shutdown(wait=not is_stopped, cancel_futures=True)
