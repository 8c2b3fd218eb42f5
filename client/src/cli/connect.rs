//! Which server is asked, and what it knows the caller by.

use std::path::PathBuf;

use clap::Args;
use hone_client::{ConnectOptions, Result, Token};

/// The token itself is in `HONE_TOKEN` or a file, never in an argument: those are seen by everybody on the machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct ConnectArgs {
    /// Address of the server, http:// or https://.
    #[arg(long, global = true, env = "HONE_SERVER", value_name = "URL", default_value = "http://127.0.0.1:7400")]
    server: String,
    /// Start a server for this command alone, with what it knows in --data-dir; it ends with the command. Jobs that have not
    /// ended go on the next time. Goes before --server.
    #[arg(long, global = true)]
    pub(crate) local: bool,
    /// Folder of the server that --local starts.
    #[arg(long, global = true, value_name = "DIR", default_value = ".hone")]
    pub(crate) data_dir: PathBuf,
    /// File that holds the token of the caller; the token itself may be in HONE_TOKEN, which goes first.
    #[arg(long, global = true, env = "HONE_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Send the token over http:// to another machine, where everybody on the way can read it.
    #[arg(long, global = true, env = "HONE_ALLOW_PLAINTEXT_TOKEN")]
    allow_plaintext_token: bool,
    /// PEM file of the authorities that may have signed the server's certificate [default: those of the system].
    #[arg(long, global = true, env = "HONE_CA_FILE", value_name = "PATH")]
    ca_file: Option<PathBuf>,
    /// Name that the server's certificate must be for [default: the host of the address].
    #[arg(long, global = true, env = "HONE_SERVER_NAME", value_name = "NAME")]
    server_name: Option<String>,
    /// PEM file of the certificate to show, where the server asks for one.
    #[arg(long, global = true, env = "HONE_CERT_FILE", value_name = "PATH")]
    cert_file: Option<PathBuf>,
    /// PEM file of the key of --cert-file.
    #[arg(long, global = true, env = "HONE_KEY_FILE", value_name = "PATH")]
    key_file: Option<PathBuf>,
}

impl ConnectArgs {
    /// How a server is reached that asks nobody who he is.
    pub(crate) fn local(url: String) -> ConnectOptions {
        ConnectOptions::new(url)
    }

    /// How the server is reached.
    pub(crate) fn options(self) -> Result<ConnectOptions> {
        let mut options = ConnectOptions::new(self.server).allow_plaintext_token(self.allow_plaintext_token);
        options.ca_file = self.ca_file;
        options.server_name = self.server_name;
        let token = std::env::var("HONE_TOKEN").ok().filter(|token| !token.is_empty()).map(Token::from);
        options.token = match (token, self.token_file) {
            (None, Some(path)) => Some(Token::read(path)?),
            (token, _) => token,
        };
        Ok(match (self.cert_file, self.key_file) {
            (Some(cert), Some(key)) => options.certificate(cert, key),
            (None, None) => options,
            (Some(given), None) | (None, Some(given)) => {
                return Err(hone_client::Error::Input {
                    path: given,
                    detail: "a certificate and its key go together: give --cert-file and --key-file".into(),
                });
            }
        })
    }
}
