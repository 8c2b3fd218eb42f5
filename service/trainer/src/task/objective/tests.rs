//! What a step waits for.

use hone_data::tokenize::{Document, IGNORE_INDEX};
use hone_job::spec::{ActivationCheckpointing, Lora};

use super::*;
use crate::model::{Architecture, LoraOptions, tiny};

fn document(seed: u32) -> Document {
    let input_ids: Vec<u32> = (0..8).map(|n| (n * 7 + seed) % 53).collect();
    let labels = (0..8).map(|n| if n < 3 || n == 7 { IGNORE_INDEX } else { i64::from(input_ids[n + 1]) }).collect();
    Document { input_ids, labels }
}

fn examples(documents: usize) -> Vec<Example> {
    let of = |row: u32| Example {
        documents: (0..documents as u32).map(|side| document(row * 3 + side)).collect(),
        object: "rows".into(),
        row: row.into(),
        is_text: false,
    };
    (1..=4).map(of).collect()
}

/// How often a value was read from the device, and in how many micro-batches.
fn reads(objective: &Objective, examples: &[Example], tokens_per_micro_batch: usize) -> (u64, u32) {
    let model = tiny::model(Architecture::Llama);
    let adapter = Adapter::new(&model, &LoraOptions::from(&Lora::default()), 1).unwrap();
    let step = Step {
        indices: &[0, 1, 2, 3],
        examples: examples.iter().collect(),
        tokens_per_micro_batch,
        activations: Activations::new(ActivationCheckpointing::Off, Device::Cpu),
        seed: 1,
        number: 0,
    };
    let (gradients, times) = hone_ops::op_times(|| objective.gradients(&model, Some(&adapter), &step, &mut |_| {}));
    let reads = times.iter().filter(|time| time.name == "aten::_local_scalar_dense").map(|time| time.calls).sum();
    (reads, gradients.micro_batches)
}

/// Reading a value waits for all that the device has still to do, so a step reads when it is whole, and not before.
#[test]
fn a_step_reads_no_value_from_the_device_between_its_micro_batches() {
    let preference = Preference::default();
    let [train, eval] = [4, 0].map(ReferenceLogps::none);
    let pairs = Objective::Preference(PairObjective { preference, train, eval });
    for (objective, documents) in [(Objective::Likelihood { noise_alpha: 0.0 }, 1), (pairs, 2)] {
        let examples = examples(documents);
        let (one, many) = (reads(&objective, &examples, 1000), reads(&objective, &examples, 16));
        assert!(one.1 == 1 && many.1 > 1, "{one:?} {many:?}");
        assert_eq!(one.0, many.0, "{objective:?}");
    }
}
