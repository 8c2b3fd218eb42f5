//! GenerationService.

use std::pin::Pin;

use async_stream::try_stream;
use futures::Stream;
use hone_job::ask::{Ended, Prompt};
use hone_job::failure::{Failure, Reason};
use hone_job::spec::{GenerateTask, JobSpec, PromptRows, Resources, Task, Violation};
use hone_proto::v1 as pb;
use hone_proto::v1::generation_service_server::GenerationService;
use pb::generate_response::Finished;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::convert;
use super::gate::caller;
use super::inputs::Inputs;
use super::status::Problem;
use crate::answering::{Answerers, News, Question};
use crate::caller::Caller;

/// Most turns of a conversation.
const MAX_MESSAGES: usize = 4096;

pub(super) struct GenerationApi {
    pub(super) answerers: Answerers,
    pub(super) inputs: Inputs,
    pub(super) stopping: CancellationToken,
}

type Pieces = Pin<Box<dyn Stream<Item = Result<pb::GenerateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GenerationService for GenerationApi {
    type GenerateStream = Pieces;

    async fn generate(&self, request: Request<pb::GenerateRequest>) -> Result<Response<Pieces>, Status> {
        let caller = caller(&request)?;
        let question = self.question(&caller, request.into_inner()).await?;
        Ok(Response::new(pieces(self.answerers.clone(), question, self.stopping.clone())))
    }
}

impl GenerationApi {
    /// What is asked, once everything about it is found to be in order.
    async fn question(&self, caller: &Caller, request: pb::GenerateRequest) -> Result<Question, Problem> {
        let pb::GenerateRequest { base_model, checkpoint, messages, prompt, sampling } = request;
        let sampling = convert::sampling(sampling);
        let mut violations = sampling.violations();
        let base_model = base_model.unwrap_or_default().uri;
        if base_model.is_empty() {
            violations.push(Violation::new("base_model.uri", "is required: a model id, file:// or s3:// URI"));
        }
        let prompt = match what_is_asked(messages, prompt) {
            Ok(prompt) => prompt,
            Err(violation) => {
                violations.push(violation);
                Prompt::Text { prompt: String::new() }
            }
        };
        // A spec of the same inputs: what a job may read, this may.
        let task = GenerateTask { checkpoint, ..GenerateTask::new(PromptRows::of(Vec::new())) };
        let spec = JobSpec {
            display_name: String::new(),
            labels: Default::default(),
            base_model,
            task: Task::Generate(task),
            resources: Resources::default(),
            max_retries: 0,
        };
        self.inputs.check(caller, &spec, "base_model.uri", "", violations, Code::NotFound).await?;
        let spec = self.inputs.resolve(&spec).await?;
        let Task::Generate(GenerateTask { checkpoint, .. }) = spec.task else {
            return Err(Problem::internal("a task became another one"));
        };
        Ok(Question { model: spec.base_model, checkpoint, prompt, sampling })
    }
}

fn what_is_asked(messages: Vec<pb::ChatMessage>, prompt: Option<String>) -> Result<Prompt, Violation> {
    if messages.len() > MAX_MESSAGES {
        return Err(Violation::new("messages", format!("has {} turns; at most {MAX_MESSAGES}", messages.len())));
    }
    if let Some(index) = messages.iter().position(|message| message.role.is_empty()) {
        return Err(Violation::new(format!("messages[{index}].role"), "is required: system, user or assistant"));
    }
    match (messages.is_empty(), prompt) {
        (true, Some(prompt)) if !prompt.is_empty() => Ok(Prompt::Text { prompt }),
        (false, None) => {
            let turn = |pb::ChatMessage { role, content }| json!({"role": role, "content": content});
            Ok(Prompt::Conversation { messages: messages.into_iter().map(turn).collect() })
        }
        (false, Some(_)) => Err(Violation::new("prompt", "stands beside messages; give one of them")),
        (true, _) => Err(Violation::new("messages", "is required, or prompt: what is asked")),
    }
}

/// The answer, piece by piece.
fn pieces(answerers: Answerers, question: Question, stopping: CancellationToken) -> Pieces {
    Box::pin(try_stream! {
        let answer = loop {
            // Listened for before asking, so that room that comes in between is not missed.
            let mut room = std::pin::pin!(answerers.room());
            room.as_mut().enable();
            match answerers.ask(&question) {
                Some(answer) => break answer,
                None => {
                    let waiting = "waiting: other models answer".to_string();
                    yield pb::GenerateResponse { waiting, ..Default::default() };
                }
            }
            let stops = tokio::select! {
                () = room => false,
                () = stopping.cancelled() => true,
            };
            if stops {
                Err(Problem::stopping())?;
            }
        };
        loop {
            let news = tokio::select! {
                // First, since what a model says when the server stops is not why the answer ends.
                biased;
                () = stopping.cancelled() => None,
                news = answer.next() => Some(news),
            };
            match news.ok_or_else(Problem::stopping)? {
                News::Waiting(waiting) => yield pb::GenerateResponse { waiting, ..Default::default() },
                News::Text(text) => yield pb::GenerateResponse { text, ..Default::default() },
                News::Ended(ended) => {
                    yield pb::GenerateResponse { finished: Some(finished(ended)), ..Default::default() };
                    return;
                }
                News::Failed(failure) => Err(problem(failure))?,
            }
        }
    })
}

fn finished(ended: Ended) -> Finished {
    let reason = if ended.reached_length { pb::FinishReason::Length } else { pb::FinishReason::Stop };
    Finished { reason: reason.into(), prompt_tokens: ended.prompt_tokens, answer_tokens: ended.answer_tokens }
}

/// Why there is no answer, as the status of a call.
fn problem(failure: Failure) -> Problem {
    let (code, reason) = match failure.reason {
        Reason::InvalidData => (Code::InvalidArgument, "INVALID_DATA"),
        Reason::ModelUnsupported => (Code::FailedPrecondition, "MODEL_UNSUPPORTED"),
        Reason::OutOfMemory => (Code::ResourceExhausted, "OUT_OF_MEMORY"),
        Reason::Storage => (Code::Unavailable, "STORAGE"),
        Reason::Preempted => (Code::Unavailable, "PREEMPTED"),
        Reason::TrainerCrashed | Reason::TrainerStalled => (Code::Internal, "TRAINER_CRASHED"),
        Reason::NonFinite | Reason::Internal => (Code::Internal, "INTERNAL"),
    };
    let problem = Problem::new(code, reason, failure.message.clone());
    let problem = if failure.location.is_empty() { problem } else { problem.about("location", failure.location) };
    if failure.remedy.is_empty() { problem } else { problem.try_this(failure.remedy) }
}
