"""Makes the models of the benchmark as Hugging Face folders.

`small`: a Llama of 6.5 million parameters (256 hidden, 6 layers, vocabulary 8192) with random weights and a byte-level BPE
tokenizer trained on the rows. `smollm2`: SmolLM2-135M-Instruct, dequantised from its GGUF file to bfloat16.
"""

import argparse
import json
import os
import pathlib

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
GGUF = ROOT / ".cache/model/SmolLM2-135M-Instruct.Q4_1.gguf"
EOS, PAD = "<|endoftext|>", "<|pad|>"
SMALL = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}


def train_tokenizer(rows):
    """A byte-level BPE tokenizer of the small model's vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SMALL["vocab_size"],
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = rows.read_text().splitlines()
    tokenizer.train_from_iterator(("".join(json.loads(line).values()) for line in lines), trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def make_small(out, rows):
    """Writes the small model with seeded random weights."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    model.to(torch.bfloat16).save_pretrained(out)
    train_tokenizer(rows).save_pretrained(out)


def make_smollm2(out):
    """Writes SmolLM2 without the mark of its quantisation, which save_pretrained refuses."""
    source = {"gguf_file": GGUF.name, "local_files_only": True}
    quantised = transformers.AutoModelForCausalLM.from_pretrained(GGUF.parent, dtype=torch.bfloat16, **source)
    config = quantised.config.to_dict()
    config.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).to(torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(GGUF.parent, **source).save_pretrained(out)


def main():
    """Writes one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=("small", "smollm2"))
    parser.add_argument("out", type=pathlib.Path, help="folder to write")
    parser.add_argument("--rows", type=pathlib.Path, help="JSONL rows for the tokenizer of the small model")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if arguments.shape == "smollm2":
        make_smollm2(arguments.out)
    elif arguments.rows:
        make_small(arguments.out, arguments.rows)
    else:
        parser.error("the small model needs --rows")


if __name__ == "__main__":
    main()
