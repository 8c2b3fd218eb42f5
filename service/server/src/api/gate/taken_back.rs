//! Streams that end when the token they were opened with is taken back.

use std::pin::pin;

use async_stream::stream;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::{BodyStream, StreamBody};
use hyper::body::{Body as _, Frame};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap};
use tonic::{Code, Status};

use crate::api::status::Problem;

type Frames = Result<Frame<Bytes>, Status>;

/// What a caller sends, up to the moment that his token is taken back: it then breaks off.
pub(super) fn request(request: http::Request<Body>, taken_back: CancellationToken) -> http::Request<Body> {
    request.map(|body| until(body, taken_back, || Err(refusal())))
}

/// What a caller gets, up to that moment: it then ends with the refusal that another call of his would get.
pub(super) fn response(response: http::Response<Body>, taken_back: CancellationToken) -> http::Response<Body> {
    let trailers = || {
        let mut trailers = HeaderMap::new();
        refusal().add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    };
    response.map(|body| until(body, taken_back, trailers))
}

fn refusal() -> Status {
    Problem::new(Code::Unauthenticated, "TOKEN_UNKNOWN", "the token was taken back").into()
}

fn until(body: Body, taken_back: CancellationToken, last: impl FnOnce() -> Frames + Send + 'static) -> Body {
    // An answer that is all headers says so by this, and must go on doing so.
    if body.is_end_stream() {
        return body;
    }
    Body::new(StreamBody::new(frames(body, taken_back, last)))
}

fn frames(body: Body, taken_back: CancellationToken, last: impl FnOnce() -> Frames) -> impl Stream<Item = Frames> {
    stream! {
        let mut frames = BodyStream::new(body);
        // Set up once: a token's streams all wait in one line, behind one lock.
        let mut taken_back = pin!(taken_back.cancelled());
        loop {
            tokio::select! {
                biased;
                () = &mut taken_back => {
                    yield last();
                    return;
                }
                frame = frames.next() => match frame {
                    Some(frame) => yield frame,
                    None => return,
                }
            }
        }
    }
}
