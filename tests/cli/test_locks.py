import json
import os
import re
import signal
import subprocess
import sys

import pytest
from filelock import FileLock

import specdiag
from specdiag.lock.entry import Entry, Lock
from specdiag.lock.lockfile import load, save
from specdiag.obtain import cluster
from specdiag.obtain.build import Settings
from support import toy
from support.commands import change, states
from support.commands import run_forked as run
from support.paths import ROOT


@pytest.fixture
def lock(tmp_path):
    path = toy.make(tmp_path)
    assert run(tmp_path, "lock", "--init")[0] == 0
    return path


def test_a_lock_is_started_resolved_trained_and_listed(tmp_path):
    path = toy.make(tmp_path)
    assert run(tmp_path, "lock", "--init")[1].splitlines() == [
        "started checkpoints.lock",
        "added base/net (desk)",
        "added child/net0 (desk)",
        "added child/net1 (desk)",
        "added judged/net (desk)",
    ]
    assert set(states(tmp_path).values()) == {"missing"}
    status, out, err = run(tmp_path, "train", "--missing")
    assert status == 0
    assert re.sub(r"-?0\.\d{4}", "R", out).splitlines() == [
        "trained    base/net    desk  r2 R",
        "trained    child/net0  desk  r2 R",
        "trained    child/net1  desk  r2 R",
        "evaluated  judged/net  desk  r2 R",
        "3 trained, 1 evaluated",
    ]
    assert "to do: 4 of 4 entries, about 2 min" in err
    assert set(states(tmp_path).values()) == {"ok"}
    weights = tmp_path / "checkpoints" / "desk" / "base" / "net.ckpt"
    assert specdiag.alpha(weights).sizes["layer"] == 2
    entry = next(e for e in load(path).entries if e.name == "child/net0")
    assert (
        entry.parent.sha256
        == next(e for e in load(path).entries if e.name == "base/net").file.sha256
    )
    assert entry.metrics["r2"].atol == 1e-6


def test_entries_that_are_ok_are_not_made_again(lock):
    run(lock.parent, "train", "--missing")
    before, text = toy.log(lock), lock.read_bytes()
    status, out, _ = run(lock.parent, "train", "--missing")
    assert status == 0
    assert out.splitlines()[-1] == "4 kept"
    assert (toy.log(lock), lock.read_bytes()) == (before, text)


def test_entries_that_are_ok_are_kept_and_a_group_is_a_part_of_all(lock):
    change(lock, '"base/net", seed=i)', '"base/net", seed=i, group=f"g{i}")')
    change(lock, 'kind="checkpoint", **params', 'kind="checkpoint", group="toys", **params')
    change(lock, 'group="toys",\n', "group=group,\n")
    run(lock.parent, "lock")
    assert run(lock.parent, "train", "--group", "g1")[1].splitlines()[-1] == "2 trained"
    assert run(lock.parent, "list", "--group", "g1")[1].splitlines()[-1] == "1 entry: 1 ok"
    _, out, _ = run(lock.parent, "train", "--all")
    assert out.splitlines()[-1] == "2 kept, 1 trained, 1 evaluated"
    before, text = toy.log(lock), lock.read_bytes()
    assert run(lock.parent, "train", "--all")[1].splitlines()[-1] == "4 kept"
    assert (toy.log(lock), lock.read_bytes()) == (before, text)
    forced = run(lock.parent, "train", "--missing", "--group", "g1", "--dry-run")[1]
    assert forced == "to do: 0 of 1 entries\n"


