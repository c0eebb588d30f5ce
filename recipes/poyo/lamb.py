"""LAMB with rows that rest, and the one-cycle schedule: how the published models were trained.

This module imports torch and is itself imported inside functions only.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch


class SparseLamb(torch.optim.Optimizer):
    r"""LAMB [You et al. 2020, algorithm 2, without debiasing] as torch_brain 0.1 applied it to embeddings.

    With moments m and v of the gradient g, for every parameter w:

    .. math::
        u = m / (\sqrt{v} + \epsilon) + \lambda w, \quad
        w \leftarrow w - \eta \frac{\min(\|w\|, 10)}{\|u\|} u

    The ratio, the trust ratio, is 1 where either norm is 0. Without a gradient u is the decay alone, the
    ratio 1 / decay, and w shrinks by (1 - learning rate) every step, whatever the decay, unless it is 0.

    In a `sparse` group a row without a gradient does not move, and forgets its moments; its decay still
    counts in the norm of u, and its weights in that of w, so that the ratio is the whole table's.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them with settings of their own.
    lr : float
    betas : tuple of float
        Decay of the moments.
    eps : float
    weight_decay : float
    weight_norm_clamp : float
        The largest norm of the weights that enters the ratio.
    sparse : bool
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        weight_norm_clamp: float = 10.0,
        sparse: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "weight_norm_clamp": weight_norm_clamp,
                "sparse": sparse,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)
        return loss

    def _move(self, weight: Any, group: Mapping[str, Any]) -> None:
        gradient, state = weight.grad, self.state[weight]
        if not state:
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if group["sparse"]:
            moves = (gradient != 0).any(dim=-1, keepdim=True)
            mean.mul_(moves)
            square.mul_(moves)
        update = mean / square.sqrt().add_(group["eps"])
        if group["weight_decay"]:
            update.add_(weight, alpha=group["weight_decay"])
        norms = weight.norm().clamp(max=group["weight_norm_clamp"]), update.norm()
        ratio = torch.where(norms[0] * norms[1] > 0, norms[0] / norms[1], 1.0)
        if group["sparse"]:
            update.mul_(moves)
        weight.sub_(update * (group["lr"] * ratio))


def optimizer(
    groups: list[dict[str, Any]], settings: Mapping[str, Any], *, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    """Return the optimizer and the schedule that an entry declares.

    Parameters
    ----------
    groups : list of dict
        Of parameters; `sparse` in them is SparseLamb's.
    settings : mapping
        `optimizer` of an entry.
    total_steps : int
        Of the whole training: fixed beforehand, so that a resumed training keeps its schedule.

    Raises
    ------
    ValueError
        When nobody knows the rule.
    """
    lr, decay = settings["max_lr"], settings["weight_decay"]
    if settings["rule"] == "SparseLamb":
        found: torch.optim.Optimizer = SparseLamb(
            groups,
            lr=lr,
            weight_decay=decay,
            eps=settings["eps"],
            weight_norm_clamp=settings["weight_norm_clamp"],
        )
    elif settings["rule"] == "AdamW":
        plain = [{k: v for k, v in group.items() if k != "sparse"} for group in groups]
        found = torch.optim.AdamW(plain, lr=lr, weight_decay=decay, fused=True)
    else:
        raise ValueError(f"optimizer rule {settings['rule']!r}: expected SparseLamb or AdamW")
    schedule = settings["schedule"]
    low, high = schedule["momentum"]
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        found,
        max_lr=lr,
        total_steps=total_steps,
        pct_start=schedule["pct_start"],
        div_factor=schedule["div_factor"],
        anneal_strategy=schedule["anneal"],
        base_momentum=low,
        max_momentum=high,
    )
    return found, cycle
