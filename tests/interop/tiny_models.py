"""The tiny models and tokenizers that the fixtures are made of: recipes only, nothing is written here.

A model has random weights that are large enough for attention, norms and the head to matter (an untouched initialisation
gives nearly flat logits, behind which mistakes hide), rounded to bfloat16 so that the file is small and float32 exact.
"""

import dataclasses

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB_SIZE = 384
HIDDEN_SIZE = 64

CHATML_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {% if message.role == 'assistant' %}
{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}
"""

INST_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'].strip() + '\\n\\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""


@dataclasses.dataclass(frozen=True)
class TokenizerRecipe:
    """A byte-level BPE tokenizer of VOCAB_SIZE entries. Special tokens come first; `config` is tokenizer_config.json."""

    special_tokens: tuple
    config: dict
    chat_template: str
    template_in_config: bool
    adds_bos: bool


TOKENIZERS = {
    # As Qwen and SmolLM2 do it: ChatML, nothing added around a text, the template in a file of its own.
    "chatml": TokenizerRecipe(
        special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"),
        config={"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|pad|>"},
        chat_template=CHATML_TEMPLATE,
        template_in_config=False,
        adds_bos=False,
    ),
    # As Llama 2 and Mistral do it: a BOS before every text, no padding token, no {% generation %}, the template in the config.
    "inst": TokenizerRecipe(
        special_tokens=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        config={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        chat_template=INST_TEMPLATE,
        template_in_config=True,
        adds_bos=True,
    ),
}


def train_tokenizer(recipe, texts):
    """Trains the recipe's tokenizer on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(recipe.special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if recipe.adds_bos:
        bos = recipe.config["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


@dataclasses.dataclass(frozen=True)
class ModelRecipe:
    """A tiny model: what config.json says beyond COMMON, which tokenizer lies beside it, and how it is written."""

    config: dict
    tokenizer: str = "chatml"
    v4_spelling: bool = False
    num_shards: int = 1


COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "tie_word_embeddings": True}
THETA = {"rope_type": "default", "rope_theta": 10000.0}
# Heads that are wider than hidden / heads, and rows that every quantisation of a GGUF file divides.
SMALL_WIDE = {**SMALL, "head_dim": 16, "intermediate_size": 64, "rope_parameters": THETA}

MODELS = {
    "llama": ModelRecipe({"model_type": "llama", "rope_parameters": THETA}, num_shards=2),
    "llama_tied": ModelRecipe(
        {"model_type": "llama", "tie_word_embeddings": True, "rope_parameters": THETA}, v4_spelling=True
    ),
    "llama_rope_linear": ModelRecipe(
        {"model_type": "llama", **SMALL, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        tokenizer="inst",
        v4_spelling=True,
    ),
    "llama_rope_llama3": ModelRecipe(
        {
            "model_type": "llama",
            **SMALL,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        }
    ),
    "llama_rope_yarn": ModelRecipe(
        {
            "model_type": "llama",
            **SMALL,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 8.0,
                "original_max_position_embeddings": 32,
            },
        },
        v4_spelling=True,
    ),
    "mistral": ModelRecipe(
        {"model_type": "mistral", "sliding_window": 16, "head_dim": 16, "rope_parameters": THETA}, tokenizer="inst"
    ),
    "qwen2": ModelRecipe(
        {
            "model_type": "qwen2",
            "use_sliding_window": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        v4_spelling=True,
    ),
    "qwen3": ModelRecipe(
        {
            "model_type": "qwen3",
            "head_dim": 32,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        }
    ),
    "llama_bias": ModelRecipe({"model_type": "llama", **SMALL_WIDE, "attention_bias": True, "mlp_bias": True}),
    # The longest document is longer than max_position_embeddings: its base grows.
    "llama_rope_dynamic": ModelRecipe(
        {
            "model_type": "llama",
            **SMALL,
            "max_position_embeddings": 32,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0},
        },
        v4_spelling=True,
    ),
    "gemma": ModelRecipe({"model_type": "gemma", **SMALL_WIDE, "num_key_value_heads": 1}, v4_spelling=True),
    # Caps so low that they bend the scores and logits of so small a model; the window is shorter than two of the documents.
    "gemma2": ModelRecipe(
        {
            "model_type": "gemma2",
            **SMALL_WIDE,
            "num_hidden_layers": 3,
            "sliding_window": 16,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        }
    ),
    # As Gemma 2 whose attention was freed of its cap: only the scale of the scores is left.
    "gemma2_uncapped": ModelRecipe(
        {
            "model_type": "gemma2",
            **SMALL_WIDE,
            "sliding_window": 16,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        v4_spelling=True,
    ),
    # As Phi-3-mini-4k: as many key heads as query heads, a window, nothing scaled.
    "phi3": ModelRecipe(
        {
            "model_type": "phi3",
            **SMALL,
            "tie_word_embeddings": False,
            "num_key_value_heads": 4,
            "sliding_window": 16,
            "rope_parameters": THETA,
        }
    ),
    # As Phi-4-mini: tied, shared key heads, a part of each head rotated, and longrope, which the longest document is long
    # enough for.
    "phi3_longrope": ModelRecipe(
        {
            "model_type": "phi3",
            **SMALL,
            "hidden_size": 64,
            "intermediate_size": 64,
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.05, 1.1, 1.3, 1.6, 2.0],
                "long_factor": [1.0, 1.5, 3.0, 6.0, 12.0, 20.0],
            },
        },
        v4_spelling=True,
    ),
    "smollm3": ModelRecipe(
        {
            "model_type": "smollm3",
            **SMALL,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0},
        }
    ),
}


def build_model(recipe, seed):
    """Makes the recipe's model in float32 with bfloat16-representable random weights."""
    values = {**COMMON, **recipe.config}
    special = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 3}
    if recipe.tokenizer == "inst":
        special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    config = transformers.AutoConfig.for_model(**values, **special)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            value = scaled(name, noise, values["hidden_size"])
            if values["model_type"].startswith("gemma") and "norm" in name:
                value -= 1.0  # Gemma multiplies by 1 + weight.
            parameter.copy_(value.to(torch.bfloat16))
    return model.eval()


def scaled(name, noise, hidden_size):
    """Brings standard normal noise to the size that suits the named weight."""
    if "norm" in name:
        return 1.0 + 0.2 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    if "embed_tokens" in name:
        # Also the head when tied, where logits should have a spread of about 1.5.
        return 1.5 * hidden_size**-0.5 * noise
    if "q_proj" in name or "k_proj" in name:
        return 1.5 * noise.shape[1] ** -0.5 * noise
    return noise.shape[1] ** -0.5 * noise


def v4_config(config):
    """Rewrites a config.json as transformers 4 spelled it: torch_dtype, rope_theta at the top, rope_scaling or null."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope["rope_type"] == "longrope":
        rope = {"type": "longrope", "short_factor": rope["short_factor"], "long_factor": rope["long_factor"]}
    config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    return config
