//! The gate of the API: who calls is found out here, once, and whether he may call this method at all. What he may see is
//! each call's own business, which it decides by the [`Caller`] in the extensions of its request.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::Either;
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response, header};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer, Service};

use super::status::Problem;
use crate::caller::{Caller, Role};
use crate::tokens::{Bearer, Tokens};

mod messages;
mod taken_back;

/// What a method asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing: probes and tools come without a token.
    Nothing,
    /// The secret of an attempt, which the method itself asks for.
    Secret,
    /// A role, or a higher one.
    Role(Role),
}

/// Every method there is. One that is not here cannot be called.
#[rustfmt::skip]
const METHODS: &[(&str, Need)] = &[
    ("/hone.v1.JobService/CreateJob", Need::Role(Role::Submit)),
    ("/hone.v1.JobService/GetJob", Need::Role(Role::Read)),
    ("/hone.v1.JobService/ListJobs", Need::Role(Role::Read)),
    ("/hone.v1.JobService/WatchJob", Need::Role(Role::Read)),
    ("/hone.v1.JobService/CancelJob", Need::Role(Role::Submit)),
    ("/hone.v1.JobService/PauseJob", Need::Role(Role::Submit)),
    ("/hone.v1.JobService/ResumeJob", Need::Role(Role::Submit)),
    ("/hone.v1.JobService/CheckpointJob", Need::Role(Role::Submit)),
    ("/hone.v1.JobService/DeleteJob", Need::Role(Role::Submit)),
    ("/hone.v1.JobService/ListCheckpoints", Need::Role(Role::Read)),
    ("/hone.v1.JobService/GetCheckpoint", Need::Role(Role::Read)),
    ("/hone.v1.JobService/DeleteCheckpoint", Need::Role(Role::Submit)),
    ("/hone.v1.JobService/DownloadCheckpoint", Need::Role(Role::Read)),
    ("/hone.v1.JobService/GetReport", Need::Role(Role::Read)),
    ("/hone.v1.DatasetService/UploadDataset", Need::Role(Role::Submit)),
    ("/hone.v1.DatasetService/GetDataset", Need::Role(Role::Read)),
    ("/hone.v1.DatasetService/ListDatasets", Need::Role(Role::Read)),
    ("/hone.v1.DatasetService/DeleteDataset", Need::Role(Role::Submit)),
    ("/hone.v1.DatasetService/PreviewDataset", Need::Role(Role::Read)),
    ("/hone.v1.ModelService/UploadModel", Need::Role(Role::Submit)),
    ("/hone.v1.ModelService/GetModel", Need::Role(Role::Read)),
    ("/hone.v1.ModelService/ListModels", Need::Role(Role::Read)),
    ("/hone.v1.ModelService/DeleteModel", Need::Role(Role::Submit)),
    ("/hone.v1.GenerationService/Generate", Need::Role(Role::Submit)),
    ("/hone.v1.SystemService/GetServerInfo", Need::Role(Role::Read)),
    ("/hone.trainer.v1.TrainerService/Attach", Need::Secret),
    ("/grpc.health.v1.Health/Check", Need::Nothing),
    ("/grpc.health.v1.Health/Watch", Need::Nothing),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Nothing),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Need::Nothing),
];

/// Who is let in, and how many of his calls are open.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    tokens: Option<Arc<Tokens>>,
    needs_certificate: bool,
    open: Arc<OpenCalls>,
}

impl Gate {
    /// Asks for a token where there are `tokens`, and for a certificate where `needs_certificate` says so.
    pub(crate) fn new(tokens: Option<Arc<Tokens>>, needs_certificate: bool) -> Self {
        Self { tokens, needs_certificate, open: Arc::default() }
    }

    /// Whether callers are asked who they are.
    pub(crate) fn asks(&self) -> bool {
        self.tokens.is_some() || self.needs_certificate
    }

    /// Lets a call in, or says why not; of one that takes a token it gives what is kept until the call is over.
    fn admit(&self, request: &mut Request<Body>) -> Result<Option<OpenCall>, Problem> {
        let path = request.uri().path();
        let Some((_, need)) = METHODS.iter().find(|(method, _)| *method == path) else {
            let message = format!("this server has no method {path}");
            return Err(Problem::new(Code::Unimplemented, "UNKNOWN_METHOD", message));
        };
        let Need::Role(role) = *need else { return Ok(None) };
        if self.needs_certificate && !has_certificate(request) {
            return Err(Problem::new(
                Code::Unauthenticated,
                "CERTIFICATE_REQUIRED",
                "the connection shows no client certificate",
            )
            .try_this("give the client a certificate that the server's --tls-client-ca has signed"));
        }
        let Bearer { caller, taken_back } = match &self.tokens {
            None => Bearer { caller: Caller::anybody(), taken_back: CancellationToken::new() },
            Some(tokens) => bearer(request.headers(), tokens)?,
        };
        if caller.role < role {
            let message = format!("token {} has the role {}; {path} takes {role}", caller.name, caller.role);
            return Err(Problem::new(Code::PermissionDenied, "ROLE_TOO_LOW", message)
                .about("role", caller.role.to_string())
                .about("needed", role.to_string())
                .try_this(format!("use a token with the role {role}")));
        }
        let open = self.open.begin(&caller, taken_back)?;
        request.extensions_mut().insert(caller);
        Ok(Some(open))
    }
}

