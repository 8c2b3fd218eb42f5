//! `soak FAULTS [SEED]`: lets random faults happen to a real run on a real S3 server, and says whether it ended as an unbroken
//! one. Exit status 1 when it did not.

use std::process::ExitCode;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "stdout is what the command is for")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(faults)), seed) = (arguments.next(), arguments.next().unwrap_or(Ok(1))) else {
        eprintln!("usage: soak FAULTS [SEED]");
        return ExitCode::from(2);
    };
    let tell = |fault, step| println!("step {step:>6}  {fault}");
    let report = hone_tests::soak(faults as usize, seed.unwrap_or(1), tell).await;
    println!("\n{report}");
    if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
