pub use crate::v1::{RowKind, ExportFormat, WeightType, PreferenceLossType, Divergence, MixUntil, OverLength, LossOn, LoraInit, OptimizerType, MomentFormat, ScheduleType, DecayShape, ActivationCheckpointing, AttentionKernel, AnswerHardExamples, EarlyStoppingMetric, Precision, Order};
impl From<Sft> for crate::v1::job_spec::Task {
    fn from(from: Sft) -> Self {
        crate::v1::job_spec::Task::Sft(from.0)
    }
}

impl From<Dpo> for crate::v1::job_spec::Task {
    fn from(from: Dpo) -> Self {
        crate::v1::job_spec::Task::Dpo(from.0)
    }
}

impl From<Evaluate> for crate::v1::job_spec::Task {
    fn from(from: Evaluate) -> Self {
        crate::v1::job_spec::Task::Evaluate(from.0)
    }
}

impl From<Compare> for crate::v1::job_spec::Task {
    fn from(from: Compare) -> Self {
        crate::v1::job_spec::Task::Compare(from.0)
    }
}

impl From<Generate> for crate::v1::job_spec::Task {
    fn from(from: Generate) -> Self {
        crate::v1::job_spec::Task::Generate(from.0)
    }
}

impl From<Export> for crate::v1::job_spec::Task {
    fn from(from: Export) -> Self {
        crate::v1::job_spec::Task::Export(from.0)
    }
}

impl From<Benchmark> for crate::v1::job_spec::Task {
    fn from(from: Benchmark) -> Self {
        crate::v1::job_spec::Task::Benchmark(from.0)
    }
}

/// Supervised fine-tuning on text, prompt and completion, conversations, or tokens; docs/data.md shows every form of row.
#[derive(Debug, Clone, PartialEq)]
pub struct Sft(crate::v1::SftTask);

impl Sft {
    /// Everything at its default but for what is required.
    ///
    /// `data`: Rows to train and evaluate on. Required.
    pub fn new(data: impl Into<crate::v1::DataSpec>) -> Self {
        Self(crate::v1::SftTask { data: Some(data.into()), ..Default::default() })
    }

    /// Rows to train and evaluate on. Required.
    pub fn data(mut self, value: impl Into<crate::v1::DataSpec>) -> Self {
        self.0.data = Some(value.into());
        self
    }

    /// What is trained. Default: LoRA with its defaults.
    pub fn adapter(mut self, value: impl Into<crate::v1::AdapterSpec>) -> Self {
        self.0.adapter = Some(value.into());
        self
    }

    /// What to start from: URI of a checkpoint or of any PEFT LoRA folder; with `full`, of a checkpoint of such a run or of a
    /// model's folder. Default: the base model with a fresh adapter.
    pub fn init_from(mut self, value: impl Into<String>) -> Self {
        self.0.init_from = Some(value.into());
        self
    }

    /// How gradients become updates.
    pub fn optimizer(mut self, value: impl Into<crate::v1::OptimizerSpec>) -> Self {
        self.0.optimizer = Some(value.into());
        self
    }

    /// How the learning rate moves.
    pub fn schedule(mut self, value: impl Into<crate::v1::ScheduleSpec>) -> Self {
        self.0.schedule = Some(value.into());
        self
    }

    /// How many examples make a step.
    pub fn batch(mut self, value: impl Into<crate::v1::BatchSpec>) -> Self {
        self.0.batch = Some(value.into());
        self
    }

    /// Passes over the training rows; may be a fraction. Above 0, at most 1000.
    pub fn epochs(mut self, value: f64) -> Self {
        self.0.length = Some(crate::v1::sft_task::Length::Epochs(value));
        self
    }

    /// Optimizer steps. At least 1.
    pub fn max_steps(mut self, value: u64) -> Self {
        self.0.length = Some(crate::v1::sft_task::Length::MaxSteps(value));
        self
    }

    /// When and how to evaluate.
    pub fn evaluation(mut self, value: impl Into<crate::v1::EvaluationSpec>) -> Self {
        self.0.evaluation = Some(value.into());
        self
    }

    /// When to save and what to keep.
    pub fn checkpoints(mut self, value: impl Into<crate::v1::CheckpointSpec>) -> Self {
        self.0.checkpoints = Some(value.into());
        self
    }

    /// Number format of weights and activations. Default: bfloat16 on a GPU, float32 on a CPU.
    pub fn precision(mut self, value: crate::v1::Precision) -> Self {
        self.0.precision = value.into();
        self
    }

    /// Seed of order, initialisation and dropout. Default 42.
    pub fn seed(mut self, value: u64) -> Self {
        self.0.seed = Some(value);
        self
    }

    /// Order of the rows. Default: shuffled.
    pub fn order(mut self, value: crate::v1::Order) -> Self {
        self.0.order = value.into();
        self
    }

    /// Which tokens are trained on. Default: the completion.
    pub fn loss_on(mut self, value: crate::v1::LossOn) -> Self {
        self.0.loss_on = value.into();
        self
    }

    /// Uniform noise on the embeddings while training, at most this over the root of tokens x hidden size (NEFTune,
    /// arXiv 2310.05914). 0 to 100; 5 is usual. Default 0: none.
    pub fn neftune_noise_alpha(mut self, value: f64) -> Self {
        self.0.neftune_noise_alpha = Some(value);
        self
    }

    /// How attention is computed. Default: the fastest kernel of the device.
    pub fn attention(mut self, value: crate::v1::AttentionKernel) -> Self {
        self.0.attention = value.into();
        self
    }

}

impl From<Sft> for crate::v1::SftTask {
    fn from(from: Sft) -> Self {
        from.0
    }
}

impl From<crate::v1::SftTask> for Sft {
    fn from(message: crate::v1::SftTask) -> Self {
        Self(message)
    }
}

/// Preference optimisation on pairs of a chosen and a rejected answer to one prompt: DPO (arXiv 2305.18290) and its kin.
/// The loss of a step is the mean over its pairs, however they were cut into micro-batches. With g(c) and g(r) the
/// log-ratios of policy to reference of the chosen and the rejected answer, summed over its tokens, and the margin
/// d = g(c) - g(r).
#[derive(Debug, Clone, PartialEq)]
pub struct Dpo(crate::v1::DpoTask);

impl Dpo {
    /// Everything at its default but for what is required.
    ///
    /// `data`: Pairs to train and evaluate on. Required.
    pub fn new(data: impl Into<crate::v1::DataSpec>) -> Self {
        Self(crate::v1::DpoTask { data: Some(data.into()), ..Default::default() })
    }

    /// Pairs to train and evaluate on. Required.
    pub fn data(mut self, value: impl Into<crate::v1::DataSpec>) -> Self {
        self.0.data = Some(value.into());
        self
    }

    /// What is trained. Default: LoRA with its defaults.
    pub fn adapter(mut self, value: impl Into<crate::v1::AdapterSpec>) -> Self {
        self.0.adapter = Some(value.into());
        self
    }

    /// What to start from: URI of a checkpoint or of any PEFT LoRA folder; with `full`, of a checkpoint of such a run or of a
    /// model's folder. Default: the base model with a fresh adapter.
    pub fn init_from(mut self, value: impl Into<String>) -> Self {
        self.0.init_from = Some(value.into());
        self
    }

