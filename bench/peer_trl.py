"""One LoRA run of TRL + PEFT, SFT or DPO, on the CPU as its users run it, measured. Prints one JSON object as its last line.

The model is given as a folder name, which TRL loads in float32 whatever the file holds. Settings are TRL's defaults, apart
from those that both sides of the comparison must share: rows and their order, LoRA, batch, length, threads. What is only
a default (activation checkpointing) can be turned off to see TRL at its best.
"""

import argparse
import json
import os
import resource
import tempfile
import time

PRECISIONS = {
    # TRL's own default: float32 weights under bfloat16 autocast.
    "autocast": {"bf16": True},
    "float32": {"bf16": False},
    "bfloat16": {"bf16": False, "model_init_kwargs": {"dtype": "bfloat16"}},
}


def process_start():
    """When this process was started, on the clock of time.time(), the interpreter's own start included."""
    import psutil

    return psutil.Process().create_time()


def num_tokens(example):
    """Tokens that go through the model without padding; of a pair those of both answers, each behind the prompt."""
    if "input_ids" in example:
        return len(example["input_ids"])
    return 2 * len(example["prompt_ids"]) + len(example["chosen_ids"]) + len(example["rejected_ids"])


def run(arguments):
    """Trains and returns the measurements."""
    import datasets
    import peft
    import torch
    import transformers
    import trl

    class Clock(transformers.TrainerCallback):
        """Notes when training began and when each optimizer step ended."""

        def __init__(self):
            self.marks = []

        def on_train_begin(self, *_, **__):
            self.marks.append(time.time())

        def on_step_end(self, *_, **__):
            self.marks.append(time.time())

    torch.set_num_threads(arguments.threads)
    clock = Clock()
    trainer_type, config_type, own_settings = {
        "sft": (trl.SFTTrainer, trl.SFTConfig, {}),
        "dpo": (trl.DPOTrainer, trl.DPOConfig, {"precompute_ref_log_probs": arguments.precompute_reference}),
    }[arguments.method]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_type(
            model=arguments.model,
            train_dataset=datasets.load_dataset("json", data_files=arguments.rows, split="train", cache_dir=scratch),
            peft_config=peft.LoraConfig(
                r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[clock],
            args=config_type(
                output_dir=scratch,
                use_cpu=True,
                max_steps=arguments.steps,
                per_device_train_batch_size=arguments.batch,
                gradient_accumulation_steps=arguments.accumulation,
                learning_rate=arguments.learning_rate,
                lr_scheduler_type="cosine",
                max_length=arguments.max_length,
                train_sampling_strategy="group_by_length" if arguments.group_by_length else "sequential",
                logging_steps=1,
                save_strategy="no",
                disable_tqdm=True,
                gradient_checkpointing=arguments.gradient_checkpointing,
                **own_settings,
                **PRECISIONS[arguments.precision],
            ),
        )
        collate, batches = trainer.data_collator, []

        def counted(examples):
            batches.append(sum(num_tokens(example) for example in examples))
            return collate(examples)

        trainer.data_collator = counted
        started = time.time()
        trainer.train()
    parts = arguments.accumulation
    # Batches are also collated to ask the reference beforehand; those of the steps come last.
    batches = batches[-arguments.steps * parts :]
    tokens = [sum(batches[step * parts : (step + 1) * parts]) for step in range(arguments.steps)]
    seconds = [after - before for before, after in zip(clock.marks, clock.marks[1:], strict=False)]
    return {
        "first_step_seconds": clock.marks[1] - process_start(),
        "reference_seconds": clock.marks[0] - started if arguments.precompute_reference else 0.0,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "tokens": tokens,
        "step_seconds": seconds,
        "losses": [record["loss"] for record in trainer.state.log_history if "loss" in record],
    }


def main():
    """Parses the settings, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("rows", help="JSONL of prompt and completion rows, steps x batch x accumulation of them")
    parser.add_argument("--precision", choices=PRECISIONS, default="autocast")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True, help="TRL's default is on"
    )
    parser.add_argument("--method", choices=("sft", "dpo"), default="sft")
    parser.add_argument("--precompute-reference", action="store_true", help="dpo: ask the reference once, before training")
    parser.add_argument("--group-by-length", action="store_true", help="rows of like length beside each other")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    print(json.dumps(run(arguments)))


if __name__ == "__main__":
    main()