def test_replicates_of_another_seed_have_a_lock_of_their_own(lock):
    change(lock, '"steps": 3', '"steps": 3, "training": {"seed": 42, "batch": 8}')
    change(lock, '[job.params["seed"], step]', '[job.params["training"]["seed"], step]')
    run(lock.parent, "lock")
    run(lock.parent, "train", "--all")
    before = lock.read_bytes(), files(lock.parent / "checkpoints" / "desk")
    _, out, _ = run(lock.parent, "train", "child/net0", "judged/net", "--seed", 43)
    assert out.splitlines()[-1] == "2 trained, 1 evaluated"
    assert (lock.read_bytes(), files(lock.parent / "checkpoints" / "desk")) == before
    assert set(states(lock.parent).values()) == {"ok"}
    other = lock.with_name("checkpoints.seed-43.lock")
    _, out, _ = run(lock.parent, "list", "--json", "--lock", other.name)
    rows = {row["name"]: row for row in json.loads(out)["checkpoints"]}
    assert [row["state"] for row in rows.values()] == ["ok", "ok", "missing", "ok"]
    ours, theirs = ({e.name: e for e in load(path).entries} for path in (other, lock))
    assert ours["base/net"].path == "checkpoints/seed-43/desk/base/net.ckpt"
    assert ours["base/net"].params["training"] == {"seed": 43, "batch": 8}
    assert ours["base/net"].metrics != theirs["base/net"].metrics
    text = other.read_bytes()
    assert run(lock.parent, "train", "child/net0", "--seed", 43)[1].splitlines()[-1] == "1 kept"
    assert other.read_bytes() == text
    change(lock, '"steps": 3', '"steps": 2')
    run(lock.parent, "lock")
    command = ("train", "--missing", "--seed", 43)
    dropped = [
        f"changed {name} (desk): {what}; its record is dropped"
        for name, what in (
            ("base/net", "params.steps"),
            ("child/net0", "parent, params.steps"),
            ("judged/net", "params.steps"),
        )
    ]
    _, out, err = run(lock.parent, *command, "--dry-run")
    assert (err.splitlines(), other.read_bytes()) == (dropped, text)
    assert out.splitlines()[-1] == "to do: 4 of 4 entries, about 2 min"
    _, out, err = run(lock.parent, *command)
    assert err.splitlines()[:3] == dropped
    assert out.splitlines()[-1] == "3 trained, 1 evaluated"


def test_a_replicate_cannot_be_given_in_place_of_its_lock(lock):
    _, _, err = run(lock.parent, "train", "base/net", "--seed", 43)
    assert err.splitlines()[0] == (
        "base/net has no params.training.seed: it is built again with the same params"
    )
    other = lock.with_name("checkpoints.seed-43.lock")
    text = other.read_bytes()
    message = f"Error: {other.name} is written by `specdiag train --seed 43`; give checkpoints.lock"
    for command in (("lock",), ("train", "base/net", "--seed", 44)):
        status, out, err = run(lock.parent, *command, "--lock", other.name)
        assert (status, out, err.splitlines()[-1]) == (2, "", message)
    assert other.read_bytes() == text
    assert not lock.with_name("checkpoints.seed-43.seed-44.lock").exists()
    _, _, err = run(lock.parent, "train", "--all", "--seed", 44, "--dry-run")
    names = "base/net, child/net0, child/net1"
    again = "they are built again with the same params"
    assert err == f"{names} have no params.training.seed: {again}\n"
    assert not lock.with_name("checkpoints.seed-44.lock").exists()
    assert run(lock.parent, "train", "base/net", "--seed", 2**63)[0] == 2


def test_the_devices_of_a_run_are_recorded_and_do_not_make_it_stale(lock):
    run(lock.parent, "train", "base/net", "--devices", 2, "--precision", "bfloat16")
    entry = load(lock).entries[0]
    assert (entry.environment["devices"], entry.environment["precision"]) == (2, "bfloat16")
    assert run(lock.parent, "train", "base/net")[1] == "kept  base/net  desk\n1 kept\n"


