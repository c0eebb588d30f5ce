"""Pickled torch modules -> what their classes say of their tensors."""

from typing import Any

from specdiag.checkpoint.tree import children, is_tensor, module_state, path_of, table_items

_ROLES = {
    "torch.nn.modules.sparse.Embedding": "embedding",
    "torch.nn.modules.sparse.EmbeddingBag": "embedding",
    "torch.nn.modules.linear.Linear": "linear",
}
_SCALARS = (str, int, float, bool, bytes, type(None))


def module_roles(root: Any) -> dict[int, str]:
    """Return the `role` of tensors by the id of their nodes; those without a role are left out."""
    roles: dict[int, str] = {}
    seen = {id(root)}
    stack = [root]
    while stack:
        node = stack.pop()
        state = module_state(node)
        if state is not None:
            roles |= {id(value): "buffer" for _, value in table_items(state["_buffers"])}
            if role := _ROLES.get(path_of(node)):
                parameters = table_items(state["_parameters"])
                roles |= {id(value): role for key, value in parameters if key == "weight"}
        for _, part in children(node) or ():
            if type(part) not in _SCALARS and id(part) not in seen and not is_tensor(part):
                seen.add(id(part))
                stack.append(part)
    return roles
