"""Every preference loss of TRL on given log-probabilities, with gradients: its own code, run without a model."""

import collections
import types

import torch
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer

import reference

LOSSES = (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sigmoid_norm", "sft",
)
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
TAKE_DIVERGENCE = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")
# Answers of four pairs, in tokens: the chosen, the rejected.
LENGTHS = ((3, 5), (6, 2), (4, 4), (1, 7))
PROMPT = 2


class Accelerator:
    """One process: nothing to gather, nowhere to move."""

    device = torch.device("cpu")
    gather = gather_for_metrics = staticmethod(lambda value: value)


def cases():
    """Settings that differ from the defaults: name of the loss and what else."""
    for loss in LOSSES:
        smoothing = 0.1 if loss in SMOOTHED else 0.0
        yield {"losses": [loss], "beta": 0.1, "label_smoothing": smoothing}
        yield {"losses": [loss], "beta": 0.7, "label_smoothing": smoothing, "ld_alpha": 0.4}
    for loss in TAKE_DIVERGENCE:
        smoothing = 0.1 if loss in SMOOTHED else 0.0
        for divergence in ("forward_kl", "js_divergence", "alpha_divergence"):
            yield {"losses": [loss], "beta": 0.3, "label_smoothing": smoothing, "divergence": divergence}
    for loss in ("sigmoid", "ipo", "apo_zero"):
        yield {"losses": [loss], "beta": 0.3, "label_smoothing": 0.0, "use_weighting": True}
    yield {"losses": ["sigmoid", "bco_pair", "sft"], "weights": [0.8, 0.2, 1.5], "beta": 0.1, "label_smoothing": 0.0}
    for beta in (0.1, 0.7):
        yield {"losses": ["orpo"], "beta": beta, "label_smoothing": 0.0}
    for smoothing, gamma in ((0.0, 0.5), (0.1, 1.4)):
        yield {"losses": ["simpo"], "beta": 2.0, "label_smoothing": smoothing, "simpo_gamma": gamma}


def run(case, logps, reference_logps, log_sum_sq):
    """TRL's loss and metrics, and the gradient of the loss by each log-probability."""
    logps = logps.clone().requires_grad_(True)
    lengths = torch.tensor([chosen for chosen, _ in LENGTHS] + [rejected for _, rejected in LENGTHS])
    position = torch.arange(logps.shape[1] + 1)
    mask = ((position >= PROMPT) & (position < PROMPT + lengths[:, None])).long()
    if case["losses"][0] in ("orpo", "simpo"):
        loss, metrics = without_reference(case, logps * mask[:, 1:], lengths)
    else:
        loss, metrics = with_reference(case, logps, mask, reference_logps, log_sum_sq)
    (gradient,) = torch.autograd.grad(loss, logps)
    return loss.item(), gradient, metrics


def without_reference(case, logps, lengths):
    """The losses that have trainers of their own. The likelihood beside ORPO's odds is over the answers, as in hone."""
    pairs = len(LENGTHS)
    chosen, rejected = (logps.sum(-1) / lengths).split(pairs)
    trainer = types.SimpleNamespace(
        accelerator=Accelerator(),
        beta=case["beta"],
        label_smoothing=case["label_smoothing"],
        loss_type="simpo",
        simpo_gamma=case.get("simpo_gamma"),
        alpha=0.0,
    )
    if case["losses"] == ["orpo"]:
        losses, *rewards = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[:3]
        loss = -logps[:pairs].sum() / lengths[:pairs].sum() - losses.mean()
    else:
        losses, *rewards = CPOTrainer.cpo_loss(trainer, chosen, rejected)
        loss = losses.mean()
    return loss, {f"rewards/{side}": reward.mean().item() for side, reward in zip(("chosen", "rejected"), rewards)}


def with_reference(case, logps, mask, reference_logps, log_sum_sq):
    """The losses of DPOTrainer."""
    pairs = len(LENGTHS)
    outputs = types.SimpleNamespace(
        log_probs=logps * mask[:, 1:],
        log_sum_sq_probs=log_sum_sq,
        entropy=torch.zeros_like(logps),
        mean_logits=torch.zeros_like(logps),
        is_top1=torch.zeros_like(logps, dtype=torch.bool),
    )
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=False),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        ld_alpha=case.get("ld_alpha"),
        f_divergence_type=case.get("divergence", "reverse_kl"),
        f_alpha_divergence_coef=0.5,
        loss_types=case["losses"],
        loss_weights=case.get("weights", [1.0] * len(case["losses"])),
        beta=case["beta"],
        label_smoothing=case["label_smoothing"],
        use_weighting=case.get("use_weighting", False),
        args=types.SimpleNamespace(discopop_tau=0.05),
        _metrics={"eval": collections.defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference_logps[:pairs],
        "ref_rejected_logps": reference_logps[pairs:],
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    return loss, {name: values[0] for name, values in trainer._metrics["eval"].items() if name.startswith("rewards/")}


def make(path):
    """Writes the cases: answers as lists of tokens, chosen then rejected of each pair."""
    generator = torch.Generator().manual_seed(11)
    pairs = len(LENGTHS)
    width = PROMPT - 1 + max(max(lengths) for lengths in LENGTHS)
    logps = -2 * torch.rand(2 * pairs, width, generator=generator)
    log_sum_sq = -1.5 * torch.rand(2 * pairs, width, generator=generator)
    sums = torch.tensor([sum(pair) for pair in LENGTHS] * 2)
    reference_logps = -0.5 * sums * torch.rand(2 * pairs, generator=generator)

    def answers(per_token):
        """Per-token values without prompt and padding, document by document."""
        rows = []
        for pair, lengths in enumerate(LENGTHS):
            for side, length in enumerate(lengths):
                row = per_token[pair + side * pairs]
                rows.append(reference.exact(row[PROMPT - 1 : PROMPT - 1 + length]))
        return rows

    results = []
    for case in cases():
        loss, gradient, metrics = run(case, logps, reference_logps, log_sum_sq)
        results.append({**case, "loss": loss, "gradient": answers(gradient), "rewards": metrics})
    reference.write_json(
        path,
        {
            "logps": answers(logps),
            "log_sum_sq": answers(log_sum_sq),
            "reference": [[reference_logps[pair].item(), reference_logps[pair + pairs].item()] for pair in range(pairs)],
            "cases": results,
        },
    )