def test_a_node_that_does_not_lead_trains_and_publishes_nothing(lock):
    nodes = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    command = ("train", "base/net", "--nodes", 2)
    text = "Error: --nodes needs NODE_RANK in the environment of each node; see docs/clusters.md"
    assert run(lock.parent, *command, **nodes)[2].splitlines()[-1] == text
    status, out, _ = run(lock.parent, *command, **nodes, NODE_RANK="1")
    assert (status, out) == (0, "")
    assert "base/net begin" in toy.log(lock)
    assert set(states(lock.parent).values()) == {"missing"}
    _, out, _ = run(lock.parent, *command, **nodes, NODE_RANK="0")
    assert out.splitlines()[-1] == "1 trained"
    assert load(lock).entries[0].environment["nodes"] == 2
    _, _, err = run(lock.parent, "train", "--all", "--nodes", 2, **nodes, NODE_RANK="0")
    text = "Error: --nodes trains one entry whose parents exist: name one such entry"
    assert err.splitlines()[-1] == text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"NODE_RANK": "2"}, "NODE_RANK is '2'; expected a number from 0 to 1, below --nodes 2"),
        ({"NODE_RANK": "a"}, "NODE_RANK is 'a'; expected a number from 0 to 1, below --nodes 2"),
        (
            {"MASTER_PORT": "65536"},
            "MASTER_PORT is '65536'; expected a number from 1 to 65535, the same on each node",
        ),
    ],
)
def test_an_invalid_number_or_port_of_a_node_is_wrong_use(lock, wrong, message):
    nodes = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "0", **wrong}
    status, out, err = run(lock.parent, "train", "base/net", "--nodes", 2, **nodes)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == f"Error: {message}; see docs/clusters.md"


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_prints_the_plan_and_does_nothing(lock):
    status, out, _ = run(lock.parent, "train", "child/net1", "--dry-run")
    assert status == 0
    assert out.splitlines() == [
        "train  base/net    desk  missing  30 s on one core",
        "train  child/net1  desk  missing  30 s on one core",
        "to do: 2 of 2 entries, about 60 s",
    ]
    assert toy.log(lock) == []


def test_a_failure_stops_children_and_not_siblings(lock):
    recipe = lock.parent / "recipes" / "toy.py"
    recipe.write_text(
        recipe.read_text().replace('"base/net", seed=i)', '"base/net", seed=i, fails=i == 0)')
    )
    run(lock.parent, "lock")
    status, out, err = run(lock.parent, "train", "--missing")
    assert status == 1
    lines = {line.split()[1]: line for line in out.splitlines()[:-1]}
    assert lines["child/net0"].endswith("recipes/toy.py:49: the loss is NaN")
    assert lines["child/net1"].startswith("trained")
    assert out.splitlines()[-1] == "2 trained, 1 failed, 1 evaluated"
    assert "Traceback" not in out + err
    recipe.write_text(
        recipe.read_text().replace('entry("base/net")', 'entry("base/net", fails=True)')
    )
    run(lock.parent, "lock")
    status, out, _ = run(lock.parent, "train", "--missing")
    assert status == 1
    assert "skipped  child/net1  desk  its parent base/net failed" in re.sub(
        " +", "  ", out
    ).replace("its  parent  base/net  failed", "its parent base/net failed")


def test_json_has_the_outcomes_and_no_line_that_a_recipe_or_its_processes_print(lock):
    change(lock, '"base/net", seed=i)', '"base/net", seed=i, fails=i == 0)')
    prints = 'log(job, "begin"); print("failed  base/net  desk  x"); os.system("echo a process")'
    change(lock, 'log(job, "begin")', prints)
    run(lock.parent, "lock")
    status, out, err = run(lock.parent, "train", "--all", "--json")
    rows = json.loads(out)["checkpoints"]
    assert status == 1
    assert [(row["name"], row["outcome"]) for row in rows] == [
        ("base/net", "trained"),
        ("child/net0", "failed"),
        ("child/net1", "trained"),
        ("judged/net", "evaluated"),
    ]
    text = "recipes/toy.py:49: the loss is NaN"
    assert rows[1] == {"name": "child/net0", "scale": "desk", "outcome": "failed", "text": text}
    assert err.count("failed  base/net  desk  x\n") == err.count("a process\n") == 4


def test_the_outcome_of_a_process_of_its_own_is_that_of_its_entry(lock):
    entries = load(lock).entries
    change(lock, 'log(job, "begin")', 'log(job, "begin"); print("failed  base/net  desk  x")')
    settings = Settings(options={"devices": 2, "precision": "float32", "yes": True})
    outcome = cluster._in_own_process(lock, entries[0], settings, forced=False)
    assert (outcome.entry, outcome.word, outcome.text[:3]) == (entries[0], "trained", "r2 ")
    outcome = cluster._in_own_process(lock, entries[0], settings, forced=False)
    assert outcome == (entries[0], "kept", "")
    change(lock, 'log(job, "begin")', 'log(job, "begin"); os.kill(os.getpid(), 9)')
    outcome = cluster._in_own_process(lock, entries[0], settings, forced=True)
    assert outcome == (entries[0], "failed", "its process ended with status -9")


