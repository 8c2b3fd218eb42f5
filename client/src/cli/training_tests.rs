//! Flags to spec: what is given is set, what is left out is absent.

use clap::Parser;
use serde_json::json;

use crate::args::{Cli, Command, TrainCommand};
use crate::json::line;

/// The spec, as protobuf JSON, that `hone train sft --model m --train d` makes with further flags.
fn spec_of(flags: &[&str]) -> Result<serde_json::Value, clap::Error> {
    let start = ["hone", "train", "sft", "--model", "m", "--train", "d"];
    let cli = Cli::try_parse_from(start.iter().chain(flags))?;
    let Command::Train(TrainCommand::Sft(args)) = cli.command else { panic!("another command") };
    let spec = args.spec().expect("a spec");
    Ok(serde_json::from_str(&line("JobSpec", &spec)).expect("JSON"))
}

fn check(flags: &[&str], expected: serde_json::Value) {
    let mut whole = json!({"base_model": {"uri": "m"}, "sft": {"data": {"train": ["d"]}}});
    merge(&mut whole, expected);
    assert_eq!(spec_of(flags).expect("flags"), whole, "{flags:?}");
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[test]
fn flags_left_out_leave_their_fields_absent() {
    check(&[], json!({}));
}

#[test]
fn every_flag_sets_its_field_and_no_other() {
    check(&["--early-stopping", "3"], json!({"sft": {"evaluation": {"early_stopping": {"patience": 3}}}}));
    check(
        &["--early-stopping", "3", "--early-stopping-threshold", "0.1", "--early-stopping-metric", "loss"],
        json!({"sft": {"evaluation": {"early_stopping":
            {"patience": 3, "threshold": 0.1, "metric": "EARLY_STOPPING_METRIC_LOSS"}}}}),
    );
    check(
        &["--hard-examples", "2", "--answer-hard-examples", "every"],
        json!({"sft": {"evaluation": {"hard_examples": 2, "answer_hard_examples": "ANSWER_HARD_EXAMPLES_EVERY"}}}),
    );
    check(&["--max-retries", "0"], json!({"max_retries": 0}));
    check(&["--full"], json!({"sft": {"adapter": {"full": {}}}}));
    check(&["--train", "e"], json!({"sft": {"data": {"train": ["d", "e"]}}}));
    check(&["--eval", "h", "--eval", "i"], json!({"sft": {"data": {"eval": ["h", "i"]}}}));
    check(&["--eval-fraction", "0.1"], json!({"sft": {"data": {"eval_fraction": 0.1}}}));
    check(&["--max-length", "512"], json!({"sft": {"data": {"max_length": 512}}}));
    check(&["--over-length", "split"], json!({"sft": {"data": {"over_length": "OVER_LENGTH_SPLIT"}}}));
    check(&["--max-train-examples", "9"], json!({"sft": {"data": {"max_train_examples": "9"}}}));
    check(&["--max-eval-examples", "9"], json!({"sft": {"data": {"max_eval_examples": "9"}}}));
    check(
        &["--train", "e", "--mix", "3,1"],
        json!({"sft": {"data": {"train": ["d", "e"], "mix": {"weights": [3.0, 1.0]}}}}),
    );
    check(
        &["--mix", "1", "--mix-until", "all_exhausted"],
        json!({"sft": {"data": {"mix": {"weights": [1.0], "until": "MIX_UNTIL_ALL_EXHAUSTED"}}}}),
    );
    check(&["--drop-duplicates"], json!({"sft": {"data": {"drop_duplicates": true}}}));
    check(&["--leakage-similarity", "0.9"], json!({"sft": {"data": {"leakage_similarity": 0.9}}}));
    check(&["--loss-on", "assistant"], json!({"sft": {"loss_on": "LOSS_ON_ASSISTANT"}}));
    check(&["--neftune-noise-alpha", "5"], json!({"sft": {"neftune_noise_alpha": 5.0}}));
    check(&["--epochs", "2.5"], json!({"sft": {"epochs": 2.5}}));
    check(&["--max-steps", "70"], json!({"sft": {"max_steps": "70"}}));
    check(&["--learning-rate", "1e-4"], json!({"sft": {"optimizer": {"learning_rate": 1e-4}}}));
    check(&["--weight-decay", "0.01"], json!({"sft": {"optimizer": {"weight_decay": 0.01}}}));
    check(&["--max-grad-norm", "0"], json!({"sft": {"optimizer": {"max_grad_norm": 0.0}}}));
    check(&["--schedule", "constant"], json!({"sft": {"schedule": {"type": "SCHEDULE_TYPE_CONSTANT"}}}));
    check(&["--warmup-ratio", "0"], json!({"sft": {"schedule": {"warmup_ratio": 0.0}}}));
    check(&["--warmup-steps", "5"], json!({"sft": {"schedule": {"warmup_steps": "5"}}}));
    check(&["--min-learning-rate-ratio", "0.1"], json!({"sft": {"schedule": {"min_learning_rate_ratio": 0.1}}}));
    check(
        &["--schedule", "warmup-stable-decay"],
        json!({"sft": {"schedule": {"type": "SCHEDULE_TYPE_WARMUP_STABLE_DECAY"}}}),
    );
    check(&["--num-cycles", "3"], json!({"sft": {"schedule": {"num_cycles": 3}}}));
    check(&["--power", "2"], json!({"sft": {"schedule": {"power": 2.0}}}));
    check(&["--timescale", "100"], json!({"sft": {"schedule": {"timescale": "100"}}}));
    check(&["--decay-steps", "9"], json!({"sft": {"schedule": {"decay_steps": "9"}}}));
    check(&["--decay-ratio", "0.2"], json!({"sft": {"schedule": {"decay_ratio": 0.2}}}));
    check(
        &["--decay-shape", "one-minus-sqrt"],
        json!({"sft": {"schedule": {"decay_shape": "DECAY_SHAPE_ONE_MINUS_SQRT"}}}),
    );
    check(&["--plateau-factor", "0.5"], json!({"sft": {"schedule": {"plateau": {"factor": 0.5}}}}));
    check(&["--plateau-patience", "0"], json!({"sft": {"schedule": {"plateau": {"patience": 0}}}}));
    check(&["--plateau-threshold", "0"], json!({"sft": {"schedule": {"plateau": {"threshold": 0.0}}}}));
    check(&["--plateau-cooldown", "1"], json!({"sft": {"schedule": {"plateau": {"cooldown": 1}}}}));
    check(&["--optimizer", "lion"], json!({"sft": {"optimizer": {"type": "OPTIMIZER_TYPE_LION"}}}));
    check(&["--lora-plus-ratio", "16"], json!({"sft": {"optimizer": {"lora_plus_ratio": 16.0}}}));
    check(&["--beta1", "0.8"], json!({"sft": {"optimizer": {"beta1": 0.8}}}));
    check(&["--beta2", "0.95"], json!({"sft": {"optimizer": {"beta2": 0.95}}}));
    check(&["--epsilon", "1e-6"], json!({"sft": {"optimizer": {"epsilon": 1e-6}}}));
    check(&["--momentum", "0.5"], json!({"sft": {"optimizer": {"momentum": 0.5}}}));
    check(&["--nesterov"], json!({"sft": {"optimizer": {"nesterov": true}}}));
    check(&["--gradient-groups-every", "5"], json!({"sft": {"optimizer": {"gradient_groups_every_steps": 5}}}));
    check(&["--moments", "block8"], json!({"sft": {"optimizer": {"moments": "MOMENT_FORMAT_BLOCK8"}}}));
    check(&["--examples-per-step", "8"], json!({"sft": {"batch": {"examples_per_step": 8}}}));
    check(&["--tokens-per-micro-batch", "64"], json!({"sft": {"batch": {"tokens_per_micro_batch": 64}}}));
    check(
        &["--activation-checkpointing", "on"],
        json!({"sft": {"batch": {"activation_checkpointing": "ACTIVATION_CHECKPOINTING_ON"}}}),
    );
    check(&["--precision", "bfloat16"], json!({"sft": {"precision": "PRECISION_BFLOAT16"}}));
    check(&["--order", "sequential"], json!({"sft": {"order": "ORDER_SEQUENTIAL"}}));
    check(&["--seed", "7"], json!({"sft": {"seed": "7"}}));
    check(&["--rank", "8"], json!({"sft": {"adapter": {"lora": {"rank": 8}}}}));
    check(&["--alpha", "16"], json!({"sft": {"adapter": {"lora": {"alpha": 16.0}}}}));
    check(&["--dropout", "0.05"], json!({"sft": {"adapter": {"lora": {"dropout": 0.05}}}}));
    check(
        &["--target-modules", "q_proj,v_proj", "--target-modules", "o_proj"],
        json!({"sft": {"adapter": {"lora": {"target_modules": ["q_proj", "v_proj", "o_proj"]}}}}),
    );
    let lora =
        |flags: &[&str], expected: serde_json::Value| check(flags, json!({"sft": {"adapter": {"lora": expected}}}));
    lora(&["--rslora"], json!({"use_rslora": true}));
    lora(&["--dora"], json!({"use_dora": true}));
    lora(&["--target-pattern", ".*_proj"], json!({"target_pattern": ".*_proj"}));
    lora(&["--exclude-modules", "k_proj,v_proj"], json!({"exclude_modules": ["k_proj", "v_proj"]}));
    lora(&["--exclude-pattern", ".*k_.*"], json!({"exclude_pattern": ".*k_.*"}));
    lora(&["--layers", "0,2"], json!({"layers_to_transform": [0, 2]}));
    lora(
        &["--rank-pattern", "q_(?=p).*=8", "--rank-pattern", "v_proj=4"],
        json!({"rank_pattern": [{"pattern": "q_(?=p).*", "rank": 8}, {"pattern": "v_proj", "rank": 4}]}),
    );
    lora(&["--alpha-pattern", "q_proj=0.5"], json!({"alpha_pattern": [{"pattern": "q_proj", "alpha": 0.5}]}));
    lora(&["--modules-to-save", "embed_tokens,lm_head"], json!({"modules_to_save": ["embed_tokens", "lm_head"]}));
    lora(&["--init", "pissa"], json!({"init": "LORA_INIT_PISSA"}));
    check(&["--init-from", "s3://b/a"], json!({"sft": {"init_from": "s3://b/a"}}));
    check(&["--eval-every", "5"], json!({"sft": {"evaluation": {"every_steps": "5"}}}));
    check(&["--save-every", "6"], json!({"sft": {"checkpoints": {"every_steps": "6"}}}));
    check(&["--keep-last", "2"], json!({"sft": {"checkpoints": {"keep_last": 2}}}));
    check(&["--name", "demo"], json!({"display_name": "demo"}));
    check(&["--label", "a=b", "--label", "c=d"], json!({"labels": {"a": "b", "c": "d"}}));
}

#[test]
fn a_chat_template_is_read_from_its_file() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "{{ messages }}").expect("written");
    let path = file.path().to_str().expect("a path");
    check(&["--chat-template", path], json!({"sft": {"data": {"chat_template": "{{ messages }}"}}}));
}

#[test]
fn settings_that_contradict_each_other_are_refused_before_anything_is_uploaded() {
    for flags in [
        &["--epochs", "1", "--max-steps", "2"][..],
        &["--eval", "h", "--eval-fraction", "0.1"],
        &["--dry-run", "--detach"],
        &["--schedule", "spiral"],
        &["--warmup-steps", "3", "--warmup-ratio", "0.1"],
        &["--decay-steps", "3", "--decay-ratio", "0.1"],
        &["--mix-until", "all_exhausted"],
        &["--label", "team"],
        &["--target-modules", "q_proj", "--target-pattern", "a"],
        &["--rank-pattern", "q_proj"],
        &["--rank-pattern", "q_proj=many"],
        &["--init", "pissa", "--init-from", "a"],
    ] {
        assert_eq!(spec_of(flags).expect_err("refused").exit_code(), 2, "{flags:?}");
    }
}

#[test]
fn all_weights_and_an_adapter_exclude_each_other() {
    for flags in [&["--full", "--rank", "8"][..], &["--dora", "--full"], &["--full", "--target-modules", "q_proj"]] {
        assert!(spec_of(flags).is_err(), "{flags:?}");
    }
}
