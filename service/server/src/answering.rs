//! Models that answer while somebody waits: a process for each, loaded for the first who asks and kept for those that follow
//! soon.
//!
//! Few may be loaded at a time. Who asks another model takes the place of one that nobody asks any more, or waits for one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hone_data::storage::Secret;
use hone_job::ask::{Ask, Ended, Order, Prompt, Said};
use hone_job::failure::Failure;
use hone_job::spec::Sampling;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Options;

mod process;

/// What is asked, of which model.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// URI of the base model.
    pub(crate) model: String,
    /// URI of the adapter that takes part.
    pub(crate) checkpoint: Option<String>,
    /// What is asked.
    pub(crate) prompt: Prompt,
    /// How the answer goes on.
    pub(crate) sampling: Sampling,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum News {
    /// What is waited for.
    Waiting(String),
    /// More of the answer.
    Text(String),
    /// The answer is over.
    Ended(Ended),
    /// There is none, or no more of it.
    Failed(Failure),
}

/// All models that answer.
#[derive(Clone)]
pub(crate) struct Answerers(Arc<Inner>);

struct Inner {
    program: Program,
    max_models: usize,
    models: Mutex<Vec<Arc<Model>>>,
    /// A place became free, or a model has nothing to do.
    room: Notify,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// How processes are started.
struct Program {
    trainer: PathBuf,
    handed_on: Vec<String>,
    cache: PathBuf,
    max_cache_bytes: Option<u64>,
    /// Stand in no message.
    secrets: Vec<Secret>,
    /// How long a model that nobody asks stays loaded.
    idle: Duration,
}

impl Answerers {
    pub(crate) fn new(options: &Options, stopping: CancellationToken, tasks: TaskTracker) -> Self {
        let program = Program {
            trainer: options.trainer.clone(),
            handed_on: options.trainer_env.clone(),
            cache: options.data_dir.join("cache"),
            max_cache_bytes: options.limits.max_model_cache_bytes,
            secrets: options.storage.secrets().cloned().collect(),
            idle: options.keep_model,
        };
        let max_models = options.limits.max_loaded_models.max(1) as usize;
        Self(Arc::new(Inner { program, max_models, models: Mutex::default(), room: Notify::new(), stopping, tasks }))
    }

    /// Asks a model that is loaded, or is to be; none while there is no room for it.
    pub(crate) fn ask(&self, question: &Question) -> Option<Answer> {
        let mut models = lock(&self.0.models);
        models.retain(|model| !model.ended.is_cancelled());
        if let Some(model) = models.iter().find(|model| model.uri == question.model) {
            return Some(Model::ask(model, question, self.0.clone()));
        }
        if models.len() >= self.0.max_models {
            let idle = models.iter().position(|model| lock(&model.answers).is_empty())?;
            models.remove(idle).ended.cancel();
        }
        let (orders, received) = mpsc::unbounded_channel();
        let ended = CancellationToken::new();
        let uri = question.model.clone();
        let model = Arc::new(Model { uri, orders, answers: Mutex::default(), changed: Notify::new(), ended });
        models.push(model.clone());
        drop(models);
        self.0.tasks.spawn(process::run(self.0.clone(), model.clone(), received));
        Some(Model::ask(&model, question, self.0.clone()))
    }

    /// Ends when it is worth asking again.
    pub(crate) fn room(&self) -> Notified<'_> {
        self.0.room.notified()
    }
}

/// A model that is loaded, or on its way.
struct Model {
    uri: String,
    orders: mpsc::UnboundedSender<Order>,
    /// Those that somebody waits for.
    answers: Mutex<Answers>,
    /// Whether there are any changed.
    changed: Notify,
    /// Its process has ended, or is to.
    ended: CancellationToken,
}

#[derive(Default)]
struct Answers {
    waiting: HashMap<u64, Arc<Mailbox>>,
    next_id: u64,
}

impl Answers {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Model {
    fn ask(this: &Arc<Model>, question: &Question, all: Arc<Inner>) -> Answer {
        let mailbox = Arc::new(Mailbox::default());
        let id = {
            let mut answers = lock(&this.answers);
            let id = answers.next_id;
            answers.next_id += 1;
            answers.waiting.insert(id, mailbox.clone());
            id
        };
        let Question { checkpoint, prompt, sampling, .. } = question.clone();
        // The process may be gone meanwhile; then whoever ends it tells all who wait.
        let _ = this.orders.send(Order::Ask(Ask { id, checkpoint, prompt, sampling }));
        this.changed.notify_one();
        if this.ended.is_cancelled() {
            this.fail(&process::gone());
        }
        Answer { model: this.clone(), all, id, mailbox }
    }

    /// Takes what the process says to those whom it concerns.
    fn hear(&self, said: Said) {
        let answers = lock(&self.answers);
        match said {
            Said::Waiting { detail } => {
                answers
                    .waiting
                    .values()
                    .for_each(|mailbox| mailbox.put(|letters| letters.waiting = Some(detail.clone())));
            }
            Said::Piece { id, text, end } => {
                if let Some(mailbox) = answers.waiting.get(&id) {
                    mailbox.put(|letters| {
                        letters.text += &text;
                        letters.end = end.map(Ok);
                    });
                }
            }
            Said::Failed { id: Some(id), failure } => {
                if let Some(mailbox) = answers.waiting.get(&id) {
                    mailbox.put(|letters| letters.end = Some(Err(failure)));
                }
            }
            Said::Failed { id: None, failure } => {
                drop(answers);
                self.fail(&failure);
            }
        }
    }

    /// Tells everybody who still waits that nothing comes.
    fn fail(&self, failure: &Failure) {
        for mailbox in lock(&self.answers).waiting.values() {
            mailbox.put(|letters| {
                letters.end.get_or_insert(Err(failure.clone()));
            });
        }
    }
}

/// What has come and was not read. What comes while nobody reads goes together, so that it is never more than the answer.
#[derive(Default)]
struct Mailbox {
    letters: Mutex<Letters>,
    news: Notify,
}

#[derive(Default)]
struct Letters {
    waiting: Option<String>,
    text: String,
    end: Option<Result<Ended, Failure>>,
}

impl Mailbox {
    fn put(&self, put: impl FnOnce(&mut Letters)) {
        put(&mut lock(&self.letters));
        self.news.notify_one();
    }

    fn take(&self) -> Option<News> {
        let mut letters = lock(&self.letters);
        if !letters.text.is_empty() {
            letters.waiting = None;
            return Some(News::Text(std::mem::take(&mut letters.text)));
        }
        match letters.end.take() {
            Some(Ok(ended)) => Some(News::Ended(ended)),
            Some(Err(failure)) => Some(News::Failed(failure)),
            None => letters.waiting.take().map(News::Waiting),
        }
    }
}

/// An answer on its way; nobody waits for one that is dropped.
pub(crate) struct Answer {
    model: Arc<Model>,
    all: Arc<Inner>,
    id: u64,
    mailbox: Arc<Mailbox>,
}

impl Answer {
    /// What comes next.
    pub(crate) async fn next(&self) -> News {
        loop {
            if let Some(news) = self.mailbox.take() {
                return news;
            }
            self.mailbox.news.notified().await;
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.model.answers).waiting.remove(&self.id);
        let _ = self.model.orders.send(Order::Abandon { id: self.id });
        self.model.changed.notify_one();
        self.all.room.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
