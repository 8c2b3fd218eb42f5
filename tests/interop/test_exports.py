"""Folders that hone exports, and checkpoints of whole models, in transformers: beside PEFT and beside GGUF files."""

import json

import peft
import pytest
import torch
import transformers

import gguf_nll
import hone
import make_fixtures
import reference
import sample_texts
from conftest import FIXTURES, MODELS, assert_same_scores, documents_of
from test_curves import ROWS, base_and_adapter

# Of logits and losses, both sides in float32: logits differ by 1.1e-5 at most.
TOLERANCE = 1e-4

ADAPTERS = (
    "llama_all_linear",
    "llama_patterns",
    "qwen2_rslora",
    "qwen2_dora",
    "mistral_pissa",
    "llama_olora",
    "llama_bias_all_linear",
    "yarn_embedding",
    "yarn_dora_embedding",
    "llama3_saved",
    "phi3_qkv",
    "gemma2_all_linear",
)
# The base model ties embedding and head, and training changed one of them.
UNTIED = ("yarn_embedding", "yarn_dora_embedding", "llama3_saved")
# What merged weights may be off by, in float32, where both sides come to the same number in two ways: DoRA's lengths, and the
# decompositions whose product is taken off. Everything else is equal to the bit.
NEARLY = {"qwen2_dora": 1e-6, "yarn_dora_embedding": 1e-6, "mistral_pissa": 1e-6, "llama_olora": 1e-6}


def merged_by_peft(model, adapter):
    """The weights of a model with an adapter merged into them, in float32."""
    # With a head of its own: PEFT would change both uses of a tied weight.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return reference.load_adapter(model, adapter).merge_and_unload().state_dict()


def assert_rounded_once(weights, exact, slack):
    """Each weight is that number which lies next to the float32 one in its own type, or next to one within the slack of it."""
    for name, weight in weights.items():
        low, high = ((exact[name] + offset).to(weight.dtype) for offset in (-slack, slack))
        assert ((low <= weight) & (weight <= high)).all(), name


def assert_same_logits(ours, theirs, documents):
    """Every logit of every token of the documents agrees."""
    with torch.no_grad():
        for ids in documents:
            logits = (reference.document_logits(model, ids) for model in (ours, theirs))
            torch.testing.assert_close(*logits, atol=TOLERANCE, rtol=0)


def assert_same_tokenizer(ours, theirs, texts):
    """Texts become the same tokens, and conversations the same text."""
    assert ours.chat_template == theirs.chat_template
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == (theirs.bos_token, theirs.eos_token, theirs.pad_token)
    for text in texts:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_exported_folder_computes_what_peft_does(tmp_path, name):
    """transformers finds each weight, PEFT's logits in float32, and the base model's tokenizer and rules of generation."""
    base, adapter = base_and_adapter(name)
    folder = hone.export(base, tmp_path / "out", trained=adapter)
    ours, plain = reference.load_complete(folder), reference.load_model(base)
    assert ours.config.tie_word_embeddings == (plain.config.tie_word_embeddings and name not in UNTIED)
    assert ours.generation_config.to_dict() == plain.generation_config.to_dict()
    tokenizers = (transformers.AutoTokenizer.from_pretrained(path) for path in (folder, base))
    assert_same_tokenizer(*tokenizers, sample_texts.TEXTS)

    documents = documents_of(name)
    untrained = reference.score(plain, documents)["nll"]
    assert_same_logits(ours, reference.load_adapter(plain, adapter), documents)
    assert abs(reference.score(ours, documents)["nll"] - untrained) > 1e-3


@pytest.mark.parametrize("name", ADAPTERS)
def test_exported_weights_are_those_of_torch_rounded_once(tmp_path, name):
    """In bfloat16, tensor by tensor and bit by bit."""
    base, adapter = base_and_adapter(name)
    model = reference.load_complete(hone.export(base, tmp_path / "out", trained=adapter, kind="bfloat16"), "auto")
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.bfloat16}
    expected = merged_by_peft(reference.load_model(base), adapter)
    assert model.state_dict().keys() == expected.keys()
    if model.config.tie_word_embeddings:
        assert torch.equal(expected["lm_head.weight"], expected["model.embed_tokens.weight"])
    assert_rounded_once(model.state_dict(), expected, NEARLY.get(name, 0.0))


def test_a_head_trained_on_a_tied_model_is_exported_apart(tmp_path):
    """Its config.json says so, the embedding is what it was, and the logits are those of PEFT."""
    base, adapter = MODELS / "llama_tied", tmp_path / "adapter"
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(reference.load_model(base), config).eval()
    head = theirs.base_model.model.lm_head.modules_to_save.default.weight
    with torch.no_grad():
        head += 0.1 * torch.randn(head.shape, generator=torch.Generator().manual_seed(1))
    theirs.save_pretrained(adapter)

    ours = reference.load_complete(hone.export(base, tmp_path / "out", trained=adapter))
    assert not ours.config.tie_word_embeddings
    assert torch.equal(ours.lm_head.weight, head)
    assert torch.equal(ours.model.embed_tokens.weight, reference.load_model(base).model.embed_tokens.weight)
    assert_same_logits(ours, theirs, documents_of("llama_tied"))


