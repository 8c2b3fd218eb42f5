//! `store-script FILE`: opens a job store and takes the script's steps on it, one line on stdout after each. The crash test
//! lets it die at every write.

use std::path::Path;

use hone_server::store::sqlite::Sqlite;
use hone_tests::store_script;

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "stdout is what the command is for")]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).expect("usage: store-script FILE");
    let store = Sqlite::open(Path::new(&path))?;
    for step in 0..store_script::STEPS {
        store_script::take(&store, step).await;
        println!("{step}");
    }
    Ok(())
}
