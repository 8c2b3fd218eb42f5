"""Tiny GGUF files made from the tiny models, and blocks of every quantisation with their values.

llama.cpp stores the q and k projections of Llama models with their rows regrouped for its rotary layout; a reader undoes it.
"""

import json
import math

import gguf
import numpy
import torch
from safetensors import safe_open
from safetensors.torch import save_file

QUANT = gguf.GGMLQuantizationType
BLOCK_TYPES = (QUANT.Q4_0, QUANT.Q4_1, QUANT.Q8_0, QUANT.Q4_K, QUANT.Q5_K, QUANT.Q6_K, QUANT.BF16)
NUM_BLOCKS = 3

# Offsets of the float16 scales inside a block of the types that gguf cannot quantise to.
SCALE_OFFSETS = {QUANT.Q4_K: (0, 2), QUANT.Q5_K: (0, 2), QUANT.Q6_K: (208,)}

TENSOR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
}
# Gemma 2 has four norms a layer.
GEMMA2_TENSOR_NAMES = TENSOR_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}

# One model file shows every type that gguf can write.
TENSOR_TYPES = {
    "token_embd": QUANT.Q8_0,
    "output": QUANT.F16,
    "attn_q": QUANT.Q4_0,
    "attn_k": QUANT.Q4_1,
    "attn_v": QUANT.BF16,
    "attn_qkv": QUANT.Q4_1,
    "attn_output": QUANT.F16,
    "ffn_gate": QUANT.Q8_0,
    "ffn_up": QUANT.Q4_1,
    "ffn_down": QUANT.Q4_0,
}


def write_model(path, folder):
    """Writes the model and tokenizer of a Hugging Face folder as a quantised GGUF file; returns the weights it then holds."""
    config = json.loads((folder / "config.json").read_text())
    architecture = config["model_type"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 1.0)))
    writer.add_vocab_size(config["vocab_size"])
    add_family(writer, config)
    add_tokenizer(writer, folder, config)
    weights = {
        name: add_tensor(writer, config, name, tensor) for name, tensor in sorted(read_tensors(folder).items())
    }
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def add_family(writer, config):
    """Adds the keys and tensors that only some families have, as convert_hf_to_gguf.py of llama.cpp does."""
    family = config["model_type"]
    if family.startswith("gemma"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        writer.add_sliding_window(config["sliding_window"])
    if family == "phi3":
        original = config["original_max_position_embeddings"]
        stretch = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_sliding_window(config["sliding_window"] or 0)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(stretch) / math.log(original)))
        for length in ("short", "long"):
            factors = numpy.array(config["rope_scaling"][f"{length}_factor"], numpy.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)


def add_tokenizer(writer, folder, config):
    """Adds vocabulary, merges, special tokens and the chat template."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = [token for token, _ in sorted(tokenizer["model"]["vocab"].items(), key=lambda entry: entry[1])]
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL for index in range(len(tokens))]
    )
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


def read_tensors(folder):
    """All weights of a folder in float32."""
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name).float() for name in file.keys()}
    return tensors


def add_tensor(writer, config, name, tensor):
    """Adds one weight under llama.cpp's name, quantised when it is a matrix; returns the numbers that it then stands for."""
    names = GEMMA2_TENSOR_NAMES if config["model_type"] == "gemma2" else TENSOR_NAMES
    module, _, kind = name.rpartition(".")
    prefix = ""
    if module.startswith("model.layers."):
        _, _, layer, module = module.split(".", 3)
        prefix = f"blk.{layer}."
    short = names[module]
    rotated = config["model_type"] in ("llama", "smollm3") and short in ("attn_q", "attn_k")
    heads = config["num_attention_heads" if short == "attn_q" else "num_key_value_heads"]
    # llama.cpp's norms multiply by the weight alone, so it stores Gemma's plus one.
    offset = float(config["model_type"].startswith("gemma") and short.endswith("norm"))
    data = (to_ggml_rotary(tensor, heads) if rotated else tensor + offset).numpy()
    quant = QUANT.F32 if tensor.dim() == 1 else TENSOR_TYPES[short]
    quantised = gguf.quants.quantize(data, quant)
    writer.add_tensor(f"{prefix}{short}.{kind}", quantised, raw_dtype=quant)
    held = torch.from_numpy(gguf.quants.dequantize(quantised, quant).astype(numpy.float32))
    return from_ggml_rotary(held, heads) if rotated else held - offset


def to_ggml_rotary(weight, heads):
    """Interleaves the two halves of every head, as llama.cpp's converter does."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


def from_ggml_rotary(weight, heads):
    """The reverse."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def write_blocks(path):
    """Writes a few blocks of every quantisation as bytes, and the float32 values they stand for."""
    generator = numpy.random.default_rng(5)
    tensors = {}
    for quant in BLOCK_TYPES:
        size, num_bytes = gguf.GGML_QUANT_SIZES[quant]
        if quant in SCALE_OFFSETS:
            blocks = generator.integers(0, 256, (NUM_BLOCKS, num_bytes), dtype=numpy.uint8)
            for offset in SCALE_OFFSETS[quant]:
                scales = generator.normal(0, 0.01, NUM_BLOCKS).astype("<f2")
                blocks[:, offset : offset + 2] = scales.view(numpy.uint8).reshape(NUM_BLOCKS, 2)
        else:
            values = generator.normal(0, 1, (NUM_BLOCKS, max(size, 32))).astype(numpy.float32)
            blocks = gguf.quants.quantize(values, quant).view(numpy.uint8)
        values = gguf.quants.dequantize(blocks, quant)
        tensors[f"{quant.name}.bytes"] = torch.from_numpy(blocks.copy()).flatten()
        tensors[f"{quant.name}.values"] = torch.from_numpy(values.copy()).float().flatten()
    save_file(tensors, path)
