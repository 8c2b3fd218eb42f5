//! Where each named tensor lies in the flat vectors: all A, all B, magnitudes, then the embedding's matrices, then what is
//! trained whole. Names are PEFT's.

use tch::Tensor;

/// A module with low-rank matrices.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Module {
    /// Path in the model.
    pub(super) path: String,
    /// Inputs; of an embedding, the vocabulary.
    pub(super) inputs: i64,
    /// Outputs.
    pub(super) outputs: i64,
    pub(super) rank: i64,
    /// The factor s of its update.
    pub(super) scale: f64,
}

/// One named tensor in the flat buffer.
#[derive(Debug)]
pub(super) struct Slot {
    /// As PEFT names it in a file.
    pub(super) name: String,
    offset: i64,
    pub(super) shape: Vec<i64>,
}

impl Slot {
    pub(super) fn len(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Its view of a flat vector.
    pub(super) fn of(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.offset, self.len()).view(self.shape.as_slice())
    }
}

/// The tensors of an adapter's module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    A,
    B,
    Magnitude,
    EmbeddingA,
    EmbeddingB,
    Whole,
}

/// PEFT's name of a tensor in a file.
pub(super) fn name(path: &str, part: Part) -> String {
    let part = match part {
        Part::A => "lora_A.weight",
        Part::B => "lora_B.weight",
        Part::Magnitude => "lora_magnitude_vector",
        Part::EmbeddingA => "lora_embedding_A",
        Part::EmbeddingB => "lora_embedding_B",
        Part::Whole => "weight",
    };
    format!("base_model.model.{path}.{part}")
}

/// The place of every tensor.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) slots: Vec<Slot>,
    /// Values of the linear layers' A's, which come first.
    pub(super) num_a: i64,
    /// Values of their B's and of all magnitudes, which follow.
    pub(super) num_b: i64,
}

impl Layout {
    /// `saved` are paths and shapes of what is trained whole.
    pub(super) fn new(
        linears: &[Module],
        embedding: Option<&Module>,
        saved: &[(&str, Vec<i64>)],
        magnitudes: bool,
    ) -> Layout {
        let mut layout = Layout { slots: Vec::new(), num_a: 0, num_b: 0 };
        for module in linears {
            layout.push(&module.path, Part::A, vec![module.rank, module.inputs]);
        }
        layout.num_a = layout.len();
        for module in linears {
            layout.push(&module.path, Part::B, vec![module.outputs, module.rank]);
        }
        for module in linears.iter().chain(embedding).filter(|_| magnitudes) {
            layout.push(&module.path, Part::Magnitude, vec![module.outputs]);
        }
        layout.num_b = layout.len() - layout.num_a;
        if let Some(module) = embedding {
            layout.push(&module.path, Part::EmbeddingA, vec![module.rank, module.inputs]);
            layout.push(&module.path, Part::EmbeddingB, vec![module.outputs, module.rank]);
        }
        for (path, shape) in saved {
            layout.push(path, Part::Whole, shape.clone());
        }
        layout
    }

    /// Values in all.
    pub(super) fn len(&self) -> i64 {
        self.slots.last().map_or(0, |slot| slot.offset + slot.len())
    }

    /// The slot of a module's tensor, which must have one.
    pub(super) fn slot(&self, path: &str, part: Part) -> &Slot {
        let name = name(path, part);
        self.slots.iter().find(|slot| slot.name == name).expect("every chosen module has its slots")
    }

    /// One slot over the A's of neighbours: `[sum of ranks, in]`.
    pub(super) fn neighbours(&self, modules: &[&Module]) -> Slot {
        let first = self.slot(&modules[0].path, Part::A);
        let ranks = modules.iter().map(|module| module.rank).sum();
        Slot { name: String::new(), offset: first.offset, shape: vec![ranks, modules[0].inputs] }
    }

    fn push(&mut self, path: &str, part: Part, shape: Vec<i64>) {
        let offset = self.len();
        self.slots.push(Slot { name: name(path, part), offset, shape });
    }
}
