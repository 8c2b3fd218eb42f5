//! What holds for every answer of the page: who may ask by which name, and what a browser may do with what it gets.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Names under which the page answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Any.
    All,
    /// Those of this machine. Where nobody is asked who he is, another site could lead its visitors' browsers here by a name
    /// of its own that it points to 127.0.0.1, and read what they get (DNS rebinding).
    Loopback,
}

/// Scripts and styles are the page's own files; nothing is fetched from, sent to or framed by another site.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Lets requests of the right names through, and puts the headers on every answer.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut answer = match hosts {
        Hosts::Loopback if !is_for_this_machine(&request) => {
            let told = "this page answers under the names of this machine only: localhost, 127.0.0.1, [::1]\n";
            (StatusCode::MISDIRECTED_REQUEST, told).into_response()
        }
        _ if is_of_another_site(&request) => {
            (StatusCode::FORBIDDEN, "another site's page has nothing to ask here\n").into_response()
        }
        _ => next.run(request).await,
    };
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    // What is secret is not kept where the next user of the machine finds it; the page's files say for themselves.
    answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// Whether the page of another site asks for data: it could not read the answer, but it could ask for much. A link to the page
/// itself may lie anywhere.
fn is_of_another_site(request: &Request) -> bool {
    let from = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    request.uri().path().starts_with("/api/") && !matches!(from, None | Some(b"same-origin" | b"none"))
}

/// Whether the name in the request is one of this machine. HTTP/1.1 has it in a header, HTTP/2 in the address.
fn is_for_this_machine(request: &Request) -> bool {
    let named = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let address = request.uri().authority().map(|authority| authority.as_str());
    // Where both are there both must be right; where neither is, nobody can tell.
    let mut names = named.into_iter().chain(address).peekable();
    names.peek().is_some() && names.all(is_loopback)
}

fn is_loopback(authority: &str) -> bool {
    let Some(host) = authority.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase)) else {
        return false;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_names() {
        for good in ["localhost", "localhost:7480", "LOCALHOST", "127.0.0.1:7480", "127.9.9.9", "[::1]:7480", "[::1]"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7480", "10.0.0.1", "[::2]"] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
