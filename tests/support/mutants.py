"""Damaged inputs of every kind, thrown at the commands; time and memory of each are watched.

    make fuzz [N=100000] [SEED=0]

Each mutant is an honest file with some changes, and one command that reads it. The commands run in
child processes, so that a crash or an endless loop is one mutant's.
"""

import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import sys
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

SECONDS = 10.0  # of the processor
MEMORY = 10**9  # bytes beyond those of the libraries
WAIT = 60.0  # seconds without an answer, after which a child counts as hanging
CHUNK = 400  # mutants of one child
WORDS = [b"\x00", b"\xff", b"-1", b"1e999", b"NaN", b"null", b"{}", b"[]", b"9" * 30, b"../x"]
WORDS += [b"\x80\x02", b"PK\x03\x04", b"\x89HDF", "é\u202e".encode(), b"\xed\xa0\x80", b"\n", b"=1"]
TOKENS = [b"0", b"-1", b"1e999", b"9" * 40, b"nan", b"inf", b"true", b"null", b"[]", b"{}", b'""']
TOKENS += [b'"../x"', b'"a" ', b"1.5", b"18446744073709551616", b"[[[[1]]]]", b"2020-01-01"]
TOKENS += [b'"' + b"a" * 2000 + b'"', b"a." * 500, b"[" * 2000, "\u202e".encode(), b"=1+1", b"0x10"]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1]


class Seed(NamedTuple):
    """An honest input: files by name, the one that is changed, and the commands that read it."""

    files: dict[str, bytes]
    changed: str
    commands: tuple[tuple[str, ...], ...]
    named: str = ""  # what a message must name, where it is not the file that is changed


class Result(NamedTuple):
    number: int
    kind: str
    command: str
    status: int
    seconds: float
    bytes: int
    fault: str


def network(rng):
    shapes = {"layers.0.weight": (8, 6), "layers.0.bias": (8,), "embed.weight": (10, 6)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def seeds(folder):
    """Return the honest inputs by kind; `folder` is for the libraries that write files."""
    made = {}
    rng = np.random.default_rng(0)
    tensors = network(rng)
    reading = (("weights", "@"), ("alpha", "@"), ("export", "@", "../out.safetensors", "--force"))
    reading += (("compare", "@", "@"),)

    def one(name, data):
        return Seed({name: data}, name, reading)

    made |= {kind: one(name, data) for kind, name, data in torch_files(folder, tensors)}
    made |= {kind: one(name, data) for kind, name, data in other_files(folder, tensors)}
    made["index"] = index(made["safetensors"], reading)
    made["distcp"] = distributed(folder, tensors, reading)
    made |= lock_and_receipt(folder)
    made |= datasets(folder)
    return made


def torch_files(folder, tensors):
    import torch

    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    whole = {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1, "names": ["a", "b"]}}
    for kind, content, options in (
        ("zip", whole, {}),
        ("legacy", whole, {"_use_new_zipfile_serialization": False}),
        ("pickle", state, {}),
    ):
        path = folder / f"{kind}.pt"
        torch.save(content, path, **options)
        yield kind, path.name, path.read_bytes()


def other_files(folder, tensors):
    import gguf
    import h5py
    import msgpack
    import onnx
    import safetensors.numpy

    safetensors.numpy.save_file(tensors, folder / "m.safetensors", metadata={"a": "b"})
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    writer.add_string("general.name", "small")
    writer.add_array("tokens", ["a", "b"])
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = [onnx.numpy_helper.from_array(v, name) for name, v in tensors.items()]
    node = onnx.helper.make_node("Gemm", ["x", "layers.0.weight", "layers.0.bias"], ["y"], transB=1)
    value = onnx.helper.make_tensor_value_info
    ends = [value("x", 1, (1, 6))], [value("y", 1, (1, 8))]
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", *ends, stored)),
        folder / "m.onnx",
    )
    with h5py.File(folder / "m.weights.h5", "w") as file:
        for name, values in tensors.items():
            file.create_dataset(name.replace(".", "/"), data=values, compression="gzip")
        file.attrs["layer_names"] = ["layers", "embed"]
    np.savez_compressed(folder / "m.npz", **tensors)
    np.save(folder / "m.npy", tensors["layers.0.weight"])
    tree = {
        name: msgpack.ExtType(1, msgpack.packb((v.shape, v.dtype.name, v.tobytes())))
        for name, v in tensors.items()
    }
    (folder / "m.msgpack").write_bytes(msgpack.packb({"params": tree}))
    for kind, name in (
        ("safetensors", "m.safetensors"),
        ("GGUF", "m.gguf"),
        ("ONNX", "m.onnx"),
        ("HDF5 weights", "m.weights.h5"),
        ("npz", "m.npz"),
        ("npy", "m.npy"),
        ("msgpack", "m.msgpack"),
    ):
        yield kind, name, (folder / name).read_bytes()


