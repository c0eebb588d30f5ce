"""Names of a state dict -> the same names without what wrapper modules add."""

import re
from collections.abc import Callable

# torch.compile, activation checkpointing, FSDP, Lightning Fabric; Opacus, and FairScale's FSDP.
WRAPPERS = (
    *("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"),
    *("_module", "_fpw_module"),
)
_COMPONENTS = re.compile(rf"(?<![^.])({'|'.join(WRAPPERS)})\.")
_PREFIXES = ("module.", "model.", *(f"{wrapper}." for wrapper in WRAPPERS))


def strip_wrappers(names: list[str]) -> Callable[[str], str]:
    """Return a function that removes the components of wrapper modules from a name.

    The prefixes ``module.``, ``model.`` and those of `WRAPPERS` are removed as long as all names
    start with them. The components are removed everywhere, unless two names would become equal.
    """
    prefix = ""
    while more := next((p for p in _PREFIXES if _all_start(names, prefix + p)), ""):
        prefix += more

    def strip(name: str) -> str:
        return name.removeprefix(prefix)

    def strip_all(name: str) -> str:
        return _COMPONENTS.sub("", strip(name))

    fully = {strip_all(name) for name in names}
    return strip_all if len(fully) == len(names) and "" not in fully else strip


def _all_start(names: list[str], prefix: str) -> bool:
    return bool(names) and all(n.startswith(prefix) and len(n) > len(prefix) for n in names)
