"""GGUF files that hone writes, read by llama.cpp: the same scores and the same tokens as transformers on the folder."""

import json
import shutil

import pytest
import tokenizers
import torch
import transformers

import gguf_nll
import hone
import llama_cpp
import reference
import sample_texts
import tiny_models

FIXTURES = hone.ROOT / "tests/fixtures"
MODELS = FIXTURES / "models"

# llama.cpp has its own scale of Gemma 2's scores, so that model gets it. It takes longrope's factors for long texts for all
# texts once its context is longer than the original one.
CHANGES = {
    "gemma2": {"query_pre_attn_scalar": 16},
    "phi3_longrope_short": {"original_max_position_embeddings": llama_cpp.CONTEXT, "max_position_embeddings": 512},
}
# Dynamic rope and scores without a cap have no words in GGUF.
NOT_FOR_GGUF = ("llama_rope_dynamic", "gemma2_uncapped")
NAMES = [*(name for name in tiny_models.MODELS if name not in NOT_FOR_GGUF), "phi3_longrope_short"]
ADAPTERS = ("llama_all_linear", "llama_bias_all_linear", "phi3_qkv", "gemma_all_linear", "qwen2_dora", "llama3_saved")
# llama.cpp knows no window in these: texts are compared as far as it does not matter.
WINDOWS = {"mistral": 16, "phi3": 16}
# ggml looks the values of GELU up in a table of float16.
TOLERANCES = {"gemma": 3e-3, "gemma2": 3e-3}
# Its factors for long texts are compared on the one text that is long.
LONG_ONLY = {"phi3_longrope": 32}


def exported(model, out, *, trained=None, kind="float32"):
    """The GGUF file that hone makes of a model and what was trained on it."""
    return hone.export(model, out, trained=trained, layout="gguf", kind=kind) / "model.gguf"


def folder_of(name, tmp_path):
    """A fixture's model folder, changed where llama.cpp asks for it."""
    if name not in CHANGES:
        return MODELS / name
    folder = tmp_path / name
    shutil.copytree(MODELS / name.removesuffix("_short"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | CHANGES[name]))
    return folder


def documents_of(name):
    """The documents of a fixture, as far as llama.cpp computes what the model says."""
    fixture = FIXTURES / "scores" / f"{name.removesuffix('_short')}.json"
    documents = json.loads(fixture.read_text())["documents"]
    return [ids[: WINDOWS.get(name)] for ids in documents if len(ids) > LONG_ONLY.get(name, 0)]


def assert_same_scores(file, model, documents, tolerance):
    """Every log-probability agrees with those of a transformers model."""
    ours = llama_cpp.Model(file)
    for ids in documents:
        with torch.no_grad():
            theirs = reference.document_logprobs(model, ids)
        torch.testing.assert_close(ours.logprobs(ids), theirs, atol=tolerance, rtol=0)


def assert_same_tokens(file, tokenizer, texts):
    """Texts become the same tokens, and the same one ends a text."""
    model = llama_cpp.Model(file)
    for text in texts:
        assert model.tokenize(text) == tokenizer(text)["input_ids"], text
    assert model.vocab.is_eog(tokenizer.eos_token_id)


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_scores_as_transformers(tmp_path, name):
    """A model of every family and rope type that GGUF can hold, in float32."""
    folder = folder_of(name, tmp_path)
    file = exported(folder, tmp_path / "out")
    assert_same_scores(file, reference.load_model(folder), documents_of(name), TOLERANCES.get(name, 5e-5))
    # Not by the class of the family, which has its own rules, whatever tokenizer.json says.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert_same_tokens(file, tokenizer, sample_texts.TEXTS)


@pytest.mark.parametrize("kind, tolerance", [("float16", 1e-2), ("bfloat16", 5e-2)])
def test_half_types_score_within_their_rounding(tmp_path, kind, tolerance):
    """llama.cpp rounds the other factor of every product to the type of the weights, too."""
    file = exported(MODELS / "llama", tmp_path / "out", kind=kind)
    assert_same_scores(file, reference.load_model(MODELS / "llama"), documents_of("llama"), tolerance)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_merged_adapter_scores_as_in_peft(tmp_path, name):
    """An adapter that was merged into the file has the effect that it has beside the model."""
    adapter = FIXTURES / "adapters" / name
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    file = exported(MODELS / base, tmp_path / "out", trained=adapter)
    model = reference.load_adapter(reference.load_model(MODELS / base), adapter)
    documents = [ids[: WINDOWS.get(base)] for ids in documents_of(name)]
    assert_same_scores(file, model, documents, TOLERANCES.get(base, 5e-5))


def test_the_real_model_dequantised(tmp_path, smollm2):
    """SmolLM2 from its GGUF file: its own tokenizer keys, its weights in float32."""
    file = exported(gguf_nll.MODEL, tmp_path / "out")
    model, tokenizer = smollm2
    documents = json.loads((FIXTURES / "gguf_nll.json").read_text())["documents"]
    assert_same_scores(file, model, documents, 1e-3)
    assert_same_tokens(file, tokenizer, [*sample_texts.TEXTS, *gguf_nll.TEXTS])