def index(shard, commands):
    (data,) = shard.files.values()
    names = ("layers.0.weight", "layers.0.bias", "embed.weight")
    content = {
        "metadata": {"total_size": 500},
        "weight_map": dict.fromkeys(names, "one.safetensors"),
    }
    name = "model.safetensors.index.json"
    files = {name: json.dumps(content).encode(), "one.safetensors": data}
    return Seed(files, name, commands)


def distributed(folder, tensors, commands):
    import torch
    import torch.distributed.checkpoint as dcp

    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no processes are started
        dcp.save(state, checkpoint_id=str(folder / "dcp"))
    files = {f"dcp/{p.name}": p.read_bytes() for p in (folder / "dcp").iterdir()}
    turned = tuple(tuple("dcp" if word == "@" else word for word in c) for c in commands)
    return Seed(files, "dcp/.metadata", turned, named="dcp")


def lock_and_receipt(folder):
    from support import toy
    from support.commands import run_forked

    (folder / "toy").mkdir()
    lock = toy.make(folder / "toy")
    root = lock.parent
    for command in (["lock", "--init"], ["train", "base/net"]):
        status, _, err = run_forked(root, *command)
        assert status == 0, err
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    files = {name: data for name, data in files.items() if not name.endswith((".pyc", ".nc"))}
    receipt = next(name for name in files if re.search(r"\.[0-9a-f]{16}\.json$", name))
    listing = (("list",), ("list", "--json"))
    return {
        "lock": Seed(files, lock.name, (*listing, ("alpha", "base/net"))),
        "receipt": Seed(files, receipt, (*listing, ("alpha", "base/net"))),
    }


def datasets(folder):
    from specdiag.dataset.netcdf import save_spectra
    from support import collections_

    save_spectra(collections_.weights(1), folder / "m.nc")
    data = (folder / "m.nc").read_bytes()
    table = b"step,layer,alpha\n" + b"".join(b"%d,a,%f\n" % (i, 2 + i / 9) for i in range(9))
    drawing = (("figures", "m.nc", "curve.csv", "-o", "drawn"),)
    reading = (("link", "@"), ("report", "@", "-o", "r.html", "--force"))
    return {
        "netCDF": Seed({"m.nc": data}, "m.nc", reading),
        "CSV": Seed({"m.nc": data, "curve.csv": table}, "curve.csv", drawing),
    }


def mutate(data, rng, others):
    """Return some bytes with one to four changes."""
    data = bytearray(data)
    if data[:4] == b"PK\x03\x04" and rng.random() < 0.6:
        return changed_inside(bytes(data), rng, others)
    is_text = data.isascii() and b"\x00" not in data
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if is_text and rng.random() < 0.7:
            change_token(data, rng)
        else:
            change(data, rng, others)
    return bytes(data)


def change_token(data, rng):
    """Replace, drop or repeat a number, a text or a line of JSON, TOML or CSV."""
    pattern = rng.choice((rb'"[^"\n]*"', rb"[-+\w.]+", rb"[^\n]*\n", rb"[\[\]{},:=]"))
    found = list(re.finditer(pattern, bytes(data)))
    if not found:
        return
    match, other = rng.choice(found), rng.choice(found)
    new = rng.choice((b"", match[0] * 2, other[0], rng.choice(TOKENS)))
    data[match.start() : match.end()] = new


def change(data, rng, others):
    at = rng.randrange(len(data) + 1)
    if rng.random() < 0.5:  # descriptions lie at the beginning, or at the end
        at = min(at, rng.randrange(512)) if rng.random() < 0.7 else max(len(data) - at % 512, 0)
    stop = min(len(data), at + rng.choice((1, 2, 4, 8, 40, 400)))
    action = rng.randrange(9)
    if action == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif action == 1:
        del data[at:stop]
    elif action == 2:
        data[at:at] = data[at:stop] * rng.choice((1, 1, 2, 50))
    elif action == 3:
        del data[at if rng.random() < 0.5 else rng.randrange(len(data) + 1) :]
    elif action == 4:
        word = rng.choice(WORDS)
        data[at : at + rng.choice((0, len(word)))] = word
    elif action == 5:
        size = rng.choice((1, 2, 4, 8))
        number = rng.choice(NUMBERS) % 256**size
        data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
    elif action == 6:
        other = rng.choice(others)
        start = rng.randrange(len(other))
        data[at : rng.choice((at, stop))] = other[start : start + rng.choice((4, 40, 400))]
    elif action == 7 and (found := list(re.finditer(rb"\d+(\.\d+)?", bytes(data[:20_000])))):
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(WORDS)
    else:
        data[at:stop] = rng.randbytes(stop - at)


