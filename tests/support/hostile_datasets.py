"""Datasets that lead elsewhere, grow, or hold what no measurement gives; each with its refusal.

`CASES` has functions that change an honest file, opened by h5py for writing.
"""

import os
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np

SECRET = "a-private-text-"
MANY = 400_000_000


def replaced(file, name, **settings):
    """Write a variable anew, with the same dimensions; returns the new dataset."""
    old = file[name]
    shape, scales = old.shape, [dim[0].name for dim in old.dims]
    attributes = {k: old.attrs[k] for k in ("long_name", "units") if k in old.attrs}
    del file[name]
    new = file.create_dataset(name, **({"shape": shape} | settings))
    for dim, scale in zip(new.dims, scales, strict=False):
        if scale in file:
            dim.attach_scale(file[scale])
    new.attrs.update(attributes)
    return new


def beside(file, name):
    return Path(file.filename).with_name(name)


def external_text(file):
    beside(file, "private.txt").write_text(SECRET * 200)
    size = 48 * file["reason"].size
    replaced(file, "reason", dtype="S48", external=[(str(beside(file, "private.txt")), 0, size)])


def external_numbers(file):
    external_text(file)
    size = 8 * file["alpha"].size
    replaced(file, "alpha", dtype="f8", external=[(str(beside(file, "private.txt")), 0, size)])


def link_to_pipe(file):
    if not beside(file, "pipe").exists():
        os.mkfifo(beside(file, "pipe"))
    del file["reason"]
    file["reason"] = h5py.ExternalLink(str(beside(file, "pipe")), "/x")


