"""A network and its average, under the names that training code gives them: one network counts."""

import copy

from support.cases.case import CASES, Case, Made, linears, sequence


def _prefixed(state, start):
    return {f"{start}{name}": value for name, value in state.items()}


def _module(state):
    """Return the state dict of torch's AveragedModel."""
    import torch

    return {"n_averaged": torch.tensor(5)} | _prefixed(state, "module.")


def _pickled(state):
    net = sequence(96, 128, 64)
    net.load_state_dict(state)
    return copy.deepcopy(net)


# What a file holds, given the state dicts of the network and of its average.
CONTENTS = {
    "averaged_model_beside": lambda a, b: {"model": a, "swa_model": _module(b), "epoch": 3},
    "average_with_its_decay": lambda a, b: {"model": a, "model_ema": {"module": b, "decay": 0.99}},
    "average_in_extra_state": lambda a, b: {"model": a, "extra_state": {"ema": b, "epoch": 3}},
    "average_in_a_callback": lambda a, b: {
        "state_dict": _prefixed(a, "net."),
        "callbacks": {"EMACallback": {"ema_state_dict": _prefixed(b, "net.")}},
    },
    "average_in_an_optimizer": lambda a, b: {
        "state_dict": a,
        "optimizer_states": [{"opt": {"state": {}, "param_groups": []}, "ema": list(b.values())}],
    },
    "average_in_the_module": lambda a, b: {
        "state_dict": _prefixed(a, "net.") | _prefixed(_module(b), "net_ema."),
    },
    "average_named_by_underscores": lambda a, b: {
        "meta": {"epoch": 1},
        "state_dict": a | {"ema_" + k.replace(".", "_"): v for k, v in b.items()},
    },
    "shadow_beside": lambda a, b: {"net": a, "shadow": b, "decay": 0.999},
    "two_pickled_modules": lambda a, b: {"model": _pickled(a), "model_ema": _pickled(b)},
    "online_and_target": lambda a, b: (
        _prefixed(a, "online_network.encoder.") | _prefixed(b, "target_network.encoder.")
    ),
    "learner_and_lagging": lambda a, b: {"learner": {"params": a}, "lagging": {"params": b}},
    "weights_by_step": lambda a, b: {"step_1000": a, "step_2000": b},
    "agent_with_target": lambda a, b: {
        "q_network": a,
        "target_q_network": b,
        "replay": {"size": 10},
    },
    "last_and_best": lambda a, b: {"last": {"state_dict": a}, "best": {"state_dict": b}},
    "two_in_a_list": lambda a, b: {"models": [a, b], "names": ["raw", "ema"]},
    "generator_only_average": lambda _, b: {"g_ema": b, "latent_avg": b["0.bias"]},
}


def _written(name):
    def write(folder):
        import torch

        net = sequence(96, 128, 64)
        state = net.state_dict()
        content = CONTENTS[name](state, {k: v * 0.998 for k, v in state.items()})
        torch.save(content, folder / "net.pt")
        right = linears(net)
        if name == "generator_only_average":
            right = [matrix * 0.998 for matrix in right]
        return Made(folder / "net.pt", right)

    return write


CASES.update({name: Case(name, _written(name), ("torch",)) for name in CONTENTS})
