//! How fast rows become examples: read, checked, tokenised, divided, as at the start of a run.
//!
//! ```sh
//! cargo bench -p hone-data --bench read -- --model MODEL --rows ROWS.jsonl
//! ```
//!
//! bench/data.py makes the rows and runs the same beside `datasets.map`.

#![allow(clippy::print_stdout, reason = "a line for the program that runs it")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use hone_data::dataset::{Dataset, Options, Sources};
use hone_data::storage::Storage;
use hone_data::tokenizer::Tokenizer;
use hone_job::spec::{Data, LossOn};
use serde_json::json;

#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with the tokenizer.
    #[arg(long)]
    model: PathBuf,
    /// File of rows.
    #[arg(long)]
    rows: PathBuf,
    /// Longest row, in tokens.
    #[arg(long, default_value_t = 1024)]
    max_length: u32,
    /// Threads that tokenise.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What cargo gives to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let Arguments { model, rows, max_length, threads, bench: _ } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let tokenizer = Arc::new(Tokenizer::open(&model).expect("the folder has a tokenizer"));
    let data = Data { max_length, ..Data::of(vec![rows.display().to_string()]) };
    let options = Options { threads, ..Options::new(&data, LossOn::Completion) };
    let before = peak_memory_bytes();
    let start = Instant::now();
    let rows = Storage::open_path(&rows).expect("the file can be read");
    let sources = Sources { train: vec![rows], eval: Vec::new() };
    let dataset = runtime
        .block_on(Dataset::load(sources, tokenizer, options, Arc::new(|_| {})))
        .expect("the rows can be trained on");
    let report = &dataset.train_report;
    let told = json!({
        "rows": report.rows_read,
        "examples": report.examples,
        "tokens": report.tokens,
        "seconds": start.elapsed().as_secs_f64(),
        "memory_bytes": peak_memory_bytes() - before,
    });
    println!("{told}");
}

/// VmHWM of `/proc/self/status`.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
