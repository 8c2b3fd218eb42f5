"""hone's runs beside live runs of TRL, with PEFT and without, step by step: the same start, rows, order and rates."""

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
import trl
from peft.optimizers import create_loraplus_optimizer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

import dpo_curve
import hone
import optim_curves
import reference
import sft_curve
from conftest import FIXTURES, MODELS, assert_same_scores, documents_of

NUM_STEPS = 20
# Of losses, rewards and log-probabilities; of gradient norms, relative. Both sides compute in float32: after 20 steps at these
# rates the losses differ by 4e-6 at most, the norms by a share of 2e-5.
TOLERANCE = 1e-4
ROWS = FIXTURES / "sft/rows.jsonl"
PAIRS = FIXTURES / "dpo/pairs.jsonl"
RATE = sft_curve.SETTINGS["learning_rate"]
DECAY = sft_curve.SETTINGS["weight_decay"]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A run from a PEFT adapter. The optimizer, where it is not plain AdamW: in hone's words, and made for PEFT's model."""

    adapter: str
    ours: dict = dataclasses.field(default_factory=dict)
    theirs: Callable | None = None


def torch_optimizer(kind, **settings):
    """Makes an optimizer over all that is trained."""
    return lambda model: kind([value for value in model.parameters() if value.requires_grad], **settings)


def lora_plus(model):
    """PEFT's LoRA+ with AdamW. The embedding's rate is the one that hone gives it; PEFT's own would be 1e-6."""
    settings = {"lr": RATE, "loraplus_lr_ratio": 16.0, "loraplus_weight_decay": DECAY, "loraplus_lr_embedding": RATE}
    return create_loraplus_optimizer(model, torch.optim.AdamW, **settings)


LION = {"type": "OPTIMIZER_TYPE_LION", "learning_rate": 3e-4, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}
SGD = {"type": "OPTIMIZER_TYPE_SGD", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}

