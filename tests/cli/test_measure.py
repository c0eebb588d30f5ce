import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import specdiag
from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.weights import find
from specdiag.checkpoint.weights.find import open_weights
from specdiag.cli.main import COMMANDS, cli
from specdiag.htsr.measure import measure
from specdiag.htsr.null.verdicts import MEANINGFUL, VERDICTS
from specdiag.htsr.others.methods import METHODS
from specdiag.htsr.selection import MIN_EIGENVALUES, matrices
from specdiag.htsr.statistics import alpha_mean_interval
from specdiag.htsr.verdict import with_verdicts
from specdiag.show.layers import summary_lines
from support.commands import run_forked
from support.weights import heavy, light


@pytest.fixture
def file(rng, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(
        {
            "model.fc1.weight": rng.standard_normal((120, 80)).astype(np.float32),
            "model.fc2.weight": rng.standard_normal((80, 60)).astype(np.float32),
            "model.dead.weight": np.zeros((70, 70), np.float32),
            "model.unit_emb.weight": rng.standard_normal((300, 64)).astype(np.float32),
            "model.readout.weight": rng.standard_normal((2, 64)).astype(np.float32),
            "model.broken.weight": np.full((60, 60), np.nan, np.float32),
            "model.fc1.bias": rng.standard_normal(120).astype(np.float32),
        },
        path,
    )
    return path


def run(*arguments):
    """Run the command line; returns status, stdout, stderr."""
    return run_forked(".", *arguments)


def test_the_table_has_a_row_for_each_matrix_and_a_summary(file):
    expected_all = specdiag.alpha(file).sel(checkpoint="net")
    expected = expected_all.sel(layer="fc1.weight")
    status, out, err = run("alpha", file)
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    low, high = expected.alpha_ci.values
    assert rows["fc1.weight"][1:] == [
        "120x80",
        f"{expected.alpha.item():.2f}",
        *(f"{low:.2f}", "-", f"{high:.2f}"),
        f"{expected.n_tail.item():.0f}",
        f"{expected.rope_probability.item():.2f}",
        f"{expected.null_q.item():.2g}",
        f"{expected.stable_rank.item():.1f}",
        f"{expected.spectral_norm.item():#.3g}",
        *expected.verdict.item().split(),
    ]
    assert (
        "6 matrices: 2 measured, 1 degenerate, 2 skipped, 1 failed; 1 vector or scalar ignored"
        in out
    )
    assert "degenerate: rank 0: fewer than 50 eigenvalues above rounding: dead.weight" in out
    assert "failed: 3,600 of 3,600 values are NaN or infinite: broken.weight" in out
    assert "skipped: embedding table, by its name: unit_emb.weight" in out
    assert "skipped: too few eigenvalues: 2 of at least 50: readout.weight" in out
    n = int(expected_all.verdict.isin(MEANINGFUL).sum())
    assert re.search(
        rf"\nno mean alpha over the {n} layers? that (is|are) heavier than random "
        r"\(of 2 measured\): 4 layers are needed\n",
        out,
    )
    assert "not tested: how well a power law fits above xmin_ks (--gof)" in out


def test_the_estimate_by_clausets_rule_is_in_the_table_when_asked_for(file):
    cell = specdiag.alpha(file).sel(layer="fc1.weight", checkpoint="net")
    by_default, everything = (
        run("alpha", file, *more)[1].splitlines() for more in ((), ("--columns", "all"))
    )
    assert not any("alpha_ks" in line for line in by_default)
    columns = everything[1].split("  ")
    row = next(line for line in everything if line.startswith("fc1.weight"))
    shown = dict(zip([c.strip() for c in columns if c], re.split(r"\s{2,}", row), strict=True))
    assert shown["alpha"] == f"{cell.alpha.item():.2f}"
    assert shown["alpha_ks"] == f"{cell.alpha_ks.item():.2f}"
    assert shown["n_tail_ks"] == f"{cell.n_tail_ks.item():.0f}"


def test_the_scales_and_the_offset_that_explain_a_layer_are_in_the_table(rng, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"a.weight": rng.standard_normal((200, 100)) + 0.5}, path)
    header, row = (run("alpha", path, "--columns", "all")[1].splitlines()[i] for i in (1, 3))
    cells = dict(zip(*(re.split(r"\s{2,}", line.strip()) for line in (header, row)), strict=True))
    assert cells["verdict"] == "scales"
    assert max(float(cells["row sd"]), float(cells["column sd"])) < 0.05
    assert cells["offset"] == "20%"


