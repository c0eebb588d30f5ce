"""The claims of this repository, and the way from a lock to a page."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes import _claims
from specdiag.lock.lockfile import load
from specdiag.show import claims as claims_page
from specdiag.transfer import verification
from specdiag.transfer.claims import Figure, judge, needed
from specdiag.transfer.verification import dumps_figures, read_figures, reported
from support import toy
from support.collections_ import collected, row
from support.commands import run
from support.paths import ROOT

LOCK = load(ROOT / "checkpoints.lock")
REPORTED = reported(LOCK)
PAGE = ROOT / "docs" / "claims.md"
FIGURES = ROOT / "benchmarks" / "results" / "claims.csv"
CLAIMS = {claim.text: claim for claim in _claims.CLAIMS}


def published(start):
    (claim,) = [c for text, c in CLAIMS.items() if text.startswith(start)]
    return judge(claim, "desk", REPORTED, []).published.tolist()


@pytest.mark.parametrize("scale", ["desk", "paper"])
def test_claims_ask_for_entries_of_the_lock_at_both_scales(scale):
    assert {entry for entry, _ in needed(CLAIMS.values())} <= {
        e.name for e in LOCK.entries if e.scale == scale
    }


def test_no_claim_is_made_twice():
    assert len(CLAIMS) == len(_claims.CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.text[:40])
def test_a_claim_without_one_of_its_figures_has_no_value(claim):
    asked = needed([claim])
    for lost in asked:
        figures = {key: 0.1 + 0.01 * i for i, key in enumerate(asked) if key != lost}
        ours = [Figure("desk", 42, *key, value, False) for key, value in figures.items()]
        found = judge(claim, "desk", figures, ours)
        assert not np.isfinite(found.published).all()
        assert found.n_seeds == 0


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.text[:40])
def test_a_claim_has_a_label_for_each_of_its_numbers_and_a_published_value_or_none(claim):
    values = judge(claim, "desk", REPORTED, []).published
    assert len(claim.labels) == (len(values) if len(values) > 1 else 0)
    is_ours = claim.note == _claims.NOT_PUBLISHED or {q for _, q in needed([claim])} & {
        "n_changed",
        "above_floor",
    }
    assert np.isnan(values).all() if is_ours else np.isfinite(values).all()


def test_published_figures_are_those_of_card_and_result_files():
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


def test_of_a_figure_that_stands_twice_the_one_with_all_digits_is_taken():
    assert REPORTED["augmentation/finetune_all/augf_off", "condition_number"] == 1122105856165.022
    assert REPORTED["augmentation/freeze/aug_off", "mean_alpha"] == 1.7793363481760025


def test_figures_that_do_not_round_to_each_other_are_refused():
    (entry,) = [e for e in LOCK.entries if e.key == (_claims.BASE, "paper")]
    (first,) = [q for q in entry.reported if q.quantity == "r2"]
    for value, taken in ((0.9, first.value), (0.90412, 0.90412)):
        twice = replace(entry, reported=(first, replace(first, value=value)))
        assert reported(replace(LOCK, entries=(twice,)))[_claims.BASE, "r2"] == taken
    twice = replace(entry, reported=(first, replace(first, value=0.83412)))
    with pytest.raises(ValueError) as error:
        reported(replace(LOCK, entries=(twice,)))
    assert str(error.value) == (
        f"{_claims.BASE} has r2 0.904 and 0.83412 among its reported figures; expected one, or the same one "
        "rounded: take the other out of the lock"
    )


def test_lower_bounds_and_eigenvalues_of_no_sign_are_figures():
    rows = [
        row("a", arm="base", r2=0.5, features={"floor": 1e-3}),
        row("b", arm="base", r2=0.5, features={"floor": 1e-9}),
        row("c", arm="base"),
    ]
    dataset = collected(rows)
    found = verification.quantities(dataset)
    condition = found["condition_number"]
    assert condition[0] == np.inf
    assert condition[1] == dataset.condition_number.values[1]
    assert np.isnan(condition[2])
    dataset.feature_eigenvalue[1, -1] = -1.0
    assert verification.quantities(dataset)["above_floor"][1] == verification.TINY
    assert np.isnan(found["above_floor"][2])


def test_the_sessions_of_the_chronic_evaluation_are_all_in_the_training_of_the_base():
    for scale in ("desk", "paper"):
        (base,) = [e for e in LOCK.entries if e.key == (_claims.BASE, scale)]
        assert set(_claims.CHRONIC_SESSIONS) <= set(base.params["data"]["sessions"])


def test_the_page_is_what_verify_writes_of_the_figures_that_lie_here():
    figures = read_figures(FIGURES)
    findings = verification.findings(ROOT / "checkpoints.lock", figures[0].scale, figures)
    page = claims_page.page(findings, figures, figures[0].scale, _claims.__doc__)
    assert PAGE.read_text() == page


def test_the_figures_that_lie_here_are_those_that_claims_ask_for():
    asked = {*needed(CLAIMS.values())}
    counts = {(entry, n) for entry, _ in asked for n in ("n_fit", "n_degenerate")}
    assert {(f.entry, f.quantity) for f in read_figures(FIGURES)} <= asked | counts


def test_tables_have_no_bar_within_a_cell():
    for claim in CLAIMS.values():
        assert "|" not in claim.text + claim.note + claim.not_at_desk + "".join(claim.labels)


@given(
    st.lists(
        st.builds(
            Figure,
            st.just("desk"),
            st.integers(0, 99),
            st.from_regex(r"[a-z0-9_]+(/[a-z0-9_]+)?", fullmatch=True),
            st.sampled_from(["r2", "mean_alpha"]),
            st.floats(allow_nan=False, allow_infinity=False),
            st.booleans(),
        ),
        min_size=1,
    )
)
def test_figures_are_read_as_they_were_written(tmp_path_factory, figures):
    path = tmp_path_factory.mktemp("figures") / "figures.csv"
    path.write_text(dumps_figures(figures))
    assert read_figures(path) == sorted(figures)


HEADER = "scale,seed,entry,quantity,value,is_published\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEADER,
        "a,b\n1,2\n",
        f"{HEADER}desk,42,a,r2\n",
        f"{HEADER}desk,x,a,r2,0.5,0\n",
        f"{HEADER}desk,42,a,r2,0.5,0\npaper,42,a,r2,0.5,0\n",
        f"{HEADER}attic,42,a,r2,0.5,0\n",
    ],
)
def test_what_is_no_table_of_figures_is_refused(tmp_path, text):
    path = tmp_path / "figures.csv"
    path.write_text(text)
    expected = f"{path} is no table of figures of one scale; expected what `specdiag verify -o figures.csv` wrote"
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_figures(path)


def test_the_claims_of_the_documentation_can_be_judged():
    code = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "lockfile.md").read_text(), re.DOTALL
    )[-1]
    names = {}
    exec(code, names)
    seeds = {42: (0.7, 0.6), 43: (0.75, 0.64), 44: (0.72, 0.61)}
    ours = [
        Figure("desk", seed, entry, "r2", value, False)
        for seed, values in seeds.items()
        for entry, value in zip(("tuned", "base"), values, strict=True)
    ]
    assert [judge(c, "desk", {}, ours).verdict for c in names["CLAIMS"]] == ["direction only"]


TOY_CLAIMS = '''
"""What is said of toys."""

from specdiag.transfer.claims import Claim

CLAIMS = (
    Claim(text="frozen", value=lambda get: get("child/frozen", "n_changed"), holds=(-1, 0.5), is_null=True),
    Claim(text="trained", value=lambda get: get("child/net1", "n_changed")),
    Claim(text="R²", value=lambda get: get("base/net", "r2"), tolerance=0.1),
    Claim(text="fit", value=lambda get: get("child/net1", "n_fit") - get("child/net1", "n_degenerate")),
    Claim(text="alpha", value=lambda get: get("child/net1", "mean_alpha") - 1),
    Claim(text="layer", value=lambda get: get("base/net", "norm")),
    Claim(text="features", value=lambda get: get("base/net", "condition_number")),
    Claim(text="judged", value=lambda get: 1 + get("judged/net", "r2")),
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
    return folder


def test_claims_are_judged_over_the_seeds_beside_a_lock(study):
    status, out, err = run(study, "verify", "--json")
    assert (status, err) == (0, "")
    found = {row["claim"]: row for row in json.loads(out)["claims"]}
    assert found["frozen"] == {
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
    }
    words = {text: (row["verdict"], row["n_seeds"], row["why"]) for text, row in found.items()}
    del words["judged"]
    assert words == {
        "frozen": ("reproduced", 3, ""),
        "trained": ("direction only", 3, ""),
        "R²": ("cannot be tested here", 3, "a number of the published network and recordings"),
        "fit": ("direction only", 3, ""),
        "alpha": ("direction only", 3, ""),
        "layer": ("direction only", 3, ""),
        "features": ("cannot be tested here", 0, "no condition_number of base/net"),
    }
    assert found["trained"]["ours"] == [1.0]
    judged = found["judged"]
    half = (judged["upper"][0] - judged["lower"][0]) / 2
    assert judged["why"] == f"3 seeds that scatter so tell no less than {half:.2g}"


def test_page_and_figures_are_written_and_the_figures_alone_give_the_page(study, tmp_path):
    first, again, table = tmp_path / "a.md", tmp_path / "b.md", tmp_path / "a.csv"
    status, out, err = run(study, "verify", "-o", first, "-o", table)
    assert (status, err) == (0, f"wrote {first}\nwrote {table}\n")
    assert out.splitlines()[:2] == [
        "reproduced             frozen (holds from -1 to 0.5)",
        "                       published -; ours 0 (0 to 0); 3 seeds",
    ]
    assert out.splitlines()[-1] == (
        "Of 8 claims: 1 reproduced, 4 direction only, 1 undecided, 2 cannot be tested here"
    )
    text = first.read_text()
    assert "What is said of toys." in text
    assert "This page is of **desk scale**, seeds 42, 43, 44." in text
    assert "| R² | 0.5 ± 0.1 |" in text
    assert "| child/net1 | 1 | 0 |" in text
    assert {f.seed for f in read_figures(table)} == {42, 43, 44}
    assert run(study, "verify", table, "-o", again)[1] == out
    assert again.read_text() == text


UNKNOWN = (
    "a claim asks for 'fits'; expected one of r2, effective_rank, participation_ratio, top1_fraction, "
    "trace, n_fit, n_degenerate, n_matrices, condition_number, above_floor, mean_alpha, rope_fraction, "
    "norm, or n_changed; or let measures() in recipes/_claims.py return it"
)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (None, "no recipe recipes/_claims.py beside the lock; write it there"),
        (
            "CLAIMS = (1,)",
            "recipes/_claims.py: CLAIMS is no sequence of specdiag.transfer.claims.Claim; declare them there",
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
def test_claims_that_cannot_be_judged_are_refused(study, claims, expected):
    file = study / "recipes" / "_claims.py"
    file.unlink() if claims is None else file.write_text(claims)
    status, out, err = run(study, "verify")
    file.write_text(TOY_CLAIMS)
    assert (status, out, err) == (1, "", f"specdiag: {expected}\n")


def test_an_output_is_a_page_or_a_table(study):
    status, _, err = run(study, "verify", "-o", "page.html")
    assert status == 2
    assert "-o page.html: expected a name that ends in .md or .csv" in err


def test_a_lock_without_training_has_nothing_to_verify(tmp_path):
    make_study(tmp_path)
    assert run(tmp_path, "lock", "--init")[0] == 0
    status, _, err = run(tmp_path, "verify")
    assert status == 1
    assert err.startswith("specdiag: none of the 4 entries has a checkpoint with spectra;")
