//! Labels as they are written on the command line.

/// `key=value`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is written KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_key_and_a_value() {
        assert_eq!(label("team=nlp"), Ok(("team".to_owned(), "nlp".to_owned())));
        assert_eq!(label("note=a=b"), Ok(("note".to_owned(), "a=b".to_owned())));
        assert_eq!(label("empty="), Ok(("empty".to_owned(), String::new())));
        assert!(label("team").is_err());
        assert!(label("=nlp").is_err());
    }
}