def test_the_scatter_over_drawn_rows_is_in_the_table_when_asked_for(file):
    plain, asked = (run("alpha", file, *more)[1].splitlines() for more in ((), ("--repeats",)))
    expected = specdiag.alpha(file, repeats=True).alpha_repeat_sd
    row = next(line for line in asked if line.startswith("fc1.weight"))
    assert "repeat sd" in asked[1]
    assert "repeat sd" not in plain[1]
    assert f"  {expected.sel(layer='fc1.weight', checkpoint='net').item():.2g}  " in row


def test_the_summary_says_whether_a_pattern_selected_the_matrices(file):
    out = run("alpha", file, "--layers", "fc1*")[1]
    assert "heavier than random (of 1 measured that match): 4 layers are needed\n" in out
    assert re.search(r"\n[01] of 1 layer is heavier than random entries of any row and col", out)


def test_the_mean_of_alpha_is_over_layers_whose_alpha_means_something(rng, tmp_path):
    path = tmp_path / "net.safetensors"
    weights = {f"{i}.weight": heavy(rng, (120, 80)).astype(np.float32) for i in range(6)}
    weights["noise.weight"] = light(rng, (120, 80)).astype(np.float32)
    save_file(weights, path)
    expected = specdiag.alpha(path).squeeze()
    chosen = expected.verdict.isin(MEANINGFUL)
    mean, (low, high) = alpha_mean_interval(expected.alpha.values[chosen])
    median = np.median(expected.alpha.values[chosen])
    out = run("alpha", path)[1]
    assert not chosen.sel(layer="noise.weight")
    assert (
        f"mean alpha {mean:.2f} (95 % interval over layers {low:.2f} to {high:.2f}), median "
        f"{median:.2f}, over the {chosen.sum().item()} layers that are heavier than random (of 7 "
        "measured)\n"
    ) in out
    assert re.search(
        r"\nclose to 2 \(1.9 to 2.1\): \d layers?, not close \d, unclear \d; prob", out
    )
    summary = json.loads(run("alpha", path, "--json")[1])["checkpoints"][0]["summary"]
    assert (summary["mean_alpha"], summary["n_meaningful"]) == (mean, chosen.sum())


def test_the_goodness_of_fit_is_tested_when_asked_for(file):
    expected = specdiag.alpha(file, gof=True).sel(layer="fc1.weight", checkpoint="net")
    plain, asked = (run("alpha", file, *more)[1].splitlines() for more in ((), ("--gof",)))
    row = next(line for line in asked if line.startswith("fc1.weight"))
    assert ("gof p" in plain[1], "gof p" in asked[1]) == (False, True)
    assert f"  {expected.gof_p.item():.2f}  " in row
    assert not any("not tested" in line for line in asked)