    /// How gradients become updates. The learning rate is 1e-5 by default here (1e-6 with Lion, 5e-5 with SGD), which suits LoRA.
    pub fn optimizer(mut self, value: impl Into<crate::v1::OptimizerSpec>) -> Self {
        self.0.optimizer = Some(value.into());
        self
    }

    /// How the learning rate moves.
    pub fn schedule(mut self, value: impl Into<crate::v1::ScheduleSpec>) -> Self {
        self.0.schedule = Some(value.into());
        self
    }

    /// How many pairs make a step.
    pub fn batch(mut self, value: impl Into<crate::v1::BatchSpec>) -> Self {
        self.0.batch = Some(value.into());
        self
    }

    /// Passes over the training rows; may be a fraction. Above 0, at most 1000.
    pub fn epochs(mut self, value: f64) -> Self {
        self.0.length = Some(crate::v1::dpo_task::Length::Epochs(value));
        self
    }

    /// Optimizer steps. At least 1.
    pub fn max_steps(mut self, value: u64) -> Self {
        self.0.length = Some(crate::v1::dpo_task::Length::MaxSteps(value));
        self
    }

    /// When and how to evaluate.
    pub fn evaluation(mut self, value: impl Into<crate::v1::EvaluationSpec>) -> Self {
        self.0.evaluation = Some(value.into());
        self
    }

    /// When to save and what to keep.
    pub fn checkpoints(mut self, value: impl Into<crate::v1::CheckpointSpec>) -> Self {
        self.0.checkpoints = Some(value.into());
        self
    }

    /// Number format of weights and activations. Default: bfloat16 on a GPU, float32 on a CPU.
    pub fn precision(mut self, value: crate::v1::Precision) -> Self {
        self.0.precision = value.into();
        self
    }

    /// Seed of order, initialisation and dropout. Default 42.
    pub fn seed(mut self, value: u64) -> Self {
        self.0.seed = Some(value);
        self
    }

    /// Order of the rows. Default: shuffled.
    pub fn order(mut self, value: crate::v1::Order) -> Self {
        self.0.order = value.into();
        self
    }

    /// The losses, added up with their weights. Default: sigmoid alone.
    pub fn losses(mut self, value: impl IntoIterator<Item = impl Into<crate::v1::PreferenceLoss>>) -> Self {
        self.0.losses = value.into_iter().map(Into::into).collect();
        self
    }

    /// How strongly the policy is held to the reference: the scale of rewards. Above 0, at most 100. Default 0.1; 2 when the
    /// first loss is simpo.
    pub fn beta(mut self, value: f64) -> Self {
        self.0.beta = Some(value);
        self
    }

    /// Share of pairs whose labels are taken to be the wrong way round, for sigmoid (cDPO), robust, exo_pair, aot, aot_unpaired
    /// and simpo. 0 to below 0.5. Default 0; exo_pair needs it above 0, such as 0.001.
    pub fn label_smoothing(mut self, value: f64) -> Self {
        self.0.label_smoothing = Some(value);
        self
    }

    /// What the policy is compared with. Default: the policy as it was before the first step, so that a run that starts from an
    /// SFT checkpoint is compared with that checkpoint.
    pub fn reference(mut self, value: impl Into<crate::v1::ReferencePolicy>) -> Self {
        self.0.reference = Some(value.into());
        self
    }

    /// Divergence that the policy is held to the reference by (arXiv 2309.16240). Default: reverse KL, as in DPO.
    pub fn divergence(mut self, value: crate::v1::Divergence) -> Self {
        self.0.divergence = value.into();
        self
    }

    /// Exponent of DIVERGENCE_ALPHA. Above 0, at most 100. Default 0.5.
    pub fn divergence_alpha(mut self, value: f64) -> Self {
        self.0.divergence_alpha = Some(value);
        self
    }

    /// Weight of the tokens of the longer answer that lie past the length of the shorter one (LD-DPO, arXiv 2409.06411).
    /// 0 to 1. Default 1: all count alike.
    pub fn length_alpha(mut self, value: f64) -> Self {
        self.0.length_alpha = Some(value);
        self
    }

    /// Weights each pair by how likely the policy itself would write it (WPO, arXiv 2406.11827). Not with aot and aot_unpaired.
    /// Default off.
    pub fn use_weighting(mut self, value: bool) -> Self {
        self.0.use_weighting = Some(value);
        self
    }

    /// Margin that simpo asks for between the rewards. 0 to 100. Default 0.5.
    pub fn simpo_gamma(mut self, value: f64) -> Self {
        self.0.simpo_gamma = Some(value);
        self
    }

    /// Temperature of discopop's blend. Above 0, at most 100. Default 0.05.
    pub fn discopop_tau(mut self, value: f64) -> Self {
        self.0.discopop_tau = Some(value);
        self
    }

    /// How attention is computed. Default: the fastest kernel of the device.
    pub fn attention(mut self, value: crate::v1::AttentionKernel) -> Self {
        self.0.attention = value.into();
        self
    }

}

impl From<Dpo> for crate::v1::DpoTask {
    fn from(from: Dpo) -> Self {
        from.0
    }
}

impl From<crate::v1::DpoTask> for Dpo {
    fn from(message: crate::v1::DpoTask) -> Self {
        Self(message)
    }
}

/// Training with several settings, to see how fast each is on this machine, with this model and these rows. One setting at a
/// time differs from those that the training asks for, in each precision; a last run has the best of each. A size that cuts the
/// steps into as many micro-batches as one before is left out. The table is told as an event, and benchmark.json is the job's
/// only checkpoint. Nothing is trained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Benchmark(crate::v1::BenchmarkTask);

impl Benchmark {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Supervised fine-tuning.
    pub fn sft(mut self, value: impl Into<crate::v1::SftTask>) -> Self {
        self.0.training = Some(crate::v1::benchmark_task::Training::Sft(value.into()));
        self
    }

    /// Learning from pairs.
    pub fn dpo(mut self, value: impl Into<crate::v1::DpoTask>) -> Self {
        self.0.training = Some(crate::v1::benchmark_task::Training::Dpo(value.into()));
        self
    }

    /// Steps of each run that are timed, after one that is not. 1 to 100. Default 3.
    pub fn steps(mut self, value: u32) -> Self {
        self.0.steps = Some(value);
        self
    }

    /// Precisions to try. At most 16, as of each list here. Default: float32 and bfloat16.
    pub fn precisions(mut self, value: impl IntoIterator<Item = crate::v1::Precision>) -> Self {
        self.0.precisions = value.into_iter().map(Into::into).collect();
        self
    }

    /// Sizes of micro-batches to try beside the training's own. Default: its quarter, half, double and fourfold.
    pub fn tokens_per_micro_batch(mut self, value: impl IntoIterator<Item = u32>) -> Self {
        self.0.tokens_per_micro_batch = value.into_iter().collect();
        self
    }

    /// Ways with activations to try. Default: auto and on.
    pub fn activation_checkpointing(mut self, value: impl IntoIterator<Item = crate::v1::ActivationCheckpointing>) -> Self {
        self.0.activation_checkpointing = value.into_iter().map(Into::into).collect();
        self
    }

