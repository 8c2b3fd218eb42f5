"""Makes everything in tests/fixtures except gguf_nll.json. tests/fixtures/README.md describes what comes out.

Deterministic: seeds are fixed and one thread computes, so a second run on the same machine writes the same bytes.
"""

import argparse
import json
import os
import pathlib
import shutil
import tempfile

import jinja2
import peft
import torch
import transformers
from safetensors.torch import save_file

import dpo_curve
import dpo_losses
import optim_curves
import parquet_rows
import reference
import sample_texts
import sft_curve
import tiny_gguf
import tiny_models

DOCUMENT_LENGTHS = (17, 29, 48)
LOGITS_DOCUMENT = 1
ROPE_POSITIONS = (0, 1, 2, 15, 16, 31, 32, 100, 255)

GGUF_MODELS = ("llama", "qwen2")

ADAPTERS = {
    "llama_all_linear": {"model": "llama", "target_modules": "all-linear"},
    "llama_qv": {"model": "llama", "target_modules": ["q_proj", "v_proj"]},
    "mistral_qv": {"model": "mistral", "target_modules": ["q_proj", "v_proj"]},
    "qwen2_rslora": {"model": "qwen2", "target_modules": "all-linear", "use_rslora": True},
    "qwen3_all_linear": {"model": "qwen3", "target_modules": "all-linear"},
}
SFT_RUNS = ("llama_all_linear", "qwen2_rslora")
DPO_RUNS = ("llama_all_linear",)

ROPES = {
    "default": {"head_dim": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "default_high_theta": {"head_dim": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "linear": {"head_dim": 64, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "llama3": {
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "yarn": {
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
        },
    },
    "yarn_all_options": {
        "head_dim": 64,
        "max_position_embeddings": 16384,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
            "truncate": False,
        },
    },
    "yarn_attention_factor": {
        "head_dim": 64,
        "max_position_embeddings": 16384,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 4096,
            "attention_factor": 1.25,
        },
    },
}


def make_tokenizers(out):
    """Trains both tokenizers and writes their folders."""
    rows = sample_texts.training_rows(400, seed=1)
    texts = [row["prompt"] + row["completion"] for row in rows]
    for name, recipe in tiny_models.TOKENIZERS.items():
        write_tokenizer(out / name, recipe, tiny_models.train_tokenizer(recipe, texts))


def write_tokenizer(folder, recipe, tokenizer):
    """Writes tokenizer.json, tokenizer_config.json and the chat template."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **recipe.config}
    if recipe.template_in_config:
        config["chat_template"] = recipe.chat_template
    else:
        (folder / "chat_template.jinja").write_text(recipe.chat_template)
    write_config(folder / "tokenizer_config.json", config)


def write_config(path, config):
    """Writes a configuration the way transformers does."""
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_models(out, tokenizers):
    """Writes every tiny model as a folder with its tokenizer."""
    for seed, (name, recipe) in enumerate(tiny_models.MODELS.items(), 100):
        folder = out / name
        model = tiny_models.build_model(recipe, seed).to(torch.bfloat16)
        model.generation_config = transformers.GenerationConfig(eos_token_id=model.config.eos_token_id)
        size = sum(parameter.nbytes for parameter in model.parameters())
        model.save_pretrained(folder, max_shard_size=size // recipe.num_shards + 1)
        config = json.loads((folder / "config.json").read_text())
        write_config(folder / "config.json", tiny_models.v4_config(config) if recipe.v4_spelling else config)
        shutil.copytree(tokenizers / recipe.tokenizer, folder, dirs_exist_ok=True)


def make_documents(seed):
    """Documents of random tokens, special ones left out."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(8, tiny_models.VOCAB_SIZE, (length,), generator=generator).tolist() for length in DOCUMENT_LENGTHS
    ]


def make_scores(out, models):
    """Writes what transformers says about the documents, for every tiny model."""
    documents = make_documents(seed=7)
    for name in tiny_models.MODELS:
        write_score(out / name, reference.load_model(models / name), documents)


def write_score(path, model, documents, tensors=()):
    """Writes documents, log-probabilities and NLL as JSON, and the logits of one document with further tensors beside it."""
    scores = reference.score(model, documents)
    with torch.no_grad():
        logits = reference.document_logits(model, documents[LOGITS_DOCUMENT])
    path.parent.mkdir(parents=True, exist_ok=True)
    reference.write_json(
        path.with_suffix(".json"), {"documents": documents, **scores, "logits_document": LOGITS_DOCUMENT}
    )
    save_file({"logits": logits, **dict(tensors)}, path.with_suffix(".safetensors"))


def make_gguf(out, models, scores):
    """Writes tiny GGUF files, what transformers says about them, and blocks of every quantisation."""
    out.mkdir()
    tiny_gguf.write_blocks(out / "blocks.safetensors")
    for name in GGUF_MODELS:
        path = out / f"{name}.gguf"
        tiny_gguf.write_model(path, models / name)
        write_score(scores / f"{name}_gguf", reference.load_model(out, gguf_file=path.name), make_documents(seed=7))