def test_without_a_null_alpha_is_the_same_and_only_collapsed_layers_have_a_verdict(file):
    whole, alone = (
        json.loads(run("alpha", file, "--json", *more)[1])["checkpoints"][0]
        for more in ((), ("--null", "none", "--gof"))
    )
    fit = [row for row in alone["layers"] if row["status"] == "fit"]
    assert {row["verdict"] for row in fit} == {""}
    assert all(row[name] is None for row in fit for name in ("null_q", "kind_log10_factor"))
    assert all(row["gof_p"] for row in fit)
    assert {x["verdict"] for x in alone["layers"] if x["status"] == "degenerate"} == {"degenerate"}
    for row, other in zip(alone["layers"], whole["layers"], strict=True):
        names = [x for x in row if x.startswith(("alpha", "xmin", "n_tail", "rank", "short_tail"))]
        assert [row[x] for x in names] == [other[x] for x in names]
    assert (alone["summary"]["n_tested"], alone["summary"]["n_meaningful"]) == (0, len(fit))
    assert "which were not compared with random matrices" in run("alpha", file, "--null", "none")[1]
    status, _, err = run("alpha", file, "--null", "none", "--initialisation", file)
    assert (status, "it excludes --null none" in err) == (2, True)
    with pytest.raises(ValueError, match="it needs null='ladder'"):
        specdiag.alpha(file, null="none", initialisation=[file])
    with pytest.raises(ValueError, match="null is 'no': expected one of ladder, none"):
        specdiag.alpha(file, null="no")


def test_untrained_networks_are_one_more_null(rng, tmp_path):
    def saved(name, make):
        W = {f"{i}.weight": make(rng, (90, 60)).astype(np.float32) for i in range(3)}
        save_file(W, tmp_path / name)
        return tmp_path / name

    trained = saved("trained.safetensors", heavy)
    few = [saved(f"{i}.safetensors", light) for i in range(2)]
    same = [saved(f"{i}.safetensors", heavy) for i in range(2, 21)]
    status, out, err = run("alpha", trained, "--json", "--initialisation", *few)
    layers = json.loads(out)["checkpoints"][0]["layers"]
    assert status == 0
    assert [x["initialisation_p"] for x in layers] == pytest.approx([1 / 3] * 3)
    assert all(x["null_p"] < 0.05 for x in layers)
    assert err == (
        "2 untrained networks: initialisation_p is at least 0.33, and not part of null_p; 19 are "
        "needed\n"
    )
    dataset = specdiag.alpha(trained, initialisation=same)
    np.testing.assert_array_equal(
        dataset.null_p,
        np.fmax(dataset.initialisation_p, np.fmax(dataset.gaussian_p, dataset.scales_p)),
    )
    assert {"initialisation"} <= set(dataset.verdict.values.ravel())


def test_files_of_untrained_networks_are_checked_before_any_is_measured(file, rng, tmp_path):
    other, text = tmp_path / "other.safetensors", tmp_path / "text.safetensors"
    save_file({"fc1.weight": light(rng, (80, 120)).astype(np.float32)}, other)
    text.write_text("no checkpoint")
    status, out, err = run("alpha", file, "--initialisation", file, other)
    assert (status, out) == (1, "")
    assert err == (
        f"specdiag: {other}: it has no matrix of the name and shape of one to be measured: give "
        "untrained networks of the same recipe as initialisation\n"
    )
    status, out, err = run("alpha", file, "--initialisation", file, text)
    assert (status, out) == (1, "")
    assert err.startswith(f"specdiag: {text}: ")
    with pytest.raises(ValueError, match="give untrained networks of the same recipe"):
        specdiag.alpha(file, initialisation=[file, other])
    status, out, err = run("alpha", file, "--layers", "fc1*", "--initialisation", file)
    assert status == 0
    assert err.startswith("1 untrained network: ")