def changed_inside(data, rng, others):
    """Return an archive with one changed record, whose checksum is right."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(target, "w") as changed:
        records = archive.infolist()
        # The description of the tensors is the first; the others hold values.
        chosen = rng.choice((0, 0, 0, rng.randrange(len(records))))
        for place, record in enumerate(records):
            content = bytearray(archive.read(record))
            if place == chosen and content:
                for _ in range(rng.choice((1, 1, 2))):
                    change(content, rng, others)
            changed.writestr(record.filename, bytes(content), record.compress_type)
    return target.getvalue()


def run_all(made, first, last, seed, report):
    """Give the result of each mutant to `report`; a child that dies or hangs is one result, too."""
    context = multiprocessing.get_context("fork")
    while first < last:
        reader, writer = context.Pipe(duplex=False)
        stop = min(first + CHUNK, last)
        child = context.Process(target=_child, args=(made, first, stop, seed, writer))
        child.start()
        writer.close()
        begun = None
        try:
            while True:
                answer = next_answer(reader)
                if answer is None:
                    first = stop
                    break
                if isinstance(answer, Result):
                    first = answer.number + 1
                    report(answer)
                else:
                    begun = answer
        except EOFError:
            child.kill()
            child.join()
            number, kind, command = begun or (first, "?", "?")
            fault = f"the process ended with {child.exitcode}, or gave no answer"
            report(Result(number, kind, command, -1, WAIT, 0, fault))
            first = number + 1
        child.join()


def next_answer(reader):
    if not reader.poll(WAIT):
        raise EOFError
    return reader.recv()


def _child(made, first, stop, seed, writer):
    with TemporaryDirectory() as place:
        os.chdir(place)
        for number in range(first, stop):
            kind, command, name, folder = prepare(made, number, seed, Path(place))
            writer.send((number, kind, " ".join(command)))
            os.chdir(folder)
            result = attempt(number, kind, command, name)
            writer.send(result)
            os.chdir(place)
        writer.send(None)
        writer.close()


def prepare(made, number, seed, place):
    """Write a mutant into a folder; return its kind, the command, the file's name, the folder."""
    rng = random.Random(f"{seed}-{number}")
    kinds = list(made)
    kind = kinds[number % len(kinds)]
    if kind in ("netCDF", "CSV") and number // len(kinds) % 10:  # they take a hundred times longer
        kind = kinds[rng.randrange(len(kinds) - 2)]
    chosen = made[kind]
    others = [data for data in chosen.files.values() if data] or [b"x"]
    others += [next(iter(other.files.values())) for other in made.values()]
    folder = place / kind.replace(" ", "_")
    for name, data in chosen.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == chosen.changed:
            path.write_bytes(mutate(data, rng, others))
        elif not path.exists():
            path.write_bytes(data)
    command = tuple(chosen.changed if w == "@" else w for w in rng.choice(chosen.commands))
    return kind, command, chosen.named or Path(chosen.changed).name, folder


def attempt(number, kind, command, name):
    """Run a command in this process, as the command line does."""
    from specdiag.cli.main import main

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    before, start = peak(), time.process_time()
    sys.argv, fault, status = ["specdiag", *command], "", 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:  # noqa: BLE001 - a traceback, whatever it is
        status, fault = -2, f"{type(error).__name__}: {error}"
    seconds, memory = time.process_time() - start, peak() - before
    err.flush()
    text = err.buffer.getvalue().decode()
    if status not in (0, 1, 2) and not fault:
        fault = f"exit status {status}"
    if "Traceback" in text:
        fault = "a traceback: " + text[-300:]
    stem = name.partition(".")[0]  # compare names a network by it
    if status in (1, 2) and not fault and stem not in text:
        fault = "the message does not name the file: " + text[-300:]
    if seconds > SECONDS:
        fault = f"{seconds:.0f} seconds"
    if memory > MEMORY:
        fault = f"{memory:,} bytes"
    return Result(number, kind, " ".join(command), status, seconds, memory, fault)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Summary:
    """Counts of results; faults are kept."""

    def __init__(self):
        self.statuses, self.kinds = Counter(), Counter()
        self.faults = []
        self.seconds, self.most_seconds, self.most_bytes = Counter(), 0.0, 0

    def add(self, result):
        self.statuses[result.status] += 1
        self.kinds[result.kind] += 1
        self.seconds[result.kind] += result.seconds
        self.most_seconds = max(self.most_seconds, result.seconds)
        self.most_bytes = max(self.most_bytes, result.bytes)
        if result.fault:
            self.faults.append(result)


def tried(first, last, seed=0):
    """Return the summary of the mutants `first` to `last`."""
    summary = Summary()
    with TemporaryDirectory() as folder:
        made = seeds(Path(folder))
        run_all(made, first, last, seed, summary.add)
    return summary


if __name__ == "__main__":
    first, last, seed = (int(word) for word in (*sys.argv[1:], "0")[:3])
    summary = tried(first, last, seed)
    for fault in summary.faults:
        print(fault)
    print(dict(summary.statuses), dict(summary.kinds))
    print({kind: round(s, 1) for kind, s in summary.seconds.items()})
    print(f"at most {summary.most_seconds:.1f} s and {summary.most_bytes:,} bytes for one mutant")
    sys.exit(bool(summary.faults))
