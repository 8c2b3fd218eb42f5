//! Uploads and downloads with a bar on standard error, where somebody sees it.

use hone_client::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

const TEMPLATE: &str =
    "{prefix:.bold}  {bar:32.cyan/dim}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {wide_msg:.dim}";

/// A bar for one transfer; it leaves when dropped.
pub(crate) struct TransferBar(ProgressBar);

impl TransferBar {
    pub(crate) fn new(verb: &'static str, out: &Output) -> Self {
        if !out.shows_bars() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is a constant").progress_chars("━╸─");
        Self(ProgressBar::new(0).with_style(style).with_prefix(verb))
    }

    /// What the SDK tells of every chunk.
    pub(crate) fn update(&self, progress: Progress<'_>) {
        self.0.set_length(progress.total_bytes);
        self.0.set_position(progress.done_bytes);
        if self.0.message() != progress.file {
            self.0.set_message(progress.file.to_owned());
        }
    }
}

impl Drop for TransferBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_sound() {
        ProgressStyle::with_template(TEMPLATE).expect("a template");
    }
}