def make_adapters(out, models, scores):
    """Writes PEFT adapters with random A and B, and what PEFT says under them: log-probabilities, logits, gradients."""
    documents = make_documents(seed=7)
    for seed, (name, settings) in enumerate(ADAPTERS.items(), 200):
        settings = dict(settings)
        base = settings.pop("model")
        config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
        model = peft.get_peft_model(reference.load_model(models / base), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    size = 0.5 * parameter.shape[1] ** -0.5 if "lora_A" in parameter_name else 0.1
                    parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
        save_adapter(model, out / name, base)
        gradients = {
            "grad." + key.replace(".default", ""): value
            for key, value in reference.adapter_gradients(model, documents).items()
        }
        write_score(scores / name, model, documents, gradients)


def save_adapter(model, folder, base):
    """Saves the adapter with a configuration that is the same in every run."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    write_config(folder / "adapter_config.json", config)


def make_sft(out, models, adapters):
    """Writes the training rows, TRL's reading of them, its loss curves and the adapters it ends with."""
    rows = sample_texts.training_rows(96, seed=2)
    out.mkdir(parents=True)
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in SFT_RUNS:
        base = ADAPTERS[name]["model"]
        with tempfile.TemporaryDirectory() as scratch:
            steps = sft_curve.run_trl(models / base, adapters / name, rows, scratch)
            final = pathlib.Path(scratch, "adapter_model.safetensors")
            shutil.copyfile(final, out / f"{name}.safetensors")
        reference.write_json(
            out / f"{name}.json",
            {"model": base, "initial_adapter": name, "settings": sft_curve.SETTINGS, "steps": steps},
        )
    tokenized = sft_curve.tokenize_with_trl(models / "llama", models / "llama", rows)
    reference.write_json(
        out / "rows_tokenized.json",
        [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in tokenized],
    )


def make_dpo(out, models, adapters):
    """Writes pairs, TRL's loss curve over them with its metrics, and every loss on given log-probabilities."""
    rows = dpo_curve.pairs(96, seed=3)
    out.mkdir(parents=True)
    (out / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in DPO_RUNS:
        base = ADAPTERS[name]["model"]
        steps = dpo_curve.run_trl(models / base, adapters / name, rows)
        reference.write_json(
            out / f"{name}.json",
            {"model": base, "initial_adapter": name, "settings": dpo_curve.SETTINGS, "steps": steps},
        )
    dpo_losses.make(out / "losses.json")


def make_chat(out, tokenizers, models):
    """Writes renderings, token ids and masks of conversations and rows, for both tokenizers."""
    for name, base in {"chatml": "llama", "inst": "mistral"}.items():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizers / name)
        reference.write_json(
            out / f"{name}.json",
            {
                "texts": [{"text": text, "input_ids": tokenizer(text)["input_ids"]} for text in sample_texts.TEXTS],
                "conversations": [
                    {"name": case, "messages": messages, **render(tokenizer, messages)}
                    for case, messages in sample_texts.CONVERSATIONS.items()
                ],
                "prompt_completion": trl_rows(tokenizers / name, models / base, sample_texts.PROMPT_COMPLETIONS),
                "conversational_prompt_completion": trl_rows(
                    tokenizers / name,
                    models / base,
                    [
                        {"prompt": messages[:-1], "completion": messages[-1:]}
                        for case, messages in sample_texts.CONVERSATIONS.items()
                        if messages[-1]["role"] == "assistant" and case != "two_users_in_a_row"
                    ],
                ),
            },
        )


def render(tokenizer, messages):
    """What apply_chat_template gives for one conversation, or the message of the error that the template raises."""
    has_spans = "{% generation %}" in tokenizer.chat_template
    try:
        encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=has_spans)
        return {
            "rendered": tokenizer.apply_chat_template(messages, tokenize=False),
            "rendered_with_generation_prompt": tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            ),
            "input_ids": encoded["input_ids"],
            "assistant_mask": encoded.get("assistant_masks"),
        }
    except jinja2.TemplateError as error:
        return {"error": str(error)}


def trl_rows(tokenizer_folder, model_folder, rows):
    """Prompt-completion rows with the ids and the (unshifted) labels that TRL trains on."""
    tokenized = sft_curve.tokenize_with_trl(tokenizer_folder, model_folder, rows)
    return [
        {**row, "input_ids": encoded["input_ids"], "labels": encoded["labels"]}
        for row, encoded in zip(rows, tokenized, strict=True)
    ]


def make_ropes(path):
    """Writes rotary tables for every rope type."""
    cases = []
    for name, settings in ROPES.items():
        config = transformers.LlamaConfig(hidden_size=settings["head_dim"], num_attention_heads=1, **settings)
        rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        half = settings["head_dim"] // 2
        cos, sin = rotary(torch.zeros(1), torch.tensor([ROPE_POSITIONS]))
        cases.append(
            {
                "name": name,
                **settings,
                "inv_freq": reference.exact(rotary.inv_freq),
                "attention_scaling": rotary.attention_scaling,
                "positions": ROPE_POSITIONS,
                "cos": reference.exact(cos[0, :, :half]),
                "sin": reference.exact(sin[0, :, :half]),
            }
        )
    reference.write_json(path, cases)


def main():
    """Makes the fixtures anew, then puts them in place of the old ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "fixtures")
    out = parser.parse_args().out
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as scratch:
        fresh = pathlib.Path(scratch)
        make_tokenizers(fresh / "tokenizers")
        make_models(fresh / "models", fresh / "tokenizers")
        make_scores(fresh / "scores", fresh / "models")
        make_gguf(fresh / "gguf", fresh / "models", fresh / "scores")
        make_adapters(fresh / "adapters", fresh / "models", fresh / "scores")
        make_sft(fresh / "sft", fresh / "models", fresh / "adapters")
        make_dpo(fresh / "dpo", fresh / "models", fresh / "adapters")
        make_chat(fresh / "chat", fresh / "tokenizers", fresh / "models")
        make_ropes(fresh / "rope.json")
        parquet_rows.make(fresh / "rows")
        optim_curves.make(fresh / "optim")
        for item in fresh.iterdir():
            replace(out / item.name, item)


def replace(target, source):
    """Puts `source` where `target` is."""
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


if __name__ == "__main__":
    main()
