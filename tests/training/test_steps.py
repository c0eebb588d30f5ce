"""Names of checkpoints tell the steps of a training."""

import os

import pytest

from specdiag.training.steps import run_in, run_of

SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def made(folder, *names):
    """Make empty files; a name that ends in / is a folder with a file of weights."""
    for i, name in enumerate(names):
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            path = path / "model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1_000_000 + i, 1_000_000 + i))
    return folder


def found(folder):
    run = run_in(folder)
    return run.unit, [(step, path.relative_to(folder).as_posix()) for step, path in run.checkpoints]


@pytest.mark.parametrize(
    ("names", "unit", "steps"),
    [
        (["step-500.ckpt", "step-1000.ckpt"], "step", [500, 1000]),
        (["epoch=3-step=1200.ckpt", "epoch=4-step=1600.ckpt", "last.ckpt"], "step", [1200, 1600]),
        (["epoch=9-val_loss=0.12.ckpt", "epoch=10-val_loss=0.07.ckpt"], "epoch", [9, 10]),
        (["checkpoint-500/", "checkpoint-1000/", "runs/events.out"], "step", [500, 1000]),
        (["global_step5/", "global_step10/"], "step", [5, 10]),
        (["iter_0000005/mp_rank_00/model_optim_rng.pt", "iter_0000010/"], "step", [5, 10]),
        (["checkpoint_1_500.pt", "checkpoint_1_900.pt", "checkpoint_best.pt"], "step", [500, 900]),
        (["checkpoint1.pt", "checkpoint12.pt"], "step", [1, 12]),
        (["epoch_1.pth", "epoch_12.pth", "latest.pth"], "epoch", [1, 12]),
        (["checkpoint-1.pth.tar", "checkpoint-12.pth.tar", "model_best.pth.tar"], "step", [1, 12]),
        (["weights.02-0.35.h5", "weights.10-0.31.h5"], "step", [2, 10]),
        (["resnet18-5.pt2", "resnet18-10.pt2"], "step", [5, 10]),
        (["model_1k.safetensors", "model_20k.safetensors"], "step", [1000, 20000]),
        (["step1000-tokens4B/", "step2000-tokens8B/"], "step", [1000, 2000]),
        (["step-00000120-0123456789abcdef.ckpt", "step-00000240-f.ckpt"], "step", [120, 240]),
        (["100/", "20/"], "step", [20, 100]),
        (["step_0.npz", "step_8.npz"], "step", [0, 8]),
        (["checkpoint_500", "checkpoint_1000"], "step", [500, 1000]),  # of Flax
        (["ckpt-1-100.pt", "ckpt-1-200.pt"], "step", [100, 200]),
        (["ckpt_20240105_101500.pt", "ckpt_20240105_111500.pt"], "step", [101500, 111500]),
        (["model_2024-01-31.pt", "model_2024-02-01.pt"], "step", [20240131, 20240201]),
        (
            ["m_2024-01-31_10-15-00.pt", "m_2024-02-01_09-15-00.pt"],
            "step",
            [20240131101500, 20240201091500],
        ),
        (["step_1,000.pt", "step_2,000.pt"], "step", [1000, 2000]),
        (["step=1.pt", "step=-1.pt"], "step", [1]),
        (["step-1.ckpt", "optimizer-1.pt", "rng_state_0.pth", "step-2.log"], "step", [1]),
    ],
)
def test_the_steps_of_a_run_are_read_from_names(names, unit, steps, tmp_path):
    run = run_in(made(tmp_path, *names))
    assert (run.unit, [step for step, _ in run.checkpoints]) == (unit, steps)


def test_a_checkpoint_without_a_number_is_left_out_and_named(tmp_path):
    run = run_in(made(tmp_path, "step=10.ckpt", "step=20.ckpt", "last.ckpt"))
    assert run.notes == ["not read, without a number of a step: 1 checkpoint (last.ckpt)"]


def test_a_note_on_epochs_has_its_article(tmp_path):
    run = run_in(made(tmp_path, "epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"))
    assert run.notes == ["not read, without a number of an epoch: 1 checkpoint (last.ckpt)"]


def test_copies_of_a_step_are_no_steps(tmp_path):
    run = run_in(made(tmp_path, "epoch=0-step=9-v1.ckpt", "epoch=0-step=9-v2.ckpt"))
    assert [step for step, _ in run.checkpoints] == [9]


def test_of_two_checkpoints_of_a_step_the_later_one_is_read(tmp_path):
    run = run_in(made(tmp_path, "epoch=0-step=9-v1.ckpt", "epoch=0-step=9.ckpt", "step=3.ckpt"))
    assert [(step, path.name) for step, path in run.checkpoints] == [
        (3, "step=3.ckpt"),
        (9, "epoch=0-step=9.ckpt"),
    ]
    assert run.notes == [
        "not read, of the same step as a later file: 1 checkpoint (epoch=0-step=9-v1.ckpt)"
    ]


def test_the_run_may_be_in_a_subfolder(tmp_path):
    names = ["version_0/metrics.csv", "version_0/checkpoints/epoch=0-step=9.ckpt"]
    assert found(made(tmp_path, *names)) == (
        "step",
        [(9, "version_0/checkpoints/epoch=0-step=9.ckpt")],
    )


def test_several_runs_are_an_error_that_names_them(tmp_path):
    made(tmp_path, *(f"version_{i}/checkpoints/epoch=0-step=9.ckpt" for i in (0, 1)))
    with pytest.raises(ValueError) as error:
        run_in(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: 2 runs (version_0/checkpoints, version_1/checkpoints); name one of them"
    )


@pytest.mark.parametrize("names", [["model.safetensors"], SHARDS, ["model.safetensors.index.json"]])
def test_one_checkpoint_is_no_run(names, tmp_path):
    with pytest.raises(ValueError) as error:
        run_in(made(tmp_path, *names))
    assert str(error.value) == (
        f"{tmp_path}: one checkpoint; expected a folder with a file or folder for each step"
    )


@pytest.mark.parametrize("names", [[], ["notes.txt", "step-5.log"], [".hidden/step-5.ckpt"]])
def test_a_folder_without_checkpoints_is_an_error_that_says_what_is_expected(names, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        run_in(made(tmp_path, *names))
    assert str(error.value) == (
        f"{tmp_path}: no checkpoint with a number in its name, such as step-500.ckpt, "
        "epoch=3-step=1200.ckpt or checkpoint-500/"
    )


def test_files_may_differ_in_their_folders_alone(tmp_path):
    made(tmp_path, "step-20/", "step-3/")
    paths = [tmp_path / name / "model.safetensors" for name in ("step-20", "step-3")]
    run = run_of(paths)
    assert [step for step, _ in run.checkpoints] == [3, 20]


def test_files_without_numbers_are_counted_as_they_are_given(tmp_path):
    made(tmp_path, "init.pt", "end.pt")
    run = run_of([tmp_path / "init.pt", tmp_path / "end.pt"])
    assert run.unit == "checkpoint"
    assert [(step, path.name) for step, path in run.checkpoints] == [(1, "init.pt"), (2, "end.pt")]