    /// Attention kernels to try. Default: the device's fastest (unspecified), and math.
    pub fn attention(mut self, value: impl IntoIterator<Item = crate::v1::AttentionKernel>) -> Self {
        self.0.attention = value.into_iter().map(Into::into).collect();
        self
    }

}

impl From<Benchmark> for crate::v1::BenchmarkTask {
    fn from(from: Benchmark) -> Self {
        from.0
    }
}

impl From<crate::v1::BenchmarkTask> for Benchmark {
    fn from(message: crate::v1::BenchmarkTask) -> Self {
        Self(message)
    }
}

/// A trained model as files that other tools load. An adapter is merged into the base model in float32 and rounded once. The
/// files are the job's only checkpoint: DownloadCheckpoint gives them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Export(crate::v1::ExportTask);

impl Export {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to export: URI of a checkpoint or of any PEFT LoRA folder. Default: the base model as it is.
    pub fn checkpoint(mut self, value: impl Into<String>) -> Self {
        self.0.checkpoint = Some(value.into());
        self
    }

    /// Layout of the files. Default: a Hugging Face folder.
    pub fn format(mut self, value: crate::v1::ExportFormat) -> Self {
        self.0.format = value.into();
        self
    }

    /// Number format of the weights. Default: that of the base model's file; float32 where that is quantised, since 16 bits
    /// would round every weight by more than training moves it.
    pub fn weight_type(mut self, value: crate::v1::WeightType) -> Self {
        self.0.weight_type = value.into();
        self
    }

    /// Export although the base model is quantised; what comes out is not. Default off: such an export is refused, since the
    /// unquantised base model serves better.
    pub fn dequantize_base(mut self, value: bool) -> Self {
        self.0.dequantize_base = value;
        self
    }

}

impl From<Export> for crate::v1::ExportTask {
    fn from(from: Export) -> Self {
        from.0
    }
}

impl From<crate::v1::ExportTask> for Export {
    fn from(message: crate::v1::ExportTask) -> Self {
        Self(message)
    }
}

/// One model scored on rows; nothing is trained. The event `scores` has the figures and the rows that it found hardest;
/// scores.json and rows.jsonl, with the figures of every row, are the job's only checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluate(crate::v1::EvaluateTask);

impl Evaluate {
    /// Everything at its default but for what is required.
    ///
    /// `data`: Rows to score. Required.
    pub fn new(data: impl Into<crate::v1::ScoredRows>) -> Self {
        Self(crate::v1::EvaluateTask { data: Some(data.into()), ..Default::default() })
    }

    /// What to score: URI of a checkpoint, of any PEFT LoRA folder, or of a model's folder. Default: the base model.
    pub fn checkpoint(mut self, value: impl Into<String>) -> Self {
        self.0.checkpoint = Some(value.into());
        self
    }

    /// Rows to score. Required.
    pub fn data(mut self, value: impl Into<crate::v1::ScoredRows>) -> Self {
        self.0.data = Some(value.into());
        self
    }

    /// How scoring goes.
    pub fn scoring(mut self, value: impl Into<crate::v1::ScoringSpec>) -> Self {
        self.0.scoring = Some(value.into());
        self
    }

}

impl From<Evaluate> for crate::v1::EvaluateTask {
    fn from(from: Evaluate) -> Self {
        from.0
    }
}

impl From<crate::v1::EvaluateTask> for Evaluate {
    fn from(message: crate::v1::EvaluateTask) -> Self {
        Self(message)
    }
}

/// Two or more models scored on the same rows. Every other one is compared with the first, row by row, so that what makes a
/// row easy or hard for all of them cancels; intervals are of 95%, by bootstrap over rows. The event `scores` has the figures
/// and the rows in which they differ most; scores.json and rows.jsonl, with the figures of every row, are the job's only
/// checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Compare(crate::v1::CompareTask);

impl Compare {
    /// Everything at its default but for what is required.
    ///
    /// `candidates`: The models, 2 to 16; the first is what the others are compared with. Required.
    ///
    /// `data`: Rows to score. Required.
    pub fn new(candidates: impl IntoIterator<Item = impl Into<crate::v1::Candidate>>, data: impl Into<crate::v1::ScoredRows>) -> Self {
        Self(crate::v1::CompareTask { candidates: candidates.into_iter().map(Into::into).collect(), data: Some(data.into()), ..Default::default() })
    }

    /// The models, 2 to 16; the first is what the others are compared with. Required.
    pub fn candidates(mut self, value: impl IntoIterator<Item = impl Into<crate::v1::Candidate>>) -> Self {
        self.0.candidates = value.into_iter().map(Into::into).collect();
        self
    }

    /// Rows to score. Required.
    pub fn data(mut self, value: impl Into<crate::v1::ScoredRows>) -> Self {
        self.0.data = Some(value.into());
        self
    }

    /// How scoring goes.
    pub fn scoring(mut self, value: impl Into<crate::v1::ScoringSpec>) -> Self {
        self.0.scoring = Some(value.into());
        self
    }

    /// Seed of the bootstrap. Default 42.
    pub fn seed(mut self, value: u64) -> Self {
        self.0.seed = Some(value);
        self
    }

}

impl From<Compare> for crate::v1::CompareTask {
    fn from(from: Compare) -> Self {
        from.0
    }
}

impl From<crate::v1::CompareTask> for Compare {
    fn from(message: crate::v1::CompareTask) -> Self {
        Self(message)
    }
}

/// One of the models that are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate(crate::v1::Candidate);

impl Candidate {
    /// Everything at its default but for what is required.
    ///
    /// `name`: What the figures call it, different from the others; at most 256 bytes. Required.
    pub fn new(name: impl Into<String>) -> Self {
        Self(crate::v1::Candidate { name: name.into(), ..Default::default() })
    }

    /// What the figures call it, different from the others; at most 256 bytes. Required.
    pub fn name(mut self, value: impl Into<String>) -> Self {
        self.0.name = value.into();
        self
    }

    /// URI of a checkpoint, of any PEFT LoRA folder, or of a model's folder. Default: the base model.
    pub fn checkpoint(mut self, value: impl Into<String>) -> Self {
        self.0.checkpoint = Some(value.into());
        self
    }

}

impl From<Candidate> for crate::v1::Candidate {
    fn from(from: Candidate) -> Self {
        from.0
    }
}

impl From<crate::v1::Candidate> for Candidate {
    fn from(message: crate::v1::Candidate) -> Self {
        Self(message)
    }
}

/// Rows that models are scored on. None is left out or cut for its length.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredRows(crate::v1::ScoredRows);

impl ScoredRows {
    /// Everything at its default but for what is required.
    ///
    /// `rows`: `ds-…` ids, file:// or s3:// URIs of JSONL or Parquet, plain, .gz or .zst. Required, at most 256.
    pub fn new(rows: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(crate::v1::ScoredRows { rows: rows.into_iter().map(Into::into).collect(), ..Default::default() })
    }

    /// `ds-…` ids, file:// or s3:// URIs of JSONL or Parquet, plain, .gz or .zst. Required, at most 256.
    pub fn rows(mut self, value: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.rows = value.into_iter().map(Into::into).collect();
        self
    }

