"""Bytes of checkpoint files of every kind: valid, odd and hostile."""

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

ONES = np.ones(4, dtype="<f4").tobytes()

# Pickles, opcode by opcode.


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def ints(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def table(**entries):
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(key="0", kind="torch\nFloatStorage", numel=4):
    return (
        b"("
        + text("storage")
        + f"c{kind}\n".encode()
        + text(key)
        + text("cpu")
        + integer(numel)
        + b"tQ"
    )


def tensor(shape=(4,), stride=(1,), offset=0, place=None, function="_rebuild_tensor_v2", tail=b""):
    sizes = [v if isinstance(v, bytes) else ints(v) for v in (shape, stride)]
    start = offset if isinstance(offset, bytes) else integer(offset)
    hooks = b"ccollections\nOrderedDict\n)R"
    args = (
        (storage() if place is None else place) + start + b"".join(sizes) + b"\x89" + hooks + tail
    )
    return f"ctorch._utils\n{function}\n(".encode() + args + b"tR"


def pickled(body):
    return b"\x80\x02" + body + b"."


# Containers.


def torch_zip(body, storages=None, *, byteorder=b"little", method=zipfile.ZIP_STORED, extra=()):
    """Return a zip archive as torch.save writes it, with `body` in the pickle of data.pkl."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("m/data.pkl", pickled(body))
        archive.writestr("m/byteorder", byteorder)
        for key, data in ({"0": ONES} if storages is None else storages).items():
            archive.writestr(f"m/data/{key}", data)
        for name, data in extra:
            archive.writestr(name, data)
    return buffer.getvalue()


def legacy(body, keys=("0",), lengths=(4,), data=ONES, *, protocol=1001, little=b"\x88"):
    magic = pickled(b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19")
    system = table(little_endian=little)
    listed = b"](" + b"".join(map(text, keys)) + b"e"
    parts = [magic, pickled(integer(protocol)), pickled(system), pickled(body), pickled(listed)]
    tail = b"".join(struct.pack("<q", n) + data for n in lengths)
    return b"".join(parts) + tail


def legacy_storage(numel=4, view=b"N"):
    kind = b"ctorch\nFloatStorage\n"
    return b"(" + text("storage") + kind + text("0") + text("cpu") + integer(numel) + view + b"tQ"


def safetensors_file(header, data=b""):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def replace(data, old, new, *, count=1):
    assert old in data
    return data.replace(old, new, count)


def patch_central(data, offset, value, *, record=0):
    """Overwrite bytes of an entry of the zip directory."""
    position = -1
    for _ in range(record + 1):
        position = data.index(b"PK\x01\x02", position + 1)
    return data[: position + offset] + value + data[position + offset + len(value) :]


def patch_both(data, central, local, value, *, record=0):
    patched = patch_central(data, central, value, record=record)
    position = -1
    for _ in range(record + 1):
        position = patched.index(b"PK\x03\x04", position + 1)
    return patched[: position + local] + value + patched[position + local + len(value) :]


GOOD = torch_zip(table(w=tensor()))
LEGACY = legacy(table(w=tensor(place=legacy_storage())))
SAFE = safetensors_file({"w": entry()}, ONES)
INDEX = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}


def one_tensor(*args, **options):
    """Return a torch file with one tensor, `w`."""
    return torch_zip(table(w=tensor(*args, **options)))


def one_entry(*args, **options):
    """Return a safetensors file with one tensor, `w`."""
    return safetensors_file({"w": entry(*args, **options)}, ONES)


def with_value(value, **more):
    """A state dict of one good tensor and something else."""
    return torch_zip(table(w=tensor(), x=value, **more))


def nested(opening, closing, depth):
    return opening * depth + b"N" + closing * depth


def laughs(levels, bottom):
    """Return a list that holds one list twice, which holds one list twice, and so on."""
    indices = (bytes([level]) for level in range(levels))
    return bottom + b"".join(b"q" + i + b"0](h" + i + b"h" + i + b"e" for i in indices)


def bomb():
    """Return an archive with four megabytes of zeros that are announced as a gigabyte."""
    body = table(w=tensor(place=storage(numel=2**28)))
    data = torch_zip(body, {"0": bytes(2**22)}, method=zipfile.ZIP_DEFLATED)
    return data.replace(struct.pack("<I", 2**22), struct.pack("<I", 2**30))


def overlapping_records():
    """Return an archive with a storage whose bytes hold another record of the directory."""
    body = table(w=tensor(), v=tensor(place=storage("1")))
    plain = torch_zip(body, {"0": ONES, "1": ONES})
    inner = plain[plain.index(b"m/data/1") - 30 :][:38] + ONES
    data = torch_zip(body, {"0": inner, "1": ONES})
    return patch_central(data, 42, struct.pack("<I", data.index(inner)), record=3)


def numpy_archive():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def tar_archive():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return buffer.getvalue()


def encrypted():
    return patch_both(GOOD, 8, 6, b"\x01\x00")


def wrong_crc_in_pickle():
    return replace(GOOD, text("w"), text("v"))


def deep_tensor(depth):
    return torch_zip((b"}" + text("a")) * depth + tensor() + b"s" * depth)


def shared_optimizers():
    """Return a file with many entries beside the model that all hold the same large list."""
    shared = b"](" + tensor() + b"N" * 10**5 + b"eq\x07"
    many = b"".join(text(f"optim{index}") + b"h\x07" for index in range(10**5))
    deep = (b"}" + text("a")) * 101 + tensor() + b"s" * 101
    return torch_zip(b"}(" + text("optim") + shared + many + text("deep") + deep + b"u")


# Files that must be refused, with a part of the message.
REFUSED = {
    # not checkpoints
    "empty": (b"", "the file is empty"),
    "git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"
    ),
    "web page": (b"\n<!DOCTYPE html><html></html>", "a web page"),
    "web page in lower case": (b"<html><body>Not found", "a web page"),
    "gzip": (gzip.compress(GOOD), "gzip"),
    "bzip2": (bz2.compress(GOOD), "bzip2"),
    "xz": (lzma.compress(GOOD), "xz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
    "tar": (tar_archive(), "a tar archive"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "not read by h5py"),
    "GGUF": (b"GGUF\x03" + b"\xff" * 99, "GGUF"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(99), "the header of the array is invalid"),
    "npz": (replace(numpy_archive(), b"NUMPY", b"NUMPI", count=-1), "NumPy array"),
    "plain zip": (replace(GOOD, b"data.pkl", b"data.txt", count=-1), "without data.pkl"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
    "plain pickle": (pickled(table(a=b"K\x01")), "not written by torch.save"),
    "plain pickle of protocol 0": (b"(dp0\nVa\np1\nI1\ns.", "not written by torch.save"),
    "noise": (bytes(range(255, 155, -1)), "not a checkpoint"),
    "text": (b"hello world, this is no model", "not a checkpoint"),
    "one byte": (b"\x80", "not a checkpoint"),
    # zip archives
    "cut in the middle": (GOOD[: len(GOOD) // 2], "cut short"),
    "cut by one byte": (GOOD[:-1], "cut short"),
    "bytes after the archive": (GOOD + b"x", "cut short"),
    "archive with a comment": (GOOD[:-2] + b"\x01\x00x", "cut short"),
    "bytes before the archive": (b"PK\x03\x04" + GOOD, "not at the position given"),
    "encrypted record": (encrypted(), "encrypted"),
    "unknown compression": (patch_both(GOOD, 10, 8, b"\x0c\x00"), "compression method 12"),
    "two sizes of a stored record": (
        patch_central(GOOD, 20, b"\x01\x00\x00\x00"), "two different sizes"
    ),
    "local size differs": (patch_central(GOOD, 20, struct.pack("<II", 1, 1)), "two headers"),
    "local name differs": (replace(GOOD, b"m/data/0", b"m/data/1"), "two headers"),
    "local checksum differs": (patch_central(GOOD, 16, bytes(4)), "two headers"),
    "record outside the archive": (
        patch_central(GOOD, 42, b"\xff\xff\xff\x7f"), "outside the archive"
    ),
    "record at another record": (patch_central(GOOD, 42, bytes(4), record=1), "two headers"),
    "overlapping records": (overlapping_records(), "overlaps"),
    "directory record": (torch_zip(table(w=tensor()), extra=[("m/dir/", b"")]), "is a directory"),
    "record marked as a directory": (patch_central(GOOD, 38, b"\x10"), "is a directory"),
    "record name not UTF-8": (replace(GOOD, b"m/data/0", b"m/data/\xff", count=-1), "not UTF-8"),
    "number of entries too large": (
        GOOD[:-14] + b"\x09\x00\x09\x00" + GOOD[-10:], "ends before entry"
    ),
    "number of entries too small": (GOOD[:-14] + b"\x01\x00\x01\x00" + GOOD[-10:], "more than its"),
    "two pickles": (torch_zip(table(w=tensor()), extra=[("n/data.pkl", b"N.")]), "called data.pkl"),
    "big-endian": (torch_zip(table(w=tensor()), byteorder=b"big"), "not little-endian"),
    "wrong checksum of the pickle": (wrong_crc_in_pickle(), "CRC-32"),
    # tensors
    "shape beyond the storage": (one_tensor((5,)), "reaches element 4"),
    "offset beyond the storage": (one_tensor((1,), offset=4), "reaches element 4"),
    "stride beyond the storage": (one_tensor((2, 2), (3, 1)), "reaches element 4"),
    "negative offset": (one_tensor(offset=-1), "offset or strides"),
    "negative stride": (one_tensor(stride=(-1,)), "negative"),
    "negative size": (one_tensor((-4,)), "negative"),
    "shape of 2**124 elements": (one_tensor((2**62, 2**62), (0, 0)), "2**63 bytes"),
    "size of 2**70": (one_tensor((2**70,)), "beyond 63 bits"),
    "huge size beside zero": (one_tensor((0, 2**62, 4), (1, 1, 1)), "2**63 bytes"),
    "65 dimensions": (one_tensor((1,) * 65, (1,) * 65), "65 dimensions"),
    "more strides than sizes": (one_tensor((4,), (1, 1)), "offset or strides"),
    "bool as offset": (one_tensor(offset=b"\x88"), "offset or strides"),
    "text as shape": (one_tensor(text("abc")), "whole numbers"),
    "float as size": (one_tensor(b"G" + struct.pack(">d", 4.0) + b"\x85"), "whole numbers"),
    "missing storage": (one_tensor(place=storage("9")), "is missing"),
    "storage of another size": (
        torch_zip(table(w=tensor()), {"0": ONES[:12]}), "12 bytes instead of 16"
    ),
    "one storage, two dtypes": (
        torch_zip(table(w=tensor(), v=tensor(place=storage(kind="torch\nIntStorage")))),
        "float32 elsewhere and int32 here",
    ),
    "unknown storage class": (one_tensor(place=storage(kind="torch\nOddStorage")), "OddStorage"),
    "storage id is no tuple": (
        one_tensor(place=text("0") + b"Q"), "description of a storage is invalid"
    ),
    "storage id holds a list": (one_tensor(place=b"]Q"), "description of a storage is invalid"),
    "storage is no reference": (one_tensor(place=b"N"), "description of a storage is invalid"),
    "offset of 2**8000": (
        one_tensor(offset=b"\x8b" + struct.pack("<I", 1001) + bytes(1000) + b"\x01"),
        "offset or strides",
    ),
    "too many operations": (torch_zip(b"N0" * 1_000_001), "more than 2,000,000 operations"),
    "optimizers that share 100,000 tensors": (shared_optimizers(), "deeper than 100 levels"),
    "storage size is negative": (
        one_tensor(place=storage(numel=-4)), "description of a storage is invalid"
    ),
    "third version without dtype": (
        one_tensor(place=storage(kind="torch.storage\nUntypedStorage", numel=16),
                                 function="_rebuild_tensor_v3", tail=b"N"),
        "description of its dtype",
    ),
    "second version of untyped bytes": (
        one_tensor(place=storage(kind="torch.storage\nUntypedStorage", numel=16)),
        "description of its dtype",
    ),
    "too few arguments": (
        torch_zip(table(w=b"ctorch._utils\n_rebuild_tensor_v2\n)R")), "incomplete"
    ),
    "parameter of nothing": (
        torch_zip(table(w=b"ctorch._utils\n_rebuild_parameter\n)R")), "inside is missing"
    ),
    "negated bool": (
        torch_zip(
            table(w=tensor(place=storage(kind="torch\nBoolStorage"), tail=table(neg=b"\x88"))),
            {"0": bytes(4)},
        ),
        "marked as neg",
    ),
    "duplicate key": (
        torch_zip(b"}(" + text("w") + tensor() + text("w") + tensor() + b"u"), "'w' occurs twice"
    ),
    "duplicate name through nesting": (
        torch_zip(b"}(" + text("a.b") + tensor() + text("a") + table(b=tensor()) + b"u"),
        "'a.b' occurs twice",
    ),
    "tensor 101 levels deep": (deep_tensor(101), "deeper than 100 levels"),
    "laughing tensors": (torch_zip(laughs(30, tensor())), "more than 200,000 entries"),
    "name of 2,000 characters": (
        torch_zip(b"}" + text("a" * 2000) + tensor() + b"s"), "2,000 characters"
    ),
    # pickles
    "unknown opcode": (torch_zip(b"\xff"), "unknown opcode"),
    "pickle without end": (torch_zip(b"}q"), "cut short"),
    "stack underflow": (torch_zip(b"0"), "a mark is missing"),
    "nothing on the stack": (torch_zip(b""), "empty stack"),
    "tuple of nothing": (torch_zip(b"\x87"), "empty stack"),
    "append to nothing": (torch_zip(b"Na"), "empty stack"),
    "missing memo entry": (torch_zip(b"h\x07"), "memo entry 7"),
    "missing mark": (torch_zip(b"t"), "a mark is missing"),
    "integer of 4 GB": (torch_zip(b"\x8b\xff\xff\xff\xff"), "an integer of 4,294,967,295 bytes"),
    "integer of 5,000 digits": (torch_zip(b"I" + b"9" * 5000 + b"\n"), "not a whole number"),
    "long of letters": (torch_zip(b"Labc\n"), "not a whole number"),
    "float of letters": (torch_zip(b"Fabc\n"), "not a number"),
    "text of 2**60 bytes": (torch_zip(b"\x8d" + struct.pack("<Q", 2**60)), "bytes are announced"),
    "bytes of 2**63 bytes": (torch_zip(b"\x8e" + struct.pack("<Q", 2**63)), "bytes are announced"),
    "bytearray of 2**63 bytes": (
        torch_zip(b"\x96" + struct.pack("<Q", 2**63)), "bytes are announced"
    ),
    "text that is not UTF-8": (torch_zip(text(b"\xff\xfe")), "not UTF-8"),
    "half of a surrogate pair": (torch_zip(text(b"\xed\xa0\x80")), "not UTF-8"),
    "escaped half of a surrogate pair": (torch_zip(b"V\\ud800\n"), "not valid Unicode"),
    "broken escape": (torch_zip(b"V\\u12\n"), "broken escape"),
    "string without quotes": (torch_zip(b"Sabc\n"), "no quotes"),
    "string with an unknown escape": (torch_zip(b"S'\\q'\n"), "unknown escape"),
    "line without end": (torch_zip(b"Vabc"), "does not end"),
    "protocol 6": (torch_zip(b"\x80\x06N"), "protocol 6"),
    "bytes after the pickle": (torch_zip(b"N.N"), "bytes follow the pickle"),
    "buffer outside": (torch_zip(b"\x97"), "buffers"),
    "state for a list": (torch_zip(b"]}b"), "not an object"),
    "state given twice": (torch_zip(b"ca\nb\n)R}b}b"), "set twice"),
    "list as key": (torch_zip(b"}]Ns"), "a list is used as a key"),
    "items in a list": (torch_zip(b"](NNu"), "not a dict"),
    "append to a dict": (torch_zip(b"}Na"), "not a list"),
    "key without value": (torch_zip(b"}(Nu"), "a key has no value"),
    "arguments are a list": (torch_zip(b"ca\nb\n]R"), "not a tuple"),
    "global named by a number": (torch_zip(b"K\x01K\x02\x93"), "not text"),
    "object without class": (torch_zip(b"(o"), "no class"),
    "marks 20,000 deep": (torch_zip(b"(" * 20_000), "nested deeper"),
    # the older format
    "legacy cut short": (LEGACY[:-1], "the file ends before it does"),
    "legacy cut in a length": (LEGACY[:-18], "length is missing"),
    "legacy cut in a pickle": (LEGACY[:80], "does not end"),
    "legacy with bytes behind": (LEGACY + b"x", "1 bytes follow"),
    "legacy with another protocol": (legacy(b"}", protocol=7), "protocol is not 1001"),
    "legacy big-endian": (legacy(b"}", little=b"\x89"), "not little-endian"),
    "legacy with a storage too many": (legacy(b"}"), "not those described"),
    "legacy with a storage too few": (
        legacy(table(w=tensor(place=legacy_storage())), (), ()), "not those described"
    ),
    "legacy with another length": (
        legacy(table(w=tensor(place=legacy_storage())), lengths=(5,)), "wrong"
    ),
    "legacy with a view of a storage": (
        legacy(table(w=tensor(place=legacy_storage(view=b"K\x01")))),
        "description of a storage is invalid",
    ),
    "legacy storage twice": (
        legacy(table(w=tensor(place=legacy_storage())), ("0", "0"), (4, 4)), "not those described"
    ),
    "legacy storage described twice": (
        legacy(table(w=tensor(place=legacy_storage()), v=tensor(place=legacy_storage(5)))),
        "two different descriptions",
    ),
    # safetensors
    "safetensors cut in the header": (SAFE[:20], "62 bytes are announced"),
    "safetensors cut in the data": (SAFE[:-1], "the tensors take 16 bytes and the file has 15"),
    "safetensors with bytes behind": (SAFE + b"x", "the file has 17"),
    "safetensors header of 2**63 bytes": (struct.pack("<Q", 2**63) + b"{}", "bytes are announced"),
    "safetensors header not UTF-8": (safetensors_file(b'{"\xff":1}'), "not UTF-8"),
    "safetensors header no JSON": (safetensors_file(b"{'a': 1}"), "not valid JSON"),
    "safetensors header half": (safetensors_file(b'{"a":'), "not valid JSON"),
    "safetensors duplicate tensor": (safetensors_file(b'{"w":{},"w":{}}'), "'w' occurs twice"),
    "safetensors duplicate field": (
        safetensors_file(b'{"w":{"dtype":"F32","dtype":"F16"}}'), "'dtype' occurs twice"
    ),
    "safetensors NaN in JSON": (safetensors_file(b'{"w":NaN}'), "NaN"),
    "safetensors infinity in JSON": (safetensors_file(b'{"w":-Infinity}'), "Infinity"),
    "safetensors nested deeply": (safetensors_file(b'{"w":' + b"[" * 100_000), "nested too deeply"),
    "safetensors integer of 5,000 digits": (
        safetensors_file(b'{"w":' + b"9" * 5000 + b"}"), "not valid JSON"
    ),
    "safetensors surrogate": (safetensors_file(b'{"\\ud800":1}'), "not valid Unicode"),
    "safetensors entry is a list": (
        safetensors_file({"w": []}), "expected dtype, shape and data_offsets"
    ),
    "safetensors entry incomplete": (
        safetensors_file({"w": {"dtype": "F32"}}), "expected dtype, shape and data_offsets"
    ),
    "safetensors entry with more": (
        safetensors_file({"w": {**entry(), "x": 1}}, ONES), "expected dtype, shape and data_offsets"
    ),
    "safetensors dtype is a number": (one_entry(32), "not text"),
    "safetensors negative size": (one_entry(shape=(-4,)), "negative"),
    "safetensors float size": (one_entry(shape=(4.0,)), "whole numbers"),
    "safetensors bool size": (one_entry(shape=(True, 4)), "whole numbers"),
    "safetensors shape is a text": (
        safetensors_file({"w": {**entry(), "shape": "4"}}, ONES), "whole numbers"
    ),
    "safetensors huge shape": (one_entry(shape=(2**62, 8)), "2**63 bytes"),
    "safetensors million dimensions": (
        safetensors_file({"w": entry(shape=[0] * 10**6)}), "1,000,000 dimensions"
    ),
    "safetensors offsets backwards": (one_entry(offsets=(16, 0)), "backwards"),
    "safetensors offsets negative": (one_entry(offsets=(-16, 0)), "backwards"),
    "safetensors offset of 4,000 digits": (
        one_entry("X9", offsets=(0, 10**4000)), "exceed 63 bits"
    ),
    "safetensors header of four million lists": (
        safetensors_file(b'{"w":[' + b"[]," * (4 * 10**6) + b"[]]}"), "more than 2,000,000 values"
    ),
    "safetensors one offset": (one_entry(offsets=(16,)), "two whole numbers"),
    "safetensors offsets are text": (one_entry(offsets="ab"), "two whole numbers"),
    "safetensors size mismatch": (one_entry(shape=(3,)), "16 bytes for 3 elements"),
    "safetensors overlap": (
        safetensors_file({"v": entry(), "w": entry(offsets=(8, 24))}, ONES + ONES), "overlaps"
    ),
    "safetensors same bytes twice": (
        safetensors_file({"v": entry(), "w": entry()}, ONES), "overlaps"
    ),
    "safetensors hole": (safetensors_file({"w": entry(offsets=(4, 20))}, ONES + b"abcd"), "a hole"),
    "safetensors metadata is a number": (
        safetensors_file({"__metadata__": {"a": 1}}), "table of texts"
    ),
    "safetensors metadata is a list": (safetensors_file({"__metadata__": []}), "table of texts"),
    # indexes
    "JSON without weight_map": (b'{"a": 1}', "weight_map"),
    "JSON cut short": (b'{"weight_map": {"a": ', "not valid JSON"),
    "index of nothing": (b'{"weight_map": {}}', "weight_map"),
    "index with a list": (b'{"weight_map": ["a"]}', "weight_map"),
    "index nested deeply": (b'{"weight_map":' + b"[" * 100_000, "nested too deeply"),
    "index with a duplicate key": (b'{"weight_map": {"a": "b", "a": "c"}}', "occurs twice"),
    "index that climbs": (b'{"weight_map": {"a": "../secret.safetensors"}}', "plain file name"),
    "index with an absolute path": (b'{"weight_map": {"a": "/etc/passwd"}}', "plain file name"),
    "index with a folder": (b'{"weight_map": {"a": "sub/x.safetensors"}}', "plain file name"),
    "index with a backslash": (b'{"weight_map": {"a": "..\\\\x.safetensors"}}', "plain file name"),
    "index with a drive": (b'{"weight_map": {"a": "c:x.safetensors"}}', "plain file name"),
    "index with the parent": (b'{"weight_map": {"a": ".."}}', "plain file name"),
    "index with an empty name": (b'{"weight_map": {"a": ""}}', "plain file name"),
    "index with a NUL": (b'{"weight_map": {"a": "x\\u0000"}}', "plain file name"),
    "index with a number": (b'{"weight_map": {"a": 1}}', "plain file name"),
    "index with a missing shard": (b'{"weight_map": {"a": "gone.safetensors"}}', "is missing"),
    "index with nested lists as a name": (
        b'{"weight_map": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}", "plain file name"
    ),
    "index of itself": (b'{"weight_map": {"a": "file.pt"}}', "not a checkpoint"),
}  # fmt: skip

# Odd files that can be opened: the tensor `w` of four ones can be read in each.
ODD = {
    "lists nested 9,000 deep": with_value(nested(b"](", b"e", 9_000)),
    "tuples nested 200,000 deep": with_value(nested(b"", b"\x85", 200_000)),
    "dicts nested 100,000 deep": with_value(nested(b"}N", b"s", 10**5)),
    "objects nested 100,000 deep": with_value(nested(b"ca\nb\n", b"\x85R", 10**5)),
    "a tuple nested deeply as key": with_value(b"}" + nested(b"", b"\x85", 10**5) + b"Ns"),
    "a list that holds itself": with_value(b"]q\x00h\x00a"),
    "a dict that holds itself": with_value(b"}q\x00" + text("me") + b"h\x00s"),
    "laughing metadata": with_value(laughs(60, b"K\x01")),
    "keys that collide": with_value(
        b"}(" + b"".join(integer(i * (2**61 - 1)) + b"N" for i in range(5000)) + b"u"
    ),
    "object under an extension code": with_value(b"\x82\x01)R"),
    "memo entry 4 billion": with_value(b"Nr\xff\xff\xff\xff"),
    "pairs with nested keys": with_value(
        b"ccollections\nOrderedDict\n(](" + nested(b"", b"\x85", 10**5) + b"NlatR"
    ),
    "bytes that are not text": with_value(b"U\x02\xff\xfe"),
    "enumeration": with_value(b"cmy.module\nColour\nK\x01\x85R"),
    "global as value": with_value(b"cmy.module\nfunction\n"),
    "deflated archive": torch_zip(table(w=tensor()), method=zipfile.ZIP_DEFLATED),
    "unknown record": torch_zip(table(w=tensor()), extra=[("m/else", b"x")]),
    "legacy": LEGACY,
    "safetensors": SAFE,
    "safetensors with metadata": safetensors_file(
        {"__metadata__": {"format": "pt"}, "w": entry()}, ONES
    ),
    "safetensors with a padded header": safetensors_file(
        json.dumps({"w": entry()}).encode() + b"   ", ONES
    ),
}  # fmt: skip

# Files whose damage is noticed only when the tensor `w` is read, with a part of the message.
BAD_VALUES = {
    "flipped bit": (replace(GOOD, ONES, ONES[:-1] + b"\x7f"), "CRC-32"),
    "flipped bit in deflated data": (
        replace(
            torch_zip(table(w=tensor()), method=zipfile.ZIP_DEFLATED),
            zlib.compress(ONES, wbits=-15)[:4],
            b"\xff\xff\xff\xff",
        ),
        "record 'm/data/0'",
    ),
    "decompression bomb": (bomb(), "more than 20 times"),
    "bool of sevens": (
        torch_zip(table(w=tensor(place=storage(kind="torch\nBoolStorage"))), {"0": b"\x07" * 4}),
        "a bool tensor holds",
    ),
    "safetensors bool of sevens": (
        safetensors_file({"w": entry("BOOL", offsets=(0, 4))}, b"\x07" * 4), "a bool tensor holds"
    ),
}  # fmt: skip

# Files whose tensor `w` is listed but cannot be read, with its problem.
UNREADABLE = {
    "expanded": (one_tensor((1000, 4), (0, 1)), "expanded (stride 0)"),
    "expanded to 2**60 elements": (one_tensor((2**58, 4), (0, 1)), "expanded (stride 0)"),
    "overlapping": (one_tensor((3, 2), (1, 1)), "overlapping view"),
    "unknown rebuild": (torch_zip(table(w=b"ctorch._utils\n_rebuild_strange\n)R")), "unsupported"),
    "sharded": (torch_zip(table(w=b"ctorch.distributed.tensor\nDTensor\n)\x81}b")), "unsupported"),
    "safetensors of 4 bits": (one_entry("F4", (32,)), "dtype F4"),
    "safetensors of an unknown dtype": (one_entry("X9"), "dtype X9"),
}  # fmt: skip


# Attempts to run code.


def payloads(command):
    """Return opcodes that make Python's unpickler run a shell command and push one value."""
    system, argument = b"cposix\nsystem\n", text(command)
    code = text(f"__import__('os').system({command!r})")
    return {
        "REDUCE": system + argument + b"\x85R",
        "STACK_GLOBAL": text("posix") + text("system") + b"\x93" + argument + b"\x85R",
        "INST": b"(" + argument + b"iposix\nsystem\n",
        "OBJ": b"(" + system + argument + b"o",
        "a builtin": b"cbuiltins\neval\n" + code + b"\x85R",
        "a dotted path": (
            text("os") + text("sys.modules") + b"0" + text("system") + b"\x93" + argument + b"\x85R"
        ),
        "the memo": system + b"q\x630" + argument + b"\x85q\x620h\x63h\x62R",
        "inside a tuple": system + argument + b"\x85R\x85",
        "as the state of an object": (
            b"ccollections\nOrderedDict\n)R" + system + argument + b"\x85Rb"
        ),
        "a state that is set": (
            b"cfunctools\npartial\n" + system + b"\x85R(" + system
            + b"(" + argument + b"t}NtbN\x86"
        ),
        "map": b"cbuiltins\nlist\ncbuiltins\nmap\n" + system + b"(" + argument + b"l\x86R\x85R",
        "NEWOBJ": b"csubprocess\nPopen\n((" + argument + b"lt\x81",
        "NEWOBJ_EX": b"csubprocess\nPopen\n(" + argument + b"t}" + text("shell") + b"\x88s\x92",
        "an extension": b"\x82\x01" + argument + b"\x85R",
    }  # fmt: skip


POSITIONS = {
    "beside the tensor": lambda p: table(w=tensor(), x=p),
    "in hyper_parameters": lambda p: table(state_dict=table(w=tensor()), hyper_parameters=p),
    "in the optimizer": lambda p: table(state_dict=table(w=tensor()), optimizer_states=p),
    "as a key": lambda p: b"}(" + text("w") + tensor() + p + b"Nu",
    "as the storage": lambda p: table(w=tensor(place=p)),
    "as the storage's id": lambda p: table(w=tensor(place=p + b"Q")),
    "as the shape": lambda p: table(w=tensor(shape=p)),
    "as the offset": lambda p: table(w=tensor(offset=p)),
    "as the tensor": lambda p: table(w=p),
    "as the function": lambda p: table(w=p + b")R"),
    "as everything": lambda p: p,
}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "file.pt"
    path.write_bytes(data)
    return path


def pipe(folder: Path) -> Path:
    path = folder / "pipe.pt"
    os.mkfifo(path)
    return path


def honest_arrays(seed=0):
    """Return a small state dict with every common dtype."""
    rng = np.random.default_rng(seed)
    return {
        "encoder.weight": rng.standard_normal((6, 5)).astype(np.float32),
        "encoder.bias": rng.standard_normal(6),
        "half": rng.standard_normal((3, 4)).astype(np.float16),
        "steps": np.arange(7),
        "mask": np.array([[True, False], [False, True]]),
        "scalar": np.array(3.5, dtype=np.float32),
        "empty": np.empty((0, 3), dtype=np.float32),
        "wave": (rng.standard_normal(4) + 1j).astype(np.complex64),
    }


def honest_files():
    """Return the same state dict as bytes of every container."""
    arrays = honest_arrays()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save(tensors, zipped)
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    return {
        "torch zip": zipped.getvalue(),
        "legacy": old.getvalue(),
        "safetensors": safetensors.numpy.save(arrays),
    }