def test_the_states_show_what_happened(lock):
    folder = lock.parent
    run(folder, "train", "--missing")
    child = folder / "checkpoints" / "desk" / "child" / "net0.ckpt"
    content = child.read_bytes()
    child.write_bytes(content[:-1] + b"x")
    assert states(folder)["child/net0"] == "corrupt"
    child.write_bytes(content)
    assert states(folder)["child/net0"] == "ok"
    child.unlink()
    assert states(folder)["child/net0"] == "missing"
    recipe = folder / "recipes" / "toy.py"
    recipe.write_text(recipe.read_text().replace('"steps": 3', '"steps": 2'))
    assert run(folder, "lock", "--check")[0] == 1
    run(folder, "lock")
    assert states(folder) == {
        "base/net": "stale",
        "child/net0": "missing",
        "child/net1": "stale",
        "judged/net": "stale",
    }
    run(folder, "train", "--missing")
    assert set(states(folder).values()) == {"ok"}


def test_other_bytes_are_rebuilt_within_the_tolerance_and_drifted_outside(lock):
    folder = lock.parent
    run(folder, "train", "base/net")
    text = lock.read_text()
    weights = folder / "checkpoints" / "desk" / "base" / "net.ckpt"
    value = float(re.search(r"value = (-?0\.\d+)\natol", text)[1])
    sha256 = re.search(r'\[checkpoint.file\]\nsha256 = "(\w+)"', text)[1]
    other = text.replace(sha256, "0" * 64)
    other = re.sub(r'tensors = "\w+"', f'tensors = "{"0" * 64}"', other)
    lock.write_text(other)
    assert states(folder)["base/net"] == "rebuilt"
    lock.write_text(other.replace(f"value = {value}", f"value = {value + 0.1}"))
    assert states(folder)["base/net"] == "drifted"
    assert weights.exists()
    run(folder, "train", "base/net", "--force")
    assert states(folder)["base/net"] == "ok"


def test_the_lock_command_only_touches_what_is_named(lock):
    change(lock, '"steps": 3', '"steps": 2')
    assert run(lock.parent, "lock", "child/net1")[1] == "changed child/net1 (desk): params.steps\n"
    assert run(lock.parent, "lock")[1].splitlines() == [
        f"changed {name} (desk): params.steps" for name in ("base/net", "child/net0", "judged/net")
    ]
    assert run(lock.parent, "lock", "--check")[:2] == (0, "nothing changed\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("train",), 2, "Error: name entries, or give --missing, --all or --group"),
        (("train", "net", "--group", "a"), 2, "Error: give names or --group, not both"),
        (("list", "--group", ""), 2, "Error: no group ''; the lock has toys"),
        (
            ("lock", "--lock", "none.lock"),
            2,
            "Error: --lock none.lock does not exist; --init starts a lock",
        ),
        (("simulate", "out"), 2, "Error: no entry of this lock has simulated recordings"),
        (("train", "net", "--all"), 2, "Error: name entries, or give --missing, --all or --group"),
        (
            ("train", "--missing", "--force"),
            2,
            "Error: --missing leaves out entries that are ok: give no --force or --all",
        ),
        (
            ("train", "--all", "--dry-run", "--json"),
            2,
            "Error: --json prints outcomes, and --dry-run has none: leave one out",
        ),
        (("train", "--group", "toy"), 2, "Error: no group 'toy'; the lock has toys"),
        (
            ("train", "--all", "--address", "auto"),
            2,
            "Error: --address needs --engine ray",
        ),
        *(
            (
                ("train", "--all", "--engine", "ray", "--address", address),
                2,
                (
                    f"Error: --address {address} is invalid; expected HOST:PORT, such as "
                    "node1:6379, or auto"
                ),
            )
            for address in ("node1", "node1:a", ":6379", "node1:65536")
        ),
        (
            ("train", "--all", "--engine", "ray", "--nodes", "2"),
            2,
            "Error: --nodes and --engine ray exclude each other",
        ),
        (
            ("list", "base/ned", "--group", "toys"),
            2,
            "Error: no entry base/ned in group toys; did you mean base/net?",
        ),
        (
            ("train", "base/ned"),
            2,
            "Error: no entry base/ned at desk scale; did you mean base/net?",
        ),
        (
            ("train", "--group", "toys", "--scale", "paper"),
            2,
            "Error: no entries at paper scale in group toys; `specdiag list` shows all names",
        ),
        (
            ("list", "--scale", "paper"),
            2,
            "Error: no entries at paper scale; `specdiag list` shows all names",
        ),
        (
            ("fetch",),
            2,
            "Error: no entry has a place to download from",
        ),
        (
            ("lock", "--init"),
            1,
            "specdiag: checkpoints.lock exists already; `specdiag lock` updates it",
        ),
        (
            ("lock", "nobody"),
            1,
            "specdiag: no recipe declares nobody; `specdiag list` shows all names",
        ),
    ],
)
def test_wrong_use_is_one_line(lock, arguments, status, message):
    code, out, err = run(lock.parent, *arguments)
    assert (code, out) == (status, "")
    assert err.splitlines()[-1] == message
    assert "Traceback" not in err


