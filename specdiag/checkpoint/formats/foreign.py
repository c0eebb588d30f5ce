"""First bytes of a file that is no checkpoint of torch or safetensors -> its real name."""

import re

# Files are recognised by their first bytes, not by their extension.
_FOREIGN = (
    (rb"version https://git-lfs", "a Git LFS pointer: fetch the content with 'git lfs pull'"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page: download the file itself"),
    (rb"\x1f\x8b", "compressed by gzip: decompress it first"),
    (rb"BZh", "compressed by bzip2: decompress it first"),
    (rb"\xfd7zXZ", "compressed by xz: decompress it first"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd: decompress it first"),
    (rb"(?s).{257}ustar", "a tar archive: unpack it first"),
    (rb"\x89HDF", "an HDF5 file: export the model with safetensors or torch.save"),
    (rb"GGUF", "a GGUF file: export the model with safetensors or torch.save"),
    (rb"\x93NUMPY", "a NumPy array: pass a dict of arrays instead"),
    (rb"PK\x05\x06", "an empty zip archive"),
)


def refuse_foreign(head: bytes, where: str) -> None:
    """Raise ValueError if the first bytes are those of another known format."""
    for pattern, kind in _FOREIGN:
        if re.match(pattern, head):
            raise ValueError(f"{where}: {kind}")
