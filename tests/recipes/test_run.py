"""A recipe builds an entry of the lock: a checkpoint and its R²."""

import os
from dataclasses import replace

import pytest

from recipes import poyo_mp, transfer
from recipes._published import adamw, training
from specdiag.checkpoint.reader import open_checkpoint
from support.jobs import job
from support.sessions import MODEL

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("torch_brain")

CHRONIC = "c_20131003_center_out_reaching"


def entry(recipe, name, scale):
    (only,) = (e for e in recipe.entries() if (e.name, e.scale) == (name, scale))
    return only


def small_job(folder, declared, *, parent=None, steps=10):
    """Return a job of a desk entry, with a small model and few steps."""
    changed = {
        "model": MODEL | {"dim_out": declared.params["model"]["dim_out"]},
        "training": training(batch=8, steps=steps, matmul="highest"),
        "optimizer": adamw(3e-3),
        "data": dict(declared.params["data"])
        | {"sessions": declared.params["data"]["sessions"][:1]},
        "target": declared.params["target"],
        "simulation": dict(declared.params["simulation"]) | {"seconds": 120.0},
    }
    if "transfer" in declared.params:
        changed["transfer"] = declared.params["transfer"]
    return job(folder, parent=parent, name=declared.name, **changed)


@pytest.fixture(autouse=True, scope="module")
def threads():
    """Give torch its threads again: a build at desk scale sets one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def simulated(monkeypatch, tmp_path_factory):
    from recipes.poyo import run

    folder = tmp_path_factory.getbasetemp() / "recordings"
    monkeypatch.setattr(run, "RECORDINGS", folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The job of the base and its metrics."""
    from recipes.poyo import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "RECORDINGS", tmp_path_factory.getbasetemp() / "recordings")
        made = small_job(
            tmp_path_factory.mktemp("base"), entry(poyo_mp, "base/poyo_mp_converged", "desk")
        )
        return made, poyo_mp.build(made)


def test_the_base_is_built_from_its_declaration(base):
    made, metrics = base
    assert list(metrics) == ["r2"]
    value, tolerance = metrics["r2"]
    assert -1 < value < 1
    assert tolerance == 0.02
    metadata = open_checkpoint(made.output).metadata
    assert list(metadata["session_emb.vocab"]) == ["NA", CHRONIC]
    assert all(unit.startswith(f"{CHRONIC}/") for unit in list(metadata["unit_emb.vocab"])[1:])
    assert (made.folder / "spectra.csv").exists()


@pytest.mark.parametrize(
    "name", ["area2_ft_pretrained", "dmfc_const_pretrained", "area2_ft_scratch"]
)
def test_a_transfer_is_built_from_its_parent(name, base, tmp_path):
    declared = entry(transfer, f"transfer/{name}", "desk")
    parent = base[0].output if declared.parent else None
    made = small_job(tmp_path, declared, parent=parent)
    assert list(transfer.build(made)) == ["r2"]
    ours = {t.name: t.read() for t in open_checkpoint(made.output).tensors}
    theirs = {t.name: t.read() for t in open_checkpoint(base[0].output).tensors}
    same = {n for n in theirs if n in ours and (ours[n].shape == theirs[n].shape)}
    frozen = {n for n in same if (ours[n] == theirs[n]).all()}
    core = {n for n in theirs if not n.startswith(("unit_emb", "session_emb", "readout"))}
    assert (core <= frozen) == (declared.parent is not None)
    assert len(ours["readout.weight"]) == declared.params["model"]["dim_out"]


def test_the_evaluation_of_a_parent_returns_the_r2_of_the_parent(base, tmp_path):
    from recipes.poyo.run import evaluate_parent

    made, metrics = base
    again = replace(made, parent=made.output, folder=tmp_path)
    assert evaluate_parent(again) == metrics


def test_an_evaluation_needs_a_parent(tmp_path):
    from recipes.poyo.run import evaluate_parent

    with pytest.raises(ValueError, match=r"^tiny: an evaluation needs a parent; declare one$"):
        evaluate_parent(job(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("recipe", "name", "length"),
    [
        (poyo_mp, "base/poyo_mp_converged", "1,000 epochs (published: 9 h on 8 x H100)"),
        (transfer, "transfer/area2_ft_scratch", "100 epochs"),
        (transfer, "transfer/area2_ft_scratch_tuned", "4,000 steps"),
    ],
)
def test_the_paper_scale_does_not_start_without_a_gpu(recipe, name, length, tmp_path):
    declared = entry(recipe, name, "paper")
    declared_job = job(tmp_path, name=name, scale="paper")
    made = replace(declared_job, params=declared.params, cost=declared.cost)
    with pytest.raises(RuntimeError) as error:
        recipe.build(made)
    assert str(error.value) == (
        f"{name} at paper scale trains for {length} and this machine has no CUDA GPU: fetch the "
        "published weights, train at desk scale, or give --yes"
    )
    assert not list(tmp_path.iterdir())


def test_a_training_on_fewer_gpus_than_declared_starts_only_with_yes(tmp_path):
    from recipes.poyo.run import check_gpus, check_hardware

    declared = entry(poyo_mp, "base/poyo_mp_converged", "paper")
    bare = job(tmp_path, name="base", scale="paper")
    made = replace(bare, params=declared.params, cost=declared.cost)
    for devices, nodes, gpus, text in (
        (None, 1, 2, "2 of the 8 declared GPUs, about 36 h"),
        (1, 1, 8, "1 of the 8 declared GPUs, about 72 h"),
        (2, 2, 4, "4 of the 8 declared GPUs, about 18 h"),
    ):
        with pytest.raises(RuntimeError) as error:
            check_gpus(replace(made, devices=devices, nodes=nodes), gpus)
        assert str(error.value) == (
            f"base at paper scale trains for 1,000 epochs (published: 9 h on 8 x H100) and it "
            f"would get {text}: fetch the published weights, train at desk scale, or give --yes"
        )
    with pytest.raises(RuntimeError, match=r"or give --yes$"):
        check_hardware(replace(made, nodes=0))  # as if the machine had no GPU
    check_hardware(replace(made, nodes=0, yes=True))
    check_gpus(made, 8)
    check_gpus(replace(made, nodes=2), 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_devices_and_unsupported_precisions_start_no_training(tmp_path):
    made = small_job(tmp_path, entry(poyo_mp, "base/poyo_mp_converged", "desk"))
    cores = os.cpu_count()
    with pytest.raises(RuntimeError) as error:
        poyo_mp.build(replace(made, devices=999))
    assert str(error.value) == (
        f"--devices 999: this machine has {cores} processor cores and no CUDA GPU"
    )
    with pytest.raises(RuntimeError) as error:
        poyo_mp.build(replace(made, precision="float16"))
    assert str(error.value) == "--precision float16 needs a CUDA GPU; bfloat16 runs here"
    assert not list(tmp_path.iterdir())
