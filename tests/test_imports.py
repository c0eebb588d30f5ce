"""Who may import whom, read from the source of every module."""

import ast
import subprocess
import sys

import pytest

from support.paths import ROOT

PACKAGE = ROOT / "specdiag"
RECIPES = PACKAGE.parent / "recipes"
NUMERICS = {"numpy", "scipy", "ml_dtypes"}

READERS = {"checkpoint", *(p.stem for p in PACKAGE.glob("_*.py"))} - {"__init__"}

# What a module may import besides the standard library, anywhere in its body.
ALLOWED = {
    "__init__": set(),
    **{name: {"numpy", "ml_dtypes", *(f"specdiag.{r}" for r in READERS)} for name in READERS},
    "exports": {"specdiag.checkpoint", "specdiag._files", "specdiag._safetensors"},
    "esd": NUMERICS,
    "tail": {*NUMERICS, "specdiag._html"},
    "posterior": {*NUMERICS, "specdiag._html", "specdiag.tail"},
    "gof": {*NUMERICS, "specdiag.posterior", "specdiag.tail"},
    "published": {*NUMERICS, "specdiag.posterior", "specdiag.tail"},
    "null": {*NUMERICS, "platformdirs", "specdiag._files", "specdiag.esd", "specdiag.posterior"},
    "feature_spectrum": {*NUMERICS, "specdiag._html"},
    "covariance": {"numpy", "torch", "specdiag.feature_spectrum"},
    "layers": {
        *("numpy", "threadpoolctl", "specdiag.checkpoint", "specdiag.esd", "specdiag.tail"),
        *("specdiag.posterior", "specdiag.gof", "specdiag.null", "specdiag.published"),
    },
    "paired": {*NUMERICS, "specdiag.esd", "specdiag.posterior"},
    "pairs": {
        *("numpy", "specdiag.checkpoint", "specdiag.esd", "specdiag.layers", "specdiag.paired"),
        "specdiag.posterior",
    },
    "conclusion": {
        *("numpy", "specdiag.layers", "specdiag.paired", "specdiag.pairs", "specdiag.verdict"),
    },
    "comparison": {
        *("specdiag.checkpoint", "specdiag.conclusion", "specdiag.layers", "specdiag.pairs"),
        *("specdiag.schema", "specdiag.spectra", "specdiag.verdict"),
    },
    "verdict": {
        *("numpy", "scipy", "specdiag.layers", "specdiag.null", "specdiag.posterior"),
    },
    "_typed": {"specdiag._files"},
    "_entry": {"specdiag._typed"},
    "lockfile": {
        *("tomli_w", "filelock", "specdiag._files", "specdiag._entry", "specdiag._typed"),
    },
    "recipe": {"specdiag.lockfile", "specdiag._typed"},
    "store": {"specdiag.lockfile", "specdiag._typed", "specdiag._files"},
    "plan": {"specdiag.lockfile", "specdiag.recipe", "specdiag.store"},
    "work": {
        *("filelock", "specdiag._files", "specdiag.checkpoint", "specdiag.fetch"),
        *("specdiag.lockfile", "specdiag.plan", "specdiag.recipe", "specdiag.store"),
        "specdiag.spectra",
    },
    "factors": {"specdiag.lockfile"},
    "evaluation": {"specdiag._files", "specdiag.schema"},
    "collection": {
        *("numpy", "xarray", "h5py", "specdiag._files", "specdiag.evaluation", "specdiag.factors"),
        *("specdiag.gof", "specdiag.lockfile", "specdiag.schema", "specdiag.spectra"),
        *("specdiag.store", "specdiag.work"),
    },
    "engine": {"ray", "specdiag._files", "specdiag.lockfile", "specdiag.plan", "specdiag.work"},
    "listing": {
        *(
            "specdiag._files",
            "specdiag.lockfile",
            "specdiag.store",
            "specdiag.plan",
            "specdiag.work",
        ),
    },
    "download": {"httpx2", "specdiag._files"},
    "fetch": {"httpx2", "huggingface_hub", "specdiag._files", "specdiag.download"},
    "rank_correlation": NUMERICS,
    "links": {
        *("numpy", "xarray", "specdiag.rank_correlation", "specdiag.schema", "specdiag.spectra"),
    },
    "link_tables": {"specdiag._files", "specdiag.links", "specdiag.tables"},
    "monitor": {
        *("numpy", "lightning", "specdiag._files", "specdiag.checkpoint", "specdiag.esd"),
        *("specdiag.layers", "specdiag.posterior"),
    },
    "report": {"numpy", "jinja2", "markupsafe", "specdiag.figures", "specdiag.verdict"},
    "schema": {"specdiag.gof", "specdiag.layers"},
    "claims": NUMERICS,
    "claims_page": {"specdiag._files", "specdiag.claims"},
    "verification": {
        *("numpy", "xarray", "specdiag.checkpoint", "specdiag.claims", "specdiag.collection"),
        *("specdiag.factors", "specdiag.lockfile", "specdiag.recipe", "specdiag.store"),
    },
    "spectra": {
        "specdiag._files",
        "specdiag.schema",
        *("numpy", "xarray", "specdiag.checkpoint", "specdiag.layers", "specdiag.verdict"),
        *("specdiag.gof", "specdiag.null", "specdiag.published"),  # names of their choices
    },
}
# What recipes may import: they build checkpoints, and leave commands, stores and figures to specdiag.
FOR_RECIPES = {
    *("numpy", "scipy", "h5py", "torch", "torch_brain", "lightning", "tqdm", "recipes"),
    *("specdiag.checkpoint", "specdiag.covariance", "specdiag.lockfile", "specdiag.recipe"),
    *("specdiag.feature_spectrum", "specdiag.monitor", "specdiag._files", "specdiag.claims"),
}
# Pipelines run without specdiag, in an environment that has torch_brain, what that needs, and dandi.
FOR_PIPELINES = {"h5py", "numpy", "pandas", "pynwb", "ray", "torch_brain", "nlb"}
LAZY = {"_lamb"}  # itself imported only inside functions
HEAVY = {
    "torch",
    "torch_brain",
    "lightning",
    "weightwatcher",
    "matplotlib",
    "ray",
    "pandas",
    "xarray",
    "scipy",
    "huggingface_hub",
    "httpx2",
    "jinja2",
    "markupsafe",
}