def test_the_mean_of_a_method_without_a_null_says_that_nothing_was_compared(rng, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({f"{i}.weight": light(rng, (90, 60)).astype(np.float32) for i in range(4)}, path)
    for method in METHODS[1:]:
        out = run("alpha", path, "--method", method)[1]
        assert re.search(
            r"\nmean alpha .* over all 4 measured layers, which were not compared with random "
            r"matrices\n",
            out,
        )
        assert "heavier than random" not in out


def test_rejected_layers_are_named_where_means_leave_them_out(rng, tmp_path):
    weights = {f"{i}.weight": heavy(rng, (120, 80)) for i in range(5)}
    layers = with_verdicts(measure(matrices(open_checkpoint(weights))))
    layers[0] = replace(layers[0], verdict="rejected")
    first, *_ = summary_lines(open_checkpoint(weights), layers)
    assert first.endswith(
        ", over the 4 layers that are heavier than random and not rejected (of 5 measured)"
    )


def test_json_has_the_same_numbers_and_null_for_nan(file):
    status, out, _ = run("alpha", file, "--json")
    (checkpoint,) = json.loads(out)["checkpoints"]
    expected = specdiag.alpha(file)
    assert status == 0
    assert checkpoint["summary"]["mean_alpha"] is None  # of fewer than four layers
    assert checkpoint["summary"]["n_walked"] == 6
    assert checkpoint["not_matrices"] == ["fc1.bias"]
    by_name = {layer["layer"]: layer for layer in checkpoint["layers"]}
    assert by_name["fc2.weight"]["alpha"] == expected.alpha.sel(layer="fc2.weight").item()
    assert by_name["dead.weight"]["alpha"] is None


def test_csv_has_a_row_for_each_matrix(file):
    status, out, _ = run("alpha", file, file, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert [row["checkpoint"] for row in rows] == [
        f"{file.parent.name}/net#{i}" for i in (1, 2) for _ in range(6)
    ]
    expected = specdiag.alpha(file).alpha.sel(layer="fc2.weight").item()
    assert [float(r["alpha"]) for r in rows if r["layer"] == "fc2.weight"] == [expected] * 2


def test_the_options_choose_what_is_measured(file):
    def summary(*options):
        return json.loads(run("alpha", file, "--json", *options)[1])["checkpoints"][0]["summary"]

    assert summary("--layers", "fc*")["n_walked"] == 2
    assert summary("--include-embeddings")["n_fit"] == 3
    assert summary("--min-eigenvalues", "70")["n_fit"] == 1


def test_the_dataset_and_the_figures_are_written(file, tmp_path):
    output, plots = tmp_path / "out.nc", tmp_path / "plots"
    status, _, err = run("alpha", file, "-o", output, "--plot", plots)
    assert status == 0
    assert specdiag.open_spectra(output).sizes["layer"] == 6
    assert sorted(p.name for p in plots.iterdir()) == [
        "alpha_by_layer.png",
        *(f"esd_{i:03d}_{n}.png" for i, n in fit_layers(file)),
    ]
    assert f"wrote {output}" in err
    assert f"drew 3 figures in {plots}" in err


def fit_layers(file):
    dataset = specdiag.alpha(file)
    pairs = zip(dataset.layer.values, dataset.status.values[0], strict=True)
    return [(i, name) for i, (name, status) in enumerate(pairs) if status == "fit"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'FILE...'."),
        (["none.pt"], "Path 'none.pt' does not exist."),
        ([""], "Invalid value for 'FILE...': the name is empty"),
        (["FILE", "-o", ""], "Invalid value for '-o' / '--output': the name is empty"),
        (["FILE", "--json", "--csv"], "--json and --csv exclude each other"),
        (["FILE", "-o", "no/where/x.nc"], "-o no/where/x.nc: there is no folder no/where"),
        (["FILE", "--min-eigenvalues", "1"], "1 is not in the range x>=2"),
        (["FILE", "--nonsense"], "No such option '--nonsense'."),
    ],
)
def test_wrong_usage_prints_one_line_and_gives_status_two(file, arguments, message):
    status, out, err = run("alpha", *[str(file) if a == "FILE" else a for a in arguments])
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_the_error_of_a_bad_file_is_one_line_and_the_other_files_are_measured(file, tmp_path):
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"")
    expected = f"specdiag: {bad}: the file is empty; copy or download it again\n"
    status, out, err = run("alpha", bad, file)
    assert status == 1
    assert "fc1.weight" in out
    assert err == expected
    assert run("compare", file, bad) == (1, "", expected)
    assert run("export", bad, tmp_path / "x.safetensors") == (1, "", expected)
    assert "Traceback" in run("alpha", bad, "--debug")[2]