def held_out_loss(model):
    """The NLL of all trained tokens of the rows, as TRL reads them."""
    losses = []
    for row in json.loads((FIXTURES / "sft/rows_tokenized.json").read_text()):
        is_trained = torch.tensor(row["labels"][1:]) != -100
        with torch.no_grad():
            losses.append(-reference.document_logprobs(model, row["input_ids"])[is_trained])
    return torch.cat(losses).double().mean().item()


@pytest.mark.parametrize("name", ["llama_tied", "qwen2"])
def test_a_full_checkpoint_has_in_transformers_the_loss_that_hone_told(service, tmp_path, name):
    """transformers loads the folder of the checkpoint as it is, and the export of it has its weights, rounded once."""
    rows = service.upload_rows(ROWS)
    settings = {"adapter": {"full": {}}, "max_steps": 3, "optimizer": {"learning_rate": 1e-3}}
    spec = hone.sft_spec(service.upload_model(MODELS / name), rows, **settings)
    spec["sft"]["data"]["eval"] = [rows]
    job_id, events = service.run(spec)
    told = [event["evaluation"]["loss"] for event in events if "evaluation" in event]

    checkpoint = service.download(job_id, tmp_path / "checkpoint")
    trained = reference.load_complete(checkpoint)
    assert held_out_loss(trained) == pytest.approx(told[-1], abs=TOLERANCE)
    assert told[0] - told[-1] > 0.01
    tokenizers = (transformers.AutoTokenizer.from_pretrained(path) for path in (checkpoint, MODELS / name))
    assert_same_tokenizer(*tokenizers, sample_texts.TEXTS)

    exported = reference.load_complete(service.export(job_id, tmp_path / "exported", "bfloat16"), "auto").state_dict()
    assert {weight.dtype for weight in exported.values()} == {torch.bfloat16}
    assert_rounded_once(exported, trained.state_dict(), 0.0)


# Of which families transformers reads the files itself. Of the latter two it reads the weights alone: no caps, no longrope.
WHOLLY_READ = ("llama", "qwen2")
WEIGHTS_READ = (*WHOLLY_READ, "gemma2", "phi3_longrope")
# What config.json says that does not show in scores.
SILENT = ("architectures", "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "tie_word_embeddings")


@pytest.mark.parametrize("name", make_fixtures.GGUF_MODELS)
def test_a_gguf_file_is_exported_as_the_model_that_it_stands_for(tmp_path, name):
    """With the config.json that is made for it; and with the bits that transformers reads out of the file, where it does."""
    file = FIXTURES / f"gguf/{name}.gguf"
    folder = hone.export(file, tmp_path / "out")
    ours, original = reference.load_complete(folder), transformers.AutoConfig.from_pretrained(MODELS / name)
    assert [getattr(ours.config, key) for key in SILENT] == [getattr(original, key) for key in SILENT]
    fixture = json.loads((FIXTURES / f"scores/{name}_gguf.json").read_text())
    assert_same_scores(reference.score(ours, fixture["documents"]), fixture, 1e-5)
    tokenizers = (transformers.AutoTokenizer.from_pretrained(path) for path in (folder, MODELS / name))
    assert_same_tokenizer(*tokenizers, sample_texts.TEXTS)
    if name in WEIGHTS_READ:
        theirs, _ = gguf_nll.load(file)
        assert_same_weights_to_the_bit(ours, theirs)
        if name in WHOLLY_READ:
            assert_same_logits(ours, theirs, fixture["documents"])


def assert_same_weights_to_the_bit(ours, theirs):
    """Two models hold the same tensors."""
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name, weight in ours.items() if not torch.equal(weight, theirs[name])] == []


def test_an_adapter_on_a_gguf_file_is_merged_into_what_the_file_stands_for(tmp_path):
    """As PEFT does it in float32 to the model that transformers reads out of the file, rounded once."""
    file, adapter = FIXTURES / "gguf/llama.gguf", FIXTURES / "adapters/llama_all_linear"
    model = reference.load_complete(hone.export(file, tmp_path / "out", trained=adapter, kind="bfloat16"), "auto")
    assert_rounded_once(model.state_dict(), merged_by_peft(gguf_nll.load(file)[0], adapter), 0.0)


NUM_TOKENS = 12


def test_the_real_gguf_model_becomes_a_folder_that_answers_alike(tmp_path, smollm2):
    """SmolLM2: the weights, logits, tokens and greedy words of transformers' own load of the file; hone's words, too."""
    folder = hone.export(gguf_nll.MODEL, tmp_path / "out")
    theirs, their_tokenizer = smollm2
    ours, tokenizer = reference.load_complete(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert_same_weights_to_the_bit(ours, theirs)
    # The first two: it is a large model for one thread.
    assert_same_logits(ours, theirs, json.loads((FIXTURES / "gguf_nll.json").read_text())["documents"][:2])
    assert_same_tokenizer(tokenizer, their_tokenizer, [*sample_texts.TEXTS, *gguf_nll.TEXTS])

    prompt = "The capital of France is Paris. The capital of Italy is"
    answer = greedy(ours, tokenizer, prompt)
    assert answer == greedy(theirs, their_tokenizer, prompt) == hone.generate(folder, prompt, NUM_TOKENS)
    assert "Rome" in answer


def greedy(model, tokenizer, prompt):
    """The likeliest next words."""
    prompt = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=NUM_TOKENS, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True)