    /// What of a row is scored. Default: what the first row is.
    pub fn kind(mut self, value: crate::v1::RowKind) -> Self {
        self.0.kind = value.into();
        self
    }

    /// Which tokens of texts are scored. Default: the completion.
    pub fn loss_on(mut self, value: crate::v1::LossOn) -> Self {
        self.0.loss_on = value.into();
        self
    }

    /// A chat template (Jinja) instead of the tokenizer's own. At most 256 KiB.
    pub fn chat_template(mut self, value: impl Into<String>) -> Self {
        self.0.chat_template = Some(value.into());
        self
    }

    /// At most this many rows, a uniform sample. At least 1. Default: all.
    pub fn max_examples(mut self, value: u64) -> Self {
        self.0.max_examples = Some(value);
        self
    }

}

impl From<ScoredRows> for crate::v1::ScoredRows {
    fn from(from: ScoredRows) -> Self {
        from.0
    }
}

impl From<crate::v1::ScoredRows> for ScoredRows {
    fn from(message: crate::v1::ScoredRows) -> Self {
        Self(message)
    }
}

/// How scoring goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scoring(crate::v1::ScoringSpec);

impl Scoring {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number format of weights and activations. Default: bfloat16 on a GPU, float32 on a CPU.
    pub fn precision(mut self, value: crate::v1::Precision) -> Self {
        self.0.precision = value.into();
        self
    }

    /// Most tokens that go through the model at once; a longer row goes alone. Does not change the result. At least 1.
    /// Default 2048.
    pub fn tokens_per_micro_batch(mut self, value: u32) -> Self {
        self.0.tokens_per_micro_batch = Some(value);
        self
    }

    /// Rows to show with their text: the hardest of one model, those in which several differ most. At most 50. Default 5.
    pub fn shown_rows(mut self, value: u32) -> Self {
        self.0.shown_rows = Some(value);
        self
    }

    /// Length of the answer that each model writes to a shown row, of questions to every row, greedily; 0 writes none, and is not
    /// for questions. At most 1024. Default 64.
    pub fn max_new_tokens(mut self, value: u32) -> Self {
        self.0.max_new_tokens = Some(value);
        self
    }

}

impl From<Scoring> for crate::v1::ScoringSpec {
    fn from(from: Scoring) -> Self {
        from.0
    }
}

impl From<crate::v1::ScoringSpec> for Scoring {
    fn from(message: crate::v1::ScoringSpec) -> Self {
        Self(message)
    }
}

/// Prompts that a model answers. The event `answers` has the first of them; answers.jsonl, a line for each answer, is the job's
/// only checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Generate(crate::v1::GenerateTask);

impl Generate {
    /// Everything at its default but for what is required.
    ///
    /// `data`: What is asked. Required.
    pub fn new(data: impl Into<crate::v1::PromptRows>) -> Self {
        Self(crate::v1::GenerateTask { data: Some(data.into()), ..Default::default() })
    }

    /// What answers: URI of a checkpoint, of any PEFT LoRA folder, or of a model's folder. Default: the base model.
    pub fn checkpoint(mut self, value: impl Into<String>) -> Self {
        self.0.checkpoint = Some(value.into());
        self
    }

    /// What is asked. Required.
    pub fn data(mut self, value: impl Into<crate::v1::PromptRows>) -> Self {
        self.0.data = Some(value.into());
        self
    }

    /// How answers go on.
    pub fn sampling(mut self, value: impl Into<crate::v1::SamplingSpec>) -> Self {
        self.0.sampling = Some(value.into());
        self
    }

    /// Answers to each row, 1 to 64; more than one need a temperature. Default 1.
    pub fn answers_per_row(mut self, value: u32) -> Self {
        self.0.answers_per_row = Some(value);
        self
    }

    /// Answers that are written at once, 1 to 256. Default 8.
    pub fn answers_at_once(mut self, value: u32) -> Self {
        self.0.answers_at_once = Some(value);
        self
    }

    /// Number format of weights and activations. Default: bfloat16 on a GPU, float32 on a CPU.
    pub fn precision(mut self, value: crate::v1::Precision) -> Self {
        self.0.precision = value.into();
        self
    }

}

impl From<Generate> for crate::v1::GenerateTask {
    fn from(from: Generate) -> Self {
        from.0
    }
}

impl From<crate::v1::GenerateTask> for Generate {
    fn from(message: crate::v1::GenerateTask) -> Self {
        Self(message)
    }
}

/// Rows that are answered: prompt, messages, or any row that could be trained on, of which the answer is not shown to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptRows(crate::v1::PromptRows);

impl PromptRows {
    /// Everything at its default but for what is required.
    ///
    /// `rows`: `ds-…` ids, file:// or s3:// URIs of JSONL or Parquet, plain, .gz or .zst. Required, at most 256.
    pub fn new(rows: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(crate::v1::PromptRows { rows: rows.into_iter().map(Into::into).collect(), ..Default::default() })
    }

    /// `ds-…` ids, file:// or s3:// URIs of JSONL or Parquet, plain, .gz or .zst. Required, at most 256.
    pub fn rows(mut self, value: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.rows = value.into_iter().map(Into::into).collect();
        self
    }

    /// A chat template (Jinja) instead of the tokenizer's own. At most 256 KiB.
    pub fn chat_template(mut self, value: impl Into<String>) -> Self {
        self.0.chat_template = Some(value.into());
        self
    }

    /// At most this many rows, a uniform sample. At least 1. Default: all.
    pub fn max_examples(mut self, value: u64) -> Self {
        self.0.max_examples = Some(value);
        self
    }

}

impl From<PromptRows> for crate::v1::PromptRows {
    fn from(from: PromptRows) -> Self {
        from.0
    }
}

impl From<crate::v1::PromptRows> for PromptRows {
    fn from(message: crate::v1::PromptRows) -> Self {
        Self(message)
    }
}

/// How a text goes on: which of the likely tokens is taken, and where it ends. Names and meanings are those of transformers,
/// applied in its order: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling(crate::v1::SamplingSpec);

impl Sampling {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Most tokens that are written. 1 to 1048576. Default 256.
    pub fn max_new_tokens(mut self, value: u32) -> Self {
        self.0.max_new_tokens = Some(value);
        self
    }

    /// Logits are divided by it; 0 takes the likeliest token each time. 0 to 100. Default 0.
    pub fn temperature(mut self, value: f64) -> Self {
        self.0.temperature = Some(value);
        self
    }

    /// Only so many of the likeliest tokens; 0 is all. Default 0.
    pub fn top_k(mut self, value: u32) -> Self {
        self.0.top_k = Some(value);
        self
    }

    /// Only the fewest of the likeliest tokens whose probabilities reach this sum. Above 0, at most 1. Default 1.
    pub fn top_p(mut self, value: f64) -> Self {
        self.0.top_p = Some(value);
        self
    }

    /// Only tokens at least this share as likely as the likeliest. 0 to 1. Default 0.
    pub fn min_p(mut self, value: f64) -> Self {
        self.0.min_p = Some(value);
        self
    }

