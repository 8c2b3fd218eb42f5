"""A short supervised fine-tuning run of TRL's SFTTrainer on the CPU, step by step, in float32 and in the rows' own order."""

import json
import tempfile

import datasets
import torch
import transformers
import trl

from reference import exact, load_model, load_policy

# The steps that the runs of all trainers take.
STEPS = {
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
}
SETTINGS = {**STEPS, "completion_only_loss": True}

# What every run here has alike: the CPU, float32, the rows' own order, a record of each step, nothing kept.
RUN = {
    "train_sampling_strategy": "sequential",
    "logging_steps": 1,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
METRICS = ("loss", "grad_norm", "learning_rate")


def read_rows(path):
    """Reads a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_trl(model_folder, adapter_folder, rows, out=None, make_optimizer=None, **settings):
    """Trains on `rows` and returns one record per optimizer step; saves to `out` what it trained: adapter or whole model.

    Without an adapter every weight is trained. `make_optimizer` takes the model; without it, the optimizer is AdamW as
    `settings` say.
    """
    torch.manual_seed(0)
    model = load_policy(model_folder, adapter_folder)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trl.SFTTrainer(
            model=model,
            processing_class=load_tokenizer(model_folder),
            train_dataset=datasets.Dataset.from_list(rows),
            args=trl.SFTConfig(output_dir=scratch, **RUN, **{**SETTINGS, **settings}),
            optimizers=(make_optimizer(model) if make_optimizer else None, None),
        )
        trainer.train()
    if out:
        model.save_pretrained(out)
    return steps_of(trainer, METRICS)


def steps_of(trainer, metrics):
    """What the trainer recorded of each of its steps."""
    return [
        {"step": record["step"], **{name: exact(float(record[name])) for name in metrics}}
        for record in trainer.state.log_history
        if "loss" in record
    ]


def tokenize_with_trl(tokenizer_folder, model_folder, rows, **settings):
    """The training rows as TRL tokenises and masks them, in order."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trl.SFTTrainer(
            model=load_model(model_folder),
            processing_class=load_tokenizer(tokenizer_folder),
            train_dataset=datasets.Dataset.from_list(rows),
            args=trl.SFTConfig(output_dir=scratch, bf16=False, report_to="none", use_cpu=True, max_length=None, **settings),
        )
    return [dict(row) for row in trainer.train_dataset]


def load_tokenizer(folder):
    """Loads the tokenizer of a folder as its tokenizer.json says.

    AutoTokenizer would take the class of the model's family, and Qwen2's puts its own splitting rules in place of the file's.
    Real Qwen2 folders have those very rules in the file; the tiny fixture has simpler ones.
    """
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)