def test_every_file_is_opened_once(file, monkeypatch):
    opened = []

    def open_and_count(path, **options):
        opened.append(path)
        return open_weights(path, **options)

    monkeypatch.setattr(find, "open_weights", open_and_count)
    done = CliRunner().invoke(cli, ["alpha", str(file), "-o", str(file.parent / "x.nc")])
    assert (done.exit_code, opened) == (0, [file])


def test_a_pattern_without_match_is_an_error_of_one_line(file):
    status, out, err = run("alpha", file, "--layers", "zzz*")
    assert (status, out) == (1, "")
    assert "no matrix of net matches 'zzz*'; it has 6, such as " in err


def test_a_pipe_is_not_written_to(file, tmp_path):
    pipe = tmp_path / "pipe.nc"
    os.mkfifo(pipe)
    status, out, err = run("alpha", file, "-o", pipe)
    assert (status, out) == (2, "")
    assert f"-o {pipe}: not a regular file" in err
    assert pipe.is_fifo()


def test_on_a_full_disk_the_table_is_printed_and_no_part_of_a_file_is_left(file, tmp_path):
    """A limit on the size of files stands in for the disk."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        f"import sys; sys.argv = ['specdiag', 'alpha', {str(file)!r}, '-o', 'out.nc'];"
        "from specdiag.cli.main import main; main()"
    )
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 1
    assert "fc1.weight" in done.stdout  # what was measured is not lost
    assert done.stderr.splitlines()[0] == (
        "specdiag: finished layers are not kept for another run: File too large"
    )
    assert done.stderr.count("\n") == 2
    assert "out.nc could not be written" in done.stderr
    left = [path.name for path in folder.iterdir()]
    assert left == [".out.nc.journal.specdiag"]  # with the layers that went into it


def test_files_are_written_even_when_nobody_reads_the_table(file, tmp_path):
    output = tmp_path / "out.nc"
    command = f"{sys.executable} -m specdiag alpha {file} -o {output} | true"
    subprocess.run(command, shell=True, check=False, capture_output=True)
    assert specdiag.open_spectra(output).sizes["layer"] == 6


def test_names_cannot_break_a_line_or_colour_the_terminal(rng, tmp_path):
    path = tmp_path / "hostile.safetensors"
    name = "[bold]\x1b[31mred\nnext\u202e"
    save_file({name: rng.standard_normal((60, 60)).astype(np.float32)}, path)
    out = run("alpha", path)[1]
    assert "\\x1b[31mred\\nnext\\u202e" in out
    assert "[bold]" in out
    assert "\x1b" not in out


def on_a_terminal(command, columns):
    """Return what a command prints on a terminal of that width."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "NO_COLOR"}}
    with subprocess.Popen(
        command, stdout=slave, stderr=slave, stdin=slave, env=environment | {"TERM": "xterm"}
    ) as child:
        os.close(slave)
        chunks = []
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the child has closed its end
                break
            if not chunk:
                break
            chunks.append(chunk)
        child.wait()
    os.close(master)
    return b"".join(chunks).decode()


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_table_fits_the_terminal(minilm, columns):
    command = [sys.executable, "-m", "specdiag", "alpha", str(minilm), "--layers", "*layer.0*"]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(command, columns))
    table = [line for line in text.splitlines() if re.search(r"\d - \d", line)]
    assert len(table) == 6
    assert all(len(line) <= columns for line in table)
    assert all("x384 " in line or "x1536 " in line for line in table)
    assert all(line.rstrip().endswith(tuple(VERDICTS)) for line in table)
    assert len({line.split()[0] for line in table}) == 6  # shortened names still differ


@pytest.mark.slow
def test_only_a_terminal_shows_the_progress_of_long_work(rng, tmp_path):
    path = tmp_path / "large.safetensors"
    W = rng.standard_normal((2048, 2048)).astype(np.float32)
    save_file({f"l{i}.weight": W for i in range(6)}, path)
    text = on_a_terminal([sys.executable, "-m", "specdiag", "alpha", str(path)], 80)
    shown = [int(percent) for percent in re.findall(r"large .*?(\d+)%", text)]
    assert shown[0] < 20
    assert shown[-1] == 100
    assert shown == sorted(shown)
    assert run("alpha", path)[2] == ""