def test_without_a_lock_the_message_gives_the_command_that_starts_one(tmp_path):
    status, _, err = run(tmp_path, "list")
    assert status == 1
    assert err == (
        f"specdiag: no checkpoints.lock in {tmp_path} or above it; start one with "
        "`specdiag lock --init`\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("import json", "import nothing_of_that_name"),
            "recipes/toy.py:4: ModuleNotFoundError: No module named 'nothing_of_that_name'",
        ),
        (
            ("yield entry", "yield missing_name"),
            "recipes/toy.py:29: NameError: name 'missing_name' is not defined",
        ),
        (
            ("def entries", "def other"),
            (
                "recipes/toy.py: no function entries(); write one, or begin the name of the module "
                "with an underscore"
            ),
        ),
    ],
)
def test_a_broken_recipe_is_one_line_that_says_where(lock, change, message):
    recipe = lock.parent / "recipes" / "toy.py"
    recipe.write_text(recipe.read_text().replace(*change, 1))
    status, out, err = run(lock.parent, "lock")
    assert (status, out, err) == (1, "", f"specdiag: {message}\n")


def test_a_recipe_without_build_says_so(lock):
    recipe = lock.parent / "recipes" / "toy.py"
    recipe.write_text(recipe.read_text().replace("def build", "def later"))
    status, out, _ = run(lock.parent, "train", "base/net")
    assert status == 1
    assert "recipes/toy.py has no function build() yet" in out
    status, out, err = run(lock.parent, "train", "--missing")
    assert (status, out) == (0, "0 entries\n")
    assert err.splitlines() == [
        "4 entries are left out: no recipe can build them or their parents yet",
        "to do: 0 of 0 entries",
    ]


def test_a_missing_recipe_is_one_line(lock):
    (lock.parent / "recipes" / "toy.py").unlink()
    status, out, _ = run(lock.parent, "train", "base/net")
    assert status == 1
    assert out.splitlines()[0].endswith("no recipe recipes/toy.py beside the lock; write it there")


def test_a_recipe_that_leaves_nothing_or_no_metrics_fails(lock):
    recipe = lock.parent / "recipes" / "toy.py"
    text = recipe.read_text()
    recipe.write_text(text.replace('job.params.get("leaves", True)', "False"))
    assert (
        "build() of recipes/toy.py wrote no file to job.output"
        in run(lock.parent, "train", "base/net")[1]
    )
    recipe.write_text(
        text.replace('{"r2": (float(np.tanh(start[0, 0])), 1e-6)}', '{"r2": float("nan")}')
    )
    assert (
        "returned {'r2': nan}; expected finite metrics" in run(lock.parent, "train", "base/net")[1]
    )
    assert states(lock.parent)["base/net"] == "missing"


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("os.symlink('/', job.output)", "wrote no file to job.output"),
        ("job.output.mkdir()", "wrote no file to job.output"),
        ("job.output.write_text('a')", "net.ckpt"),
        ("return None", "returned None; expected finite metrics"),
        ("return {'r2': (10**400, 1)}", "expected finite metrics"),
    ],
)
def test_an_invalid_output_of_a_recipe_does_not_block_the_next_run(lock, line, refusal):
    change(
        lock,
        '    log(job, "begin")',
        '    if "W" in os.environ:\n'
        f"        {line}\n        return dict(r2=(1, 1))\n"
        '    log(job, "begin")',
    )
    status, out, _ = run(lock.parent, "train", "base/net", W="1")
    assert status == 1
    assert refusal in out
    assert list(lock.parent.rglob("*.run")) == []
    assert run(lock.parent, "train", "base/net")[0] == 0


