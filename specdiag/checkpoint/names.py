"""Names of a state dict -> the same names without what wrappers add; those of optimizers."""

import re
from collections.abc import Callable, Iterable
from os.path import commonprefix

# torch.compile, activation checkpointing, FSDP, Lightning Fabric; Opacus, and FairScale's FSDP.
WRAPPERS = (
    *("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"),
    *("_module", "_fpw_module"),
)
_COMPONENTS = re.compile(rf"(?<![^.])({'|'.join(WRAPPERS)})\.")
_PREFIXES = ("module.", "model.", *(f"{wrapper}." for wrapper in WRAPPERS))

_MOMENT = re.compile(
    r"(?<![^.])(max_)?(exp_avg(_sq|_slow|_fast|_diff|_sq_row|_sq_col)*|momentum_buffer|square_avg|"
    r"grad_avg|acc_delta|exp_inf)(?![^.])"
)
_STATE = re.compile(r"(?<![^.])(optim(izer)?s?|opt)(_states?)?(_dicts?)?\.(states?|\d+)\.")


def strip_wrappers(names: list[str]) -> Callable[[str], str]:
    """Return a function that removes the components of wrapper modules from a name.

    The prefixes ``module.``, ``model.`` and those of `WRAPPERS` are removed as long as all names
    start with them. The components are removed everywhere, unless two names would become equal.
    """
    prefix = _common_prefix(names)

    def strip(name: str) -> str:
        return name.removeprefix(prefix)

    def strip_all(name: str) -> str:
        return _COMPONENTS.sub("", strip(name))

    fully = {strip_all(name) for name in names}
    return strip_all if len(fully) == len(names) and "" not in fully else strip


def _common_prefix(names: list[str]) -> str:
    """Return the longest sequence of prefixes that all names start with, and none consists of."""
    common = commonprefix(names)  # noqa: RUF071 - of characters
    common = common[: min(map(len, names), default=0) - 1]
    end = 0
    while more := next((p for p in _PREFIXES if common.startswith(p, end)), ""):
        end += len(more)
    return common[:end]


def optimizer_tensors(names: Iterable[str]) -> dict[str, str]:
    """Return the tensors of optimizers in one state dict, by name, with the part they lie in.

    Their names hold that of a moment, such as ``optim.state.fc.weight.exp_avg``, or that of an
    optimizer before a number or the word state.
    """
    found = {}
    for name in names:
        if match := _MOMENT.search(name) or _STATE.search(name):
            found[name] = (name[: match.start()] or match[0]).partition(".")[0]
    return found