def test_the_options_have_the_choices_of_the_library():
    options = {p.name: p for p in cli.get_command(None, "alpha").params}
    assert tuple(options["method"].type.choices) == METHODS
    assert options["min_eigenvalues"].default == MIN_EIGENVALUES


def test_the_help_of_every_command_has_an_example():
    for command in COMMANDS:
        done = CliRunner().invoke(cli, [command, "--help"])
        assert done.exit_code == 0
        lines = [line.strip() for line in done.output.splitlines()]
        assert any(line.startswith(f"specdiag {command} ") for line in lines)
        assert "\\b" not in done.output


@pytest.fixture
def pair(file, rng, tmp_path):
    """The file, and one whose fc2 and readout were trained further."""
    weights = load_file(file)
    for name in ("model.fc2.weight", "model.readout.weight"):
        weights[name] = weights[name] + rng.standard_normal(weights[name].shape).astype(np.float32)
    weights["model.new.bias"] = np.zeros(3, np.float32)
    save_file(weights, tmp_path / "tuned.safetensors")
    return file, tmp_path / "tuned.safetensors"


def test_compare_prints_measured_matrices_relations_and_a_conclusion(pair):
    status, out, err = run("compare", *pair)
    expected = specdiag.compare(*pair)
    cell = expected.sel(layer="fc2.weight", comparison="tuned")
    lines = out.splitlines()
    row = next(line.split() for line in lines if line.startswith("fc2.weight"))
    assert (status, err) == (0, "")
    assert lines[0] == "1: net   2: tuned"
    assert row[1:5] == [
        "80x60",
        *(f"{x:.2f}" for x in cell.alpha.values),
        "-",  # both are noise
    ]
    assert " ".join(row).endswith(f"different, {cell.verdict.values[0]} in both")
    assert next(x for x in lines if x.startswith("fc1.weight")).split()[-1] == "identical"
    assert "2 of 3 compared matrices bit-identical; 5 of 8 weights bit-identical" in lines
    assert "  only in tuned: new.bias" in lines
    assert any(
        x.startswith(
            "  different: readout.weight (too few eigenvalues: 2 of at least 50; distance "
        )
        for x in lines
    )
    (line,) = (line for line in lines if line.startswith("net: no mean alpha: "))
    assert line.endswith("; 6 matrices: 2 measured, 1 degenerate, 2 skipped, 1 failed")
    assert lines[-2] == expected.conclusion.item()


def test_the_json_and_the_dataset_of_compare_have_the_same_numbers(pair, tmp_path):
    output, plot = tmp_path / "pair.nc", tmp_path / "pair.png"
    status, out, err = run("compare", *pair, "--json", "-o", output, "--plot", plot)
    (comparison,) = json.loads(out)["comparisons"]
    dataset = specdiag.open_spectra(output)
    layer = {x["layer"]: x for x in comparison["layers"]}["fc2.weight"]
    assert status == 0
    assert (comparison["first"], comparison["second"]) == ("net", "tuned")
    assert comparison["conclusion"] == dataset.conclusion.item()
    assert layer["alpha_difference"] == dataset.alpha_difference.sel(layer="fc2.weight").item()
    assert layer["second"]["alpha"] == dataset.alpha.sel(layer="fc2.weight").values[1]
    assert comparison["whole"]["relations"] == {
        "identical": 5,
        "different": 2,
        "only in second": 1,
    }
    assert {t["tensor"]: t["relation"] for t in comparison["tensors"]}[
        "broken.weight"
    ] == "identical"
    assert plot.stat().st_size > 10_000
    assert err == f"wrote {output}\ndrew 1 figure in {plot}\n"


