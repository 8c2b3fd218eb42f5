//! `load [WATCHERS JOBS UPLOADS MIB]`: puts a server on this machine under load and says what came of it.

use hone_tests::Load;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "stdout is what the command is for")]
async fn main() -> anyhow::Result<()> {
    let given = std::env::args().skip(1).map(|text| text.parse::<usize>()).collect::<Result<Vec<_>, _>>()?;
    let or = |place: usize, default| given.get(place).copied().unwrap_or(default);
    let upload_bytes = (or(3, 1024) as u64) << 20;
    let load = Load { watchers: or(0, 1000), jobs: or(1, 200), uploads: or(2, 16), upload_bytes, steps: 40 };
    println!("{}", hone_tests::load(load).await);
    Ok(())
}
