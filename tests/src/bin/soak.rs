//! `soak FAULTS [SEED [sft|dpo]]`: lets random faults happen to a real run on a real S3 server, and says whether it ended as an
//! unbroken one. Exit status 1 when it did not.

use std::process::ExitCode;

use hone_tests::Workload;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "stdout is what the command is for")]
async fn main() -> ExitCode {
    let Some((faults, seed, workload)) = arguments() else {
        eprintln!("usage: soak FAULTS [SEED [sft|dpo]]");
        return ExitCode::from(2);
    };
    let tell = |fault, step| println!("step {step:>6}  {fault}");
    let report = hone_tests::soak(workload, faults, seed, tell).await;
    println!("\n{report}");
    if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Option<(usize, u64, Workload)> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let or = |place: usize, default: &str| given.get(place).map_or(default.to_owned(), String::clone);
    Some((given.first()?.parse().ok()?, or(1, "1").parse().ok()?, or(2, "sft").parse().ok()?))
}
