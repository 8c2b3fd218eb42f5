"""A short run of TRL's preference trainers (DPO, ORPO, CPO) on the CPU, step by step, in float32 and in the rows' own order."""

import tempfile

import datasets
import torch
import trl
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

import sample_texts
import sft_curve
from reference import load_model, load_policy
from sft_curve import RUN, STEPS, load_tokenizer, steps_of

SETTINGS = {**STEPS, "beta": 0.5}
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
METRICS = (*sft_curve.METRICS, *REWARDS, "logps/chosen", "logps/rejected")


class AnswersOnlyORPOTrainer(ORPOTrainer):
    """TRL's trainer with the likelihood of ORPO over the tokens of the chosen answers, as hone has it, without the prompts'."""

    def concatenated_forward(self, model, batch):
        """What TRL returns, with another likelihood at its end."""
        *outputs, _ = super().concatenated_forward(model, batch)
        logps = outputs[0]
        tokens = (batch["chosen_labels"] != -100).sum(-1)
        return *outputs, -(logps * tokens).sum() / tokens.sum()


def pairs(count, seed):
    """Prompts with the right answer and the right answer to another prompt."""
    rows = sample_texts.training_rows(count + 1, seed)
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in zip(rows, rows[1:])
        if row["completion"] != other["completion"]
    ]


def run_trl(model_folder, adapter_folder, rows, trainer=trl.DPOTrainer, config=trl.DPOConfig, out=None, **settings):
    """Trains on pairs and returns one record per optimizer step; saves to `out` what it trained: adapter or whole model.

    What is trained is the reference as it is at first, where there is one. TRL keeps a frozen copy of an adapter; without an
    adapter every weight is trained, and it is given a second model.
    """
    torch.manual_seed(0)
    model = load_policy(model_folder, adapter_folder)
    copy = {} if adapter_folder else {"ref_model": load_model(model_folder)}
    with tempfile.TemporaryDirectory() as scratch:
        running = trainer(
            model=model,
            processing_class=load_tokenizer(model_folder),
            train_dataset=datasets.Dataset.from_list(rows),
            args=config(output_dir=scratch, **RUN, **{**SETTINGS, **settings}),
            **copy,
        )
        running.train()
    if out:
        model.save_pretrained(out)
    return steps_of(running, METRICS)
