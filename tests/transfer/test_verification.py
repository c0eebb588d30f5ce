"""The claims of this repository, and those of any lock, decided on a collection."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import specdiag
from benchmarks import claims as benchmark
from recipes import _claims
from specdiag.lock.lockfile import load
from specdiag.transfer import verification
from specdiag.transfer.claims import Claim, Measured, decide_claim, needed
from specdiag.transfer.verification import measure_for_lock, reported, verify
from support import toy
from support.collections_ import collected, row
from support.commands import run_forked as run
from support.paths import ROOT

LOCK = load(ROOT / "checkpoints.lock")
REPORTED = reported(LOCK)
NOTHING = Measured(scale="desk")
CLAIMS = {claim.text: claim for claim in _claims.CLAIMS}


def published(start):
    (claim,) = [c for text, c in CLAIMS.items() if text.startswith(start)]
    return decide_claim(claim, REPORTED, NOTHING).published.tolist()


@pytest.mark.parametrize("scale", ["desk", "paper"])
def test_claims_ask_for_entries_of_the_lock_at_both_scales(scale):
    assert {entry for entry, _ in needed(CLAIMS.values())} <= {
        e.name for e in LOCK.entries if e.scale == scale
    }


def test_no_claim_is_made_twice():
    assert len(CLAIMS) == len(_claims.CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.text[:40])
def test_a_claim_without_one_of_its_values_has_no_number(claim):
    asked = needed([claim])
    for lost in asked:
        values = {key: 0.1 + 0.01 * i for i, key in enumerate(asked) if key != lost}
        finding = decide_claim(claim, values, Measured(scale="desk", trained={42: values}))
        assert not np.isfinite(finding.published).all()
        assert finding.n_seeds == 0


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.text[:40])
def test_a_claim_has_a_label_for_each_of_its_numbers_and_a_published_value_or_none(claim):
    values = decide_claim(claim, REPORTED, NOTHING).published
    assert len(claim.labels) == (len(values) if len(values) > 1 else 0)
    is_ours = claim.note == _claims.NOT_PUBLISHED or {q for _, q in needed([claim])} & {
        "n_changed",
        "above_floor",
    }
    assert np.isnan(values).all() if is_ours else np.isfinite(values).all()


def test_published_values_are_those_of_card_and_result_files():
    assert published("The base decodes") == [0.904]
    assert published("The motor core helps another motor area: R² less that of scratch") == [
        pytest.approx(0.834 - 0.313)
    ]
    assert published("Plastic core: UnitDropout lowers") == [pytest.approx(2.6, abs=0.05)]
    assert published("UnitDropout helps at 10 %") == [pytest.approx(0.13, abs=0.005)]
    assert published("One set of weights") == [
        pytest.approx(0.865, abs=5e-4),
        pytest.approx(0.967, abs=5e-4),
    ]
    assert published("Most matrices") == [98 / 106 - 0.5]


def test_of_a_value_that_is_reported_twice_the_one_with_all_digits_is_taken():
    assert REPORTED["augmentation/finetune_all/augf_off", "condition_number"] == 1122105856165.022
    assert REPORTED["augmentation/freeze/aug_off", "mean_alpha_ks"] == 1.7793363481760025


def test_values_that_do_not_round_to_each_other_are_refused():
    (entry,) = [e for e in LOCK.entries if e.key == (_claims.BASE, "paper")]
    (first,) = [q for q in entry.reported if q.quantity == "r2"]
    for value, taken in ((0.9, first.value), (0.90412, 0.90412)):
        twice = replace(entry, reported=(first, replace(first, value=value)))
        assert reported(replace(LOCK, entries=(twice,)))[_claims.BASE, "r2"] == taken
    twice = replace(entry, reported=(first, replace(first, value=0.83412)))
    with pytest.raises(ValueError) as error:
        reported(replace(LOCK, entries=(twice,)))
    assert str(error.value) == (
        f"{_claims.BASE} has r2 0.904 and 0.83412 among its reported values; expected one, or the "
        "same one rounded: remove the other from the lock"
    )


def test_lower_bounds_and_eigenvalues_below_the_floor_have_values():
    rows = [
        row("a", arm="base", r2=0.5, features={"floor": 1e-3}),
        row("b", arm="base", r2=0.5, features={"floor": 1e-9}),
        row("c", arm="base"),
    ]
    dataset = collected(rows)
    columns = verification.quantities(dataset)
    condition = columns["condition_number"]
    assert condition[0] == np.inf
    assert condition[1] == dataset.condition_number.values[1]
    assert np.isnan(condition[2])
    for below in (-1.0, 0.0, 0.9e-9):
        dataset.feature_eigenvalue[1, -1] = below
        assert verification.quantities(dataset)["above_floor"][1] == 1
    assert np.isnan(columns["above_floor"][2])


def test_the_sessions_of_the_chronic_evaluation_are_all_in_the_training_of_the_base():
    for scale in ("desk", "paper"):
        (base,) = [e for e in LOCK.entries if e.key == (_claims.BASE, scale)]
        assert set(_claims.CHRONIC_SESSIONS) <= set(base.params["data"]["sessions"])


def test_the_stored_values_are_those_that_claims_ask_for():
    asked = {*needed(CLAIMS.values())}
    counts = {(entry, n) for entry, _ in asked for n in ("n_meaningful", "n_fit", "n_degenerate")}
    stored = benchmark.read_values(benchmark.RESULTS)
    assert {key for values in stored.trained.values() for key in values} <= asked | counts
    assert benchmark.as_csv(stored) == benchmark.RESULTS.read_text()


def test_tables_have_no_bar_within_a_cell():
    for claim in CLAIMS.values():
        assert "|" not in claim.text + claim.note + claim.not_at_desk + "".join(claim.labels)


keys = st.tuples(
    st.sampled_from(["base/poyo_mp", "a", "chronic/c_20131003", "low_data/10_off"]),
    st.sampled_from(["r2", "mean_alpha"]),
)
by_seed = st.dictionaries(
    st.integers(0, 99),
    st.dictionaries(keys, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
    max_size=4,
)


@given(by_seed, by_seed)
def test_values_are_read_as_they_were_written(tmp_path_factory, trained, fetched):
    assume(trained or fetched)
    path = tmp_path_factory.getbasetemp() / "values.csv"
    measured = Measured(scale="desk", trained=trained, fetched=fetched)
    path.write_text(benchmark.as_csv(measured))
    assert benchmark.read_values(path) == measured


def test_the_claims_of_the_documentation_can_be_decided():
    code = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "lockfile.md").read_text(), re.DOTALL
    )[-1]
    names = {}
    exec(code, names)
    seeds = {42: (0.7, 0.6), 43: (0.75, 0.64), 44: (0.72, 0.61)}
    trained = {
        seed: {(entry, "r2"): value for entry, value in zip(("tuned", "base"), values, strict=True)}
        for seed, values in seeds.items()
    }
    measured = Measured(scale="desk", trained=trained)
    assert [decide_claim(c, {}, measured).outcome for c in names["CLAIMS"]] == ["direction only"]


TOY_CLAIMS = '''
"""Claims about toys."""

from specdiag.transfer.claims import Claim

CLAIMS = (
    Claim(text="frozen", value=lambda get: get("child/frozen", "n_changed"), holds=(-1, 0.5),
    is_null=True), Claim(text="trained", value=lambda get: get("child/net1", "n_changed")),
    Claim(text="R²", value=lambda get: get("base/net", "r2"), tolerance=0.1), Claim(text="fit",
    value=lambda get: get("child/net1", "n_fit") - get("child/net1", "n_degenerate")),
    Claim(text="alpha", value=lambda get: get("child/net1", "mean_alpha") - 1), Claim(text="layer",
    value=lambda get: get("base/net", "norm")), Claim(text="features", value=lambda get:
    get("base/net", "condition_number")), Claim(text="judged", value=lambda get: 1 +
    get("judged/net", "r2")),
)


def measures(dataset):
    return {"norm": dataset.spectral_norm.sel(layer="weight").values}
'''


def make_study(folder):
    lock = toy.make(folder, children=2)
    recipe = folder / "recipes" / "toy.py"
    text = recipe.read_text().replace('"steps": 3, ', '"steps": 3, "training": {"seed": 42}, ')
    text = text.replace('[job.params["seed"], step]', '[job.params["training"]["seed"], step]')
    frozen = '    yield entry("child/frozen", "base/net", steps=0)\n'
    text = text.replace('    yield entry("judged', f'{frozen}    yield entry("judged')
    recipe.write_text(text)
    (folder / "recipes" / "_claims.py").write_text(TOY_CLAIMS)
    return lock


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make_study(folder)
    assert run(folder, "lock", "--init")[0] == 0
    assert run(folder, "train", "--missing")[0] == 0
    for seed in (43, 44):
        status, _, err = run(folder, "train", "--missing", "--seed", seed)
        assert status == 0, err
    locks = ("checkpoints.lock", "checkpoints.seed-43.lock", "checkpoints.seed-44.lock")
    options = [option for lock in locks for option in ("--lock", lock)]
    assert run(folder, "spectra", *options, "-o", "spectra.nc")[0] == 0
    return folder


def test_claims_are_decided_over_the_seeds_of_a_collection(study):
    status, out, err = run(study, "verify", "spectra.nc", "--json")
    assert (status, err) == (0, "")
    rows = {row["claim"]: row for row in json.loads(out)["claims"]}
    assert rows["frozen"] == {
        "claim": "frozen",
        "labels": [],
        "published": [None],
        "ours": [0.0],
        "lower": [0.0],
        "upper": [0.0],
        "n_seeds": 3,
        "verdict": "reproduced",
        "why": "",
        "note": "",
        "shown": ["frozen (holds from -1 to 0.5)", "-", "0 (0 to 0)", "3", "reproduced", ""],
    }
    words = {text: (row["verdict"], row["n_seeds"], row["why"]) for text, row in rows.items()}
    del words["judged"]
    assert words == {
        "frozen": ("reproduced", 3, ""),
        "trained": ("direction only", 3, ""),
        "R²": ("cannot be tested here", 3, "a number of the published network and recordings"),
        "fit": ("direction only", 3, ""),
        # A network of one layer has no mean of alpha.
        "alpha": ("cannot be tested here", 0, "no mean_alpha of child/net1"),
        "layer": ("direction only", 3, ""),
        "features": ("cannot be tested here", 0, "no condition_number of base/net"),
    }
    assert rows["trained"]["ours"] == [1.0]
    judged = rows["judged"]
    half = (judged["upper"][0] - judged["lower"][0]) / 2
    assert judged["why"] == f"3 seeds with this scatter can only show effects of {half:.2g} or more"


def test_no_checkpoint_is_needed_to_verify_a_collection(study, tmp_path):
    for name in ("checkpoints.lock", "spectra.nc"):
        shutil.copy(study / name, tmp_path)
    shutil.copytree(study / "recipes", tmp_path / "recipes")
    expected = run(study, "verify", "spectra.nc", "--json")
    assert run(tmp_path, "verify", "spectra.nc", "--json") == expected


def test_the_tables_are_written_as_markdown(study, tmp_path):
    file = tmp_path / "a.md"
    status, out, err = run(study, "verify", "spectra.nc", "-o", file)
    assert (status, err) == (0, f"wrote {file}\n")
    assert out.splitlines()[:2] == [
        "reproduced             frozen (holds from -1 to 0.5)",
        "                       published -; ours 0 (0 to 0); 3 seeds",
    ]
    assert out.splitlines()[-1] == (
        "Of 8 claims: 1 reproduced, 3 direction only, 1 undecided, 3 cannot be tested here"
    )
    text = file.read_text()
    assert text.startswith(
        "<!-- written by specdiag -->\n\nDesk scale, seeds 42, 43, 44. Of 8 claims: 1 reproduced, "
        "3 direction only, 1 undecided, 3 cannot be tested here. 2 claims without enough values or "
        "seeds. 5 claims could be tested: if none of them had any effect, 0.3 wrong outcomes would "
        "be expected.\n\n| claim |"
    )
    assert "| R² | 0.5 ± 0.1 |" in text
    assert "| checkpoint | in means of alpha | fit | degenerate |" in text
    assert re.search(r"\| child/net1 \| [\d.]+ \| 1 \| 0 \|", text)


def test_the_report_has_the_claims_that_verify_printed(study, tmp_path):
    page, file = tmp_path / "page.html", tmp_path / "claims.json"
    file.write_text(run(study, "verify", "spectra.nc", "--json")[1])
    status, _, err = run(study, "report", "spectra.nc", "--claims", file, "-o", page)
    assert status == 0, err
    assert "Of 8 claims: 1 reproduced, 3 direction only" in page.read_text()


def gain(get):
    return get("tuned", "r2") - get("base", "r2")


def two_trainings(**more):
    r2s = {"base": (0.6, 0.62, 0.61), "tuned": (0.7, 0.75, 0.72)}
    return collected(
        [
            row(entry, arm="base", r2=r2, seed=seed, **more)
            for entry, values in r2s.items()
            for seed, r2 in enumerate(values, 42)
        ]
    )


def test_verify_takes_a_dataset_and_claims():
    claims = [
        Claim(text="Tuning helps", value=gain),
        Claim(text="norm", value=lambda get: get("base", "norm")),
    ]
    findings = verify(
        two_trainings(),
        claims,
        published={("tuned", "r2"): 0.9, ("base", "r2"): 0.8},
        measures=lambda dataset: {"norm": dataset.spectral_norm.mean("layer").values},
    )
    assert [f.outcome for f in findings] == ["direction only", "direction only"]
    assert [f.n_seeds for f in findings] == [3, 3]
    assert findings[0].published == pytest.approx([0.1])
    assert findings[0].ours == pytest.approx([0.34 / 3])


def test_checkpoints_that_were_fetched_need_no_seeds():
    dataset = two_trainings().isel(checkpoint=[0, 3])
    claim = Claim(text="Tuning helps", value=gain)
    assert verify(dataset, [claim])[0].outcome == "cannot be tested here"
    dataset["how"] = ("checkpoint", ["fetched", "fetched"])
    assert verify(dataset, [claim])[0].outcome == "direction only"


def test_a_collection_of_no_or_both_scales_or_of_the_first_version_is_refused():
    dataset = two_trainings()
    both = dataset.assign_coords(scale=("checkpoint", ["desk"] * 3 + ["paper"] * 3))
    for one, wrong in (
        (
            both,
            (
                "the dataset has checkpoints of desk and paper scale; claims are decided at one "
                "scale: select its checkpoints (--scale)"
            ),
        ),
        (
            dataset.isel(checkpoint=[]),
            (
                "the dataset has checkpoints of no scale; claims are decided at one scale: select "
                "its checkpoints (--scale)"
            ),
        ),
        (
            dataset.drop_vars(["how", "n_changed"]),
            (
                "the dataset has no how, n_changed: expected a collection of checkpoints with "
                "their R2, as `specdiag spectra` writes it"
            ),
        ),
    ):
        with pytest.raises(ValueError) as error:
            verify(one, [Claim(text="", value=gain)])
        assert str(error.value) == wrong


def test_a_scale_of_which_there_are_no_checkpoints_is_refused(study):
    assert run(study, "verify", "spectra.nc", "--scale", "paper") == (
        1,
        "",
        "specdiag: spectra.nc has no checkpoints of paper scale; it has desk\n",
    )


def test_the_command_selects_a_scale(study, tmp_path):
    with specdiag.open_spectra(study / "spectra.nc") as opened:
        dataset = opened.load()
    scales = dataset.scale.values.astype(object)
    scales[-1] = "paper"
    both = tmp_path / "both.nc"
    specdiag.save_spectra(dataset.assign_coords(scale=("checkpoint", scales)), both)
    status, _, err = run(study, "verify", both)
    assert (status, err.split(";")[0]) == (
        1,
        "specdiag: the dataset has checkpoints of desk and paper scale",
    )
    status, out, err = run(study, "verify", both, "--scale", "desk", "--json")
    assert (status, err, json.loads(out)["scale"]) == (0, "", "desk")


IMPORT = "from specdiag.transfer.claims import Claim\n"
UNKNOWN = (
    "a claim asks for 'fits'; expected one of r2, effective_rank, participation_ratio, "
    "top1_fraction, trace, n_meaningful, n_fit, n_degenerate, n_matrices, condition_number, "
    "above_floor, mean_alpha, mean_alpha_ks, rope_fraction, n_changed, norm; or let measures() in "
    "recipes/_claims.py return it"
)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (None, "no claims: recipes/_claims.py is missing; docs/lockfile.md shows how to write it"),
        (
            f"{IMPORT}CLAIMS = (Claim(text='t', value=lambda get: 1 / 0),)",
            "recipes/_claims.py:2: claim 't': ZeroDivisionError: division by zero",
        ),
        (
            "CLAIMS = (1,)",
            (
                "recipes/_claims.py: CLAIMS must be a sequence of specdiag.transfer.claims.Claim; "
                "declare them there"
            ),
        ),
        (
            TOY_CLAIMS.replace('"n_fit"', '"fits"'),
            UNKNOWN,
        ),
        (
            TOY_CLAIMS.replace("base/net", "base/nets"),
            "no entry base/nets at desk scale; did you mean base/net or judged/net?",
        ),
    ],
)
def test_claims_that_cannot_be_decided_are_refused(study, claims, expected):
    file = study / "recipes" / "_claims.py"
    file.unlink() if claims is None else file.write_text(claims)
    try:
        status, out, err = run(study, "verify", "spectra.nc")
    finally:
        file.write_text(TOY_CLAIMS)  # for the tests that follow
    assert (status, out, err) == (1, "", f"specdiag: {expected}\n")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("value=lambda get: exit(3)", ":2: claim 't': SystemExit: 3"),
        ("value=lambda get: [get('base', 'r2'), 10**400]", ": claim 't': OverflowError: int too "),
        ("value=lambda get: {}", ": claim 't': TypeError: float() argument must be a string or "),
        ("value=lambda get: None", ": claim 't': its value is None; expected one or more numbers"),
        ("value=lambda get: []", ": claim 't': its value is []; expected one or more numbers"),
        ("value=3", ":2: claim 't': invalid value; expected a function"),
        ("value=abs, holds=5", ":2: claim 't': invalid holds; expected two numbers"),
        ("value=abs, holds=('a', 1)", ":2: claim 't': invalid holds; expected two numbers"),
        ("value=abs, tolerance='a'", ":2: claim 't': invalid tolerance; expected a number"),
        ("value=abs, labels='a'", ":2: claim 't': invalid labels; expected a tuple of texts"),
        ("value=abs, note=1", ":2: claim 't': invalid text, not_at_desk, note or labels; "),
    ],
)
def test_a_mistake_in_a_claim_is_an_error_of_one_line(fields, expected, tmp_path):
    assert_refused(tmp_path, f"CLAIMS = [Claim(text='t', {fields})]", expected)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("5", ": measures(): AttributeError: 'int' object has no attribute 'items'"),
        ("{}['x']", ":3: measures(): KeyError: 'x'"),
        ("{'x': 1}", ": measures(): x has the shape (); expected a number for each of 6 check"),
    ],
)
def test_a_mistake_in_measures_is_an_error_of_one_line(result, expected, tmp_path):
    text = f"CLAIMS = [Claim(text='t', value=abs)]\ndef measures(dataset): return {result}\n"
    assert_refused(tmp_path, text, expected)


def test_claims_that_are_no_sequence_are_refused(tmp_path):
    assert_refused(tmp_path, "CLAIMS = 3", ": CLAIMS must be a sequence of specdiag.transfer.")


def assert_refused(folder, claims, expected):
    (folder / "recipes").mkdir()
    (folder / "recipes" / "_claims.py").write_text(f"{IMPORT}{claims}\n")
    with pytest.raises(RuntimeError) as error:
        measure_for_lock(folder / "checkpoints.lock", two_trainings())
    assert str(error.value).startswith(f"recipes/_claims.py{expected}")


def test_the_output_is_markdown(study):
    status, _, err = run(study, "verify", "spectra.nc", "-o", "page.html")
    assert status == 2
    assert "-o page.html: expected a name that ends in .md" in err
