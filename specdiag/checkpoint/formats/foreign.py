"""A file of a format that is not read -> its real name, in an error."""

import re
import zlib
from collections.abc import Iterable
from contextlib import suppress

NOT_READ = (
    "it is not read; load it with the program that wrote it and save the weights as .npz or "
    ".safetensors"
)
_TAR = rb"(?s).{257}ustar"
# Files are recognised by their first bytes, not by their extension.
_FOREIGN = (
    (rb"version https://git-lfs", "a Git LFS pointer: fetch the content with 'git lfs pull'"),
    (rb"(?is)\s*<(!doctype html|html|\?xml.*<html)", "a web page: download the file itself"),
    (rb"(?s)\s*<\?xml.*<net ", f"a model of OpenVINO: {NOT_READ}"),
    (rb"\s*<(\?xml|!doctype)", "an XML file, not a checkpoint"),
    (rb"BZh", "compressed by bzip2: decompress it first"),
    (rb"\xfd7zXZ", "compressed by xz: decompress it first"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd: decompress it first"),
    (rb"sys_info\0", "written by torch 0.1: load it with torch.load and save it again"),
    (_TAR, "a tar archive: unpack it with 'tar -xf' and name the checkpoint in it"),
    (rb"(?s).{4}TFL3", f"a TensorFlow Lite file: {NOT_READ}"),
    (rb"PK\x05\x06", "an empty zip archive"),
    (rb"(?s).{4}ET\d\d", f"a program of ExecuTorch (.pte): {NOT_READ}"),
    (rb"#(Lookup)?Parameter# ", f"a model of DyNet: {NOT_READ}"),
    (rb"(?s)\x01\x01\x01.loss_", f"a network of dlib: {NOT_READ}"),
    (rb"\xba\x16\x4f\x2f", f"a model of fastText: {NOT_READ}"),
    (rb"\x12\x01\0\0\0\0\0\0", f"a file of MXNet: {NOT_READ}"),
    (rb"MATLAB 5\.0 MAT-file", f"a MATLAB file: {NOT_READ}"),
    (rb"7767517\s", f"a network of ncnn: {NOT_READ}"),
)
# These start with a few bytes that any file could start with.
_BY_NAME = (
    (r".*\.(pb|pbtxt)", "a TensorFlow graph by its name"),
    (r".*\.data-\d{5}-of-\d{5}|.*\.ckpt-\d+\.index", "a part of a TensorFlow checkpoint"),
    (r".*\.tflite", "a TensorFlow Lite file by its name"),
    (r".*\.mlmodel", "a Core ML model by its name"),
    (r".*\.caffemodel", "a Caffe model by its name"),
    (r".*\.pdparams", "a file of PaddlePaddle by its name"),
    (r".*\.engine", "a TensorRT engine by its name"),
    (r".*\.weights", "a network of darknet by its name"),
)


# Zip archives, by the names of their records.
_ZIPS = (
    (r"[^/]+/\.data/extern_modules", "a package of torch.package"),
    (r"([^/]+/)?data/aotinductor/.*", "a compiled program of AOTInductor (.pt2)"),
    (
        r"[^/]+/(archive_format|models/[^/]+\.json)",
        "a program of torch.export (.pt2) without a table of its weights",
    ),
)


def refuse_foreign(head: bytes, where: str) -> None:
    """Raise ValueError if the first bytes, or the name, are those of another known format."""
    if head.startswith(b"\x1f\x8b"):
        tar = re.match(_TAR, _gunzipped(head))
        how = "and a tar archive: unpack it with 'tar -xzf' and name the checkpoint in it"
        raise ValueError(f"{where}: compressed by gzip{f', {how}' if tar else ': gunzip it first'}")
    for pattern, kind in _FOREIGN:
        if re.match(pattern, head):
            raise ValueError(f"{where}: {kind}")
    for name, kind in _BY_NAME:
        if re.fullmatch(name, where.lower()) and not head.startswith(b"\x80\x02"):
            raise ValueError(f"{where}: {kind}: {NOT_READ}")


def _gunzipped(head: bytes) -> bytes:
    """Return the beginning of a file that gzip compressed, from the first bytes of the result."""
    with suppress(zlib.error):
        return zlib.decompressobj(zlib.MAX_WBITS + 16).decompress(head, 512)
    return b""


def refuse_foreign_zip(names: Iterable[str], where: str) -> None:
    """Raise ValueError if the records of a zip archive are those of another known format."""
    names = list(names)
    kinds = {kind for name in names if (kind := re.sub(r"^[^/]+/|/\d+$", "", name)) != name}
    if "constants" in kinds and "data" not in kinds:
        raise ValueError(
            f"{where}: a frozen TorchScript program, whose weights are constants without names; "
            "save the state_dict of the model with torch.save"
        )
    if any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in names):
        return
    for pattern, kind in _ZIPS:
        if any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(
                f"{where}: {kind}, which is not read; save the state_dict of the model with "
                "torch.save"
            )
