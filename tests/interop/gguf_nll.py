"""Scores a few texts with a GGUF model as transformers dequantises it, and writes them to tests/fixtures/gguf_nll.json."""

import argparse
import hashlib
import pathlib

import torch
import transformers

import reference

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / ".cache/model/SmolLM2-135M-Instruct.Q4_1.gguf"

TEXTS = [
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid.",
    "<|im_start|>user\nWrite a haiku about autumn.<|im_end|>\n<|im_start|>assistant\nLeaves drift on the wind,\n"
    "gold and red on the still pond,\nsummer says goodbye.<|im_end|>\n",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\n"
    "print([fibonacci(n) for n in range(10)])  # [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]\n",
    "Naïve café – 12345 “quoted” 日本語 👩‍👧 \n\n\tend",
]


def load(path):
    """The dequantised float32 model and the tokenizer of a GGUF file."""
    options = {"gguf_file": path.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **options)
    return reference.load_model(path.parent, **options), tokenizer


def main():
    """Scores TEXTS and writes the fixture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, default=MODEL, help="GGUF file (scripts/fetch.py model gets it)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/fixtures/gguf_nll.json")
    arguments = parser.parse_args()

    torch.set_num_threads(2)
    model, tokenizer = load(arguments.model)
    documents = [tokenizer(text)["input_ids"] for text in TEXTS]
    reference.write_json(
        arguments.out,
        {
            "file": arguments.model.name,
            "sha256": hashlib.sha256(arguments.model.read_bytes()).hexdigest(),
            "texts": TEXTS,
            "documents": documents,
            **reference.score(model, documents),
        },
    )


if __name__ == "__main__":
    main()
