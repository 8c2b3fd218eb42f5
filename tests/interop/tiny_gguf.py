"""Tiny GGUF files made from the tiny models, and blocks of every quantisation with their values.

llama.cpp stores the q and k projections of Llama models with their rows regrouped for its rotary layout; a reader undoes it.
"""

import json

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
}

# One model file shows every type that gguf can write.
TENSOR_TYPES = {
    "token_embd": QUANT.Q8_0,
    "output": QUANT.F16,
    "attn_q": QUANT.Q4_0,
    "attn_k": QUANT.Q4_1,
    "attn_v": QUANT.BF16,
    "attn_output": QUANT.F16,
    "ffn_gate": QUANT.Q8_0,
    "ffn_up": QUANT.Q4_1,
    "ffn_down": QUANT.Q4_0,
}


def write_model(path, folder):
    """Writes the model and tokenizer of a Hugging Face folder as a quantised GGUF file."""
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
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, folder, config)
    for name, tensor in sorted(read_tensors(folder).items()):
        add_tensor(writer, config, name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
    """Adds one weight under llama.cpp's name, quantised when it is a matrix."""
    module, _, kind = name.rpartition(".")
    prefix = ""
    if module.startswith("model.layers."):
        _, _, layer, module = module.split(".", 3)
        prefix = f"blk.{layer}."
    short = TENSOR_NAMES[module]
    if config["model_type"] == "llama" and short in ("attn_q", "attn_k"):
        heads = config["num_attention_heads" if short == "attn_q" else "num_key_value_heads"]
        tensor = to_ggml_rotary(tensor, heads)
    data = tensor.numpy()
    if tensor.dim() == 1:
        writer.add_tensor(f"{prefix}{short}.{kind}", data)
    elif TENSOR_TYPES[short] == QUANT.F16:
        writer.add_tensor(f"{prefix}{short}.{kind}", data.astype(numpy.float16))
    else:
        quantised = gguf.quants.quantize(data, TENSOR_TYPES[short])
        writer.add_tensor(f"{prefix}{short}.{kind}", quantised, raw_dtype=TENSOR_TYPES[short])


def to_ggml_rotary(weight, heads):
    """Interleaves the two halves of every head, as llama.cpp's converter does."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


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
