//! Merged models beside base and adapter, and what is refused.

use std::path::Path;

use hone_job::spec::Task;

use super::*;
use crate::link::Command;
use crate::model::Batch;
use crate::task::testing::{Case, Recorder, fixtures, uri};

fn options(weight_type: WeightType) -> Options {
    Options { format: ExportFormat::HuggingFace, weight_type, dequantize_base: false }
}

fn load(path: &Path) -> Decoder {
    Decoder::load(path, Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap()
}

fn logits(model: &Decoder, adapter: Option<&Adapter>) -> Tensor {
    let batch = Batch::single(&(3..40).collect::<Vec<i64>>(), Device::Cpu);
    tch::no_grad(|| model.logits(&model.forward(&batch, adapter, None), adapter))
}

fn written(base: &Path, trained: Option<&Path>, options: &Options) -> (tempfile::TempDir, ExportReport) {
    let out = tempfile::tempdir().unwrap();
    let source = Source::open(base, trained, options).unwrap();
    let report = source.write(&mut FolderSink(out.path().to_path_buf())).unwrap().unwrap();
    (out, report)
}

/// Every kind of adapter: plain, patterns, rsLoRA, DoRA, PiSSA and OLoRA as PEFT saved them, the embedding, the head.
#[test]
fn merged_computes_what_base_and_adapter_do() {
    for (model, adapter) in [
        ("llama", "llama_patterns"),
        ("llama_bias", "llama_bias_all_linear"),
        ("llama", "llama_olora"),
        ("llama_rope_llama3", "llama3_saved"),
        ("llama_rope_yarn", "yarn_embedding"),
        ("llama_rope_yarn", "yarn_dora_embedding"),
        ("mistral", "mistral_pissa"),
        ("qwen2", "qwen2_rslora"),
        ("qwen2", "qwen2_dora"),
        ("qwen3", "qwen3_layers"),
        ("gemma2", "gemma2_all_linear"),
        ("phi3", "phi3_qkv"),
        ("smollm3", "smollm3_all_linear"),
    ] {
        let (base, adapter_path) = (fixtures().join("models").join(model), fixtures().join("adapters").join(adapter));
        let (out, report) = written(&base, Some(&adapter_path), &options(WeightType::Float32));
        let decoder = load(&base);
        let loaded = peft::load(&adapter_path, &decoder, 0.0).unwrap();
        let (expected, found) = (logits(&decoder, Some(&loaded)), logits(&load(out.path()), None));
        let error = (&found - &expected).abs().max().double_value(&[]);
        let moved = (&expected - logits(&decoder, None)).abs().max().double_value(&[]);
        assert!(error < 1e-4 && moved > 1e-3, "{adapter}: off by {error}, moved by {moved}");
        assert_eq!((report.update_lost, report.unchanged_fraction.unwrap() < 0.1), (Some(0.0), true), "{adapter}");
        assert!(report.merged_tensors > 0 && report.format == "hugging_face");
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert!(out.path().join(name).is_file(), "{adapter}: {name}");
        }
    }
}