def imports(node):
    """Yield what a tree imports when it runs: what only type checkers see does not count."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module == "specdiag":
        yield from (f"specdiag.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def outside_standard_library(names):
    return {n for n in names if n.split(".")[0] not in sys.stdlib_module_names}


def extra_imports(path, allowed):
    found = outside_standard_library(imports(ast.parse(path.read_text())))
    return {n for n in found if not any(n == a or n.startswith(f"{a}.") for a in allowed)}


@pytest.mark.parametrize("module", ALLOWED)
def test_a_module_imports_only_what_lies_below_it(module):
    assert extra_imports(PACKAGE / f"{module}.py", ALLOWED[module]) == set()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda p: p.stem)
def test_a_recipe_imports_no_command_store_or_figure(path):
    assert extra_imports(path, FOR_RECIPES) == set()


@pytest.mark.parametrize(
    "path", sorted((RECIPES / "pipelines").rglob("*.py")), ids=lambda p: p.parent.name
)
def test_a_pipeline_imports_only_what_its_environment_has(path):
    assert extra_imports(path, FOR_PIPELINES) == set()


@pytest.mark.parametrize(
    "path",
    [p for p in [*PACKAGE.rglob("*.py"), *sorted(RECIPES.glob("*.py"))] if p.stem not in LAZY],
    ids=lambda p: p.stem,
)
def test_heavy_libraries_are_imported_only_inside_functions(path):
    tree = ast.parse(path.read_text())
    at_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {n.split(".")[0] for node in at_top for n in imports(node)}
    assert found & HEAVY == set()


def loaded_by(code):
    script = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_the_command_line_starts_without_anything_heavy():
    assert loaded_by("import specdiag.cli") & (HEAVY | {"numpy"}) == set()


def test_a_lock_is_listed_without_anything_heavy():
    code = "from specdiag.lockfile import loads; loads('lock-version = 1')"
    assert loaded_by(code) & (HEAVY | {"numpy"}) == set()


def test_recipes_declare_without_anything_heavy():
    code = "import recipes.poyo_mp, recipes.transfer; recipes.poyo_mp.entries()"
    assert loaded_by(code) & HEAVY == set()


def test_measuring_a_safetensors_file_imports_no_torch_and_no_xarray(minilm):
    code = (
        "from specdiag.checkpoint import open_checkpoint as o; from specdiag import layers as l;"
        f"print(len(list(l.measure(l.matrices(o({str(minilm)!r}), '*layer.0.*')))))"
    )
    assert loaded_by(code) & HEAVY == set()


def test_every_public_name_is_there():
    import specdiag

    assert sorted(specdiag.__all__) == sorted(specdiag._HOME)
    for name in specdiag.__all__:
        assert callable(getattr(specdiag, name))
    with pytest.raises(AttributeError, match="module 'specdiag' has no attribute 'nonsense'"):
        specdiag.nonsense  # noqa: B018
