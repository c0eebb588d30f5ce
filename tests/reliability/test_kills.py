"""A command may be killed at any line, or any write may fail: each file is the old or the new."""

import errno
import shutil
import signal

import numpy as np
import pytest

from specdiag.lock import lockfile
from support.faults import COMPILER, disk, files
from support.kills import specdiag
from support.reliability import record
from support.writers import WRITERS, check_old_or_new, prepared, study

N_KILLS = 30
DONE, FAILED = dict[str, int](), dict[str, int]()  # by writer: kills, writes that failed


def cases(short, long, fast):
    """Return the writers with a long test each, and those with a short one that is not slow."""
    return [
        *(pytest.param(name, short) for name in sorted(fast)),
        *(pytest.param(name, long, marks=pytest.mark.slow) for name in WRITERS),
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def made(original, tmp_path, request):
    """The folder before the command, its files before and after, and the command."""
    before, after = tmp_path / "work", tmp_path / "after"
    arguments = prepared(original, before, request.param)
    shutil.copytree(before, tmp_path / "before")
    old = files(before)
    assert specdiag(before, *arguments)[0] == 0
    new = files(before)
    before.rename(after)
    return before, old, new, arguments


def again(folder):
    """Restore the folder before the command; its path, which file URLs contain, is the same."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folder.with_name("before"), folder)


def check(folder, old, new):
    now = files(folder)
    check_old_or_new(now, old, new)
    lockfile.load(folder / "checkpoints.lock")


@pytest.mark.parametrize(("made", "n_kills"), cases(1, N_KILLS, {"alpha"}), indirect=["made"])
def test_a_killed_command_leaves_old_or_new_files_and_the_next_run_tidies_up(
    made, n_kills, request
):
    folder, old, new, arguments = made
    again(folder)
    _, n_lines = specdiag(folder, *arguments)
    for share in np.random.default_rng(0).random(n_kills):
        again(folder)
        line = 1 + int(share * (n_lines - 10))
        code, _ = specdiag(folder, *arguments, die_at=line)
        assert code == -signal.SIGKILL, f"line {line} of {n_lines}"
        check(folder, old, new)
        assert specdiag(folder, *arguments)[0] == 0, f"line {line} of {n_lines}"
        assert set(files(folder)) == set(new), f"line {line} of {n_lines}"
        check(folder, new, new)
    if n_kills == N_KILLS:
        DONE[request.node.callspec.id] = n_kills
        record("kills", commands=len(WRITERS), kills=sum(DONE.values()))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    if not COMPILER:
        pytest.skip("no C compiler")
    with disk(tmp_path_factory.mktemp("faults")) as run:
        yield run


@pytest.mark.parametrize(
    ("made", "stride"), cases(17, 1, {"alpha", "export", "train"}), indirect=["made"]
)
def test_a_write_that_fails_leaves_old_or_new_files_and_the_next_run_tidies_up(
    made, run, stride, request
):
    folder, old, new, arguments = made
    again(folder)
    code, said, n_writes = run(folder, arguments)
    assert code == 0, said
    assert n_writes > 3
    for at in range(1, n_writes + 1, stride):
        for number, lasts in ((errno.EIO, False), (errno.ENOSPC, True)):
            again(folder)
            code, said, _ = run(folder, arguments, at, number, lasts)
            where = f"{errno.errorcode[number]} at write {at} of {n_writes}: {said}"
            assert code in (0, 1), where
            assert "Traceback" not in said, where
            check(folder, old, new)
            code, said, _ = run(folder, arguments)
            assert code == 0, (where, said)
            assert set(files(folder)) == set(new), where
            check(folder, new, new)
    if stride == 1:
        FAILED[request.node.callspec.id] = 2 * n_writes
        record("kills", failed_writes=sum(FAILED.values()))