def test_compare_of_several_files_prints_each_and_numbers_its_figures(pair, tmp_path):
    status, out, _ = run("compare", *pair, pair[0], "--plot", tmp_path / "d.svg")
    assert status == 0
    assert [x for x in out.splitlines() if x.startswith("1: ")] == [
        f"1: {tmp_path.name}/net#1   2: tuned",
        f"1: {tmp_path.name}/net#1   2: {tmp_path.name}/net#2",
    ]
    assert (tmp_path / "d_1.svg").exists()
    assert (tmp_path / "d_2.svg").exists()


def test_files_without_a_common_name_are_an_error_of_one_line(file, tmp_path):
    save_file({"conv.weight": np.eye(64, dtype=np.float32)}, tmp_path / "other.safetensors")
    status, out, err = run("compare", file, tmp_path / "other.safetensors")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("specdiag: net and other have no matrix in common: the first has ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "compare needs at least two files; the first is compared with the others"),
        (("--against",), "--against needs at least one file"),
        (("--against", "--json"), "--against needs at least one file"),
        (("FILE", "-o", "nowhere/a.nc"), "-o nowhere/a.nc: there is no folder nowhere"),
        (("FILE", "--plot", "nowhere/a.png"), "--plot nowhere/a.png: there is no folder nowhere"),
        (
            ("FILE", "--plot", "a.docx"),
            "--plot a.docx: expected a name that ends in .png or .pdf or .svg",
        ),
        (("FILE", "-o", "FILE"), "-o FILE: it is one of the files to read"),
        (("FILE", "-o", "a.png"), "-o a.png: expected a name that ends in .nc"),
    ],
)
def test_wrong_usage_of_compare_is_an_error_before_any_file_is_read(file, options, message):
    status, out, err = run("compare", file, *(file if o == "FILE" else o for o in options))
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == f"Error: {message.replace('FILE', str(file))}"


@pytest.fixture
def seeds(rng, tmp_path):
    """Two seeds of one recipe, and three of another."""
    paths = [tmp_path / f"{name}.safetensors" for name in ("a1", "a2", "b1", "b2", "b3")]
    for path in paths:
        alpha = 1.6 if path.stem[0] == "a" else 2.4
        weights = {f"fc{i}.weight": heavy(rng, (80, 64), alpha) for i in range(3)}
        save_file({name: W.astype(np.float32) for name, W in weights.items()}, path)
    return paths[:2], paths[2:]


def test_compare_takes_groups_of_seeds_and_shows_their_means(seeds, tmp_path):
    first, second = seeds
    output, plot = tmp_path / "groups.nc", tmp_path / "groups.png"
    status, out, err = run("compare", *first, "--against", *second, "-o", output, "--plot", plot)
    assert (status, err) == (0, f"wrote {output}\ndrew 1 figure in {plot}\n")
    dataset = specdiag.open_spectra(output)
    lines = out.splitlines()
    assert lines[0] == "1: a1, a2 (2 networks)   2: b1, b2, b3 (3 networks)"
    alpha = dataset.alpha.sel(layer="fc1.weight").values
    cell = dataset.sel(layer="fc1.weight").squeeze()
    low, high = cell.alpha_difference_ci.values
    row = next(line.split() for line in lines if line.startswith("fc1.weight"))
    assert row[1:] == [
        *("80x64", f"{alpha[:2].mean():.2f}", f"{alpha[2:].mean():.2f}"),
        *(f"{cell.alpha_difference.item():+.2f}", f"{low:+.2f}", "to", f"{high:+.2f}"),
        *(f"{cell.rope_difference.item():+z.2f}", "different"),
    ]
    low, high = dataset.intraclass_correlation_ci.values[0]
    (line,) = (line for line in lines if line.startswith("95 % interval for other seeds "))
    assert line.endswith(
        "over 2 and 3 seeds; the part of a layer's scatter between seeds that all layers of a "
        "network share (measured intraclass correlation): "
        f"{dataset.intraclass_correlation.item():.2f} ({low:.2f} to {high:.2f})"
    )
    assert lines[-2] == dataset.conclusion.item()