CURVES = {
    "lora": Curve("llama_all_linear"),
    "rslora": Curve("qwen2_rslora"),
    "patterns": Curve("llama_patterns"),
    "layers": Curve("qwen3_layers"),
    "embedding": Curve("yarn_embedding"),
    "saved": Curve("llama3_saved"),
    "dora": Curve("qwen2_dora"),
    "dora_embedding": Curve("yarn_dora_embedding"),
    "pissa": Curve("mistral_pissa"),
    "olora": Curve("llama_olora"),
    "lora_plus": Curve("llama_all_linear", {"lora_plus_ratio": 16}, lora_plus),
    "lora_plus_dora_embedding": Curve("yarn_dora_embedding", {"lora_plus_ratio": 16}, lora_plus),
    "lora_plus_saved": Curve("llama3_saved", {"lora_plus_ratio": 16}, lora_plus),
    "lion": Curve("llama_all_linear", LION, torch_optimizer(optim_curves.Lion, lr=3e-4, weight_decay=0.1)),
    "sgd": Curve(
        "llama_all_linear",
        SGD,
        torch_optimizer(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_loss_curve_equals_trl(service, tmp_path, name):
    """A run that starts from a PEFT adapter follows TRL's run from it: loss, gradient norm, rate, and final weights."""
    curve = CURVES[name]
    base, adapter = base_and_adapter(curve.adapter)
    theirs = sft_curve.run_trl(
        base, adapter, sft_curve.read_rows(ROWS), tmp_path / "trl", curve.theirs, max_steps=NUM_STEPS
    )
    settings = settings_from(adapter, sft_curve.SETTINGS)
    # Other rules than AdamW refuse its settings.
    settings["optimizer"] = curve.ours if "type" in curve.ours else {**settings["optimizer"], **curve.ours}
    job_id, ours = service.train(hone.sft_spec(service.upload_model(base), service.upload_rows(ROWS), **settings))

    assert_same_curve(ours, theirs)
    documents = documents_of(curve.adapter)
    trained = service.download(job_id, tmp_path / "hone")
    scores = [
        reference.score(reference.load_adapter(reference.load_model(base), folder), documents)
        for folder in (trained, tmp_path / "trl")
    ]
    assert_same_scores(*scores, TOLERANCE)


# Every weight is trained, and decayed so much that a norm or a bias which was not spared would end 3e-3 and more off.
FULL = {"max_steps": NUM_STEPS, "learning_rate": 1e-3, "weight_decay": 0.5}
# Of final weights in float32, which differ by 7e-7 at most. But what biases of keys do to the loss is next to nothing, so the
# gradient of some is the rounding of others, which AdamW makes whole steps of: they differ by 3e-5.
WEIGHT_TOLERANCE = 5e-6
KEY_BIAS_TOLERANCE = 2e-4


@pytest.mark.parametrize("name", ["llama", "llama_tied", "qwen2", "gemma2"])
def test_full_loss_curve_equals_trl(service, tmp_path, name):
    """A run of all weights follows TRL's without PEFT, and ends with the same weights: norms and biases are not decayed."""
    base = MODELS / name
    theirs = sft_curve.run_trl(base, None, sft_curve.read_rows(ROWS), tmp_path / "trl", **FULL)
    settings = settings_from(None, {**sft_curve.SETTINGS, **FULL})
    job_id, ours = service.train(hone.sft_spec(service.upload_model(base), service.upload_rows(ROWS), **settings))

    assert_same_curve(ours, theirs)
    assert_same_weights(service.download(job_id, tmp_path / "hone"), tmp_path / "trl")


# Losses in hone's words, beta, and the trainer of TRL with its words.
PREFERENCES = {
    **{
        "+".join(losses): (losses, 0.5, trl.DPOTrainer, trl.DPOConfig, {"loss_type": losses})
        for losses in (["sigmoid"], ["ipo"], ["apo_zero"], ["aot"], ["bco_pair", "sft"])
    },
    "orpo": (["orpo"], 0.5, dpo_curve.AnswersOnlyORPOTrainer, ORPOConfig, {}),
    "simpo": (["simpo"], 2.0, CPOTrainer, CPOConfig, {"loss_type": "simpo", "cpo_alpha": 0.0}),
    "simpo+sft": (["simpo", "sft"], 2.0, CPOTrainer, CPOConfig, {"loss_type": "simpo", "cpo_alpha": 1.0}),
}
START = "llama_all_linear"
# One micro-batch a step: TRL averages, and compares pairs with each other, within a micro-batch only.
ONE_BATCH = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preference_curve_equals_trl(service, name):
    """A run on pairs from a PEFT adapter, which is its reference too, follows TRL's: loss, gradient norm, rewards."""
    losses, beta, trainer, config, words = PREFERENCES[name]
    theirs = run_pairs(trainer, config, beta=beta, max_steps=NUM_STEPS, **words)
    ours = train_pairs(service, losses, beta=beta)
    assert_same_curve(ours, theirs, assert_same_pairs)


@pytest.mark.parametrize("name", ["llama_tied", "gemma2"])
def test_full_preference_curve_equals_trl(service, tmp_path, name):
    """A run of all weights on pairs follows TRL's beside a second model, and ends with the same weights."""
    base = MODELS / name
    pairs = sft_curve.read_rows(PAIRS)
    theirs = dpo_curve.run_trl(base, None, pairs, out=tmp_path / "trl", **ONE_BATCH, **FULL)
    settings = settings_from(None, {**dpo_curve.SETTINGS, **FULL})
    spec = hone.dpo_spec(
        service.upload_model(base), service.upload_rows(PAIRS), beta=dpo_curve.SETTINGS["beta"], **settings
    )
    job_id, ours = service.train(spec)

    assert_same_curve(ours, theirs, assert_same_pairs)
    assert_same_weights(service.download(job_id, tmp_path / "hone"), tmp_path / "trl")


def run_pairs(trainer, config, **settings):
    """A run of TRL over the pairs."""
    base, adapter = base_and_adapter(START)
    return dpo_curve.run_trl(base, adapter, sft_curve.read_rows(PAIRS), trainer, config, **{**ONE_BATCH, **settings})


def train_pairs(service, losses, **settings):
    """The same run of hone."""
    base, adapter = base_and_adapter(START)
    settings = {
        **settings_from(adapter, dpo_curve.SETTINGS),
        "losses": [{"type": f"PREFERENCE_LOSS_TYPE_{loss.upper()}"} for loss in losses],
        **settings,
    }
    return service.train(hone.dpo_spec(service.upload_model(base), service.upload_rows(PAIRS), **settings))[1]


def base_and_adapter(name):
    """The folders of an adapter's base model and of itself."""
    adapter = FIXTURES / "adapters" / name
    config = json.loads((adapter / "adapter_config.json").read_text())
    return MODELS / config["base_model_name_or_path"], adapter


def settings_from(adapter, settings):
    """The settings of a run in hone's words: from an adapter, which says its shape too, or of all weights."""
    start = {"init_from": adapter.as_uri()} if adapter else {"adapter": {"full": {}}}
    return {
        **start,
        "max_steps": NUM_STEPS,
        "batch": {
            "examples_per_step": settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
        },
        "optimizer": {
            "learning_rate": settings["learning_rate"],
            "weight_decay": settings["weight_decay"],
            "max_grad_norm": settings["max_grad_norm"],
            "beta1": settings["adam_beta1"],
            "beta2": settings["adam_beta2"],
            "epsilon": settings["adam_epsilon"],
        },
        "schedule": {"type": "SCHEDULE_TYPE_COSINE", "warmup_steps": settings["warmup_steps"]},
    }


def assert_same_step(mine, other):
    """A step of hone beside one of TRL."""
    step = f"step {other['step']}"
    assert mine["loss"] == pytest.approx(other["loss"], abs=TOLERANCE), step
    assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=TOLERANCE), step
    # Protobuf's JSON leaves a number of 0 out: the rate of the first step of a warmup.
    assert mine.get("learning_rate", 0.0) == pytest.approx(other["learning_rate"], abs=1e-9), step


def assert_same_pairs(mine, other):
    """A step on pairs of hone beside one of TRL."""
    assert_same_step(mine, other)
    step, preference = f"step {other['step']}", mine["preference"]
    for field, key in {"reward_chosen": "chosen", "reward_rejected": "rejected", "margin": "margins"}.items():
        assert preference.get(field, 0.0) == pytest.approx(other[f"rewards/{key}"], abs=TOLERANCE), step
    assert preference.get("accuracy", 0.0) == pytest.approx(other["rewards/accuracies"], abs=1e-6), step


def assert_same_curve(ours, theirs, assert_same=assert_same_step):
    """All steps of hone beside those of TRL."""
    assert len(ours) == len(theirs) == NUM_STEPS
    for mine, other in zip(ours, theirs, strict=True):
        assert_same(mine, other)


def assert_same_weights(ours, theirs):
    """The weights of a checkpoint that transformers loads, and of TRL's model."""
    ours, theirs = (reference.load_complete(folder).state_dict() for folder in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        tolerance = KEY_BIAS_TOLERANCE if name.endswith("k_proj.bias") else WEIGHT_TOLERANCE
        assert (weight - theirs[name]).abs().max() < tolerance, name
