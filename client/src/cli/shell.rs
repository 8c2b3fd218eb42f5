//! `completions` and `man`: the command line as shells and manuals want it. Neither asks a server.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Cli;
use crate::failure::Failure;
use crate::follow::Ending;
use crate::output::Output;

/// Name of the program.
const NAME: &str = "hone";

/// The script by which a shell completes what is typed.
pub(crate) fn completions(shell: Shell, out: &Output) -> Result<Ending, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    out.print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Ending::Done)
}

/// A manual page for each command, in a folder.
pub(crate) fn man(folder: &Path, out: &Output) -> Result<Ending, Failure> {
    std::fs::create_dir_all(folder).map_err(|error| Failure::file("make", folder, error))?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(|error| Failure::file("write to", folder, error))?;
    match out.json {
        true => out.print(&json!({ "path": folder.to_string_lossy() }).to_string())?,
        false => out.print(&folder.display().to_string())?,
    }
    Ok(Ending::Done)
}
