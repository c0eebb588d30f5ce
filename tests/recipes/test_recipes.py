"""The declarations of the recipes, and their entries in checkpoints.lock."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from specdiag.lock.lockfile import dumps, load
from specdiag.lock.recipe import declared
from specdiag.lock.resolve import resolve
from support.paths import ROOT

LOCK = load(ROOT / "checkpoints.lock")
PAPER = {e.name: e for e in LOCK.entries if e.scale == "paper"}
DESK = {e.name: e for e in LOCK.entries if e.scale == "desk"}
BASE = PAPER["base/poyo_mp_converged"]
REPORTED = [(e.name, f) for e in LOCK.entries for f in e.reported]

CARD = [
    "base/poyo_mp_converged",
    *(f"transfer/{t}_{a}" for t in ("area2_ft", "dmfc_const") for a in ("pretrained", "scratch")),
    *(f"augmentation/freeze/aug_{level}" for level in ("off", "standard", "aggressive")),
    *(f"augmentation/finetune_all/augf_{level}" for level in ("off", "standard", "aggressive")),
]
SETS = {  # of the published sweeps, without the tuned controls
    "data_efficiency": 8,
    "chronic": 9,
    "cross_subject": 6,
    "low_data": 9,
    "timing_ramp": 2,
    "timing_full_trial": 2,
    "cross_species": 6,
}
RANGES = {  # all quantities, with the smallest and the largest plausible value
    "r2": (-0.05, 1),
    "alpha": (1, 6),
    "mean_alpha": (1, 6),
    "mean_alpha_ks": (1, 6),
    "rope_fraction": (0, 1),
    "n_degenerate": (0, 106),
    "n_matrices": (106, 106),
    "n_parameters": (1e7, 2e7),
    "n_training_windows": (100, 5000),
    "condition_number": (1e11, 1e13),
    "effective_rank": (1, 128),
    "participation_ratio": (1, 128),
    "trace": (1e4, 1e5),
    "top1_fraction": (0, 1),
}


def params(entry, *without):
    return {k: v for k, v in entry.params.items() if k not in without}


def test_the_lock_equals_the_declarations_of_the_recipes():
    lock, changes = resolve(LOCK, declared(ROOT))
    assert changes == []
    assert dumps(lock) == (ROOT / "checkpoints.lock").read_text()


def test_declaring_the_recipes_does_not_import_torch():
    code = (
        "import sys; from pathlib import Path; from specdiag.lock.recipe import declared;"
        "assert declared(Path.cwd()); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {"torch", "torch_brain", "lightning", "scipy"} & {*done.stdout.split()} == set()


@pytest.mark.parametrize("entries", [PAPER, DESK], ids=["paper", "desk"])
def test_all_published_entries_are_declared(entries):
    assert sorted(e.name for e in entries.values() if e.group == "published") == sorted(CARD)
    names = [e.name for e in entries.values() if not e.name.endswith("_tuned")]
    sweeps = [n for n in names if n not in CARD and not n.startswith(("transfer/", "base/"))]
    sweeps = [n for n in sweeps if "tuned" not in n]
    assert {s: sum(n.startswith(f"{s}/") for n in sweeps) for s in SETS} == SETS
    assert len(sweeps) == sum(SETS.values())


def test_every_entry_is_declared_at_both_scales_by_one_recipe():
    assert PAPER.keys() == DESK.keys()
    for name, entry in PAPER.items():
        twin = DESK[name]
        assert (entry.recipe, entry.group, entry.kind) == (twin.recipe, twin.group, twin.kind)
        assert (entry.parent and entry.parent.name) == (twin.parent and twin.parent.name)
        declared, on_desk = (dict(e.params.get("transfer", {})) for e in (entry, twin))
        starts = [t.pop("new_embeddings", "") for t in (declared, on_desk)]
        assert starts == (
            ["torch_brain", "parent"] if declared.get("start") == "parent" else ["", ""]
        )
        assert declared == on_desk
        assert entry.params["data"]["train_fraction"] == twin.params["data"]["train_fraction"]


def test_only_published_weights_have_a_source():
    for name, entry in PAPER.items():
        source = entry.source and (entry.source.repo, entry.source.revision, entry.source.file)
        published = ("mhough/poyo-mp-reproduction", "main", f"{name}.ckpt")
        assert source == (published if name in CARD else None)
        assert [i.id for i in entry.inputs] == ["recordings"]
    for entry in DESK.values():
        assert (entry.source, entry.inputs, entry.reported) == (None, (), ())
        assert isinstance(entry.params["simulation"]["seed"], int)
        assert entry.kind == "evaluation" or entry.cost.hardware == "2 CPU cores"


@pytest.mark.parametrize("entry", LOCK.entries, ids=lambda e: f"{e.scale}-{e.name}")
def test_the_params_are_plain_and_consistent(entry):
    assert json.loads(json.dumps(entry.params, allow_nan=False)) == entry.params
    if entry.kind == "evaluation":
        assert entry.parent.name == BASE.name
        return
    training, optimizer = entry.params["training"], entry.params["optimizer"]
    assert ("epochs" in training) != ("steps" in training)
    if "base_lr" in optimizer:
        expected = optimizer["base_lr"] * training["batch"]
        assert optimizer["max_lr"] == pytest.approx(expected, rel=1e-12)
    start = entry.params.get("transfer", {"start": "random"})["start"]
    assert (start == "parent") == (entry.parent is not None)


def test_every_control_has_a_tuned_twin():
    controls = [n for n in PAPER if "scratch" in n and "tuned" not in n]
    assert len(controls) == 2 + 4 + 3 + 1 + 1 + 3
    for name in controls:
        assert name.replace("scratch", "scratch_tuned") in PAPER


@pytest.mark.parametrize("entries", [PAPER, DESK], ids=["paper", "desk"])
def test_a_control_differs_from_its_finetuning_only_in_its_start(entries):
    for name, entry in entries.items():
        if "scratch" in name and "tuned" not in name:
            twin = entries[name.replace("scratch", "pretrained")]
            assert params(entry, "transfer") == params(twin, "transfer")
            assert twin.params["transfer"]["core"] == "frozen"


@pytest.mark.parametrize("entries", [PAPER, DESK], ids=["paper", "desk"])
@pytest.mark.parametrize("stem", ["augmentation/freeze/aug", "low_data/10", "low_data/100"])
def test_entries_of_different_unit_dropout_differ_in_nothing_else(entries, stem):
    levels = [entries[f"{stem}_{level}"] for level in ("off", "standard", "aggressive")]
    for one, other in pairwise(levels):
        assert params(one, "unit_dropout") == params(other, "unit_dropout")
        assert one.params["unit_dropout"] != other.params["unit_dropout"]


def test_the_base_has_the_sessions_of_poyo_mp():
    sessions = BASE.params["data"]["sessions"]
    assert len(sessions) == len(set(sessions)) == 99
    kinds = [re.sub(r"_\d{8}_", "_", s) for s in sessions]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "c_center_out_reaching": 53,
        "j_center_out_reaching": 3,
        "m_center_out_reaching": 22,
        "c_random_target_reaching": 15,
        "m_random_target_reaching": 6,
    }
    held_out = {s for n, e in PAPER.items() if "subject" in n for s in e.params["data"]["sessions"]}
    assert len(held_out) == 3
    assert held_out & {*sessions} == set()


@pytest.mark.parametrize("entries", [PAPER, DESK], ids=["paper", "desk"])
def test_the_chronic_sessions_are_all_in_the_training_of_the_base(entries):
    chronic = [s for e in entries.values() if e.recipe == "chronic" for s in sessions_of(e)]
    assert len(set(chronic)) == 9
    assert {*chronic} <= {*sessions_of(entries[BASE.name])}


def sessions_of(entry):
    return entry.params["data"]["sessions"]


def matrices(model):
    """Yield the shapes of POYO's weight matrices without embeddings and readout.

    In torch_brain 0.2.1 they are: cross-attention into and out of the latents and self-attention in
    between, each followed by a GEGLU feed-forward layer of four times the width, which needs twice
    that for its gate.
    """
    dim, head = model["dim"], model["dim_head"]
    feed_forward = [(8 * dim, dim), (dim, 4 * dim)]
    cross, own = model["cross_heads"] * head, model["self_heads"] * head
    for _ in ("encoder", "decoder"):
        yield from [(cross, dim), (2 * cross, dim), (dim, cross), *feed_forward]
    for _ in range(model["depth"]):
        yield from [(3 * own, dim), (dim, own), *feed_forward]


def n_parameters(model):
    """Return the number of parameters without the embeddings of units and sessions.

    Parameters besides the matrices: the biases of the outputs of attention and of both feed-forward
    layers; the norms of queries, context and feed-forward in a cross layer, of input and
    feed-forward in a self layer; four token types, the latents and the readout.
    """
    dim, depth = model["dim"], model["depth"]
    biases = (2 + depth) * (dim + 8 * dim + dim)
    norms = (2 * 3 + depth * 2) * 2 * dim
    embeddings = (4 + model["num_latents_per_step"]) * dim
    readout = model["dim_out"] * (dim + 1)
    return sum(n * m for n, m in matrices(model)) + biases + norms + embeddings + readout


def test_the_base_has_11_7_million_parameters_besides_its_vocabularies():
    """They are 11,717,378, 0.7 % below the published 11.8 million.

    Each unit and each session adds 128. The publication does not say what its number counts; it
    cannot include the about ten thousand units of the 99 sessions (13 million parameters).
    """
    count = n_parameters(BASE.params["model"])
    assert count == 11_717_378
    published = next(f.value for f in BASE.reported if f.quantity == "n_parameters")
    assert count == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("entries", "number"), [(PAPER, 106), (DESK, 18)], ids=["paper", "desk"])
def test_all_matrices_of_a_base_are_large_enough_to_be_measured(entries, number):
    shapes = list(matrices(entries[BASE.name].params["model"]))
    assert len(shapes) == number
    assert min(min(shape) for shape in shapes) >= 50


@pytest.mark.parametrize("entries", [PAPER, DESK], ids=["paper", "desk"])
def test_poyo_has_the_number_of_parameters_of_the_formula(entries):
    models = pytest.importorskip("torch_brain.models", reason="torch_brain is not installed")
    model = entries[BASE.name].params["model"]
    built = {
        name: tuple(p.shape)
        for name, p in models.POYO(**model).named_parameters()
        if not name.startswith(("unit_emb", "session_emb"))
    }
    assert sum(int(np.prod(shape)) for shape in built.values()) == n_parameters(model)
    inner = [s for n, s in built.items() if len(s) == 2 and "emb" not in n and "readout" not in n]
    assert sorted(inner) == sorted(matrices(model))


def test_every_published_value_has_a_method_and_an_origin():
    for _, reported in REPORTED:
        low, high = RANGES[reported.quantity]
        assert low <= reported.value <= high
        assert reported.method
        for place in reported.origin.split("; "):
            assert re.fullmatch(r"model card, table Checkpoints|\w+\.jsonl?(, [\w. ]+)?", place)


def test_both_published_mean_alphas_of_the_base_are_reported():
    """The core is frozen in the ablation, so its alpha there is that of the base."""
    frozen = PAPER["augmentation/freeze/aug_off"].reported
    means = {
        (f.quantity, f.method.split(":")[0]): f.value
        for f in (*BASE.reported, *frozen)
        if "mean" in f.quantity
    }
    assert means == {
        ("mean_alpha", "bayes_report"): 1.62,
        ("mean_alpha_ks", "alpha_report"): 1.7793363481760025,
    }


def test_the_two_published_r2_of_area2_belong_to_two_runs():
    runs = ("transfer/area2_ft_pretrained", "data_efficiency/pretrained_100")
    one, other = (next(f for f in PAPER[n].reported if f.quantity == "r2") for n in runs)
    assert (one.value, one.method[-9:]) == (0.834, "batch 256")
    assert (other.value, other.method[-7:]) == (0.852389931678772, "batch 8")


def numbers(tree):
    """Yield all numbers in a tree from JSON."""
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from numbers(value)
    elif isinstance(tree, int | float):
        yield tree


WRITTEN = {  # the form of a quantity in the published files, if it differs from ours
    "rope_fraction": lambda value: value * 100,
    "n_parameters": lambda value: value / 1e6,
}


def test_the_reported_values_are_those_of_the_published_files(published):
    for name, reported in REPORTED:
        written = WRITTEN.get(reported.quantity, lambda value: value)(reported.value)
        for place in reported.origin.split("; "):
            file, _, where = place.partition(", ")
            if file == "model card":
                assert f"{written:g}".replace("e+", "e") in card_row(published, name)
            elif file.endswith(".jsonl"):
                row = json.loads((published / file).read_text().splitlines()[int(where[5:]) - 1])
                r2 = "test_r2" if "test_r2" in row else "r2"
                assert row[COLUMNS.get(reported.quantity, r2)] == written
                assert belongs(row, name)
            else:
                content = json.loads((published / file).read_text())
                table = where.split(".")[0]
                assert written in numbers(content[table] if table else content)


def card_row(published, name):
    """Return the row of an entry in the table of the model card; levels have one row together."""
    text = (published.parent / "model_card.txt").read_text()
    stem = re.sub("_(off|standard|aggressive)$", "_{off", name)
    return text[text.index(stem) :].split(".ckpt")[1]


def test_the_card_has_the_rounded_values_of_its_files():
    for name in CARD:
        values = [f.value for f in PAPER[name].reported if f.quantity == "r2"]
        assert max(values) - min(values) <= 0.0005
        assert len(values) == (2 if name.startswith("augmentation") else 1)


COLUMNS = {
    "condition_number": "cond",
    "effective_rank": "eff_rank",
    "participation_ratio": "participation_ratio",
    "trace": "trace",
    "top1_fraction": "top1_frac",
}


def belongs(row, name):
    """Return whether a line of a result file belongs to the entry of this name."""
    words = [row.get("session", "").replace("_center_out_reaching", ""), row.get("level", "")]
    if isinstance(row.get("cond"), str):
        words.append({"ft": "pretrained", "scratch": "scratch"}[row["cond"]])
    if "frac" in row:
        words.append(f"{100 * row['frac']:.0f}")
    return all(re.search(rf"(^|[/_]){word}($|_)", name) for word in words if word)


def test_all_published_results_are_reported(published):
    origins = {place for _, f in REPORTED for place in f.origin.split("; ")}
    for path in published.glob("*.jsonl"):
        for line, text in enumerate(path.read_text().splitlines(), 1):
            measured = {k for k, v in json.loads(text).items() if isinstance(v, float)} - {"frac"}
            here = [f for _, f in REPORTED if f"{path.name}, line {line}" in f.origin]
            assert len(here) == len(measured)
    alphas = {p.name for p in published.glob("alpha*.json")}
    assert alphas <= {place.split(",")[0] for place in origins}
