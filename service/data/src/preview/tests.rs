//! Previews show what a run would do, and go on where a run would fail.

use serde_json::json;

use super::*;
use crate::admit::reason;
use crate::dataset::tests::{file, options};
use crate::storage::Storage;
use crate::tokenizer::tests::byte_tokenizer;

#[tokio::test]
async fn trained_tokens_are_marked_and_bad_rows_counted() {
    let rows = file(&[
        json!({"messages": [{"role": "user", "content": "héllo"}, {"role": "assistant", "content": "wörld"}]}),
        json!({"text": 7}),
        json!({"text": "x".repeat(3000)}),
        json!({"prompt": "p", "completion": "c"}),
    ]);
    let sources = Sources { train: vec![Storage::open_path(rows.path()).unwrap()], eval: vec![] };
    let shown = preview(sources, Arc::new(byte_tokenizer(true)), options(), 5, Arc::new(|_| {})).await.unwrap();
    let piece = |text: &str, trained| Piece { text: text.into(), trained };
    assert_eq!(
        shown.rows[0].documents[0],
        [piece("<|im_start|>user\nhéllo<|im_end|>\n<|im_start|>assistant\n", false), piece("wörld<|im_end|>\n", true)]
    );
    assert_eq!(shown.rows[0].trained_tokens, "wörld".len() as u64 + 2);
    assert_eq!(shown.rows[1].documents[0], [piece("<|im_start|>p", false), piece("c<|im_end|>", true)]);
    let report = &shown.reports[0];
    assert_eq!((report.rows_read, report.examples), (4, 2));
    let reasons: Vec<_> = report.reasons.iter().map(|reason| (reason.reason.as_str(), reason.rows[0].row)).collect();
    assert_eq!(reasons, [(reason::MALFORMED, 2), (reason::OVER_LENGTH_DROPPED, 3)]);
}
