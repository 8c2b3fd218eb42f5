"""Where hone differs on purpose (docs/numerics.md): the libraries still do what they are said to do, and hone does not."""

import json
import tempfile

import datasets
import peft
import pytest
import torch
import transformers
import trl
from peft.optimizers import create_loraplus_optimizer
from transformers.integrations.neftune import neftune_post_forward_hook
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

import dpo_losses
import gguf_nll
import hone
import reference
import sft_curve
from conftest import FIXTURES, MODELS, documents_of
from test_curves import PAIRS, ROWS, START, base_and_adapter, run_pairs, train_pairs


def test_trl_counts_the_prompt_in_orpo_and_hone_does_not(service):
    """The likelihood beside the odds ratio; with the answers' alone TRL has hone's losses, as test_curves.py shows."""
    theirs = run_pairs(ORPOTrainer, ORPOConfig, beta=0.5, max_steps=1)
    ours = train_pairs(service, ["orpo"], beta=0.5, max_steps=1)
    assert abs(ours[0]["loss"] - theirs[0]["loss"]) > 0.05


def trl_loss(losses, **settings):
    """TRL's loss of some log-probabilities."""
    generator = torch.Generator().manual_seed(5)
    documents = 2 * len(dpo_losses.LENGTHS)
    logps, log_sum_sq = (-torch.rand(documents, 8, generator=generator) for _ in range(2))
    reference_logps = -2 * torch.rand(documents, generator=generator)
    case = {"losses": losses, "beta": 0.5, "label_smoothing": 0.0, **settings}
    return dpo_losses.run(case, logps, reference_logps, log_sum_sq)[0]


def test_trl_ignores_label_smoothing_for_sigmoid():
    """Its loss is the same with it and without."""
    assert trl_loss(["sigmoid"], label_smoothing=0.2) == trl_loss(["sigmoid"]) > 0.0


def test_trl_cannot_weigh_pairs_beside_sft():
    """It writes into a tensor that it has expanded."""
    with pytest.raises(RuntimeError, match="single memory location"):
        trl_loss(["sigmoid", "sft"], use_weighting=True)


def test_the_cut_into_micro_batches_moves_aot_in_trl_and_not_in_hone(service):
    """TRL sorts within a micro-batch; hone, cut into many, follows TRL with one."""
    settings = {"beta": 0.5, "max_steps": 5}
    whole = run_pairs(trl.DPOTrainer, trl.DPOConfig, loss_type=["aot"], **settings)
    cut = run_pairs(
        trl.DPOTrainer,
        trl.DPOConfig,
        loss_type=["aot"],
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        **settings,
    )
    batch = {"examples_per_step": 8, "tokens_per_micro_batch": 150}
    ours = train_pairs(service, ["aot"], batch=batch, **settings)
    assert all(step["micro_batches"] > 1 for step in ours)
    losses = [[step["loss"] for step in steps] for steps in (ours, whole, cut)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] != pytest.approx(losses[2], abs=1e-3)


def test_the_held_out_loss_moves_with_the_batch_size_in_trl_and_not_in_hone(service):
    """TRL averages batches; with all rows in one batch it is hone's average over tokens."""
    base, adapter = base_and_adapter(START)
    rows = service.upload_rows(ROWS)
    spec = hone.sft_spec(service.upload_model(base), rows, init_from=adapter.as_uri(), max_steps=1)
    spec["sft"]["data"]["eval"] = [rows]
    spec["sft"]["batch"] = {"tokens_per_micro_batch": 150}
    before = next(event["evaluation"] for event in service.events(service.create(spec)) if "evaluation" in event)

    def theirs(batch_size):
        model = reference.load_adapter(reference.load_model(base), adapter)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = trl.SFTTrainer(
                model=model,
                processing_class=sft_curve.load_tokenizer(base),
                train_dataset=datasets.Dataset.from_list(sft_curve.read_rows(ROWS)),
                eval_dataset=datasets.Dataset.from_list(sft_curve.read_rows(ROWS)),
                args=trl.SFTConfig(output_dir=scratch, per_device_eval_batch_size=batch_size, **sft_curve.RUN),
            )
            return trainer.evaluate()["eval_loss"]

    assert before["loss"] == pytest.approx(theirs(96), abs=1e-4)
    assert before["loss"] != pytest.approx(theirs(2), abs=1e-3)


