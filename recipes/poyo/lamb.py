"""LAMB with sparse rows and the one-cycle schedule, as the published models were trained.

This module imports torch, so other modules import it inside functions only.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch


class SparseLamb(torch.optim.Optimizer):
    r"""LAMB [You et al. 2020, algorithm 2, without debiasing] with torch_brain 0.1's sparse rows.

    For every parameter w, with the moments m and v of its gradient g:

    .. math::
        u = m / (\sqrt{v} + \epsilon) + \lambda w, \quad
        w \leftarrow w - \eta \frac{\min(\|w\|, 10)}{\|u\|} u

    The quotient of the norms is the trust ratio; it is set to 1 if either norm is 0. If the
    gradient is always 0, u is the decay alone and the ratio is 1 / decay: w shrinks by a factor of
    (1 - learning rate) in every step, for any decay above 0.

    In a `sparse` group a row without a gradient is not updated, and its moments are set to 0. Its
    decay still counts in the norm of u and its weights in the norm of w, so the ratio is that of
    the whole table.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of parameters with their own settings.
    lr : float
    betas : tuple of float
        Decay rates of the moments.
    eps : float
    weight_decay : float
    weight_norm_clamp : float
        Largest norm of the weights in the ratio.
    sparse : bool
        Whether rows without a gradient are left alone.
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
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update_weight(weight, group)
        return loss

    def _update_weight(self, weight: Any, group: Mapping[str, Any]) -> None:
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
        Groups of parameters. Their key `sparse` is used by SparseLamb only.
    settings : mapping
        `optimizer` of an entry.
    total_steps : int
        Steps of the whole training; known from the start, so a resumed training keeps its schedule.

    Raises
    ------
    ValueError
        If the rule is unknown.
    """
    lr, decay = settings["max_lr"], settings["weight_decay"]
    if settings["rule"] == "SparseLamb":
        stepper: torch.optim.Optimizer = SparseLamb(
            groups,
            lr=lr,
            weight_decay=decay,
            eps=settings["eps"],
            weight_norm_clamp=settings["weight_norm_clamp"],
        )
    elif settings["rule"] == "AdamW":
        plain = [{k: v for k, v in group.items() if k != "sparse"} for group in groups]
        stepper = torch.optim.AdamW(plain, lr=lr, weight_decay=decay, fused=True)
    else:
        raise ValueError(f"optimizer rule {settings['rule']!r}: expected SparseLamb or AdamW")
    schedule = settings["schedule"]
    low, high = schedule["momentum"]
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        stepper,
        max_lr=lr,
        total_steps=total_steps,
        pct_start=schedule["pct_start"],
        div_factor=schedule["div_factor"],
        anneal_strategy=schedule["anneal"],
        base_momentum=low,
        max_momentum=high,
    )
    return stepper, cycle