def test_a_file_that_is_given_twice_in_groups_is_wrong_usage(seeds, tmp_path):
    (a1, a2), (b1, *_) = seeds
    link = tmp_path / "link.safetensors"
    link.symlink_to(a1)
    for files, also in (
        ((a1, a1, "--against", b1), ""),
        ((a1, a2, "--against", link), ", also as"),
    ):
        status, out, err = run("compare", *files)
        assert (status, out) == (2, "")
        assert f"{files[-1] if also else a1} is given twice{also}" in err


def test_a_copy_of_a_file_in_groups_is_an_error_of_one_line(seeds, tmp_path):
    (a1, _), (b1, *_) = seeds
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(a1.read_bytes())
    status, out, err = run("compare", a1, copy, "--against", b1)
    assert (status, out) == (1, "")
    assert err == (
        "specdiag: a1 and copy are one network, not two seeds: all 3 measured matrices are "
        "bit-identical; give each network once\n"
    )


def test_rows_of_noise_show_no_difference_and_name_the_verdict(rng, tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in ("a1", "a2", "b1", "b2")]
    for path in paths:
        weights = {"tail.weight": heavy(rng, (80, 64)), "noise.weight": light(rng, (80, 64))}
        save_file({name: W.astype(np.float32) for name, W in weights.items()}, path)
    for files in (paths[:2], [*paths[:2], "--against", *paths[2:]]):
        _, out, _ = run("compare", *files)
        lines = out.splitlines()
        noise = next(line for line in lines if line.startswith("noise.weight"))
        tail = next(line for line in lines if line.startswith("tail.weight"))
        assert noise.endswith("different, no evidence in both")
        assert " to " not in noise
        assert " to " in tail
        assert any(line.startswith("  relation: ") for line in lines)


def test_the_same_untrained_network_counts_once(file, rng, tmp_path):
    weights = load_file(file)
    untrained = tmp_path / "untrained.safetensors"
    noise = {n: light(rng, W.shape) if W.ndim == 2 else W for n, W in weights.items()}
    save_file({name: W.astype(np.float32) for name, W in noise.items()}, untrained)
    links = [tmp_path / f"{i}.safetensors" for i in range(19)]
    for link in links:
        link.symlink_to(untrained)
    status, out, err = run("alpha", file, "--json", "--initialisation", *links)
    layers = json.loads(out)["checkpoints"][0]["layers"]
    assert status == 0
    assert {x["initialisation_p"] for x in layers} == {None, 0.5}
    assert err == (
        "1 different of 19 untrained networks (one that is given again counts once): "
        "initialisation_p is at least 0.50, and not part of null_p; 19 are needed\n"
    )


def test_the_json_of_groups_names_their_seeds(seeds):
    first, second = seeds
    status, out, _ = run("compare", *first, "--json", "--against", *second)
    assert status == 0
    (comparison,) = json.loads(out)["comparisons"]
    assert comparison["first_seeds"] == ["a1", "a2"]
    assert comparison["second_seeds"] == ["b1", "b2", "b3"]
    whole = comparison["whole"]
    assert (whole["n_first_seeds"], whole["n_second_seeds"]) == (2, 3)
    low, high = whole["intraclass_correlation_ci"]
    assert low < whole["intraclass_correlation"] < high
    assert whole["intraclass_correlation_limit"] is None


def test_one_file_against_one_other_is_the_plain_comparison(seeds):
    (a, *_), (b, *_) = seeds
    assert run("compare", a, "--against", b) == run("compare", a, b)


def test_files_of_a_group_with_other_layers_are_an_error_of_one_line(seeds, file):
    status, out, err = run("compare", seeds[0][0], file, "--against", *seeds[1])
    assert (status, out) == (1, "")
    assert err.startswith("specdiag: a1 and net are no seeds of one recipe: they differ in ")
    assert err.count("\n") == 1