def test_the_noise_of_neftune_falls_with_padding_in_transformers():
    """The same document, alone and padded to four times its length."""
    embedding = torch.nn.Embedding(8, 16)
    embedding.neftune_noise_alpha = 5.0
    zeros = torch.zeros(1, 40, 16)

    def noise(length):
        torch.manual_seed(0)
        noisy = neftune_post_forward_hook(embedding, None, zeros[:, :length].clone())
        return noisy[:, :10].abs().max().item()

    assert noise(40) == pytest.approx(noise(10) / 2, rel=0.1)


def test_the_embedding_learns_at_a_fixed_rate_under_lora_plus_in_peft():
    """Whatever the run's rate is."""
    base, adapter = base_and_adapter("yarn_embedding")
    model = reference.load_adapter(reference.load_model(base), adapter, trainable=True)
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=16.0)
    rates = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
    embedding = [rates[id(value)] for name, value in model.named_parameters() if "lora_embedding" in name]
    assert embedding == [1e-6, 1e-6]


def test_peft_sorts_patterns_when_it_saves(tmp_path):
    """So the first that matches is another one after loading."""
    patterns = {"q_proj": 2, r"layers\.1\..*": 6}
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], rank_pattern=patterns, task_type="CAUSAL_LM")
    peft.get_peft_model(reference.load_model(MODELS / "llama"), config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert list(saved) == sorted(patterns) != list(patterns)


def test_peft_rounds_twice_when_it_merges_safely():
    """To a bfloat16 model: the product first, then the sum. hone's export has the sum rounded once, as test_exports.py shows."""
    base, adapter = base_and_adapter(START)

    def merged(dtype, **options):
        model = reference.load_adapter(reference.load_model(base, dtype), adapter)
        return model.merge_and_unload(**options).state_dict()

    exact, twice = merged(torch.float32), merged(torch.bfloat16, safe_merge=True)
    for name, weight in exact.items():
        once = weight.to(torch.bfloat16)
        assert ((once - weight).abs() <= (twice[name] - weight).abs()).all()
        share = (once != twice[name]).float().mean()
        # A twelfth of all weights, where there is something to add.
        assert share > 0.05 if "proj" in name else share == 0, name


@pytest.mark.parametrize(("name", "is_another"), [("yarn_embedding", True), ("llama3_saved", False)])
def test_peft_merges_the_update_of_a_tied_embedding_into_the_head_too(name, is_another):
    """So the merged model is another one than that with LoRA beside it. What was trained whole is untied."""
    base, adapter = base_and_adapter(name)
    model = reference.load_adapter(reference.load_model(base), adapter)
    document = documents_of(name)[0]
    with torch.no_grad():
        beside = reference.document_logprobs(model, document)
        model = model.merge_and_unload()
        moved = (reference.document_logprobs(model, document) - beside).abs().max()
    assert model.config.tie_word_embeddings == is_another
    assert moved > 1e-2 if is_another else moved < 1e-4


def test_transformers_reads_no_caps_and_no_longrope_out_of_a_gguf_file():
    """It has the defaults of the family; hone has what the file says, as test_exports.py shows."""
    gemma2, phi3 = (gguf_nll.load(FIXTURES / f"gguf/{name}.gguf")[0].config for name in ("gemma2", "phi3_longrope"))
    assert (gemma2.attn_logit_softcapping, gemma2.final_logit_softcapping) == (50.0, 30.0)
    assert phi3.rope_parameters["rope_type"] == "default"


def test_the_rate_jumps_in_transformers_where_the_decay_is_longer_than_what_warmup_leaves():
    """hone shortens the decay; transformers starts in the middle of it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = transformers.get_scheduler(
        "warmup_stable_decay",
        optimizer,
        num_warmup_steps=5,
        num_training_steps=10,
        scheduler_specific_kwargs={"num_decay_steps": 8, "decay_type": "linear"},
    )
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[4] == pytest.approx(0.8) and rates[5] < 0.8