    /// Logits of tokens that stand in prompt or text are divided by it where positive, multiplied where negative
    /// (arXiv 1909.05858). Above 0, at most 100. Default 1.
    pub fn repetition_penalty(mut self, value: f64) -> Self {
        self.0.repetition_penalty = Some(value);
        self
    }

    /// What chance draws from: the same seed gives the same text. Default 42.
    pub fn seed(mut self, value: u64) -> Self {
        self.0.seed = Some(value);
        self
    }

    /// Texts that end what is written, which does not hold them. At most 16 of 256 bytes.
    pub fn stop(mut self, value: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.stop = value.into_iter().map(Into::into).collect();
        self
    }

}

impl From<Sampling> for crate::v1::SamplingSpec {
    fn from(from: Sampling) -> Self {
        from.0
    }
}

impl From<crate::v1::SamplingSpec> for Sampling {
    fn from(message: crate::v1::SamplingSpec) -> Self {
        Self(message)
    }
}

/// A loss with its weight.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PreferenceLoss(crate::v1::PreferenceLoss);

impl PreferenceLoss {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which one. Default: sigmoid.
    pub fn r#type(mut self, value: crate::v1::PreferenceLossType) -> Self {
        self.0.r#type = value.into();
        self
    }

    /// What it is multiplied by. Above 0, at most 1000. Default 1.
    pub fn weight(mut self, value: f64) -> Self {
        self.0.weight = Some(value);
        self
    }

}

impl From<PreferenceLoss> for crate::v1::PreferenceLoss {
    fn from(from: PreferenceLoss) -> Self {
        from.0
    }
}

impl From<crate::v1::PreferenceLoss> for PreferenceLoss {
    fn from(message: crate::v1::PreferenceLoss) -> Self {
        Self(message)
    }
}

/// What the policy is compared with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReferencePolicy(crate::v1::ReferencePolicy);

impl ReferencePolicy {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// The policy as it was before the first step.
    pub fn initial(mut self, value: impl Into<crate::v1::InitialPolicy>) -> Self {
        self.0.policy = Some(crate::v1::reference_policy::Policy::Initial(value.into()));
        self
    }

    /// The base model without an adapter.
    pub fn base(mut self, value: impl Into<crate::v1::BasePolicy>) -> Self {
        self.0.policy = Some(crate::v1::reference_policy::Policy::Base(value.into()));
        self
    }

    /// The base model with this adapter, or another model of its shape: URI of a checkpoint, of any PEFT LoRA folder, or of a
    /// model's folder.
    pub fn checkpoint(mut self, value: impl Into<String>) -> Self {
        self.0.policy = Some(crate::v1::reference_policy::Policy::Checkpoint(value.into()));
        self
    }

}

impl From<ReferencePolicy> for crate::v1::ReferencePolicy {
    fn from(from: ReferencePolicy) -> Self {
        from.0
    }
}

impl From<crate::v1::ReferencePolicy> for ReferencePolicy {
    fn from(message: crate::v1::ReferencePolicy) -> Self {
        Self(message)
    }
}

impl From<InitialPolicy> for crate::v1::ReferencePolicy {
    fn from(from: InitialPolicy) -> Self {
        Self { policy: Some(crate::v1::reference_policy::Policy::Initial(from.0)) }
    }
}

impl From<BasePolicy> for crate::v1::ReferencePolicy {
    fn from(from: BasePolicy) -> Self {
        Self { policy: Some(crate::v1::reference_policy::Policy::Base(from.0)) }
    }
}

/// The policy as it was before the first step. It has no settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InitialPolicy(crate::v1::InitialPolicy);

impl InitialPolicy {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

}

impl From<InitialPolicy> for crate::v1::InitialPolicy {
    fn from(from: InitialPolicy) -> Self {
        from.0
    }
}

impl From<crate::v1::InitialPolicy> for InitialPolicy {
    fn from(message: crate::v1::InitialPolicy) -> Self {
        Self(message)
    }
}

/// The base model without an adapter. It has no settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BasePolicy(crate::v1::BasePolicy);

impl BasePolicy {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

}

impl From<BasePolicy> for crate::v1::BasePolicy {
    fn from(from: BasePolicy) -> Self {
        from.0
    }
}

impl From<crate::v1::BasePolicy> for BasePolicy {
    fn from(message: crate::v1::BasePolicy) -> Self {
        Self(message)
    }
}

/// Rows to train and evaluate on.
#[derive(Debug, Clone, PartialEq)]
pub struct Data(crate::v1::DataSpec);

impl Data {
    /// Everything at its default but for what is required.
    ///
    /// `train`: Training rows: `ds-…` ids, file:// or s3:// URIs of JSONL or Parquet, plain, .gz or .zst. Required, at most 256.
    pub fn new(train: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(crate::v1::DataSpec { train: train.into_iter().map(Into::into).collect(), ..Default::default() })
    }

    /// Training rows: `ds-…` ids, file:// or s3:// URIs of JSONL or Parquet, plain, .gz or .zst. Required, at most 256.
    pub fn train(mut self, value: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.train = value.into_iter().map(Into::into).collect();
        self
    }

    /// Evaluation rows, if given apart. Excludes eval_fraction. At most 256.
    pub fn eval(mut self, value: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.eval = value.into_iter().map(Into::into).collect();
        self
    }

    /// Share of the training rows held out for evaluation, chosen by row hash, so that adding rows never moves
    /// a row from one side to the other. 0 to below 1. Default 0.
    pub fn eval_fraction(mut self, value: f64) -> Self {
        self.0.eval_fraction = Some(value);
        self
    }

    /// Longest training row, in tokens. 2 to 1048576. Default 1024, or the model's own limit when that is shorter.
    pub fn max_length(mut self, value: u32) -> Self {
        self.0.max_length = Some(value);
        self
    }

    /// What happens to longer training rows. Default: dropped and counted. Evaluation rows are never filtered by length.
    pub fn over_length(mut self, value: crate::v1::OverLength) -> Self {
        self.0.over_length = value.into();
        self
    }

    /// A chat template (Jinja) instead of the tokenizer's own. At most 256 KiB.
    pub fn chat_template(mut self, value: impl Into<String>) -> Self {
        self.0.chat_template = Some(value.into());
        self
    }

    /// At most this many training rows, a uniform sample. At least 1. Default: all.
    pub fn max_train_examples(mut self, value: u64) -> Self {
        self.0.max_train_examples = Some(value);
        self
    }

    /// At most this many evaluation rows, a uniform sample. At least 1. Default: all.
    pub fn max_eval_examples(mut self, value: u64) -> Self {
        self.0.max_eval_examples = Some(value);
        self
    }

    /// How the sources of train are mixed. Default: an epoch is every row of every source once.
    pub fn mix(mut self, value: impl Into<crate::v1::MixSpec>) -> Self {
        self.0.mix = Some(value.into());
        self
    }

    /// Whether a training row that says the same as an earlier one is left out. Default: it is counted and takes part.
    pub fn drop_duplicates(mut self, value: bool) -> Self {
        self.0.drop_duplicates = value;
        self
    }

