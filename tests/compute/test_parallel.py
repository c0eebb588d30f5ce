"""Many jobs share the cores and the memory of the machine."""

import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from specdiag.compute.machine import n_cores, using
from specdiag.compute.parallel import in_parallel


class Recorder:
    """A function of jobs that records which run at once, with the memory they take together."""

    def __init__(self, needs):
        self.needs, self.lock = needs, threading.Lock()
        self.running, self.started, self.most, self.together = set(), [], 0.0, 0

    def __call__(self, job):
        with self.lock:
            self.running.add(job)
            self.started.append(job)
            self.most = max(self.most, sum(self.needs[i] for i in self.running))
            self.together = max(self.together, len(self.running))
        sum(range(2000))
        with self.lock:
            self.running.remove(job)
        return -job


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@settings(max_examples=40, deadline=None)
@given(
    needs=st.lists(st.integers(1, 100), max_size=30),
    jobs=st.integers(1, 5),
    memory=st.integers(1, 300),
)
def test_every_job_runs_once_within_the_limits(needs, jobs, memory):
    function = Recorder(needs)
    with using(jobs=jobs, memory=memory):
        results = dict(in_parallel(function, list(enumerate(needs))))
    assert results == {i: -i for i in range(len(needs))}
    assert function.together <= jobs
    assert function.most <= max([memory, *needs])


def test_the_largest_job_begins_and_small_ones_fill_what_memory_is_left():
    needs = [1, 5, 60, 50, 2, 70]
    function = Recorder(needs)
    with using(jobs=1, memory=100):
        list(in_parallel(function, list(enumerate(needs))))
    assert function.started == [5, 2, 3, 1, 4, 0]
    both = threading.Barrier(2)
    started = []

    def largest_with_a_small_one(job):
        started.append(job)
        if len(started) <= 2:
            both.wait(timeout=30)

    with using(jobs=2, memory=75):
        list(in_parallel(largest_with_a_small_one, list(enumerate(needs))))
    assert sorted(started[:2]) == [0, 5]


def test_a_job_that_is_done_frees_its_memory_while_an_earlier_one_still_runs():
    needs = [50] * 6
    others_done, results = threading.Event(), []

    def first_waits_for_all_others(job):
        if job == 0:
            assert others_done.wait(timeout=30)
        return job

    with using(jobs=2, memory=100):
        for i, _ in in_parallel(first_waits_for_all_others, list(enumerate(needs))):
            results.append(i)
            if len(results) == 5:
                others_done.set()
    assert results == [1, 2, 3, 4, 5, 0]


def test_an_error_of_a_job_ends_the_others_that_wait():
    ran = []

    def fails(job):
        ran.append(job)
        raise ValueError(f"job {job}")

    with using(jobs=1), pytest.raises(ValueError, match="job 0"):
        list(in_parallel(fails, [(i, 1.0) for i in range(50)]))
    assert len(ran) < 50


@pytest.mark.parametrize("jobs", [1, 2, 50])
def test_each_job_has_one_blas_thread_and_one_that_is_alone_has_all(jobs):
    before = blas_threads()
    with using(jobs=jobs):
        results = in_parallel(
            lambda _: blas_threads(), [(i, 1.0) for i in range(4)], alone=lambda job: job == 2
        )
        threads = dict(results)
    assert threads == {0: {1}, 1: {1}, 2: {n_cores()}, 3: {1}}
    assert blas_threads() == before


def test_arrays_of_finished_jobs_are_freed():
    live = []

    def large(_):
        array = np.ones(1000)
        live.append(weakref.ref(array))
        return float(array.sum())

    with using(jobs=1):
        for done, _ in enumerate(in_parallel(large, [(i, 1.0) for i in range(5)]), start=1):
            assert sum(ref() is not None for ref in live[:done]) == 0


@pytest.mark.parametrize("alone", [True, False])
def test_only_what_fits_beside_the_running_job_is_read_ahead(alone):
    needs, read = [90, 80, 5], []
    with using(jobs=1, memory=100):
        list(in_parallel(id, list(enumerate(needs)), alone=lambda _: alone, ahead=read.append))
    assert read == [2]