def further_link(file):
    file["other"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_link(file):
    del file["reason"]
    file["reason"] = h5py.SoftLink("/status")


def dangling_link(file):
    file["other"] = h5py.SoftLink("/nowhere")


def virtual(file):
    with h5py.File(beside(file, "other.h5"), "w") as other:
        other["x"] = np.full(file["alpha"].shape, 1234.5)
    layout = h5py.VirtualLayout(file["alpha"].shape, "f8")
    layout[...] = h5py.VirtualSource(str(beside(file, "other.h5")), "x", file["alpha"].shape)
    del file["alpha"]
    file.create_virtual_dataset("alpha", layout)


def sample_of(file, n):
    """Give the Dataset `n` eigenvalues, none of which is stored."""
    del file["eigenvalue"], file["sample"]
    sample = file.create_dataset("sample", (n,), dtype="f4", chunks=(2**20,))
    sample.make_scale(f"This is a netCDF dimension but not a netCDF variable.{n:10d}")
    return sample


def growing(file):
    sample = sample_of(file, MANY)
    eigenvalue = file.create_dataset(
        "eigenvalue", (MANY,), dtype="f8", chunks=(2**20,), fillvalue=1.0
    )
    eigenvalue.dims[0].attach_scale(sample)


def compressed(file):
    """Ninety million zeros, compressed a thousand times."""
    packed, n = zlib.compress(bytes(8 * 2**20), 9), 90
    sample = sample_of(file, n * 2**20)
    eigenvalue = file.create_dataset(
        "eigenvalue", (n * 2**20,), dtype="f8", chunks=(2**20,), compression="gzip"
    )
    eigenvalue.dims[0].attach_scale(sample)
    for i in range(n):
        eigenvalue.id.write_direct_chunk((i * 2**20,), packed)


def large_piece(file):
    replaced(file, "alpha", dtype="f8", chunks=(8000, 8000), maxshape=(None, None))


def many_pieces(file):
    file.create_dataset("more", (10**8,), dtype="i1", chunks=(1,))


def repeated_text(file):
    """Give all cells one text of a megabyte, stored once."""
    file["reason"][0, 0] = "x" * 2**20
    file.flush()
    places, n = read_at(file, file["reason"].id.get_offset(), 16), 2000
    new = file.create_dataset("more", (n,), dtype=h5py.string_dtype(), chunks=(n,))
    new.id.write_direct_chunk((0,), places * n)


def read_at(file, offset, length):
    with Path(file.filename).open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def longer_text(file):
    """Declare a text shorter than its collection says: HDF5 copies more than it has room for."""
    status = file["status"]
    place = struct.unpack("<IQI", read_at(file, status.id.get_offset(), 16))
    new = file.create_dataset("more", (1,), dtype=h5py.string_dtype(), chunks=(1,))
    new.id.write_direct_chunk((0,), struct.pack("<IQI", 1, *place[1:]))


def text_elsewhere(file):
    new = file.create_dataset("more", (1,), dtype=h5py.string_dtype(), chunks=(1,))
    new.id.write_direct_chunk((0,), struct.pack("<IQI", 5, 2**40, 1))


def group(file):
    file.create_group("more")


def group_in_itself(file):
    file["more"] = file["/"]


def numbers_of_many_parts(file):
    file.create_dataset("more", (3,), dtype=np.dtype([("a", "f8"), ("b", "i4")]))


def references(file):
    file.create_dataset("more", (3,), dtype=h5py.ref_dtype)


def lists(file):
    file.create_dataset("more", (3,), dtype=h5py.vlen_dtype("f8"))


def plugin(file):
    space, plist = h5py.h5s.create_simple((10,)), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((10,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))  # zstd
    h5py.h5d.create(file.id, b"more", h5py.h5t.IEEE_F64LE, space, plist)


def many_attributes(file):
    for i in range(20):
        file["alpha"].attrs[f"note{i}"] = i


def lists_as_attribute(file):
    values = np.empty(1, dtype=object)
    values[0] = np.arange(3.0)
    file["alpha"].attrs.create("note", values, dtype=h5py.vlen_dtype("f8"))


def without(name):
    def change(file):
        del file[name]

    return change


def values(name, value, at=...):
    def change(file):
        file[name][at] = value

    return change


def attribute(name, value, of="/"):
    def change(file):
        file[of].attrs[name] = value

    return change


def typed(name, dtype):
    return lambda file: replaced(file, name, dtype=dtype)


def no_text(file):
    data = replaced(file, "reason", dtype=h5py.string_dtype("utf-8"))
    data[...] = np.full(data.shape, b"\xff\xfe", dtype=object)


LARGEST = np.iinfo("i8").max
CASES = {
    "text of another file": (external_text, "'reason': its values are in another file"),
    "numbers of another file": (external_numbers, "its values are in another file"),
    "a link to a pipe": (link_to_pipe, "'reason' is a link to another place"),
    "one more link": (further_link, "'other' is a link to another place"),
    "a soft link": (soft_link, "'reason' is a link to another place"),
    "a soft link to nothing": (dangling_link, "'other' is a link to another place"),
    "values of another file": (virtual, "'alpha': a virtual dataset"),
    "values that are not stored": (growing, "bytes would grow to"),
    "compressed zeros": (compressed, "bytes would grow to"),
    "a large piece": (large_piece, "bytes would grow to"),
    "many pieces": (many_pieces, "'more': it is in 100,000,000 pieces"),
    "a text for many cells": (repeated_text, "bytes would grow to"),
    "a text that is longer": (longer_text, "a text of another length than that of its place"),
    "a text in no collection": (text_elsewhere, "a collection of texts is damaged"),
    "a group": (group, "'more' is no array"),
    "a group in itself": (group_in_itself, "'more' is no array"),
    "numbers of many parts": (numbers_of_many_parts, "'more': neither numbers nor texts"),
    "references": (references, "'more': neither numbers nor texts"),
    "lists": (lists, "'more': neither numbers nor texts"),
    "a plugin": (plugin, "'more': compressed by the HDF5 filter 32015"),
    "many attributes": (many_attributes, "more attributes than specdiag writes"),
    "lists as attribute": (lists_as_attribute, "an attribute of lists"),
    "starts that wrap around": (values("row_start", LARGEST - 1), "point outside"),
    "negative starts": (values("row_start", -1), "point outside"),
    "negative sizes": (values("row_size", -5), "point outside"),
    "sizes that wrap around": (values("row_size", LARGEST), "point outside"),
    "shared eigenvalues": (values("row_start", 0), "to two layers"),
    "layers of one name": (values("layer", "x"), "layer 'x' occurs twice"),
    "checkpoints of one name": (values("checkpoint", "x"), "checkpoint 'x' occurs twice"),
    "an unknown status": (values("status", "fitted"), "status is 'fitted'; expected one of fit,"),
    "an unknown verdict": (values("verdict", "sure"), "verdict is 'sure'; expected one of"),
    "a low alpha": (values("alpha", 0.5), "alpha is 0.5; expected 1 to inf"),
    "a probability of 2": (values("null_q", 2.0), "null_q is 2; expected 0 to 1"),
    "a negative probability": (values("null_p", -1e300), "null_p is -1e+300; expected 0 to 1"),
    "a missing eigenvalue": (values("eigenvalue", np.nan), "eigenvalue is nan; expected"),
    "a negative eigenvalue": (values("eigenvalue", -1.0), "eigenvalue is -1; expected"),
    "other bounds": (values("ci_bound", ["a", "b"]), "ci_bound is not lower, upper"),
    "other alternatives": (values("alternative", list("abcd")), "alternative is not lognormal"),
    "no alpha": (without("alpha"), "variable alpha is missing"),
    "no layers": (without("layer"), "is not a spectra file"),
    "alpha as whole numbers": (typed("alpha", "i8"), "variable alpha has dims"),
    "starts as fractions": (typed("row_start", "f8"), "variable row_start has dims"),
    "status as numbers": (typed("status", "f8"), "variable status has dims"),
    "complex alpha": (typed("alpha", "c16"), "'alpha': neither numbers nor texts"),
    "a text that is not UTF-8": (no_text, "is not a spectra file"),
    "no version": (lambda f: f.attrs.pop("schema_version"), "schema_version is None"),
    "a version in words": (attribute("schema_version", "two"), "schema_version is two"),
    "a version of the future": (attribute("schema_version", 99), "schema_version is 99"),
    "two versions": (attribute("schema_version", [2, 2]), "schema_version is [2 2]"),
    "no provenance": (lambda f: f.attrs.pop("provenance"), "its provenance is not JSON"),
    "a provenance of numbers": (attribute("provenance", 3.5), "its provenance is not JSON"),
    "a provenance of lists": (attribute("provenance", "[1]"), "its provenance is not a table"),
    "a provenance in words": (attribute("provenance", "none"), "its provenance is not JSON"),
    "a deep provenance": (attribute("provenance", "[" * 9000), "its provenance is not JSON"),
    "a nested provenance": (
        attribute("provenance", '{"a":' * 60 + "1" + "}" * 60),
        "its provenance is not a table of JSON",
    ),
    "a scale in words": (attribute("scale_factor", "two", "alpha"), "is not a spectra file"),
}


def write_all(honest, folder):
    """Write each case as a copy of an honest file; return what each refusal has, by path."""
    paths = {}
    for name, (change, wrong) in CASES.items():
        path = folder / f"{name.replace(' ', '_')}.nc"
        path.write_bytes(honest.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        paths[path] = wrong
    return paths