def test_a_folder_in_the_place_of_a_checkpoint_is_refused_before_a_build(lock):
    (lock.parent / "checkpoints" / "desk" / "base" / "net.ckpt").mkdir(parents=True)
    assert run(lock.parent, "train", "base/net")[1].splitlines()[0] == (
        "failed  base/net  desk  checkpoints/desk/base/net.ckpt is a folder; move it away: the "
        "checkpoint is written there"
    )
    assert toy.log(lock) == []


def test_the_message_of_a_full_disk_names_the_file(tmp_path):
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "from pathlib import Path; from specdiag.outputs import write_whole; from specdiag.wording "
        "import one_line\n"
        "try: write_whole(Path('a'), b'x' * 100)\n"
        "except OSError as error: print(one_line(error), '-', error)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "a: File too large - [Errno 27] File too large: 'a'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (None, 143)])
def test_an_interrupted_run_ends_with_one_line(lock, number, status):
    stop = f"os.kill(os.getpid(), {number:d})" if number else "raise SystemExit(143)"
    change(lock, '    log(job, "begin")', f'    log(job, "begin"); {stop}')
    code, out, err = run(lock.parent, "train", "base/net")
    assert (code, out) == (status, "0 entries\n")
    assert err.splitlines()[-2:] == [
        "specdiag: training base/net",
        "interrupted: run it again to go on",
    ]


def test_a_checkpoint_is_named_as_in_the_lock_and_a_missing_one_is_refused(lock):
    folder = lock.parent
    run(folder, "train", "--missing")
    assert run(folder, "alpha", "base/net")[0] == 0
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    arguments = ("export", "child/net0", elsewhere / "a.safetensors", "--lock", lock)
    assert run("/", *arguments)[0] == 0
    (folder / "checkpoints" / "desk" / "child" / "net0.ckpt").unlink()
    for name, reason in (
        ("child/net0", "missing at desk scale; `specdiag train child/net0 --scale desk` makes it"),
        ("judged/net", "an evaluation, whose weights are those of base/net"),
        ("nobody", "Path 'nobody' does not exist."),
    ):
        status, _, err = run(folder, "compare", "base/net", name)
        assert status == 2
        assert err.splitlines()[-1] == f"Error: Invalid value for 'FILE...': {reason}"
    status, _, err = run(
        elsewhere, "compare", "base/net", "child/net0", "--lock", "../checkpoints.lock"
    )
    assert status == 2
    assert err.splitlines()[-1] == (
        "Error: Invalid value for 'FILE...': missing at desk scale; "
        "`specdiag train child/net0 --scale desk --lock ../checkpoints.lock` makes it"
    )


def test_children_of_a_changed_entry_lose_their_records_and_are_made_again(lock):
    run(lock.parent, "train", "--missing")
    change(lock, 'yield entry("base/net")', 'yield entry("base/net", seed=7)')
    assert run(lock.parent, "lock")[1].splitlines() == [
        "changed base/net (desk): params.seed; its record is dropped",
        *(
            f"changed {name} (desk): parent; its record is dropped"
            for name in ("child/net0", "child/net1")
        ),
        "changed judged/net (desk): its parent's declaration; its record is dropped",
    ]
    _, out, _ = run(lock.parent, "train", "--missing", "--dry-run")
    assert [line.split()[:2] for line in out.splitlines()[:-1]] == [
        ["train", "base/net"],
        ["follow", "child/net0"],
        ["follow", "child/net1"],
        ["follow", "judged/net"],
    ]
    assert run(lock.parent, "train", "--missing")[0] == 0
    assert set(states(lock.parent).values()) == {"ok"}