/// The name of a method there is, without the slash in front.
pub(super) fn known(path: &str) -> Option<&'static str> {
    METHODS.iter().find(|(method, _)| *method == path).map(|(method, _)| &method[1..])
}

/// Whose token a request carries.
fn bearer(headers: &HeaderMap, tokens: &Tokens) -> Result<Bearer, Problem> {
    const REMEDY: &str = "send the header `authorization: Bearer TOKEN`; for hone, set HONE_TOKEN or HONE_TOKEN_FILE";
    let refused = |reason, message| Problem::new(Code::Unauthenticated, reason, message).try_this(REMEDY);
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(refused("TOKEN_REQUIRED", "this server takes calls with a token only"));
    };
    let text = value.to_str().unwrap_or_default();
    let token = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    token.and_then(|(_, token)| tokens.bearer(token.trim())).ok_or_else(|| {
        refused("TOKEN_UNKNOWN", "the token is not among those of this server; it may have been taken back")
    })
}

/// Who makes a call, as the gate found out.
pub(super) fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Problem> {
    let caller = request.extensions().get().cloned();
    caller.ok_or_else(|| Problem::internal("a call came by another way than the gate"))
}

/// Whether the caller showed a certificate; one of another authority does not get this far.
fn has_certificate(request: &Request<Body>) -> bool {
    let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    connection.and_then(TlsConnectInfo::peer_certs).is_some_and(|certificates| !certificates.is_empty())
}

/// Calls that are open, by the name of their token. A std mutex: held for moments only.
#[derive(Debug, Default)]
struct OpenCalls(Mutex<HashMap<String, u32>>);

impl OpenCalls {
    fn begin(self: &Arc<Self>, caller: &Caller, taken_back: CancellationToken) -> Result<OpenCall, Problem> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(caller.name.clone()).or_default();
        if let Some(max_calls) = caller.limits.max_calls.filter(|max| *count >= *max) {
            let message = format!("token {} has {max_calls} calls open, which is its limit", caller.name);
            return Err(Problem::new(Code::ResourceExhausted, "TOO_MANY_CALLS", message)
                .about("max_calls", max_calls.to_string())
                .try_this("end a watch or a transfer first"));
        }
        *count += 1;
        let max_message_bytes = caller.limits.max_message_bytes;
        Ok(OpenCall { calls: self.clone(), name: caller.name.clone(), max_message_bytes, taken_back })
    }
}

/// A call that is open until this is dropped.
struct OpenCall {
    calls: Arc<OpenCalls>,
    name: String,
    max_message_bytes: Option<u64>,
    taken_back: CancellationToken,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut calls = self.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = calls.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.name);
            }
        }
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Debug, Clone)]
pub(crate) struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, Answering<S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.gate.admit(&mut request) {
            Err(problem) => Either::Left(ready(Ok(tonic::Status::from(problem).into_http()))),
            Ok(None) => Either::Right(Box::pin(self.inner.call(request))),
            Ok(Some(open)) => {
                if let Some(max_bytes) = open.max_message_bytes {
                    request = messages::bounded(request, max_bytes);
                }
                let answer = self.inner.call(taken_back::request(request, open.taken_back.clone()));
                Either::Right(Box::pin(async move { Ok(until_over(answer.await?, open)) }))
            }
        }
    }
}

type Answering<E> = futures::future::BoxFuture<'static, Result<Response<Body>, E>>;

/// The same answer; its call counts as open until all of it is sent.
fn until_over(answer: Response<Body>, open: OpenCall) -> Response<Body> {
    taken_back::response(answer, open.taken_back.clone()).map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _open = &open;
            frame
        }))
    })
}

/// Names of the methods that take a token.
#[cfg(test)]
pub(super) fn public_methods() -> impl Iterator<Item = &'static str> {
    let public = METHODS.iter().filter(|(_, need)| matches!(need, Need::Role(_)));
    public.filter_map(|(method, _)| method.rsplit('/').next())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_every_service_says_what_it_needs() {
        let sets = [
            hone_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let files = sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file);
        let methods: BTreeSet<String> = files
            .flat_map(|file| {
                let package = file.package().to_string();
                file.service.into_iter().map(move |service| (package.clone(), service))
            })
            .flat_map(|(package, service)| {
                let name = format!("/{package}.{}", service.name());
                service.method.into_iter().map(move |method| format!("{name}/{}", method.name()))
            })
            .collect();
        let known: BTreeSet<String> = METHODS.iter().map(|(method, _)| method.to_string()).collect();
        assert_eq!(known, methods);
        assert_eq!(known.len(), METHODS.len(), "none is there twice");
    }

    #[test]
    fn only_what_probes_and_trainers_call_needs_no_role() {
        for (method, need) in METHODS {
            let public = method.starts_with("/hone.v1.");
            assert_eq!(public, matches!(need, Need::Role(_)), "{method}");
        }
    }
}