    /// Share of common pieces of five tokens from which on a held-out row is told to be nearly the same as a training row, in the
    /// event `leakage`. 0 to 1; 0 looks for none. Default 0.8.
    pub fn leakage_similarity(mut self, value: f64) -> Self {
        self.0.leakage_similarity = Some(value);
        self
    }

}

impl From<Data> for crate::v1::DataSpec {
    fn from(from: Data) -> Self {
        from.0
    }
}

impl From<crate::v1::DataSpec> for Data {
    fn from(message: crate::v1::DataSpec) -> Self {
        Self(message)
    }
}

/// Sources of training rows mixed by weight: every stretch of the run holds the shares. Within a source the examples come in
/// the run's order, pass after pass; what an epoch leaves of a source comes first in the next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mix(crate::v1::MixSpec);

impl Mix {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// One weight for each entry of train, in its order: its share of the examples, relative to the others. 1e-6 to 1e6.
    pub fn weights(mut self, value: impl IntoIterator<Item = f64>) -> Self {
        self.0.weights = value.into_iter().collect();
        self
    }

    /// When an epoch ends. Default: with the first source that has no example left.
    pub fn until(mut self, value: crate::v1::MixUntil) -> Self {
        self.0.until = value.into();
        self
    }

}

impl From<Mix> for crate::v1::MixSpec {
    fn from(from: Mix) -> Self {
        from.0
    }
}

impl From<crate::v1::MixSpec> for Mix {
    fn from(message: crate::v1::MixSpec) -> Self {
        Self(message)
    }
}

/// What is trained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adapter(crate::v1::AdapterSpec);

impl Adapter {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Low-rank adapters on frozen weights (arXiv 2106.09685).
    pub fn lora(mut self, value: impl Into<crate::v1::LoraSpec>) -> Self {
        self.0.kind = Some(crate::v1::adapter_spec::Kind::Lora(value.into()));
        self
    }

    /// All weights of the model. They are kept in float32, as are their gradients and moments; with bfloat16 precision a
    /// rounded copy goes through the model. Default learning rates are a tenth of LoRA's. A checkpoint is a Hugging Face
    /// folder.
    pub fn full(mut self, value: impl Into<crate::v1::FullSpec>) -> Self {
        self.0.kind = Some(crate::v1::adapter_spec::Kind::Full(value.into()));
        self
    }

}

impl From<Adapter> for crate::v1::AdapterSpec {
    fn from(from: Adapter) -> Self {
        from.0
    }
}

impl From<crate::v1::AdapterSpec> for Adapter {
    fn from(message: crate::v1::AdapterSpec) -> Self {
        Self(message)
    }
}

impl From<Lora> for crate::v1::AdapterSpec {
    fn from(from: Lora) -> Self {
        Self { kind: Some(crate::v1::adapter_spec::Kind::Lora(from.0)) }
    }
}

impl From<Full> for crate::v1::AdapterSpec {
    fn from(from: Full) -> Self {
        Self { kind: Some(crate::v1::adapter_spec::Kind::Full(from.0)) }
    }
}

/// All weights of the model are trained. It has no settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Full(crate::v1::FullSpec);

impl Full {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

}

impl From<Full> for crate::v1::FullSpec {
    fn from(from: Full) -> Self {
        from.0
    }
}

impl From<crate::v1::FullSpec> for Full {
    fn from(message: crate::v1::FullSpec) -> Self {
        Self(message)
    }
}

/// Settings of LoRA.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lora(crate::v1::LoraSpec);

impl Lora {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rank of the update. 1 to 1024. Default 16.
    pub fn rank(mut self, value: u32) -> Self {
        self.0.rank = Some(value);
        self
    }

    /// Scale numerator: the update is multiplied by alpha / rank, or alpha / sqrt(rank) with use_rslora. Above 0. Default: 2 x rank.
    pub fn alpha(mut self, value: f64) -> Self {
        self.0.alpha = Some(value);
        self
    }

    /// Dropout on the adapter's input while training. 0 to below 1. Default 0.
    pub fn dropout(mut self, value: f64) -> Self {
        self.0.dropout = Some(value);
        self
    }

    /// Modules to adapt, matched as in PEFT: a name equal to the module's path or to the end of it after a dot.
    /// The single entry `all-linear`, the default, means every linear layer but the head. `embed_tokens` is the embedding.
    pub fn target_modules(mut self, value: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.target_modules = value.into_iter().map(Into::into).collect();
        self
    }

    /// Rank-stabilised scaling (arXiv 2312.03732). Default off.
    pub fn use_rslora(mut self, value: bool) -> Self {
        self.0.use_rslora = Some(value);
        self
    }

    /// Modules to adapt, by a regular expression for the whole path, in place of target_modules.
    pub fn target_pattern(mut self, value: impl Into<String>) -> Self {
        self.0.target_pattern = Some(value.into());
        self
    }

    /// Modules that are left out although they are meant, named as in target_modules.
    pub fn exclude_modules(mut self, value: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.exclude_modules = value.into_iter().map(Into::into).collect();
        self
    }

    /// The same by a regular expression for the whole path, in place of exclude_modules.
    pub fn exclude_pattern(mut self, value: impl Into<String>) -> Self {
        self.0.exclude_pattern = Some(value.into());
        self
    }

    /// Layers to adapt, from 0. Default: all. Excludes target_pattern; modules named by their whole path count in any layer.
    pub fn layers_to_transform(mut self, value: impl IntoIterator<Item = u32>) -> Self {
        self.0.layers_to_transform = value.into_iter().collect();
        self
    }

    /// Ranks of their own for some modules; the first pattern that matches counts. Alpha stays as it is.
    pub fn rank_pattern(mut self, value: impl IntoIterator<Item = impl Into<crate::v1::RankPattern>>) -> Self {
        self.0.rank_pattern = value.into_iter().map(Into::into).collect();
        self
    }

    /// Alphas of their own for some modules; the first pattern that matches counts.
    pub fn alpha_pattern(mut self, value: impl IntoIterator<Item = impl Into<crate::v1::AlphaPattern>>) -> Self {
        self.0.alpha_pattern = value.into_iter().map(Into::into).collect();
        self
    }

    /// Modules trained and saved whole, as float32 copies: `embed_tokens`, `lm_head`. They have no adapter then.
    pub fn modules_to_save(mut self, value: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.modules_to_save = value.into_iter().map(Into::into).collect();
        self
    }

    /// Weight-decomposed adaptation, DoRA (arXiv 2402.09353): the length of every row is trained too. Default off.
    pub fn use_dora(mut self, value: bool) -> Self {
        self.0.use_dora = Some(value);
        self
    }

    /// What a fresh adapter starts with. Excludes init_from. Default: A random, B zero.
    pub fn init(mut self, value: crate::v1::LoraInit) -> Self {
        self.0.init = value.into();
        self
    }

}

impl From<Lora> for crate::v1::LoraSpec {
    fn from(from: Lora) -> Self {
        from.0
    }
}

impl From<crate::v1::LoraSpec> for Lora {
    fn from(message: crate::v1::LoraSpec) -> Self {
        Self(message)
    }
}

/// A rank for the modules whose path ends, after a dot or as a whole, with what a regular expression matches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RankPattern(crate::v1::RankPattern);

