//! Texts that are written together beside those that are written alone, in the plain way.

use std::collections::BTreeMap;

use hone_data::tokenizer::Tokenizer;
use tch::Device;

use super::*;
use crate::model::{Architecture, Batch, LoraOptions, TargetModules, tiny};
use crate::task::testing::fixtures;

/// The plain way: the whole text through the model for every token.
fn plain(model: &Decoder, adapter: Option<&Adapter>, prompt: &[u32], steps: usize) -> Vec<u32> {
    let mut ids: Vec<i64> = prompt.iter().map(|id| i64::from(*id)).collect();
    for _ in 0..steps {
        let hidden = tch::no_grad(|| model.forward(&Batch::single(&ids, Device::Cpu), adapter, None));
        ids.push(model.logits(&hidden.narrow(0, ids.len() as i64 - 1, 1), adapter).argmax(-1, false).int64_value(&[0]));
    }
    ids[prompt.len()..].iter().map(|id| *id as u32).collect()
}

/// An adapter that changes answers: A and B are both random.
fn adapter(model: &Decoder) -> Adapter {
    let options =
        LoraOptions { rank: 2, alpha: 8.0, target_modules: TargetModules::AllLinear, ..LoraOptions::default() };
    let adapter = Adapter::new(model, &options, 3).unwrap();
    adapter.flat().shallow_clone().copy_(&tiny::random(&[adapter.num_parameters()], 5));
    adapter
}

fn tokenizer() -> Tokenizer {
    Tokenizer::open(&fixtures().join("models/llama")).unwrap()
}

/// A model that never stops by itself.
fn endless<'m>(model: &'m Decoder, tokenizer: &'m Tokenizer) -> Generator<'m, &'m Adapter> {
    Generator { stop_ids: Vec::new(), ..Generator::new(model, tokenizer) }
}

fn written(generator: &mut Generator<'_, &Adapter>) -> Vec<(u64, End, Vec<u32>)> {
    let mut ended = Vec::new();
    while !generator.is_empty() {
        ended.extend(generator.step().unwrap().into_iter().filter_map(|piece| {
            let (end, tokens) = piece.end?;
            Some((piece.key, end, tokens))
        }));
    }
    ended.sort_by_key(|(key, ..)| *key);
    ended
}

#[test]
fn texts_written_together_are_those_written_alone_in_every_family() {
    let tokenizer = tokenizer();
    let sampling = Sampling::greedy(25);
    for architecture in Architecture::ALL {
        let model = tiny::model(architecture);
        let adapter = adapter(&model);
        let prompts = [&[1][..], &[7, 3, 9, 1, 4, 22, 51, 30, 8]];
        let adapters = [None, Some(&adapter)];
        let mut generator = endless(&model, &tokenizer);
        let all: Vec<_> = prompts.iter().flat_map(|prompt| adapters.map(|adapter| (*prompt, adapter))).collect();
        for (key, (prompt, adapter)) in all.iter().enumerate() {
            let beginning = Beginning { prompt, adapter: *adapter, sampling: &sampling, number: 0 };
            generator.begin(key as u64, beginning).unwrap();
            // The later ones begin while those before are under way.
            generator.step().unwrap();
        }
        let ended = written(&mut generator);
        for ((_, end, tokens), (prompt, adapter)) in ended.iter().zip(&all) {
            assert_eq!(*tokens, plain(&model, *adapter, prompt, 25), "{architecture:?}, {}", adapter.is_some());
            assert_eq!(*end, End::Length);
        }
        assert_ne!(ended[0].2, ended[1].2, "{architecture:?}: the adapter takes part");
    }
}

#[test]
fn a_text_ends_before_a_stop_token_and_at_the_models_length() {
    let (model, tokenizer) = (tiny::model(Architecture::Llama), tokenizer());
    let sampling = Sampling::greedy(20);
    let begin = |generator: &mut Generator<'_, &Adapter>, prompt: &[u32]| {
        generator.begin(0, Beginning { prompt, adapter: None, sampling: &sampling, number: 0 })
    };
    let write = |stop_ids: &[u32], prompt: &[u32]| {
        let mut generator = Generator { stop_ids: stop_ids.to_vec(), ..endless(&model, &tokenizer) };
        begin(&mut generator, prompt).unwrap();
        written(&mut generator).remove(0)
    };
    let (_, _, free) = write(&[], &[5, 6]);
    let stop = free[7];
    let first = free.iter().position(|id| *id == stop).unwrap();
    assert_eq!(write(&[stop], &[5, 6]), (0, End::Stop, free[..first].to_vec()));
    // The tiny models are made for 64 positions.
    let (_, end, tokens) = write(&[], &[5; 60]);
    assert_eq!((end, tokens.len()), (End::Length, 4));
    let mut generator = endless(&model, &tokenizer);
    let error = begin(&mut generator, &[5; 64]).unwrap_err().to_string();
    assert!(error.contains("64 tokens") && error.contains("up to 64"), "{error}");
    assert!(begin(&mut generator, &[]).is_err() && generator.is_empty());
}

#[test]
fn a_seed_gives_the_same_texts_whatever_is_written_beside_them() {
    let (model, tokenizer) = (tiny::model(Architecture::Llama), tokenizer());
    let sampling = Sampling { temperature: 1.0, ..Sampling::greedy(12) };
    let write = |numbers: &[u64]| {
        let mut generator = endless(&model, &tokenizer);
        for number in numbers {
            let beginning = Beginning { prompt: &[5, 6], adapter: None, sampling: &sampling, number: *number };
            generator.begin(*number, beginning).unwrap();
        }
        written(&mut generator)
    };
    let together = write(&[0, 1, 2]);
    assert_ne!(together[0].2, together[1].2);
    assert_eq!(write(&[2])[0], together[2]);
}

#[test]
fn many_prompts_are_answered_a_few_at_a_time_and_a_bad_one_alone_is_told() {
    let (model, tokenizer) = (tiny::model(Architecture::Llama), tokenizer());
    let sampling = Sampling::greedy(6);
    let prompts: Vec<Vec<u32>> = (0..7u32).map(|n| if n == 3 { Vec::new() } else { vec![n + 1, 2 * n + 1] }).collect();
    let mut all = BTreeMap::new();
    let of = |prompt| Beginning { prompt, adapter: None, sampling: &sampling, number: 0 };
    let mut generator = endless(&model, &tokenizer);
    let ended =
        answer_all(&mut generator, prompts.iter().map(|prompt| of(prompt)), 3, &mut || true, &mut |number, answer| {
            all.insert(number, answer);
            Ok(())
        });
    assert!(ended.unwrap() && all.len() == 7);
    for (number, answer) in &all {
        match answer {
            Ok(answer) => assert_eq!(answer.tokens, plain(&model, None, &prompts[*number as usize], 6)),
            Err(error) => assert!(*number == 3 && error.to_string().contains("no tokens"), "{error}"),
        }
    }
    let mut generator = endless(&model, &tokenizer);
    let ended =
        answer_all(&mut generator, prompts.iter().map(|prompt| of(prompt)), 3, &mut || false, &mut |_, _| Ok(()));
    assert!(!ended.unwrap(), "told to stop");
}

#[test]
fn lines_come_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    let mut file = AnswerFile::create(&path).unwrap();
    for number in [1, 0, 3, 2] {
        file.add(number, &number).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), "0\n1\n2\n3\n");
}
