"""A short run of TRL's DPOTrainer on the CPU, step by step, in float32 and in the rows' own order."""

import tempfile

import datasets
import torch
import trl

import sample_texts
import sft_curve
from reference import load_adapter, load_model
from sft_curve import RUN, load_tokenizer, steps_of

SETTINGS = {
    "max_steps": 12,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "max_grad_norm": 1.0,
    "weight_decay": 0.01,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_length": 128,
    "beta": 0.5,
}
METRICS = (
    *sft_curve.METRICS,
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


def pairs(count, seed):
    """Prompts with the right answer and the right answer to another prompt."""
    rows = sample_texts.training_rows(count + 1, seed)
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in zip(rows, rows[1:])
        if row["completion"] != other["completion"]
    ]


def run_trl(model_folder, adapter_folder, rows, out=None, **settings):
    """Trains the adapter on pairs and returns one record per optimizer step; saves the trained adapter to `out`.

    The adapter as it is at first is the reference: TRL keeps a frozen copy of it.
    """
    torch.manual_seed(0)
    model = load_adapter(load_model(model_folder), adapter_folder, trainable=True)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trl.DPOTrainer(
            model=model,
            processing_class=load_tokenizer(model_folder),
            train_dataset=datasets.Dataset.from_list(rows),
            args=trl.DPOConfig(output_dir=scratch, **RUN, **{**SETTINGS, **settings}),
        )
        trainer.train()
    if out:
        model.save_pretrained(out, selected_adapters=["default"])
    return steps_of(trainer, METRICS)
