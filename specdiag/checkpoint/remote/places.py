"""The name of a checkpoint -> its path on this machine, at the hub or in the web."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from specdiag.files import DistantPath
from specdiag.wording import shown

# Names of files are no names of repositories, although those can have dots.
_FILE = re.compile(
    r".*\.(bin|ckpt|csv|gguf|gz|h5|hdf5|ipynb|json|keras|lock|model|msgpack|nc|npy|npz|onnx|pb|"
    r"pdparams|pickle|pkl|pt|pt2|pth|py|safetensors|tar|tflite|toml|ts|txt|xz|yaml|yml|zip)",
    re.IGNORECASE,
)


def place(name: str | os.PathLike[str]) -> Path:
    """Return the path that a name means.

    It is an address (``hf://owner/repo[@revision][/file]``, ``https://host/file``), or a path on
    this machine. A text ``owner/repo`` that is no path here, and whose first part is no folder
    here, is a repository of the hub. No server is asked.

    Raises
    ------
    ValueError
        If an address is invalid or of another kind.
    """
    if isinstance(name, DistantPath):
        return name
    text = os.fspath(name)
    # A pathlib.Path has lost one of the slashes.
    if match := re.match(r"(hf|https?):/+|([a-z][a-z0-9+.-]+)://", text):
        if match[2]:
            raise ValueError(
                f"{shown(text.partition(':')[0])} addresses are not read; "
                "expected hf://owner/repo, https://host/file or a path"
            )
        return _address(f"{match[1]}://{text[match.end() :]}")
    path = Path(name)
    if isinstance(name, str) and not os.path.lexists(path) and is_repository_name(name):
        return _address(f"hf://{name}")
    return path


def is_repository_name(name: str) -> bool:
    """Return whether a text that is no path here is ``owner/repo`` of the hub.

    A name with the extension of a file, or in a folder that exists, is a mistyped path.
    """
    from specdiag.checkpoint.remote.hub import is_repository

    is_path = bool(_FILE.fullmatch(name)) or os.path.lexists(name.partition("/")[0])
    return not is_path and is_repository(name)


def _address(text: str) -> Path:
    from specdiag.checkpoint.remote.hub import hub_path
    from specdiag.checkpoint.remote.web import WebPath

    try:
        _ = text.startswith("hf:") or urlsplit(text).port
    except ValueError:  # its message can hold a password
        raise ValueError("the address is invalid; expected https://host/file") from None
    return hub_path(text) or WebPath.of(text)
