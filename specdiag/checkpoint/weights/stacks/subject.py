"""A tensor and what lies beside it: the parts of its name, its bias, and its neighbours."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from specdiag.checkpoint.weights.evidence import Evidence, bias_names, parts_of


@dataclass(frozen=True)
class Subject:
    """A tensor whose axes are to be read.

    Attributes
    ----------
    name : str
        Name of the whole weight.
    shape : tuple of int
    rule, role : str
        Those of the weight.
    facts : dict
        The whole numbers that the class of its module holds, such as its groups or heads.
    evidence : Evidence
    """

    name: str
    shape: tuple[int, ...]
    rule: str
    role: str
    facts: Mapping[str, int]
    evidence: Evidence

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts of the name; the last one is the leaf."""
        return parts_of(self.name)

    @property
    def leaf(self) -> str:
        """The last part of the name."""
        return self.parts[-1]

    @property
    def is_kernel(self) -> bool:
        """Whether the leaf is that of TensorFlow, Keras and flax, whose kernels are input first."""
        return self.leaf.endswith("kernel")

    @property
    def is_module_weight(self) -> bool:
        """Whether the leaf is that of the weight of a module, as of torch's."""
        return self.leaf.endswith(("weight", "weights"))

    @cached_property
    def bias(self) -> tuple[int, ...]:
        """The shape of the bias beside it, without sides of 1; () if there is none."""
        for name in bias_names(self.name):
            if name != self.name and (bias := self.evidence.weights.get(name)):
                return tuple(size for size in bias.shape if size > 1)
        return ()
