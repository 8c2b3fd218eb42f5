//! `data preview`: what a job would see of its rows, with the trained tokens marked.

use hone_client::{Client, v1};

use crate::args::PreviewArgs;
use crate::failure::Failure;
use crate::follow::Ending;
use crate::human::{counted, printable};
use crate::locate;
use crate::output::{Output, Paint};
use crate::report::{base_name, histogram, reasons, sources, totals};

/// What marks trained text where there are no colours.
const MARKS: (&str, &str) = ("⟦", "⟧");

pub(crate) async fn run(args: PreviewArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let model = locate::model(&args.model, client, out).await?;
    let train = locate::rows(&args.train, client, out).await?;
    let eval = locate::rows(&args.data.eval, client, out).await?;
    let request = v1::PreviewDatasetRequest {
        base_model: Some(v1::BaseModel { uri: model }),
        loss_on: args.loss_on.unwrap_or_default().into(),
        data: Some(args.data.spec(train, eval)?),
        rows: Some(args.rows),
        preference: args.pairs,
    };
    let response = client.preview_dataset(request).await?;
    out.show("PreviewDatasetResponse", &response, || text(&response, out.paint))?;
    Ok(Ending::Done)
}

/// The whole preview.
pub(crate) fn text(response: &v1::PreviewDatasetResponse, paint: Paint) -> String {
    let mut lines = Vec::new();
    for report in &response.reports {
        lines.push(paint.bold(&totals(report)));
        lines.extend(reasons(report, paint).into_iter().map(|line| format!("  {line}")));
        lines.extend(sources(report).into_iter().map(|line| format!("  {line}")));
        lines.push("  lengths, in tokens".to_owned());
        lines.extend(histogram(report, paint).into_iter().map(|line| format!("  {line}")));
        lines.push(String::new());
    }
    for row in &response.rows {
        lines.push(heading(row, paint));
        for (name, pieces) in [("chosen", &row.pieces), ("rejected", &row.rejected)] {
            let is_pair = !row.rejected.is_empty();
            lines.extend(is_pair.then(|| format!("  {}", paint.dim(name))));
            lines.extend(marked(pieces, paint).lines().map(|line| format!("  {line}")));
        }
        lines.push(String::new());
    }
    if !response.rows.is_empty() {
        let mark = marked(&[v1::PreviewPiece { text: "so marked".to_owned(), trained: true }], paint);
        lines.push(format!("What is {mark} is trained on; the rest is only read."));
    }
    lines.join("\n").trim_end().to_owned()
}

fn heading(row: &v1::PreviewRow, paint: Paint) -> String {
    let tokens = counted(row.tokens, "token");
    let place = format!("{}:{}", base_name(&row.object), row.row);
    format!("{}  {tokens}, {} trained on", paint.bold(&place), row.trained_tokens)
}

/// The text of a row, trained stretches in colour or between marks.
fn marked(pieces: &[v1::PreviewPiece], paint: Paint) -> String {
    let piece = |piece: &v1::PreviewPiece| {
        let text = printable(&piece.text);
        match (piece.trained, paint.on) {
            (false, _) => text,
            (true, false) => format!("{}{text}{}", MARKS.0, MARKS.1),
            // A colour ends with its line, so that what stands before the next one stays plain.
            (true, true) => text.split('\n').map(|line| paint.green(line)).collect::<Vec<_>>().join("\n"),
        }
    };
    pieces.iter().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> v1::PreviewDatasetResponse {
        let piece = |text: &str, trained| v1::PreviewPiece { text: text.into(), trained };
        v1::PreviewDatasetResponse {
            reports: vec![crate::report::tests::example()],
            rows: vec![v1::PreviewRow {
                object: "ds-1/rows.jsonl".into(),
                row: 7,
                pieces: vec![
                    piece("<|im_start|>user\nHi\x1b<|im_end|>\n", false),
                    piece("Hello.\nYou?<|im_end|>", true),
                    piece("\n", false),
                ],
                tokens: 18,
                trained_tokens: 5,
                rejected: vec![],
            }],
        }
    }

    #[test]
    fn without_colours_trained_text_stands_between_marks() {
        let text = text(&response(), Paint::plain());
        let row = "\
rows.jsonl:7  18 tokens, 5 trained on
  <|im_start|>user
  Hi\\u{1b}<|im_end|>
  ⟦Hello.
  You?<|im_end|>⟧

What is ⟦so marked⟧ is trained on; the rest is only read.";
        assert!(text.ends_with(row), "{text}");
        assert!(text.starts_with("train rows: 1,003 read"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn with_colours_every_trained_line_has_its_own() {
        let text = text(&response(), Paint { on: true });
        assert!(text.contains("  \x1b[32mHello.\x1b[0m\n  \x1b[32mYou?<|im_end|>\x1b[0m\n"), "{text}");
        assert!(!text.contains('⟦'), "{text}");
    }
}
