//! What a server knows a caller by: kept out of everything that is printed, sent with every call.

use std::fmt;
use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::error::{Error, Result};
use crate::trace;

/// A token; its text is never printed.
///
/// ```
/// let token = hone_client::Token::from("hone_…");
/// assert_eq!(format!("{token:?}"), "Token(..)");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Reads the token that is alone in a file.
    ///
    /// ```no_run
    /// # fn example() -> hone_client::Result<()> {
    /// let token = hone_client::Token::read("/run/secrets/hone-token")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| Error::file("read", path, error))?;
        match text.trim() {
            "" => Err(Error::input(path, "the file is empty; it should hold a token")),
            word if word.contains(char::is_whitespace) => {
                Err(Error::input(path, "the file should hold a token and nothing else; this may be a server's list"))
            }
            word => Ok(Self(word.to_owned())),
        }
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Puts a token on every call, and the trace that it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    pub(crate) fn new(token: Option<&Token>) -> Result<Self> {
        let header = |Token(text): &Token| -> Result<MetadataValue<Ascii>> {
            let mut value: MetadataValue<Ascii> = format!("Bearer {text}").parse().map_err(|_| Error::Token)?;
            // Neither compressed nor printed by what carries it.
            value.set_sensitive(true);
            Ok(value)
        };
        token.map(header).transpose().map(Self)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        trace::put(request.metadata_mut());
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_and_never_printed() {
        let token = Token::from("hone_secret");
        let mut bearer = Bearer::new(Some(&token)).unwrap();
        assert!(!format!("{token:?} {bearer:?}").contains("secret"));
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer hone_secret");
        assert!(!format!("{request:?}").contains("secret"));
        assert!(Bearer::new(Some(&Token::from("two\nlines"))).is_err());
    }

    #[test]
    fn a_file_holds_one_token_and_is_not_shown_when_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "hone_secret\n").unwrap();
        assert_eq!(Token::read(&path).unwrap(), Token::from("hone_secret"));
        for text in ["", "\n", "nightly search submit hone_secret"] {
            std::fs::write(&path, text).unwrap();
            let error = Token::read(&path).unwrap_err().to_string();
            assert!(error.contains("token") && !error.contains("secret"), "{error}");
        }
    }
}