impl RankPattern {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// The regular expression, such as `q_proj`.
    pub fn pattern(mut self, value: impl Into<String>) -> Self {
        self.0.pattern = value.into();
        self
    }

    /// The rank. 1 to 1024.
    pub fn rank(mut self, value: u32) -> Self {
        self.0.rank = value;
        self
    }

}

impl From<RankPattern> for crate::v1::RankPattern {
    fn from(from: RankPattern) -> Self {
        from.0
    }
}

impl From<crate::v1::RankPattern> for RankPattern {
    fn from(message: crate::v1::RankPattern) -> Self {
        Self(message)
    }
}

/// An alpha for the modules whose path ends, after a dot or as a whole, with what a regular expression matches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlphaPattern(crate::v1::AlphaPattern);

impl AlphaPattern {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// The regular expression, such as `q_proj`.
    pub fn pattern(mut self, value: impl Into<String>) -> Self {
        self.0.pattern = value.into();
        self
    }

    /// The alpha. Above 0.
    pub fn alpha(mut self, value: f64) -> Self {
        self.0.alpha = value;
        self
    }

}

impl From<AlphaPattern> for crate::v1::AlphaPattern {
    fn from(from: AlphaPattern) -> Self {
        from.0
    }
}

impl From<crate::v1::AlphaPattern> for AlphaPattern {
    fn from(message: crate::v1::AlphaPattern) -> Self {
        Self(message)
    }
}

/// How gradients become updates. A field that the chosen type does not have is refused, never ignored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Optimizer(crate::v1::OptimizerSpec);

impl Optimizer {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Peak learning rate; with lora_plus_ratio that of the A matrices. Above 0, at most 1.
    /// Default 2e-4 for AdamW, which suits LoRA; 2e-5 for Lion, whose steps are larger; 1e-3 for SGD, which is torch's.
    pub fn learning_rate(mut self, value: f64) -> Self {
        self.0.learning_rate = Some(value);
        self
    }

    /// AdamW: decay of the first moment. Lion: weight of the moment in the update. 0 to below 1. Default 0.9.
    pub fn beta1(mut self, value: f64) -> Self {
        self.0.beta1 = Some(value);
        self
    }

    /// AdamW: decay of the second moment. Lion: decay of the moment. 0 to below 1. Default 0.999 for AdamW, 0.99 for Lion.
    pub fn beta2(mut self, value: f64) -> Self {
        self.0.beta2 = Some(value);
        self
    }

    /// AdamW: added to the denominator. 1e-16 to 1e-2. Default 1e-8.
    pub fn epsilon(mut self, value: f64) -> Self {
        self.0.epsilon = Some(value);
        self
    }

    /// Weight decay: decoupled for AdamW and Lion, added to the gradient for SGD, as in torch. 0 to 1. Default 0.
    pub fn weight_decay(mut self, value: f64) -> Self {
        self.0.weight_decay = Some(value);
        self
    }

    /// Global L2 norm to which gradients are clipped; 0 turns clipping off. 0 to 1e6. Default 1.
    pub fn max_grad_norm(mut self, value: f64) -> Self {
        self.0.max_grad_norm = Some(value);
        self
    }

    /// The rule of the update. Default: AdamW.
    pub fn r#type(mut self, value: crate::v1::OptimizerType) -> Self {
        self.0.r#type = value.into();
        self
    }

    /// SGD: share of the last direction that is kept. 0 to below 1. Default 0.9.
    pub fn momentum(mut self, value: f64) -> Self {
        self.0.momentum = Some(value);
        self
    }

    /// SGD: look ahead along the momentum, which must be above 0. Default off.
    pub fn nesterov(mut self, value: bool) -> Self {
        self.0.nesterov = Some(value);
        self
    }

    /// LoRA+ (arXiv 2402.12354): learning rate of the B matrices over that of the A matrices. 1 to 1000. Default 1; the paper
    /// suggests 16.
    pub fn lora_plus_ratio(mut self, value: f64) -> Self {
        self.0.lora_plus_ratio = Some(value);
        self
    }

    /// Number format of the optimizer's moments. Default: float32.
    pub fn moments(mut self, value: crate::v1::MomentFormat) -> Self {
        self.0.moments = value.into();
        self
    }

    /// Steps between two reports of the gradient's norm by layer, in the event `train_step`; 0 reports none. At most 1000000.
    /// Default 0.
    pub fn gradient_groups_every_steps(mut self, value: u32) -> Self {
        self.0.gradient_groups_every_steps = Some(value);
        self
    }

}

impl From<Optimizer> for crate::v1::OptimizerSpec {
    fn from(from: Optimizer) -> Self {
        from.0
    }
}

impl From<crate::v1::OptimizerSpec> for Optimizer {
    fn from(message: crate::v1::OptimizerSpec) -> Self {
        Self(message)
    }
}

/// How the learning rate moves over the steps of the run. A field that the chosen type does not have is refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schedule(crate::v1::ScheduleSpec);

impl Schedule {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shape after warmup. Default: cosine.
    pub fn r#type(mut self, value: crate::v1::ScheduleType) -> Self {
        self.0.r#type = value.into();
        self
    }

    /// Steps of warmup.
    pub fn warmup_steps(mut self, value: u64) -> Self {
        self.0.warmup = Some(crate::v1::schedule_spec::Warmup::WarmupSteps(value));
        self
    }

    /// Share of all steps, rounded up. 0 to 1.
    pub fn warmup_ratio(mut self, value: f64) -> Self {
        self.0.warmup = Some(crate::v1::schedule_spec::Warmup::WarmupRatio(value));
        self
    }

    /// The floor, as a share of the peak. 0 to 1. Default 0; the constant schedule has none.
    pub fn min_learning_rate_ratio(mut self, value: f64) -> Self {
        self.0.min_learning_rate_ratio = Some(value);
        self
    }

    /// Cosine with restarts: number of cosines. 1 to 1000000. Default 1.
    pub fn num_cycles(mut self, value: u32) -> Self {
        self.0.num_cycles = Some(value);
        self
    }

    /// Polynomial: the power of what is left of the run. Above 0, at most 100. Default 1.
    pub fn power(mut self, value: f64) -> Self {
        self.0.power = Some(value);
        self
    }

    /// Inverse square root: the rate is the peak over the square root of 1 + (steps since warmup) / timescale. At least 1.
    /// Default: the steps of warmup, or 10000 without warmup.
    pub fn timescale(mut self, value: u64) -> Self {
        self.0.timescale = Some(value);
        self
    }

    /// Steps of decay.
    pub fn decay_steps(mut self, value: u64) -> Self {
        self.0.decay = Some(crate::v1::schedule_spec::Decay::DecaySteps(value));
        self
    }

    /// Share of all steps, rounded up. 0 to 1.
    pub fn decay_ratio(mut self, value: f64) -> Self {
        self.0.decay = Some(crate::v1::schedule_spec::Decay::DecayRatio(value));
        self
    }

    /// Warmup-stable-decay: shape of the decay. Default: cosine.
    pub fn decay_shape(mut self, value: crate::v1::DecayShape) -> Self {
        self.0.decay_shape = value.into();
        self
    }

    /// Plateau: when and how far the rate falls.
    pub fn plateau(mut self, value: impl Into<crate::v1::PlateauSpec>) -> Self {
        self.0.plateau = Some(value.into());
        self
    }

}

