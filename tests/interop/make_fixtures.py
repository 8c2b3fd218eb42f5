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

GGUF_MODELS = ("llama", "qwen2", "smollm3", "gemma", "gemma2", "phi3_longrope")
# No key of the file tells how Gemma 2 scales its scores: llama.cpp goes by the width of a head.
GGUF_OPTIONS = {"gemma2": {"query_pre_attn_scalar": 16}}

ADAPTERS = {
    "llama_all_linear": {"model": "llama", "target_modules": "all-linear"},
    "llama_qv": {"model": "llama", "target_modules": ["q_proj", "v_proj"]},
    "mistral_qv": {"model": "mistral", "target_modules": ["q_proj", "v_proj"]},
    "qwen2_rslora": {"model": "qwen2", "target_modules": "all-linear", "use_rslora": True},
    "qwen3_all_linear": {"model": "qwen3", "target_modules": "all-linear"},
    "llama_patterns": {
        "model": "llama",
        "target_modules": ["q_proj", "k_proj", "v_proj", "up_proj"],
        "exclude_modules": ["layers.0.mlp.up_proj"],
        # The first that matches counts. PEFT sorts them when it saves, so they are sorted here.
        "rank_pattern": {r"layers\.1\.self_attn\..*": 6, "q_proj": 2},
        "alpha_pattern": {"[kv]_proj": 3.0},
    },
    "qwen3_layers": {"model": "qwen3", "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    "qwen2_dora": {"model": "qwen2", "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj"], "use_dora": True},
    "yarn_embedding": {"model": "llama_rope_yarn", "target_modules": ["embed_tokens", "v_proj"]},
    "yarn_dora_embedding": {
        "model": "llama_rope_yarn",
        "target_modules": r"model\.(embed_tokens|layers\.1\..*\.k_proj)",
        "use_dora": True,
    },
    "llama3_saved": {
        "model": "llama_rope_llama3",
        "target_modules": ["q_proj", "embed_tokens"],
        "modules_to_save": ["embed_tokens", "lm_head"],
    },
    "mistral_pissa": {"model": "mistral", "target_modules": ["q_proj", "v_proj"], "init_lora_weights": "pissa"},
    "llama_olora": {"model": "llama", "target_modules": ["o_proj"], "use_rslora": True, "init_lora_weights": "olora"},
    "llama_bias_all_linear": {"seed": 205, "model": "llama_bias", "target_modules": "all-linear"},
    "gemma_all_linear": {"seed": 206, "model": "gemma", "target_modules": "all-linear"},
    "gemma2_all_linear": {"seed": 207, "model": "gemma2", "target_modules": "all-linear"},
    "phi3_qkv": {"seed": 208, "model": "phi3", "target_modules": ["qkv_proj", "o_proj"]},
    "phi3_longrope_all_linear": {"seed": 209, "model": "phi3_longrope", "target_modules": "all-linear"},
    "smollm3_all_linear": {"seed": 210, "model": "smollm3", "target_modules": "all-linear"},
}
SFT_RUNS = ("llama_all_linear", "qwen2_rslora")
DPO_RUNS = ("llama_all_linear",)


def longrope(original):
    """Parameters of a rotation whose first context is `original` tokens."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": original,
        "short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.5, 1.8, 2.1],
        "long_factor": [1.0, 1.2, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0],
    }


ROPES = {
    "default": {"head_dim": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "default_high_theta": {"head_dim": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "linear": {"head_dim": 64, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    # The last of the positions ends a text of 256 tokens: longer than these models were made for.
    "dynamic": {
        "head_dim": 64,
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    },
    "longrope_long": {"head_dim": 16, "max_position_embeddings": 1024, "rope_parameters": longrope(128)},
    "longrope_short": {"head_dim": 16, "max_position_embeddings": 4096, "rope_parameters": longrope(1024)},
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
        weights = tiny_gguf.write_model(out / f"{name}.gguf", models / name)
        # transformers reads such files of some families only, and not all of their keys: what it says is about the folder's
        # model with the weights that the file holds.
        model = reference.load_model(models / name, **GGUF_OPTIONS.get(name, {}))
        model.load_state_dict(weights, strict=False)
        write_score(scores / f"{name}_gguf", model, make_documents(seed=7))


def make_adapters(out, models, scores):
    """Writes PEFT adapters with random A and B, and what PEFT says under them: log-probabilities, logits, gradients."""
    documents = make_documents(seed=7)
    for seed, (name, settings) in enumerate(ADAPTERS.items(), 200):
        settings = dict(settings)
        base, seed = settings.pop("model"), settings.pop("seed", seed)
        config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
        model = peft.get_peft_model(reference.load_model(models / base), config)
        generator = torch.Generator().manual_seed(seed)
        is_taken_off = config.init_lora_weights in ("pissa", "olora")
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(disturbed(parameter_name, parameter, noise, is_taken_off))
        save_adapter(model, out / name, base)
        gradients = {
            "grad." + name_in_file(key): value
            for key, value in reference.adapter_gradients(model, documents).items()
        }
        write_score(scores / name, model, documents, gradients)


def disturbed(name, parameter, noise, is_taken_off):
    """A trained value of a parameter: random matrices, but what starts from the base model's weights stays near them."""
    if "lora_magnitude_vector" in name:
        return parameter * (1 + 0.1 * noise)
    if "modules_to_save" in name or is_taken_off:
        return parameter + 0.03 * noise
    size = 0.5 * parameter.shape[1] ** -0.5 if "lora_A" in name or "lora_embedding_A" in name else 0.1
    return size * noise


def name_in_file(name):
    """What a live parameter is called in adapter_model.safetensors."""
    name = name.replace(".modules_to_save.default.", ".").replace(".default", "")
    return name.removesuffix(".weight") if "lora_magnitude_vector" in name else name


def save_adapter(model, folder, base):
    """Saves the adapter with a configuration that is the same in every run."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    if isinstance(config["target_modules"], list):
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
                "tokens": token_rows(tokenizers / name, models / base),
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


def token_rows(tokenizer_folder, model_folder):
    """Rows that are tokens already, with the labels that TRL trains on."""
    found = []
    for row in sample_texts.TOKEN_ROWS:
        for completion_only in (True, False):
            settings = {"completion_only_loss": completion_only}
            (encoded,) = sft_curve.tokenize_with_trl(tokenizer_folder, model_folder, [row], **settings)
            trained = {"input_ids": encoded["input_ids"], "labels": encoded["labels"]}
            found.append({"row": row, "completion_only": completion_only, **trained})
    return found


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
