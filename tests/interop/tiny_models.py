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
            parameter.copy_(scaled(name, noise, values["hidden_size"]).to(torch.bfloat16))
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
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    return config
