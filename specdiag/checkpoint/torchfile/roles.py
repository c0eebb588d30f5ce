"""Torch modules, pickled or in memory -> what their classes say of their tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from specdiag.checkpoint.tensor import Tensor
from specdiag.checkpoint.tree import SCALARS, children, is_tensor, module_state, table_items

# The attributes of torch's classes, which classes that are derived from them have, too.
_KINDS = {
    "embedding": ("num_embeddings", "embedding_dim"),
    "bilinear": ("in1_features", "in2_features", "out_features"),
    "convolution": ("in_channels", "out_channels", "kernel_size", "groups"),
    "linear": ("in_features", "out_features"),
    "norm": ("normalized_shape", "eps"),
    "attention": ("embed_dim", "num_heads", "kdim", "vdim"),
    "recurrent": ("mode", "input_size", "hidden_size", "num_layers"),
}
_WEIGHTS = ("weight", "weight_v", "weight_orig")
_OF_ALL = ("attention", "recurrent")  # kinds of all parameters, not only of `weight`


@dataclass(frozen=True)
class Role:
    """The role of a tensor in its module, and the whole numbers that the module has."""

    kind: str = ""
    facts: Mapping[str, int] = field(default_factory=dict)

    def of(self, tensor: Tensor) -> Tensor:
        """Return the tensor with this role."""
        return replace(tensor, role=self.kind, facts=self.facts)


def roles_in(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any, Role]]:
    """Yield name, value and role of the tensors that a module owns, from its attributes.

    `attributes` is the ``__dict__`` of the module, or what a pickle has of it.
    """
    facts = {k: v for k, v in attributes.items() if type(k) is str and type(v) is int}
    kind = kind_of(attributes)
    for name, value in table_items(attributes["_parameters"]):
        has_kind = name in _WEIGHTS or kind in _OF_ALL
        yield name, value, Role(kind if has_kind else "", facts)
    for name, value in table_items(attributes["_buffers"]):
        yield name, value, Role("buffer", facts)


def kind_of(attributes: Mapping[str, Any]) -> str:
    """Return the kind of a module of torch, or of a class that is derived from it."""
    kinds = (kind for kind, keys in _KINDS.items() if all(key in attributes for key in keys))
    return next(kinds, "")


def module_roles(root: Any) -> dict[int, Role]:
    """Return the roles of the tensors of pickled modules by the id of their nodes.

    A tensor that an embedding table shares with an output head has the role of the table.
    """
    roles: dict[int, Role] = {}
    seen = {id(root)}
    stack = [root]
    while stack:
        node = stack.pop()
        state = module_state(node)
        if state is not None:
            for _, value, role in roles_in(state):
                if roles.get(id(value), Role()).kind != "embedding":
                    roles[id(value)] = role
        for _, part in children(node) or ():
            if type(part) not in SCALARS and id(part) not in seen and not is_tensor(part):
                seen.add(id(part))
                stack.append(part)
    return roles
