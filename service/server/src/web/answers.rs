//! Answers in JSON, and files of checkpoints.

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts, Path, RawQuery, State};
use axum::http::header::{AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tonic::Code;
use url::form_urlencoded;

use super::Peer;
use crate::api::Inside;
use crate::api::inside::{Credentials, Part, Refusal};

impl<S: Send + Sync> FromRequestParts<S> for Credentials {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let mut found = Self { authorization: parts.headers.get(AUTHORIZATION).cloned(), ..Self::default() };
        if let Some(ConnectInfo(Peer(Some(connection)))) = parts.extensions.get().cloned() {
            found.extensions.insert(connection);
        }
        Ok(found)
    }
}

/// An answer, or why there is none.
type Answer = Result<Response, Refusal>;

pub(super) async fn info(State(inside): State<Inside>, who: Credentials) -> Answer {
    Ok(json(StatusCode::OK, &inside.info(who).await?))
}

pub(super) async fn jobs(State(inside): State<Inside>, RawQuery(query): RawQuery, who: Credentials) -> Answer {
    let (part, states) = part(query);
    Ok(json(StatusCode::OK, &inside.list_jobs(who, part, states).await?))
}

pub(super) async fn job(State(inside): State<Inside>, Path(job_id): Path<String>, who: Credentials) -> Answer {
    Ok(json(StatusCode::OK, &inside.job(who, job_id).await?))
}

pub(super) async fn checkpoints(
    State(inside): State<Inside>,
    Path(job_id): Path<String>,
    RawQuery(query): RawQuery,
    who: Credentials,
) -> Answer {
    Ok(json(StatusCode::OK, &inside.list_checkpoints(who, job_id, part(query).0).await?))
}

/// A file of a checkpoint. Its length is told first and its last piece comes when all of it was found right, so that a
/// browser never takes a damaged file for a whole one.
pub(super) async fn file(
    State(inside): State<Inside>,
    Path((job_id, checkpoint_id, name)): Path<(String, String, String)>,
    who: Credentials,
) -> Answer {
    let file = inside.file(who, job_id, checkpoint_id, name.clone()).await?;
    // A file that was found has a plain name, which needs no quoting.
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".into()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
        (CONTENT_LENGTH, file.size_bytes.to_string()),
        (ETAG, format!("\"{}\"", file.sha256)),
    ];
    Ok((headers, Body::from_stream(file.pieces)).into_response())
}

/// What is asked of a list, and in which states.
fn part(query: Option<String>) -> (Part, Vec<String>) {
    let (mut part, mut states) = (Part::default(), Vec::new());
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            // What is no number is refused by the API as one that no page can have.
            "page_size" => part.page_size = value.parse().unwrap_or(-1),
            "page_token" => part.page_token = value.into_owned(),
            "state" => states.push(value.into_owned()),
            _ => {}
        }
    }
    (part, states)
}

/// There is no such page.
pub(super) async fn nothing() -> Response {
    missing()
}

pub(super) fn missing() -> Response {
    told(StatusCode::NOT_FOUND, "NotFound", "there is nothing here")
}

/// Who wants to change something is at the wrong door.
pub(super) async fn look_only() -> Response {
    told(StatusCode::METHOD_NOT_ALLOWED, "Unimplemented", "nothing can be changed here; the API is gRPC")
}

pub(super) fn told(status: StatusCode, code: &str, message: &str) -> Response {
    json(status, &json!({"error": {"code": code, "reason": "", "message": message, "remedy": ""}}))
}

fn json(status: StatusCode, value: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.code() {
            Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut answer = json(status, &self.json());
        if status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}
