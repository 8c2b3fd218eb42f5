"""What transformers, torch and PEFT say about learning rates and updates: tests/fixtures/optim.

Run on its own it makes just that folder; `make_fixtures.py` makes it with everything else.
"""

import argparse
import pathlib

import peft
import torch
import transformers
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file

import reference

LEARNING_RATE = 3e-4
NUM_STEPS = 50
RANK = 2
IN_FEATURES, OUT_FEATURES = 4, 3
NUM_A = RANK * IN_FEATURES
NUM_VALUES = NUM_A + OUT_FEATURES * RANK

# Each: hone's words for a schedule, transformers' name for it, and its settings there.
SCHEDULES = [
    ({"type": "cosine"}, "cosine", {}),
    ({"type": "cosine", "min_learning_rate_ratio": 0.1}, "cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ({"type": "cosine", "min_learning_rate_ratio": 0.2}, "cosine_with_min_lr", {"min_lr": 0.2 * LEARNING_RATE}),
    ({"type": "linear"}, "linear", {}),
    ({"type": "constant"}, "constant_with_warmup", {}),
    ({"type": "cosine_with_restarts", "num_cycles": 1}, "cosine_with_restarts", {"num_cycles": 1}),
    ({"type": "cosine_with_restarts", "num_cycles": 3}, "cosine_with_restarts", {"num_cycles": 3}),
    ({"type": "polynomial", "power": 1.0}, "polynomial", {"lr_end": 0.0}),
    (
        {"type": "polynomial", "power": 2.5, "min_learning_rate_ratio": 0.05},
        "polynomial",
        {"lr_end": 0.05 * LEARNING_RATE, "power": 2.5},
    ),
    ({"type": "inverse_sqrt", "timescale": None}, "inverse_sqrt", {}),
    ({"type": "inverse_sqrt", "timescale": 20}, "inverse_sqrt", {"timescale": 20}),
    *(
        (
            {"type": "warmup_stable_decay", "decay_steps": 12, "decay_shape": ours, "min_learning_rate_ratio": floor},
            "warmup_stable_decay",
            {"num_decay_steps": 12, "decay_type": theirs, "min_lr_ratio": floor},
        )
        for ours, theirs in {"linear": "linear", "cosine": "cosine", "one_minus_sqrt": "1-sqrt"}.items()
        for floor in (0.0, 0.1)
    ),
]
RUNS = ((40, 7), (40, 0))

PLATEAUS = [
    ({"factor": 0.1, "patience": 2, "threshold": 1e-4, "cooldown": 0}, 0.0),
    ({"factor": 0.5, "patience": 0, "threshold": 0.0, "cooldown": 0}, 0.05),
    ({"factor": 0.5, "patience": 1, "threshold": 0.01, "cooldown": 2}, 0.0),
    ({"factor": 0.9, "patience": 0, "threshold": 0.05, "cooldown": 0}, 0.0),
    ({"factor": 0.3, "patience": 3, "threshold": 1e-4, "cooldown": 1}, 0.02),
]
# Falls, stalls, rises, falls by little, stalls.
PLATEAU_LOSSES = [
    3.0, 2.5, 2.2, 2.1, 2.1, 2.1, 2.1, 2.1, 2.2, 2.3, 2.25, 2.09, 2.0899, 2.08, 2.07, 2.06, 2.06, 2.06, 2.0599, 2.0598,
    2.0597, 2.1, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0,
]  # fmt: skip


class Lion(torch.optim.Optimizer):
    """Lion in plain torch: program 2 of arXiv 2302.06675."""

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, _closure=None):
        """One update."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                moment = self.state[param].setdefault("exp_avg", torch.zeros_like(param))
                update = (beta1 * moment + (1 - beta1) * param.grad).sign()
                param -= group["lr"] * (update + group["weight_decay"] * param)
                moment.copy_(beta2 * moment + (1 - beta2) * param.grad)


# Each: hone's words for an optimizer, the class, and its settings.
OPTIMIZERS = {
    "adamw": (
        {"rule": {"adamw": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}}},
        torch.optim.AdamW,
        {"weight_decay": 0.0},
    ),
    "adamw_decay": (
        {"rule": {"adamw": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}}, "weight_decay": 0.1},
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "lion": (
        {"rule": {"lion": {"beta1": 0.9, "beta2": 0.99}}, "weight_decay": 0.1},
        Lion,
        {"weight_decay": 0.1},
    ),
    "sgd_plain": ({"rule": {"sgd": {"momentum": 0.0, "nesterov": False}}}, torch.optim.SGD, {}),
    "sgd_momentum": (
        {"rule": {"sgd": {"momentum": 0.9, "nesterov": False}}, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.1},
    ),
    "sgd_nesterov": (
        {"rule": {"sgd": {"momentum": 0.8, "nesterov": True}}, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
}
LORA_PLUS_RATIO = 16.0


def rates(name, settings, total_steps, warmup_steps):
    """The rate of every step of a run, and of the one after it, as transformers' scheduler sets them."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LEARNING_RATE)
    scheduler = transformers.get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=total_steps,
        scheduler_specific_kwargs=settings or None,
    )
    found = []
    for _ in range(total_steps + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def schedules():
    """Every schedule, with and without warmup."""
    return [
        {
            "schedule": {**ours, "warmup_steps": warmup_steps},
            "learning_rate": LEARNING_RATE,
            "total_steps": total_steps,
            "rates": rates(name, settings, total_steps, warmup_steps),
        }
        for ours, name, settings in SCHEDULES
        for total_steps, warmup_steps in RUNS
    ]


def plateau_scales(settings, floor):
    """The rate after each loss, over the first one, as torch's scheduler sets it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=floor, **settings)
    found = []
    for loss in PLATEAU_LOSSES:
        scheduler.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def plateaus():
    """Every plateau over the same losses."""
    return {
        "losses": PLATEAU_LOSSES,
        "cases": [
            {"plateau": settings, "min_learning_rate_ratio": floor, "scales": plateau_scales(settings, floor)}
            for settings, floor in PLATEAUS
        ],
    }


class OneLinear(torch.nn.Module):
    """A model that is one linear layer."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(IN_FEATURES, OUT_FEATURES, bias=False)


def lora_parameters():
    """A PEFT model of one adapted layer, and its A and B."""
    config = peft.LoraConfig(r=RANK, target_modules=["layer"])
    model = peft.get_peft_model(OneLinear(), config)
    named = dict(model.named_parameters())
    matrices = [next(value for name, value in named.items() if part in name) for part in ("lora_A", "lora_B")]
    return model, matrices


def trajectory(make_optimizer, weights, gradients, step_rates):
    """The weights after each update, flat: A's values, then B's. `make_optimizer` takes the PEFT model and its A and B."""
    model, matrices = lora_parameters()
    with torch.no_grad():
        for matrix, values in zip(matrices, split(weights), strict=True):
            matrix.copy_(values.view_as(matrix))
    optimizer = make_optimizer(model, matrices)
    peaks = [group["lr"] for group in optimizer.param_groups]
    found = []
    for gradient, rate in zip(gradients, step_rates, strict=True):
        for matrix, values in zip(matrices, split(gradient), strict=True):
            matrix.grad = values.view_as(matrix).clone()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        optimizer.step()
        found.append(torch.cat([matrix.detach().flatten() for matrix in matrices]))
    return torch.stack(found)


def split(flat):
    """A's values and B's."""
    return flat[:NUM_A], flat[NUM_A:]


def trajectories(out):
    """Writes the updates of every optimizer over the same gradients, with LoRA+ and without."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(NUM_VALUES, generator=generator)
    # Of very different sizes, and now and then 0.
    sizes = 10.0 ** torch.randint(-4, 2, (NUM_STEPS, NUM_VALUES), generator=generator)
    signs = torch.randint(-1, 2, (NUM_STEPS, NUM_VALUES), generator=generator)
    gradients = sizes * signs * torch.rand(NUM_STEPS, NUM_VALUES, generator=generator)
    step_rates = [1.0 - step / (2 * NUM_STEPS) for step in range(NUM_STEPS)]
    cases, tensors = [], {"weights": weights, "gradients": gradients}
    for name, (ours, optimizer, settings) in OPTIMIZERS.items():
        rate = 1e-2

        def plain(_, matrices):
            return optimizer(matrices, lr=rate, **settings)

        def plus(model, _):
            kwargs = dict(settings)
            decay = kwargs.pop("weight_decay", 0.0)
            return create_loraplus_optimizer(
                model, optimizer, lr=rate, loraplus_lr_ratio=LORA_PLUS_RATIO, loraplus_weight_decay=decay, **kwargs
            )

        for suffix, ratio, make_optimizer in (("", 1.0, plain), ("_plus", LORA_PLUS_RATIO, plus)):
            tensors[name + suffix] = trajectory(make_optimizer, weights, gradients, step_rates)
            settings_of_ours = {**ours, "learning_rate": rate, "lora_plus_ratio": ratio}
            cases.append({"name": name + suffix, "optimizer": settings_of_ours})
    save_file(tensors, out / "trajectories.safetensors")
    reference.write_json(out / "trajectories.json", {"num_a": NUM_A, "step_rates": step_rates, "cases": cases})


def make(out):
    """Writes everything."""
    out.mkdir(parents=True, exist_ok=True)
    reference.write_json(out / "schedules.json", schedules())
    reference.write_json(out / "plateau.json", plateaus())
    trajectories(out)


def main():
    """Makes the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "fixtures/optim")
    torch.set_num_threads(1)
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()