def test_a_parent_is_made_only_for_a_child_that_needs_it(lock):
    run(lock.parent, "train", "child/net0")
    (lock.parent / "checkpoints" / "desk" / "base" / "net.ckpt").unlink()
    assert run(lock.parent, "train", "child/net0")[1] == "kept  child/net0  desk\n1 kept\n"
    assert run(lock.parent, "train", "child/net1", "--dry-run")[1].splitlines()[-1] == (
        "to do: 2 of 2 entries, about 60 s"
    )


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            'yield entry("base/net")\n    yield entry("base/net", seed=3)',
            (
                "recipes/toy.py: declares base/net (desk), which recipes/toy.py declares, too; "
                "declare an entry once"
            ),
        ),
        (
            'yield "base/net"',
            "recipes/toy.py: entries() gave 'base/net'; expected Entry objects",
        ),
        (
            'yield entry("../net")',
            (
                "recipes/toy.py: entry '../net'.name: '../net'; expected a relative path such as "
                "base/name, without '..', of names of at most 200 bytes; "
                "correct the recipe"
            ),
        ),
        (
            'yield entry("base/net", rate=float("nan"))',
            (
                "recipes/toy.py: entry 'base/net'.params.rate: nan; expected text, a finite number "
                "of at most 64 bits, true or false, an array or a table; correct the "
                "recipe"
            ),
        ),
        (
            f'yield entry("{300 * "a"}")',
            (
                f"recipes/toy.py: entry '{300 * 'a'}'.name: '{77 * 'a'}...'; expected a relative "
                "path such as base/name, without '..', of names of at most 200 bytes; correct the "
                "recipe"
            ),
        ),
        (
            'yield Entry(name="a", scale="desk", group="g", recipe="toy", parent="b")',
            (
                "recipes/toy.py: entry 'a'.parent: 'b'; expected Parent(name='b'); correct the "
                "recipe"
            ),
        ),
        ("import sys; sys.exit(3)", "recipes/toy.py:29: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--check",)])
def test_an_invalid_declaration_is_one_line(lock, declared, message, options):
    change(lock, 'yield entry("base/net")', declared)
    before = lock.read_bytes()
    status, out, err = run(lock.parent, "lock", *options)
    assert (status, out, err) == (1, "", f"specdiag: {message}\n")
    assert lock.read_bytes() == before


def test_lists_and_tuples_of_a_declaration_are_the_same(lock):
    change(lock, '"steps": 3', '"steps": 3, "betas": (0.9, 0.99)')
    assert run(lock.parent, "lock")[0] == 0
    assert run(lock.parent, "lock", "--check")[:2] == (0, "nothing changed\n")
    change(lock, '"seed": 0', '"seed": False')
    assert "changed base/net (desk): params.seed" in run(lock.parent, "lock", "--check")[1]


def test_edits_by_hand_are_reported(lock):
    lock.write_text("# mine\n" + lock.read_text())
    text = "written again: edits and comments made by hand are not kept\n"
    assert run(lock.parent, "lock", "--check")[:2] == (1, text)
    assert run(lock.parent, "lock")[:2] == (0, text)
    assert run(lock.parent, "lock", "--check")[0] == 0


@pytest.mark.parametrize("content", ["null", "5", '{"metrics": []}', "[" * 100_000, "{"])
def test_a_damaged_receipt_is_a_state_of_its_entry(lock, content):
    run(lock.parent, "train", "base/net")
    (receipt,) = (lock.parent / "checkpoints" / "desk" / "base").glob("*.json")
    receipt.write_text(content)
    assert states(lock.parent)["base/net"] == "corrupt"
    run(lock.parent, "train", "base/net")
    assert states(lock.parent)["base/net"] == "ok"


def test_a_build_that_exits_or_leaves_a_link_fails_alone(lock):
    change(lock, "raise RuntimeError", "raise SystemExit(3) #")
    change(lock, '"base/net", seed=i)', '"base/net", seed=i, fails=i == 0)')
    run(lock.parent, "lock")
    status, out, _ = run(lock.parent, "train", "--missing")
    assert status == 1
    assert "failed     child/net0  desk  recipes/toy.py:49: SystemExit: 3" in out
    assert out.splitlines()[-1] == "2 trained, 1 failed, 1 evaluated"


