//! What strangers send, as functions from bytes to nothing: each calls the parser that the service calls. The fuzzers look
//! for bytes that make one panic, hang or take much memory; `tests/replay.rs` tries again what they found.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::{fs, thread};

use hone_data::example::understand_for;
use hone_data::gguf::Gguf;
use hone_data::order::RowHash;
use hone_data::source;
use hone_data::storage::Storage;
use hone_data::template::{self, ChatContext, ChatTemplate};
use hone_data::tokenize::{Form, RowTokenizer};
use hone_data::tokenizer::Tokenizer;
use hone_job::checkpoint::{MANIFEST, Manifest, is_plain_name};
use hone_job::spec::LossOn;
use hone_trainer::model::{Config, stored};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What is fed with bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Target); 10] = [
    ("chat_template", chat_template),
    ("checkpoint_manifest", checkpoint_manifest),
    ("config_json", config_json),
    ("gguf", gguf),
    ("job_spec", job_spec),
    ("jsonl", jsonl),
    ("parquet", parquet),
    ("safetensors", safetensors),
    ("tokenizer_json", tokenizer_json),
    ("trainer_frames", trainer_frames),
];

/// Most rows that are looked at of one input.
const MAX_ROWS: usize = 1000;

/// Scratch space of this process.
static SCRATCH: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("there is room for a folder"));

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("there is room for a runtime"));

/// Tokenisers of rows of each form for a model of the fixtures.
static ROW_TOKENIZERS: LazyLock<Vec<RowTokenizer>> = LazyLock::new(|| {
    let tokenizer = Arc::new(Tokenizer::from_folder(&fixture("models/llama")).expect("a tokenizer of the fixtures"));
    let texts = [Form::Sft(LossOn::Assistant), Form::Sft(LossOn::Completion)];
    let forms = texts.into_iter().chain([Form::Preference, Form::Prompt, Form::Choices]);
    forms.map(|form| RowTokenizer::new(tokenizer.clone(), None, form).expect("a template of the fixtures")).collect()
});

/// A file or folder of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// An object of rows: JSONL, plain or packed, or what a file of that name turns out to be. Rows are understood, hashed and
/// tokenised as a job would.
pub fn jsonl(bytes: &[u8]) {
    let object = Storage::open_path(&written("rows", "data", bytes)).expect("a path is a place");
    let Ok(rows) = source::read(&object, RUNTIME.handle()) else { return };
    for row in rows.take(MAX_ROWS) {
        let Ok(Ok(row)) = row else { continue };
        RowHash::of(&row.value);
        for tokenizer in ROW_TOKENIZERS.iter() {
            let Ok(content) = understand_for(&row.value, tokenizer.wanted()) else { continue };
            let Ok(example) = tokenizer.example(&content, row.object.clone(), row.number) else { continue };
            assert!(example.documents.iter().all(|document| document.input_ids.len() == document.labels.len()));
        }
    }
}

/// The same with a Parquet file.
pub fn parquet(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Some(magic) = bytes.first_chunk_mut() {
        *magic = *b"PAR1";
    }
    jsonl(&bytes);
}

/// A GGUF file: header, configuration, tokenizer and the tensors that belong to the configuration.
pub fn gguf(bytes: &[u8]) {
    let path = written("gguf", "model.gguf", bytes);
    read_gguf(&path);
    // Once more with room behind it, so that tensors may lie somewhere. The room takes no disk.
    let file = fs::OpenOptions::new().write(true).open(&path).expect("the file was just written");
    file.set_len(bytes.len() as u64 + (1 << 20)).expect("a file may have holes");
    read_gguf(&path);
}

fn read_gguf(path: &Path) {
    let Ok(gguf) = Gguf::open(path) else { return };
    let _ = Config::from_gguf(path, &gguf);
    let _ = Config::open(path);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        use_tokenizer(&tokenizer);
    }
}

/// The weights of a small model, as a file or as an index of files: the header, which says where tensors lie.
pub fn safetensors(bytes: &[u8]) {
    let path = written("safetensors", "model.safetensors", bytes);
    let folder = path.parent().expect("a file lies in a folder");
    let config = folder.join("config.json");
    if !config.exists() {
        fs::copy(fixture("models/llama/config.json"), config).expect("there is room for a file");
    }
    let _ = stored(folder);
    fs::remove_file(&path).expect("the file was just written");
    let index = written("safetensors", "model.safetensors.index.json", bytes);
    let _ = stored(folder);
    fs::remove_file(index).expect("the file was just written");
}

