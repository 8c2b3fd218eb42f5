"""hone beside transformers and PEFT, live: the same models, documents, adapters and rates through both sides."""

import json

import pytest

import gguf_nll
import hone
import make_fixtures
import optim_curves
import reference
import tiny_models
from conftest import FIXTURES, MODELS, assert_same_scores, documents_of

NUM_STEPS = 3


@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_nll_equals_transformers(name):
    """A model of every family and rope type scores documents as transformers does."""
    documents = documents_of(name)
    theirs = reference.score(reference.load_model(MODELS / name), documents)
    assert_same_scores(hone.score(MODELS / name, documents), theirs, 1e-4)


@pytest.mark.parametrize("name", sorted(make_fixtures.ADAPTERS))
def test_a_peft_adapter_scores_as_in_peft(name):
    """An adapter made by PEFT has the same effect in hone."""
    adapter = FIXTURES / "adapters" / name
    base = MODELS / json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    documents = documents_of(name)
    theirs = reference.score(reference.load_adapter(reference.load_model(base), adapter), documents)
    assert_same_scores(hone.score(base, documents, adapter), theirs, 1e-4)


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "phi3", "phi3_longrope"]
)
def test_a_hone_adapter_loads_in_peft(service, tmp_path, name):
    """What hone trains and stores, PEFT loads, and both then give the same numbers, which the base model does not."""
    job_id, steps = service.train(
        hone.sft_spec(
            service.upload_model(MODELS / name),
            service.upload_rows(FIXTURES / "sft/rows.jsonl"),
            max_steps=NUM_STEPS,
            optimizer={"learning_rate": 1e-2},
        )
    )
    assert len(steps) == NUM_STEPS
    adapter = service.download(job_id, tmp_path / "adapter")
    documents = documents_of(name)
    theirs = reference.score(reference.load_adapter(reference.load_model(MODELS / name), adapter), documents)
    assert_same_scores(hone.score(MODELS / name, documents, adapter), theirs, 1e-4)
    assert theirs["nll"] != pytest.approx(hone.score(MODELS / name, documents)["nll"], abs=1e-3)


# Settings of an adapter, and the model for it.
FEATURES = {
    "patterns": (
        "qwen2",
        {
            "target_pattern": r".*\.([qkv]|up)_proj",
            "exclude_pattern": r".*layers\.0\.mlp.*",
            "rank_pattern": [{"pattern": r"layers\.1\..*v_proj", "rank": 5}, {"pattern": "[qv]_proj", "rank": 3}],
            "alpha_pattern": [{"pattern": "k_proj", "alpha": 2.5}],
            "use_rslora": True,
        },
    ),
    "layers": ("llama", {"target_modules": ["q_proj", "model.embed_tokens"], "layers_to_transform": [1]}),
    "dora": ("qwen2", {"use_dora": True, "target_modules": ["v_proj", "down_proj", "embed_tokens"], "dropout": 0.1}),
    "saved": ("llama_tied", {"modules_to_save": ["embed_tokens", "lm_head"], "target_modules": ["o_proj"]}),
    "gaussian": ("llama", {"init": "LORA_INIT_GAUSSIAN"}),
    "orthogonal": ("mistral", {"init": "LORA_INIT_ORTHOGONAL", "use_dora": True}),
    "pissa": ("qwen3", {"init": "LORA_INIT_PISSA", "use_rslora": True}),
    "olora": ("llama", {"init": "LORA_INIT_OLORA", "use_dora": True}),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_hone_adapter_with_every_feature_loads_in_peft(service, tmp_path, feature):
    """Whatever hone trains, the files it stores mean the same to PEFT, on the untouched base model."""
    name, lora = FEATURES[feature]
    job_id, _ = service.train(
        hone.sft_spec(
            service.upload_model(MODELS / name),
            service.upload_rows(FIXTURES / "sft/rows.jsonl"),
            max_steps=NUM_STEPS,
            optimizer={"learning_rate": 1e-2},
            adapter={"lora": {"rank": 4, "alpha": 8, **lora}},
        )
    )
    adapter = service.download(job_id, tmp_path / "adapter")
    documents = documents_of(name)
    theirs = reference.score(reference.load_adapter(reference.load_model(MODELS / name), adapter), documents)
    assert_same_scores(hone.score(MODELS / name, documents, adapter), theirs, 1e-4)
    assert theirs["nll"] != pytest.approx(hone.score(MODELS / name, documents)["nll"], abs=1e-3)


@pytest.mark.parametrize(
    ("ours", "name", "settings"), optim_curves.SCHEDULES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_rates_equal_transformers(service, llama, ours, name, settings):
    """A run takes its steps at the rates that transformers' scheduler gives."""
    num_steps, warmup_steps = 16, 3
    given = {key: value for key, value in ours.items() if value is not None}
    for field in ("type", "decay_shape"):
        if field in given:
            given[field] = f"{'SCHEDULE_TYPE' if field == 'type' else 'DECAY_SHAPE'}_{given[field].upper()}"
    model, rows = llama
    _, steps = service.train(
        hone.sft_spec(
            model,
            rows,
            max_steps=num_steps,
            batch={"examples_per_step": 1},
            optimizer={"learning_rate": optim_curves.LEARNING_RATE},
            schedule={**given, "warmup_steps": warmup_steps},
        )
    )
    theirs = optim_curves.rates(name, settings, num_steps, warmup_steps)[:num_steps]
    assert [step.get("learning_rate", 0.0) for step in steps] == pytest.approx(theirs, rel=1e-12)


@pytest.fixture(scope="session")
def llama(service):
    """The tiny llama and the training rows, uploaded."""
    return service.upload_model(MODELS / "llama"), service.upload_rows(FIXTURES / "sft/rows.jsonl")


def test_gguf_nll_equals_transformers(smollm2):
    """The real model's quantised file scores real text as transformers' dequantised load does."""
    fixture = json.loads((FIXTURES / "gguf_nll.json").read_text())
    theirs = reference.score(smollm2[0], fixture["documents"])
    assert_same_scores(hone.score(gguf_nll.MODEL, fixture["documents"]), theirs, 1e-3)


def test_checked_in_scores_are_what_transformers_says():
    """The numbers that `make test` relies on still come out of the pinned libraries."""
    for name in tiny_models.MODELS:
        fixture = json.loads((FIXTURES / "scores" / f"{name}.json").read_text())
        theirs = reference.score(reference.load_model(MODELS / name), fixture["documents"])
        assert_same_scores(fixture, theirs, 1e-5)