def test_the_real_tokenizer_from_its_folder(tmp_path, smollm2):
    """SmolLM2's tokenizer by way of tokenizer.json, on a tiny model that has a row for each of its tokens."""
    _, tokenizer = smollm2
    folder = wide_model(tmp_path, tokenizer)
    assert_same_tokens(exported(folder, tmp_path / "out"), tokenizer, [*sample_texts.TEXTS, *gguf_nll.TEXTS])


def split(pattern):
    """A byte-level pre-tokenizer with a rule."""
    rule = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizers.pre_tokenizers.Sequence([rule, byte_level])


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = [rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"]
MARKS, MARKS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
SPACES = [r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"]
# As published with Llama 3, Qwen 2, Mistral Nemo and Phi-4-mini.
RULES = {
    "llama-bpe": [CONTRACTIONS, WORD, r"\p{N}{1,3}", MARKS, *SPACES],
    "qwen2": [CONTRACTIONS, WORD, r"\p{N}", MARKS, *SPACES],
    "tekken": [*CASED, r"\p{N}", MARKS_AND_SLASHES, *SPACES],
    "gpt-4o": [*(f"{word}{CONTRACTIONS}?" for word in CASED), r"\p{N}{1,3}", MARKS_AND_SLASHES, *SPACES],
}
RULE_TEXTS = [*sample_texts.TEXTS, *gguf_nll.TEXTS, "HTTPServer camelCase don't DON'T 12345678 //\n\n"]


@pytest.mark.parametrize("name", RULES)
def test_llama_cpp_cuts_a_text_by_the_rule_of_the_tokenizer(tmp_path, name):
    """Byte-level BPE under the other rules, trained here on texts where they matter."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = split("|".join(RULES[name]))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    # Often enough that whole words merge.
    tokenizer.train_from_iterator(RULE_TEXTS * 4, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    file = exported(wide_model(tmp_path, fast), tmp_path / "out")
    # llama.cpp's own spelling of the rules with capitals does not take combining marks for letters.
    texts = [text for text in RULE_TEXTS if name in ("llama-bpe", "qwen2") or "\u0301" not in text]
    assert_same_tokens(file, fast, texts)


SPACE = tokenizers.normalizers.Replace(" ", "▁")
SENTENCEPIECE = {
    "llama": (tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("▁"), SPACE]), None),
    "mistral": (None, tokenizers.pre_tokenizers.Metaspace("▁", "first", split=False)),
    "gemma": (SPACE, tokenizers.pre_tokenizers.Split(" ", "merged_with_previous")),
}


def sentencepiece_model():
    """Pieces and merges trained on rows, behind special tokens and all bytes."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁")
    prompts = [row["prompt"] for row in sample_texts.training_rows(200, seed=1)]
    trained.train_from_iterator(prompts, tokenizers.trainers.BpeTrainer(vocab_size=600))
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in model["merges"]]
    return tokenizers.models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def sentencepiece(normalizer, pre_tokenizer, added=()):
    """A tokenizer with these pieces, which puts BOS before a text."""
    tokenizer = tokenizers.Tokenizer(sentencepiece_model())
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *added])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_llama_cpp_joins_pieces_in_the_order_of_the_merges(tmp_path, name):
    """SentencePiece BPE as the three kinds of tokenizer.json spell it, trained here; bytes for what has no piece."""
    fast = sentencepiece(*SENTENCEPIECE[name])
    file = exported(wide_model(tmp_path, fast), tmp_path / "out")
    # What llama.cpp does alone: a space after a special token, and before a space that begins a text.
    texts = [text for text in sample_texts.TEXTS if "</s>" not in text and not (name == "mistral" and text[:1] == " ")]
    assert_same_tokens(file, fast, [*texts, *(row["prompt"] for row in sample_texts.training_rows(20, seed=2))])


def test_special_tokens_of_phi3_take_the_space_behind_them(tmp_path):
    """llama.cpp knows it by the name of the file's model, which here has no such name of itself."""
    added = ["<|endoftext|>", tokenizers.AddedToken("<|user|>", rstrip=True, normalized=False, special=True)]
    fast = sentencepiece(*SENTENCEPIECE["llama"], added)
    file = exported(wide_model(tmp_path, fast, "phi3"), tmp_path / "out")
    assert_same_tokens(file, fast, ["<|user|>\n Write lantern", "one<|user|>two", "a <|user|> b\n", "<|endoftext|>c"])


def wide_model(tmp_path, tokenizer, base="llama_tied"):
    """A folder with this tokenizer and a tiny model with a few rows more than it has tokens."""
    folder = tmp_path / "wide"
    config = transformers.AutoConfig.from_pretrained(MODELS / base, vocab_size=len(tokenizer) + 5)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_what_gguf_cannot_say_is_refused_by_name(tmp_path):
    """The message says what, and what to do."""
    for name, what in zip(NOT_FOR_GGUF, ("dynamic", "query_pre_attn_scalar"), strict=True):
        with pytest.raises(hone.HoneError, match=what):
            exported(MODELS / name, tmp_path / "out")
    assert not (tmp_path / "out/model.gguf").exists()