/// A model's config.json.
pub fn config_json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("config.json");
    let Ok(config) = Config::from_json(path, text) else { return };
    assert_eq!(config.windows.len(), config.num_hidden_layers as usize);
    assert_eq!(config.uses_rope.len(), config.num_hidden_layers as usize);
    for len in [1, config.max_position_embeddings] {
        let frequencies = config.rope.inverse_frequencies(len);
        assert_eq!(frequencies.len() as i64, config.rope.rotary_dim / 2);
        assert!(frequencies.iter().all(|one| !one.is_nan()), "{:?}", config.rope);
    }
    if let Ok(json) = config.to_json("float32") {
        Config::from_json(path, &json.to_string()).expect("what was written is read");
    }
}

/// A model's tokenizer.json.
pub fn tokenizer_json(bytes: &[u8]) {
    let path = written("tokenizer", "tokenizer.json", bytes);
    if let Ok(tokenizer) = Tokenizer::from_folder(path.parent().expect("a file lies in a folder")) {
        use_tokenizer(&tokenizer);
    }
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    let text = "Hello,  wörld! 12345\n\t<s>don't</s> 日本語 e\u{301}\u{fdfa}";
    let is_random = has_dropout(tokenizer);
    for special in [false, true] {
        let ids = tokenizer.encode(text, special);
        let Ok(encoded) = tokenizer.encode_with_offsets(text, special) else { continue };
        assert_eq!(encoded.ids.len(), encoded.offsets.len());
        assert!(is_random || ids.is_ok_and(|ids| ids == encoded.ids));
        let _ = tokenizer.decode(&encoded.ids, special);
    }
    let _ = tokenizer.check_fits(1 << 10);
    let _ = tokenizer.to_gguf(1 << 10);
}

/// Whether a tokenizer leaves out merges by chance.
fn has_dropout(tokenizer: &Tokenizer) -> bool {
    let file = tokenizer.files().iter().find(|(name, _)| name == "tokenizer.json");
    let file = file.and_then(|(_, bytes)| serde_json::from_slice::<Value>(bytes).ok());
    file.is_some_and(|file| file["model"]["dropout"].as_f64().is_some_and(|dropout| dropout != 0.0))
}

/// A chat template, rendered over a conversation with tools.
pub fn chat_template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let render = || {
        let tokens = [("bos_token".to_string(), json!("<s>")), ("eos_token".to_string(), json!("</s>"))].into();
        let Ok(template) = ChatTemplate::new(source, &tokens) else { return };
        for add_generation_prompt in [false, true] {
            let Ok(chat) = template.render(&MESSAGES, &CONTEXT, add_generation_prompt) else { continue };
            assert!(chat.generation.iter().all(|span| chat.text.get(span.clone()).is_some()));
        }
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(template::STACK_BYTES).spawn_scoped(scope, render);
        thread.expect("there is room for a thread").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

static MESSAGES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let call =
        json!([{"id": "c1", "type": "function", "function": {"name": "sum", "arguments": {"a": 1, "b": [2.5, null]}}}]);
    vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": [{"type": "text", "text": "What is 1 + 2?"}]}),
        json!({"role": "assistant", "content": "", "reasoning_content": "add", "tool_calls": call}),
        json!({"role": "tool", "content": "3", "name": "sum", "tool_call_id": "c1"}),
        json!({"role": "assistant", "content": "Ünder <b>three</b>'s \"3\"\n"}),
    ]
});

static CONTEXT: LazyLock<ChatContext> = LazyLock::new(|| ChatContext {
    tools: Some(json!([{"type": "function", "function": {"name": "sum", "description": "adds", "parameters": {}}}])),
    variables: [("enable_thinking".to_string(), json!(true))].into_iter().collect(),
});

/// A job spec, as a message or as JSON.
pub fn job_spec(bytes: &[u8]) {
    hone_server::fuzzing::job_spec(bytes);
}

/// What a trainer sends after its hello: messages, each behind its length.
pub fn trainer_frames(bytes: &[u8]) {
    hone_server::fuzzing::trainer_frames(bytes);
}

/// A checkpoint's manifest.
pub fn checkpoint_manifest(bytes: &[u8]) {
    let path = written("checkpoint", MANIFEST, bytes);
    hone_trainer::checkpoint::step_of(path.parent().expect("a file lies in a folder"));
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert!(manifest.files.iter().all(|file| is_plain_name(&file.name)));
    assert!(manifest.files.iter().all(|file| file.size_bytes <= manifest.size_bytes()));
    let json = serde_json::to_vec(&manifest).expect("a manifest has JSON");
    assert_eq!(Manifest::parse(&json).expect("what was written is read"), manifest);
}

/// A file in a folder of its own for this thread.
fn written(folder: &str, name: &str, bytes: &[u8]) -> PathBuf {
    let folder = SCRATCH.path().join(format!("{folder}-{:?}", thread::current().id()));
    fs::create_dir_all(&folder).expect("there is room for a folder");
    let path = folder.join(name);
    fs::write(&path, bytes).expect("there is room for a file");
    path
}
