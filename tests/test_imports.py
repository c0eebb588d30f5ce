"""Imports between packages, read from the source of every module."""

import ast
import subprocess
import sys

import pytest

from specdiag.cli.main import COMMANDS
from support.paths import ROOT

PACKAGE = ROOT / "specdiag"
RECIPES = ROOT / "recipes"
FIGURES = sorted((ROOT / "figures").glob("*.py"))

OWN = "."  # an import with a dot: of the same folder

# Packages and modules of specdiag, from the top: each imports only from the lines below its own.
LAYERS = (
    {"cli"},
    {"show", "plot"},
    {"transfer"},
    {"obtain", "comparison", "drawing"},
    {"features", "training"},
    {"dataset"},
    {"htsr"},
    {"checkpoint", "lock"},
    {"outputs"},
    {"compute"},
    {"files"},
    {"notebook"},
    {"wording"},
)
# Recipes build checkpoints; commands, states and drawings are left to specdiag.
RECIPES_FILES = [p for p in RECIPES.rglob("*.py") if "pipelines" not in p.parts]
FOR_RECIPES = {
    *("numpy", "scipy", "h5py", "torch", "torch_brain", "lightning", "tqdm", OWN),
    *("specdiag.checkpoint", "specdiag.features", "specdiag.files", "specdiag.training.monitor"),
    *(
        "specdiag.lock",
        "specdiag.outputs",
        "specdiag.transfer.claims",
        "specdiag.transfer.evaluation",
    ),
    "specdiag.wording",
}
# Figures of this study draw what others measured.
FOR_FIGURES = {
    *("numpy", "matplotlib", OWN),
    *("specdiag.drawing", "specdiag.dataset", "specdiag.outputs", "specdiag.wording"),
}
# Pipelines run without specdiag, in an environment with dandi, torch_brain and its dependencies.
FOR_PIPELINES = {"h5py", "numpy", "pandas", "pynwb", "ray", "torch_brain", "nlb"}
LAZY = {"lamb"}  # itself imported only inside functions
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
    "h5py",
    "onnx",
    "gguf",
    "huggingface_hub",
    "httpx2",
    "jinja2",
    "markupsafe",
}


def imports(node):
    """Yield the modules that a tree imports when it runs, without those for type checkers."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level:
        yield OWN
    elif isinstance(node, ast.ImportFrom) and node.module == "specdiag":
        yield from (f"specdiag.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def outside_standard_library(names):
    return {n for n in names if n.split(".")[0] not in sys.stdlib_module_names}


def extra_imports(path, allowed):
    names = outside_standard_library(imports(ast.parse(path.read_text())))
    return {n for n in names if not any(n == a or n.startswith(f"{a}.") for a in allowed)}


def unit(path):
    """Return the package or module of specdiag that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


UNITS = sorted({unit(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"})


def test_every_package_has_its_place():
    assert sorted(name for layer in LAYERS for name in layer) == UNITS


@pytest.mark.parametrize("package", UNITS)
def test_a_package_imports_only_what_lies_below_it(package):
    above = {name for layer in LAYERS for name in layer}
    for layer in LAYERS:
        if package in layer:
            break
        above -= layer
    files = [path for path in PACKAGE.rglob("*.py") if unit(path) == package]
    used = {name for path in files for name in imports(ast.parse(path.read_text()))}
    units = {name.split(".")[1] for name in used if name.startswith("specdiag.")}
    assert units <= {package} | (above - layer)


@pytest.mark.parametrize("path", sorted(RECIPES_FILES), ids=lambda p: p.stem)
def test_a_recipe_imports_no_command_store_or_figure(path):
    assert extra_imports(path, FOR_RECIPES) == set()


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.stem)
def test_a_figure_imports_only_what_reads_and_draws_a_dataset(path):
    assert extra_imports(path, FOR_FIGURES) == set()


@pytest.mark.parametrize("folder", ["specdiag", "recipes", "benchmarks"])
def test_nothing_imports_the_figures_of_the_study(folder):
    used = {n for p in (ROOT / folder).rglob("*.py") for n in imports(ast.parse(p.read_text()))}
    assert [name for name in used if name.split(".")[0] == "figures"] == []


@pytest.mark.parametrize(
    "path", sorted((RECIPES / "pipelines").rglob("*.py")), ids=lambda p: p.parent.name
)
def test_a_pipeline_imports_only_what_its_environment_has(path):
    assert extra_imports(path, FOR_PIPELINES) == set()


@pytest.mark.parametrize(
    "path",
    [p for p in [*PACKAGE.rglob("*.py"), *sorted(RECIPES_FILES), *FIGURES] if p.stem not in LAZY],
    ids=lambda p: p.stem,
)
def test_heavy_libraries_are_imported_only_inside_functions(path):
    tree = ast.parse(path.read_text())
    at_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {n.split(".")[0] for node in at_top for n in imports(node)}
    assert names & HEAVY == set()


def modules_loaded_by(code):
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def loaded_by(code):
    return {name.split(".")[0] for name in modules_loaded_by(code)}


def test_the_command_line_starts_without_anything_heavy():
    assert loaded_by("import specdiag.cli.main") & (HEAVY | {"numpy"}) == set()


def test_a_lock_is_listed_without_anything_heavy():
    code = "from specdiag.lock.lockfile import loads; loads('lock-version = 1')"
    assert loaded_by(code) & (HEAVY | {"numpy"}) == set()


def test_recipes_declare_without_anything_heavy():
    code = "import recipes.poyo_mp, recipes.transfer; recipes.poyo_mp.entries()"
    assert loaded_by(code) & HEAVY == set()


def test_measuring_a_safetensors_file_imports_no_torch_and_no_xarray(minilm):
    code = (
        "from specdiag.checkpoint.reader import open_checkpoint as o;"
        "from specdiag.htsr import measure as l, selection as s;"
        f"print(len(list(l.measure(s.matrices(o({str(minilm)!r}), '*layer.0.*')))))"
    )
    assert loaded_by(code) & HEAVY == set()


def test_a_table_of_a_safetensors_file_imports_no_reader_of_another_format(minilm):
    words = ["alpha", str(minilm), "--layers", "*layer.0.attention.self.query*"]
    code = (
        "from contextlib import suppress; from specdiag.cli.main import cli\n"
        f"with suppress(SystemExit): cli({words})\n"
    )
    loaded = modules_loaded_by(code)
    others = ("arrays", "chunks", "distributed", "flax", "gguf", "keras", "onnx")
    assert loaded & {f"specdiag.checkpoint.formats.{name}" for name in others} == set()
    assert loaded & {"specdiag.checkpoint.remote.path", "specdiag.checkpoint.memory"} == set()
    assert [name for name in loaded if name.startswith("specdiag.checkpoint.torchfile.")] == []
    slow = {"numpy.ma", "numpy.polynomial", "numpy.random", "ml_dtypes", "scipy", "xarray"}
    assert loaded & slow == set()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_a_command_imports_no_library_and_no_module_that_measures(name):
    code = (
        "from contextlib import suppress; from specdiag.cli.main import cli\n"
        f"with suppress(SystemExit): cli([{name!r}, '--help'])\n"
    )
    loaded = modules_loaded_by(code)
    assert {module.split(".")[0] for module in loaded} & (HEAVY | {"numpy"}) == set()
    packages = {module.split(".")[1] for module in loaded if module.startswith("specdiag.")}
    assert packages <= {"cli", "htsr", "wording", "files", "compute", "lock"}
