//! The rows of a training, there and back.

use hone_job::spec::{Data, Mix, MixUntil, OverLength};
use hone_proto::v1 as pb;

use super::Reader;

impl Reader {
    pub(super) fn data(&mut self, path: &str, data: pb::DataSpec) -> Data {
        let defaults = Data::of(Vec::new());
        Data {
            train: data.train,
            eval: data.eval,
            eval_fraction: data.eval_fraction.unwrap_or(defaults.eval_fraction),
            max_length: data.max_length.unwrap_or(defaults.max_length),
            over_length: self.choice(format!("{path}.over_length"), data.over_length, over_length),
            chat_template: data.chat_template,
            max_train_examples: data.max_train_examples,
            max_eval_examples: data.max_eval_examples,
            mix: data.mix.map(|mix| Mix {
                until: self.choice(format!("{path}.mix.until"), mix.until, mix_until),
                weights: mix.weights,
            }),
            drop_duplicates: data.drop_duplicates,
            leakage_similarity: data.leakage_similarity.unwrap_or(defaults.leakage_similarity),
        }
    }
}

fn over_length(value: pb::OverLength) -> OverLength {
    match value {
        pb::OverLength::Unspecified => OverLength::default(),
        pb::OverLength::Drop => OverLength::Drop,
        pb::OverLength::Truncate => OverLength::Truncate,
        pb::OverLength::Split => OverLength::Split,
        pb::OverLength::Fail => OverLength::Fail,
    }
}

fn mix_until(value: pb::MixUntil) -> MixUntil {
    match value {
        pb::MixUntil::Unspecified => MixUntil::default(),
        pb::MixUntil::FirstExhausted => MixUntil::FirstExhausted,
        pb::MixUntil::AllExhausted => MixUntil::AllExhausted,
    }
}

/// The rows in force as a message.
pub(super) fn message(data: Data) -> pb::DataSpec {
    pb::DataSpec {
        train: data.train,
        eval: data.eval,
        eval_fraction: Some(data.eval_fraction),
        max_length: Some(data.max_length),
        over_length: match data.over_length {
            OverLength::Drop => pb::OverLength::Drop,
            OverLength::Truncate => pb::OverLength::Truncate,
            OverLength::Split => pb::OverLength::Split,
            OverLength::Fail => pb::OverLength::Fail,
        }
        .into(),
        chat_template: data.chat_template,
        max_train_examples: data.max_train_examples,
        max_eval_examples: data.max_eval_examples,
        mix: data.mix.map(mix_message),
        drop_duplicates: data.drop_duplicates,
        leakage_similarity: Some(data.leakage_similarity),
    }
}

fn mix_message(mix: Mix) -> pb::MixSpec {
    let until = match mix.until {
        MixUntil::FirstExhausted => pb::MixUntil::FirstExhausted,
        MixUntil::AllExhausted => pb::MixUntil::AllExhausted,
    };
    pb::MixSpec { weights: mix.weights, until: until.into() }
}
