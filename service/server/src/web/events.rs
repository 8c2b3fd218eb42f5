//! The events of a job as server-sent events (HTML, "Server-sent events"). Each has its number as id; who comes back with
//! the last one in `Last-Event-ID` gets those after it, as a watcher over gRPC does. A comment breaks silence.
//!
//! The event `end` says that the job has ended and no more will come; `problem` says why the stream breaks off.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

use super::answers::told;
use crate::api::Inside;
use crate::api::inside::{Credentials, Refusal, Word};

/// Events that go out in one piece where many are ready: the history of a long run.
const AT_ONCE: usize = 256;

pub(super) async fn events(
    State(inside): State<Inside>,
    Path(job_id): Path<String>,
    headers: HeaderMap,
    who: Credentials,
) -> Result<Response, Refusal> {
    let Some(after) = last_seen(&headers) else {
        return Ok(told(StatusCode::BAD_REQUEST, "InvalidArgument", "Last-Event-ID is no number of an event"));
    };
    let events = inside.events(who, job_id, after).await?;
    let text =
        lines(events).ready_chunks(AT_ONCE).map(|lines| Ok::<_, std::convert::Infallible>(Bytes::from(lines.concat())));
    // A proxy that collects answers would hold events back.
    let headers = [(CONTENT_TYPE.as_str(), "text/event-stream"), ("x-accel-buffering", "no")];
    Ok((headers, Body::from_stream(text)).into_response())
}

/// The number of the last event that the caller has; 0 when he has none.
fn last_seen(headers: &HeaderMap) -> Option<u64> {
    match headers.get("last-event-id") {
        None => Some(0),
        Some(id) => id.to_str().ok()?.parse().ok(),
    }
}

/// The stream as it is written, from a first word, so that headers and an open connection show at once, to a last.
fn lines(events: impl Stream<Item = Result<Word, Refusal>>) -> impl Stream<Item = String> {
    // JSON on one line: whatever breaks a line within a text is escaped there.
    let written = events.map(|event| match event {
        Ok(Word::Event(sequence, event)) => (format!("id: {sequence}\ndata: {event}\n\n"), false),
        Ok(Word::Heartbeat) => (":\n\n".into(), false),
        Err(refusal) => (format!("event: problem\ndata: {}\n\n", refusal.json()), true),
    });
    let end = stream::once(async { ("event: end\ndata: {}\n\n".to_string(), true) });
    let first = stream::once(async { (":\n\n".to_string(), false) });
    let mut is_over = false;
    first
        .chain(written)
        .chain(end)
        .take_while(move |(_, is_last)| {
            let goes_on = !is_over;
            is_over |= is_last;
            std::future::ready(goes_on)
        })
        .map(|(line, _)| line)
}