def test_a_lost_receipt_of_the_recorded_file_is_no_loss(lock):
    run(lock.parent, "train", "--missing")
    for receipt in (lock.parent / "checkpoints").rglob("child/*.json"):
        receipt.unlink()
    assert set(states(lock.parent).values()) == {"ok"}
    run(lock.parent, "train", "base/net", "--force")
    change(lock, 'yield entry("base/net")', 'yield entry("base/net", seed=7)')
    run(lock.parent, "lock")
    run(lock.parent, "train", "base/net")
    assert states(lock.parent)["child/net0"] in ("stale", "corrupt")


@pytest.mark.parametrize(
    ("declared", "force"), [('"steps": 3', ("--force",)), ('"steps": 3, "rate": 1', ())]
)
def test_the_tables_of_a_killed_build_do_not_replace_those_of_the_checkpoint(lock, declared, force):
    change(lock, "        start = start +", "        die()\n        start = start +")
    change(
        lock,
        "def log(",
        'def die():\n    os.environ.get("DIE") and os.kill(os.getpid(), 9)\n\n\ndef log(',
    )
    change(lock, "        die()\n", "        step and die()\n")
    assert run(lock.parent, "train", "base/net")[0] == 0
    (table,) = lock.parent.rglob("net.ckpt.log.csv")
    text, whole = lock.read_text(), table.read_text()
    change(lock, '"steps": 3', declared)
    run(lock.parent, "lock")
    assert run(lock.parent, "train", "base/net", *force, DIE="1")[0] == -9
    assert (table.read_text(), len(list(lock.parent.rglob("*.run/log.csv")))) == (whole, 1)
    lock.write_text(text)
    change(lock, declared, '"steps": 3')
    assert run(lock.parent, "train", "base/net")[1] == "kept  base/net  desk\n1 kept\n"
    assert table.read_text() == whole
    assert list(lock.parent.rglob("*.run")) == []


def test_a_build_in_progress_is_not_removed_by_a_process_that_finds_the_old_file_ok(lock):
    run(lock.parent, "train", "base/net")
    target = lock.parent / "checkpoints" / "desk" / "base" / "net.ckpt"
    building = target.with_name(f"{target.name}.0123456789abcdef.run")
    building.mkdir()
    command = [sys.executable, "-m", "specdiag", "train", "base/net"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with FileLock(target.with_name(f".{target.name}.lock")):
        other = subprocess.Popen(command, cwd=lock.parent, env=environment, **pipes)
        waits = "specdiag: another process works on base/net: waiting for it\n"
        assert waits in iter(other.stderr.readline, "")
        assert building.is_dir()
    out, _ = other.communicate()
    assert out == "kept  base/net  desk\n1 kept\n"
    assert not building.exists()


def test_a_lock_is_started_at_the_given_path(tmp_path):
    path = tmp_path / "new" / "checkpoints.lock"
    for status, message in (
        (0, f"started {path}; write recipes into {path.parent}/recipes, then run `specdiag lock`"),
        (1, f"specdiag: {path} exists already; `specdiag lock` updates it"),
    ):
        done = run(tmp_path, "lock", "--init", "--lock", path)
        assert (done[0], "".join(done[1:])) == (status, f"{message}\n")
    assert load(path).entries == ()
    message = "Error: the lock has no entries"
    assert run(path.parent, "list", "--group", "x")[2].splitlines()[-1] == message


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {},
            (
                "net (desk): params.simulation without params.data.sessions; declare the names of "
                "the sessions"
            ),
        ),
        ({"data": {"sessions": ["a"]}}, "recipes/simulation/recordings.py:2: KeyError: 'seed'"),
    ],
)
def test_invalid_settings_of_simulated_recordings_are_an_error_of_one_line(
    params, message, tmp_path
):
    params = {"simulation": {}, **params}
    entry = Entry(name="net", scale="desk", group="g", recipe="toy", params=params)
    save(Lock(entries=(entry,)), tmp_path / "checkpoints.lock")
    (tmp_path / "recipes" / "simulation").mkdir(parents=True)
    (tmp_path / "recipes" / "simulation" / "recordings.py").write_text(
        "def write_recordings(out, sessions, settings):\n    return settings['seed']\n"
    )
    assert run(tmp_path, "simulate", "out") == (1, "", f"specdiag: {message}\n")
