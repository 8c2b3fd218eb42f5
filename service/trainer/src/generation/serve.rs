//! A model that answers whoever asks, until nobody can ask any more.

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError};

use hone_data::tokenizer::Tokenizer;
use hone_job::ask::{Ask, Ended, Order, Said};
use hone_job::failure::{Failure, Reason};
use hone_job::spec::Precision;

use super::{Beginning, End, Generator, Piece, Prompter};
use crate::device::Compute;
use crate::error::Error;
use crate::model::{Adapter, Decoder};
use crate::workspace::Workspace;
use crate::{peft, pretrained};

/// Adapters that stay on the loaded model.
const MAX_ADAPTERS: usize = 8;

/// Answers the orders that come with the model at `model_uri`. What it says goes to `say`.
pub fn serve(
    model_uri: &str,
    workspace: &Workspace,
    orders: &Receiver<Order>,
    say: &mut dyn FnMut(Said),
) -> Result<(), Error> {
    say(Said::Waiting { detail: format!("loading {model_uri}") });
    let compute = Compute::choose(Precision::Auto)?;
    let path = workspace.local(model_uri, &|_, _| {})?;
    let tokenizer = Tokenizer::open(&path)?;
    let model = Decoder::load(&path, compute.kind, compute.device, &mut |_, _| {})?;
    tokenizer.check_fits(model.config().vocab_size as u64)?;
    let prompter = Prompter::new(&tokenizer)?;
    let mut desk = Desk {
        generator: Generator::new(&model, &tokenizer),
        model: &model,
        prompter,
        adapters: Adapters { workspace, loaded: VecDeque::new() },
        prompt_tokens: Vec::new(),
    };
    desk.serve(orders, say)
}

/// Where orders come in and answers go out.
struct Desk<'m> {
    generator: Generator<'m, Rc<Adapter>>,
    model: &'m Decoder,
    prompter: Prompter<'m>,
    adapters: Adapters<'m>,
    /// Of each answer under way, by its id.
    prompt_tokens: Vec<(u64, u32)>,
}

impl Desk<'_> {
    fn serve(&mut self, orders: &Receiver<Order>, say: &mut dyn FnMut(Said)) -> Result<(), Error> {
        loop {
            // With nothing to write it waits; else it takes what is there, so that a new text joins at once.
            while self.generator.is_empty() {
                match orders.recv() {
                    Ok(order) => self.take(order, say),
                    Err(_) => return Ok(()),
                }
            }
            loop {
                match orders.try_recv() {
                    Ok(order) => self.take(order, say),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            for piece in self.generator.step()? {
                let id = piece.key;
                let said = self.said(piece);
                if matches!(said, Said::Piece { end: Some(_), .. }) {
                    self.prompt_tokens.retain(|(known, _)| *known != id);
                }
                say(said);
            }
        }
    }

    fn take(&mut self, order: Order, say: &mut dyn FnMut(Said)) {
        match order {
            Order::Abandon { id } => {
                self.generator.abandon(id);
                self.prompt_tokens.retain(|(known, _)| *known != id);
            }
            Order::Ask(ask) => {
                let id = ask.id;
                if let Err(failure) = self.begin(ask) {
                    say(Said::Failed { id: Some(id), failure });
                }
            }
        }
    }

    fn begin(&mut self, ask: Ask) -> Result<(), Failure> {
        let adapter = match &ask.checkpoint {
            Some(uri) => Some(self.adapters.get(uri, self.model)?),
            None => None,
        };
        let prompt = self.prompter.encode(&ask.prompt).map_err(|error| error.failure())?;
        let beginning = Beginning { prompt: &prompt, adapter, sampling: &ask.sampling, number: 0 };
        self.generator.begin(ask.id, beginning).map_err(|error| error.failure())?;
        self.prompt_tokens.push((ask.id, prompt.len() as u32));
        Ok(())
    }

    fn said(&self, Piece { key, text, end }: Piece) -> Said {
        let prompt_tokens = self.prompt_tokens.iter().find(|(known, _)| *known == key).map_or(0, |(_, tokens)| *tokens);
        let end = end.map(|(end, tokens)| Ended {
            reached_length: end == End::Length,
            prompt_tokens,
            answer_tokens: tokens.len() as u32,
        });
        Said::Piece { id: key, text, end }
    }
}

/// Adapters on the loaded model, those used last at the end.
struct Adapters<'m> {
    workspace: &'m Workspace,
    loaded: VecDeque<(String, Rc<Adapter>)>,
}

