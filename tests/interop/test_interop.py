"""hone beside transformers, PEFT and TRL, live: the same models, documents, adapters and rows through both sides."""

import json

import pytest
import torch

import dpo_curve
import gguf_nll
import hone
import make_fixtures
import optim_curves
import reference
import sft_curve
import tiny_models

FIXTURES = hone.ROOT / "tests/fixtures"
MODELS = FIXTURES / "models"
NUM_STEPS = 3


@pytest.fixture(autouse=True)
def two_threads():
    """Both sides share the machine's two cores."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """One server for all tests."""
    with hone.service(tmp_path_factory.mktemp("hone")) as running:
        yield running


def documents_of(name):
    """The documents of a fixture."""
    return json.loads((FIXTURES / "scores" / f"{name}.json").read_text())["documents"]


def assert_same_scores(ours, theirs, tolerance):
    """The NLL and every single log-probability agree."""
    assert ours["nll"] == pytest.approx(theirs["nll"], abs=tolerance)
    for mine, other in zip(ours["logprobs"], theirs["logprobs"], strict=True):
        assert mine == pytest.approx(other, abs=tolerance)


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


@pytest.mark.parametrize("name", ["llama_all_linear", "qwen2_rslora"])
def test_loss_curve_equals_trl(service, tmp_path, name):
    """A run that starts from a PEFT adapter follows TRL's run from it: loss, gradient norm, rate, and final weights."""
    adapter = FIXTURES / "adapters" / name
    adapter_config = json.loads((adapter / "adapter_config.json").read_text())
    base = MODELS / adapter_config["base_model_name_or_path"]
    rows = FIXTURES / "sft/rows.jsonl"
    theirs = sft_curve.run_trl(base, adapter, sft_curve.read_rows(rows), tmp_path / "trl")
    job_id, ours = service.train(
        hone.sft_spec(service.upload_model(base), service.upload_rows(rows), **curve_settings(adapter, adapter_config))
    )

    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-3), f"step {other['step']}"
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2), f"step {other['step']}"
        # Protobuf's JSON leaves a number of 0 out: the rate of the first step of a warmup.
        assert mine.get("learning_rate", 0.0) == pytest.approx(other["learning_rate"], abs=1e-9), f"step {other['step']}"

    documents = documents_of(name)
    trained = service.download(job_id, tmp_path / "hone")
    scores = [
        reference.score(reference.load_adapter(reference.load_model(base), folder), documents)
        for folder in (trained, tmp_path / "trl")
    ]
    assert_same_scores(*scores, 1e-2)


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


@pytest.mark.parametrize("losses", [["sigmoid"], ["ipo"], ["apo_zero"], ["aot"], ["bco_pair", "sft"]], ids="+".join)
def test_dpo_curve_equals_trl(service, losses):
    """A run on pairs from a PEFT adapter, which is its reference too, follows TRL's: loss, gradient norm, rewards."""
    adapter = FIXTURES / "adapters/llama_all_linear"
    adapter_config = json.loads((adapter / "adapter_config.json").read_text())
    base = MODELS / adapter_config["base_model_name_or_path"]
    rows = FIXTURES / "dpo/pairs.jsonl"
    # One micro-batch a step: TRL compares pairs with each other within a micro-batch only.
    one_batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    theirs = dpo_curve.run_trl(base, adapter, sft_curve.read_rows(rows), loss_type=losses, **one_batch)
    settings = curve_settings(adapter, adapter_config, dpo_curve.SETTINGS)
    settings["losses"] = [{"type": f"PREFERENCE_LOSS_TYPE_{loss.upper()}"} for loss in losses]
    settings["beta"] = dpo_curve.SETTINGS["beta"]
    _, ours = service.train(hone.dpo_spec(service.upload_model(base), service.upload_rows(rows), **settings))

    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        step, preference = other["step"], mine["preference"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=2e-3, abs=2e-3), f"step {step}"
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=2e-2, abs=1e-3), f"step {step}"
        for name, key in {"reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected"}.items():
            assert preference.get(name, 0.0) == pytest.approx(other[key], abs=2e-2), f"step {step}"
        assert preference.get("accuracy", 0.0) == pytest.approx(other["rewards/accuracies"], abs=1e-6), f"step {step}"


def curve_settings(adapter, adapter_config, settings=sft_curve.SETTINGS):
    """The settings of a curve in hone's words."""
    return {
        "init_from": adapter.as_uri(),
        "adapter": {
            "lora": {
                "rank": adapter_config["r"],
                "alpha": adapter_config["lora_alpha"],
                "target_modules": ["all-linear"],
                "use_rslora": adapter_config["use_rslora"],
            }
        },
        "max_steps": settings["max_steps"],
        "batch": {
            "examples_per_step": settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
        },
        "optimizer": {
            "learning_rate": settings["learning_rate"],
            "weight_decay": settings["weight_decay"],
            "max_grad_norm": settings["max_grad_norm"],
            "beta1": settings["adam_beta1"],
            "beta2": settings["adam_beta2"],
            "epsilon": settings["adam_epsilon"],
        },
        "schedule": {"type": "SCHEDULE_TYPE_COSINE", "warmup_steps": settings["warmup_steps"]},
    }


def test_gguf_nll_equals_transformers():
    """The real model's quantised file scores real text as transformers' dequantised load does."""
    fixture = json.loads((FIXTURES / "gguf_nll.json").read_text())
    model, _ = gguf_nll.load(gguf_nll.MODEL)
    theirs = reference.score(model, fixture["documents"])
    assert_same_scores(hone.score(gguf_nll.MODEL, fixture["documents"]), theirs, 1e-3)


def test_checked_in_scores_are_what_transformers_says():
    """The numbers that `make test` relies on still come out of the pinned libraries."""
    for name in tiny_models.MODELS:
        fixture = json.loads((FIXTURES / "scores" / f"{name}.json").read_text())
        theirs = reference.score(reference.load_model(MODELS / name), fixture["documents"])
        assert_same_scores(fixture, theirs, 1e-5)
