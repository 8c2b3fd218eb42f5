//! `far [MIB]`: uploads and downloads over ways of several lengths, with one stream and with more; a table of MiB a second.

use std::time::Duration;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "stdout is what the command is for")]
async fn main() -> anyhow::Result<()> {
    let mib = std::env::args().nth(1).map_or(Ok(256), |text| text.parse::<u64>())?;
    let round_trips = [0, 20, 100].map(Duration::from_millis);
    println!("| round trip | streams | upload | download |\n|---|---|---|---|");
    hone_tests::far(mib << 20, &round_trips, &[1, 4, 8], |one| {
        let [upload, download] = [one.upload, one.download].map(|rate| rate / f64::from(1 << 20));
        println!("| {} ms | {} | {upload:.0} MiB/s | {download:.0} MiB/s |", one.round_trip.as_millis(), one.streams);
    })
    .await;
    Ok(())
}