#[test]
fn a_head_trained_apart_from_a_tied_embedding_is_written_apart() {
    let base = fixtures().join("models/llama_tied");
    let decoder = load(&base);
    let options = crate::model::LoraOptions { modules_to_save: vec!["lm_head".into()], ..Default::default() };
    let adapter = Adapter::new(&decoder, &crate::model::LoraOptions { rank: 2, ..options }, 3).unwrap();
    let _ = adapter.flat().shallow_clone().g_add_scalar_(0.01);
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in peft::files(&adapter, "base") {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let (out, report) = written(&base, Some(folder.path()), &self::options(WeightType::Float32));
    assert!(report.untied);
    let merged = load(out.path());
    assert!(!merged.config().tie_word_embeddings);
    let error = (logits(&merged, None) - logits(&decoder, Some(&adapter))).abs().max().double_value(&[]);
    assert!(error < 1e-4, "{error}");
    let (out, report) = written(&base, None, &self::options(WeightType::Auto));
    assert!(!report.untied && load(out.path()).config().tie_word_embeddings);
}

/// What training did not change is what it was, bit for bit, in the format of the base model's file.
#[test]
fn rounding_happens_once_and_only_where_something_changed() {
    let scratch = tempfile::tempdir().unwrap();
    let base = fixtures().join("models/qwen2");
    let (short, _) = written(&base, None, &options(WeightType::Bfloat16));
    let adapter = fixtures().join("adapters/qwen2_rslora");
    let (out, report) = written(short.path(), Some(&adapter), &options(WeightType::Auto));
    assert_eq!(report.weight_type, "bfloat16");
    assert!(report.update_lost.unwrap() > 0.0 && report.update_lost.unwrap() <= report.worst_update_lost.unwrap());
    let (before, after) = (load(short.path()), load(out.path()));
    let loaded = peft::load(&adapter, &before, 0.0).unwrap();
    let mut changed = 0;
    for ((name, base), (_, found)) in before.named_tensors().iter().zip(after.named_tensors()) {
        let merged = loaded.merged(name.strip_suffix(".weight").unwrap_or(name), base);
        changed += u64::from(merged.is_some());
        let expected = merged.as_ref().unwrap_or(base).to_kind(Kind::BFloat16).to_kind(Kind::Float);
        assert_eq!(found, expected, "{name}");
    }
    assert_eq!(changed, report.merged_tensors);
    drop(scratch);
}

#[test]
fn quantised_weights_are_exported_only_on_request() {
    let base = fixtures().join("gguf/llama.gguf");
    let refused = Source::open(&base, None, &options(WeightType::Auto)).err().unwrap().failure();
    assert!(refused.message.contains("quantised (Q"), "{refused}");
    assert!(refused.message.contains("set dequantize_base"), "{refused}");
    let options = Options { dequantize_base: true, ..options(WeightType::Float32) };
    let (out, _) = written(&base, None, &options);
    assert_eq!(logits(&load(out.path()), None), logits(&load(&base), None));
    let auto = Options { weight_type: WeightType::Auto, ..options };
    assert_eq!(written(&base, None, &auto).1.weight_type, "float32");
}

#[test]
fn a_weight_that_its_format_cannot_hold_fails_by_name() {
    let base = fixtures().join("models/llama_tied");
    let decoder = load(&base);
    let adapter = Adapter::new(&decoder, &crate::model::LoraOptions { rank: 2, ..Default::default() }, 3).unwrap();
    let _ = adapter.flat().shallow_clone().fill_(300.0);
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in peft::files(&adapter, "base") {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let out = tempfile::tempdir().unwrap();
    let source = Source::open(&base, Some(folder.path()), &options(WeightType::Float16)).unwrap();
    let failure = source.write(&mut FolderSink(out.path().to_path_buf())).unwrap_err().failure();
    assert_eq!(failure.reason, hone_job::failure::Reason::NonFinite);
    assert!(failure.message.contains("model.layers.0") && failure.message.contains("float16"), "{failure}");
}

fn job(task: ExportTask, command: Option<Command>) -> (Case, Result<End, Error>, Vec<Event>) {
    let case = Case::of("llama", Task::Export(task.clone()));
    let observer = Recorder::new(command.map(|command| (0, command)));
    let end = export(&case.welcome, &task, &case.workspace(), &observer);
    (case, end, observer.events())
}

#[test]
fn the_files_are_a_checkpoint_that_verifies_and_a_cancelled_export_leaves_none() {
    let adapter = uri(&fixtures().join("adapters/llama_all_linear"));
    let task = ExportTask { checkpoint: Some(adapter), ..ExportTask::default() };
    let (case, end, events) = job(task.clone(), None);
    assert_eq!(end.unwrap(), End::Succeeded);
    let place = |wanted: fn(&Event) -> bool| events.iter().position(wanted).unwrap();
    let report = place(|event| matches!(event, Event::ExportReport(_)));
    let saved = place(|event| matches!(event, Event::CheckpointSaved(_)));
    let result = place(|event| matches!(event, Event::Result(_)));
    assert!(report < result && saved < result);
    let opened = case.opened("step-000000");
    assert!(opened.file("model.safetensors").is_ok() && opened.file("config.json").is_ok());

    let (case, end, events) = job(task, Some(Command::Cancel));
    assert_eq!(end.unwrap(), End::Stopped { checkpoint_id: None });
    assert!(!events.iter().any(|event| matches!(event, Event::CheckpointSaved(_))));
    let left = std::fs::read_dir(case.checkpoint("step-000000"));
    assert!(left.map_or(0, Iterator::count) == 0);
}