impl From<Schedule> for crate::v1::ScheduleSpec {
    fn from(from: Schedule) -> Self {
        from.0
    }
}

impl From<crate::v1::ScheduleSpec> for Schedule {
    fn from(message: crate::v1::ScheduleSpec) -> Self {
        Self(message)
    }
}

/// When and how far the rate of a plateau schedule falls. It watches the held-out loss, of which lower is better. Evaluations
/// before the end of warmup are not held against it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plateau(crate::v1::PlateauSpec);

impl Plateau {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rate is multiplied by this. Above 0, below 1. Default 0.1.
    pub fn factor(mut self, value: f64) -> Self {
        self.0.factor = Some(value);
        self
    }

    /// Evaluations in a row without improvement that are borne; the next one lowers the rate. Default 2.
    pub fn patience(mut self, value: u32) -> Self {
        self.0.patience = Some(value);
        self
    }

    /// An improvement is a loss below the best one times 1 - threshold. 0 to below 1. Default 1e-4.
    pub fn threshold(mut self, value: f64) -> Self {
        self.0.threshold = Some(value);
        self
    }

    /// Evaluations after a fall that are not counted. Default 0.
    pub fn cooldown(mut self, value: u32) -> Self {
        self.0.cooldown = Some(value);
        self
    }

}

impl From<Plateau> for crate::v1::PlateauSpec {
    fn from(from: Plateau) -> Self {
        from.0
    }
}

impl From<crate::v1::PlateauSpec> for Plateau {
    fn from(message: crate::v1::PlateauSpec) -> Self {
        Self(message)
    }
}

/// How many examples make a step, and how they are cut to fit memory. The loss of a step is the sum over all its trained
/// tokens divided by their number, so the cut does not change the result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch(crate::v1::BatchSpec);

impl Batch {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Examples of one optimizer step; elsewhere per-device batch size times gradient accumulation. 1 to 65536. Default 16.
    pub fn examples_per_step(mut self, value: u32) -> Self {
        self.0.examples_per_step = Some(value);
        self
    }

    /// Most tokens that go through the model at once; a longer row goes alone. 16 to 1048576. Default 2048.
    pub fn tokens_per_micro_batch(mut self, value: u32) -> Self {
        self.0.tokens_per_micro_batch = Some(value);
        self
    }

    /// Whether what happens inside layers is made again in the backward pass rather than kept: less memory, about a third more
    /// work, the same result to the bit. Default ACTIVATION_CHECKPOINTING_AUTO.
    pub fn activation_checkpointing(mut self, value: crate::v1::ActivationCheckpointing) -> Self {
        self.0.activation_checkpointing = value.into();
        self
    }

}

impl From<Batch> for crate::v1::BatchSpec {
    fn from(from: Batch) -> Self {
        from.0
    }
}

impl From<crate::v1::BatchSpec> for Batch {
    fn from(message: crate::v1::BatchSpec) -> Self {
        Self(message)
    }
}

/// When and how to evaluate. A run with held-out rows is always evaluated before its first step and after its last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation(crate::v1::EvaluationSpec);

impl Evaluation {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Steps between evaluations. At least 1. Default: so that there are about ten.
    pub fn every_steps(mut self, value: u64) -> Self {
        self.0.every_steps = Some(value);
        self
    }

    /// Evaluations in between are put off while they would take more than this share of the run's time. 0 to 1. Default 0.1.
    /// With the plateau schedule or early stopping none is put off: the run would depend on the clock.
    pub fn max_time_fraction(mut self, value: f64) -> Self {
        self.0.max_time_fraction = Some(value);
        self
    }

    /// Ends the run when the held-out rows stop improving. Needs held-out rows. Default: off.
    pub fn early_stopping(mut self, value: impl Into<crate::v1::EarlyStoppingSpec>) -> Self {
        self.0.early_stopping = Some(value.into());
        self
    }

    /// Held-out rows that each evaluation shows: those that the model finds hardest. 0 to 50. Default 5.
    pub fn hard_examples(mut self, value: u32) -> Self {
        self.0.hard_examples = Some(value);
        self
    }

    /// Which evaluations tell what the model itself writes to the prompts of those rows: the likeliest token each time, 64 at most.
    /// Its time counts as the evaluation's. Default: the last one.
    pub fn answer_hard_examples(mut self, value: crate::v1::AnswerHardExamples) -> Self {
        self.0.answer_hard_examples = value.into();
        self
    }

}

impl From<Evaluation> for crate::v1::EvaluationSpec {
    fn from(from: Evaluation) -> Self {
        from.0
    }
}

impl From<crate::v1::EvaluationSpec> for Evaluation {
    fn from(message: crate::v1::EvaluationSpec) -> Self {
        Self(message)
    }
}

/// Ends the run early, as transformers' EarlyStoppingCallback counts. The evaluation before the first step counts, too, and each
/// evaluation that is the best so far is saved, so that the best checkpoint is there in the end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EarlyStopping(crate::v1::EarlyStoppingSpec);

impl EarlyStopping {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// The held-out figure that decides. Default: the loss.
    pub fn metric(mut self, value: crate::v1::EarlyStoppingMetric) -> Self {
        self.0.metric = value.into();
        self
    }

    /// Evaluations in a row that are not better, after which the run ends. 1 to 1000. Default 3.
    pub fn patience(mut self, value: u32) -> Self {
        self.0.patience = Some(value);
        self
    }

    /// By how much a figure must be better than the best one to count as better. 0 to 1000. Default 0.
    pub fn threshold(mut self, value: f64) -> Self {
        self.0.threshold = Some(value);
        self
    }

}

impl From<EarlyStopping> for crate::v1::EarlyStoppingSpec {
    fn from(from: EarlyStopping) -> Self {
        from.0
    }
}

impl From<crate::v1::EarlyStoppingSpec> for EarlyStopping {
    fn from(message: crate::v1::EarlyStoppingSpec) -> Self {
        Self(message)
    }
}

/// When to save and what to keep. The end of a run is always saved.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint(crate::v1::CheckpointSpec);

impl Checkpoint {
    /// Everything at its default but for what is required.
    pub fn new() -> Self {
        Self::default()
    }

    /// Steps between checkpoints; 0 means by time only. Default 0.
    pub fn every_steps(mut self, value: u64) -> Self {
        self.0.every_steps = Some(value);
        self
    }

    /// Minutes between checkpoints; 0 means by steps only. 0 to 1e6. Default 10.
    pub fn every_minutes(mut self, value: f64) -> Self {
        self.0.every_minutes = Some(value);
        self
    }

    /// Checkpoints to keep beside the best one, newest first; 0 keeps all. Default 0.
    pub fn keep_last(mut self, value: u32) -> Self {
        self.0.keep_last = Some(value);
        self
    }

}

impl From<Checkpoint> for crate::v1::CheckpointSpec {
    fn from(from: Checkpoint) -> Self {
        from.0
    }
}

impl From<crate::v1::CheckpointSpec> for Checkpoint {
    fn from(message: crate::v1::CheckpointSpec) -> Self {
        Self(message)
    }
}