impl Adapters<'_> {
    fn get(&mut self, uri: &str, model: &Decoder) -> Result<Rc<Adapter>, Failure> {
        let found = match self.loaded.iter().position(|(known, _)| known == uri) {
            Some(place) => self.loaded.remove(place),
            None => None,
        };
        let (uri, adapter) = match found {
            Some(found) => found,
            None => (uri.to_string(), Rc::new(self.load(uri, model)?)),
        };
        self.loaded.push_back((uri, adapter.clone()));
        if self.loaded.len() > MAX_ADAPTERS {
            self.loaded.pop_front();
        }
        Ok(adapter)
    }

    fn load(&self, uri: &str, model: &Decoder) -> Result<Adapter, Failure> {
        let folder: &Path = &self.workspace.local(uri, &|_, _| {}).map_err(|error| error.failure())?;
        if pretrained::is_model(folder) {
            let failure = Failure::new(Reason::ModelUnsupported, "it is a whole model, not an adapter");
            return Err(failure.at(uri).try_this("give it as base_model, without a checkpoint"));
        }
        peft::load_frozen(folder, model).map_err(|error| Error::from(error).failure())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use hone_data::cache::Cache;
    use hone_job::ask::Prompt;
    use hone_job::spec::Sampling;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::task::testing::{fixtures, uri};

    fn ask(id: u64, checkpoint: Option<String>, prompt: &str) -> Order {
        let prompt = Prompt::Text { prompt: prompt.into() };
        Order::Ask(Ask { id, checkpoint, prompt, sampling: Sampling::greedy(6) })
    }

    fn said(orders: Vec<Order>) -> Vec<Said> {
        let runtime = Runtime::new().unwrap();
        let workspace = Workspace::new(Cache::new("cache".into(), None), runtime.handle().clone());
        let (send, receive) = mpsc::channel();
        let mut left = orders.iter().filter(|order| matches!(order, Order::Ask(_))).count();
        orders.into_iter().for_each(|order| send.send(order).unwrap());
        let mut send = Some(send);
        let mut said = Vec::new();
        serve(&uri(&fixtures().join("models/llama")), &workspace, &receive, &mut |one| {
            left -= usize::from(matches!(one, Said::Failed { .. } | Said::Piece { end: Some(_), .. }));
            said.push(one);
            if left == 0 {
                send.take();
            }
        })
        .unwrap();
        said
    }

    fn text(said: &[Said], wanted: u64) -> String {
        let texts = said.iter().filter_map(|one| match one {
            Said::Piece { id, text, .. } if *id == wanted => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    #[test]
    fn who_asks_is_answered_with_the_adapter_that_he_names_and_a_bad_order_ends_nothing() {
        let adapter = uri(&fixtures().join("adapters/llama_all_linear"));
        let whole = uri(&fixtures().join("models/llama"));
        let together = said(vec![
            ask(1, None, "Once upon"),
            ask(2, Some(adapter.clone()), "Once upon"),
            ask(3, Some(whole), "Once upon"),
            ask(4, Some(uri(&fixtures().join("nothing"))), "Once upon"),
            ask(5, Some(adapter), "Once upon"),
            ask(6, None, ""),
        ]);
        assert!(matches!(&together[0], Said::Waiting { .. }));
        assert_eq!(text(&together, 1), text(&said(vec![ask(1, None, "Once upon")]), 1));
        assert_ne!(text(&together, 1), text(&together, 2));
        assert_eq!(text(&together, 2), text(&together, 5));
        let failure = |wanted: u64| {
            together.iter().find_map(|one| match one {
                Said::Failed { id: Some(id), failure } if *id == wanted => Some(failure.clone()),
                _ => None,
            })
        };
        assert!(failure(3).unwrap().remedy.contains("base_model"));
        assert!(failure(4).unwrap().to_string().contains("nothing"));
        let ends = together.iter().filter(|one| matches!(one, Said::Piece { end: Some(_), .. })).count();
        assert_eq!(ends + 2, 6 - usize::from(failure(6).is_some()));
    }
}
