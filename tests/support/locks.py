"""Valid locks for tests: one small example, and a hypothesis strategy for any."""

import pytest
from hypothesis import strategies as st

from specdiag.lock.entry import (
    Cost,
    Entry,
    FileRecord,
    Input,
    Lock,
    Metric,
    Parent,
    Reported,
    Source,
)
from specdiag.lock.fields import LockfileError

A, B, C = "a" * 64, "b" * 64, "c" * 64

BASE = Entry(
    name="base/poyo",
    scale="desk",
    group="published",
    recipe="poyo_mp",
    params={"model": {"dim": 64, "dropout": 0.2}, "sessions": ["c_1", "m_2"], "compile": False},
    inputs=(
        Input(id="recordings", brainset="perich_miller_population_2018", version="1.0.0"),
        Input(id="split", path="data/split.json", sha256=A, size=120),
    ),
    source=Source(
        repo="owner/poyo", revision="main", file="base/poyo.ckpt", commit="d" * 40, sha256=B
    ),
    file=FileRecord(sha256=B, size=47_000_000, tensors=C),
    metrics={"r2": Metric(value=0.904, atol=0.01)},
    reported=(
        Reported(quantity="r2", value=0.904, method="reach period", origin="model card"),
        Reported(
            quantity="degenerate",
            value=[98, 106],
            method="eigenvalues above the rank gate: at least 50, of all two-dimensional matrices",
            origin="model card",
        ),
    ),
    cost=Cost(seconds=32400.0, hardware="8 x H100"),
    environment={"device": "cuda", "threads": 1, "torch": "2.13.0"},
)
FINETUNED = Entry(
    name="transfer/area2",
    scale="desk",
    group="published",
    recipe="transfer",
    parent=Parent(name="base/poyo", sha256=B),
)
EVALUATION = Entry(
    name="chronic",
    scale="desk",
    group="sweeps",
    kind="evaluation",
    recipe="chronic",
    parent=Parent(name="base/poyo"),
)
EXAMPLE = Lock(entries=(BASE, EVALUATION, FINETUNED))

REPAIR = "correct it, or write the entry again with `specdiag lock`"


def message(action, *arguments):
    with pytest.raises(LockfileError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbered(n, parent=None, **fields):
    defaults = {"name": f"e{n}", "scale": "desk", "group": "g", "recipe": "r"}
    return Entry(**defaults | fields, parent=parent and Parent(name=f"e{parent}"))


unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
lines = st.text("abc XYZ019_-+é'\"#[]", min_size=1, max_size=8).filter(str.strip)
words = st.text("abcXYZ019_-é", min_size=1, max_size=4)
paths = st.lists(words, min_size=1, max_size=3).map("/".join)
sizes = st.integers(0, 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**63), 2**63 - 1)
scalars = unicode | integers | floats | st.booleans()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(unicode, inner, max_size=3),
    max_leaves=6,
)


def hexadecimal(digits):
    return st.integers(0, 16**digits - 1).map(lambda number: f"{number:0{digits}x}")


sha256 = hexadecimal(64)
urls = st.sampled_from(
    ["https://example.org/a.h5?x=1", "file:///data/a", "http://127.0.0.1:80/a", "http://[::1]/a"]
)
optional = {"sha256": st.none() | sha256, "size": st.none() | sizes}
inputs = (
    st.builds(Input, id=lines, path=paths, **optional)
    | st.builds(Input, id=lines, url=urls, **optional)
    | st.builds(Input, id=lines, brainset=lines, version=lines, **optional)
)
sources = st.builds(Source, url=urls, **optional) | st.builds(
    Source,
    repo=st.just("owner/name.1"),
    revision=lines,
    file=paths,
    commit=st.none() | hexadecimal(40),
    **optional,
)
files = st.just(FileRecord()) | st.builds(FileRecord, sha256=sha256, size=sizes, tensors=sha256)
amounts = st.floats(0, 1e300)
metrics = st.dictionaries(unicode, st.builds(Metric, value=floats, atol=amounts), max_size=2)
reported = st.builds(
    Reported,
    quantity=lines,
    value=integers | floats | st.lists(integers | floats, max_size=3),
    method=lines,
    origin=lines,
)


@st.composite
def entries(draw, name, scale, parents=()):
    """An entry that may be the child of one of `parents`; the only one with its path."""
    parent = draw(
        st.none() | st.builds(Parent, name=st.sampled_from(parents), sha256=st.none() | sha256)
        if parents
        else st.none()
    )
    evaluation = parent is not None and draw(st.booleans())
    file = draw(files)
    if draw(st.booleans()):
        file = FileRecord(**{**vars(file), "path": f"elsewhere/{scale}/{name}.ckpt"})
    return Entry(
        name=name,
        scale=scale,
        group=draw(lines),
        kind="evaluation" if evaluation else "checkpoint",
        recipe=draw(st.sampled_from(["poyo_mp", "Transfer2", "a"])),
        params=draw(st.dictionaries(unicode, values, max_size=3)),
        parent=parent,
        inputs=tuple(draw(st.lists(inputs, max_size=2, unique_by=lambda item: item.id))),
        source=None if evaluation else draw(st.none() | sources),
        file=FileRecord(path=file.path) if evaluation else file,
        metrics=draw(metrics),
        reported=tuple(draw(st.lists(reported, max_size=2))),
        cost=draw(st.none() | st.builds(Cost, seconds=amounts, hardware=lines)),
        environment=draw(st.dictionaries(unicode, scalars, max_size=2)),
    )


@st.composite
def locks(draw, min_size=0, max_size=4):
    """A valid lock, its entries in any order."""
    names = st.tuples(paths, st.sampled_from(["desk", "paper"]))
    keys = draw(
        st.lists(
            names,
            min_size=min_size,
            max_size=max_size,
            unique_by=lambda key: (key[0].casefold(), key[1]),
        )
    )
    made = []
    for name, scale in keys:
        parents = [e.name for e in made if e.scale == scale and e.kind == "checkpoint"]
        made.append(draw(entries(name, scale, parents)))
    return Lock(entries=tuple(draw(st.permutations(made))))
