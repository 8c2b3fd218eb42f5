//! Defaults equal what the protos promise, and what goes out comes in again.

use hone_job::spec::{
    Adapter, AnswerHardExamples, Decay, DecayShape, DpoTask, JobSpec, Length, LossOn, MomentFormat, Optimizer, Plateau,
    Precision, Preference, PreferenceLoss, Reference, Resources, ScheduleKind, SftTask, Task, Training, UpdateRule,
    Warmup, WeightedLoss,
};
use hone_proto::v1 as pb;

use super::*;

/// The smallest spec that a request may carry.
fn request_spec() -> pb::JobSpec {
    let data = pb::DataSpec { train: vec!["file:///rows.jsonl".into()], ..Default::default() };
    pb::JobSpec {
        base_model: Some(pb::BaseModel { uri: "file:///models/a".into() }),
        task: Some(pb::job_spec::Task::Sft(pb::SftTask { data: Some(data), ..Default::default() })),
        max_retries: Some(0),
        ..Default::default()
    }
}

/// What it is once every default is filled in.
fn spec() -> JobSpec {
    JobSpec {
        display_name: String::new(),
        labels: Default::default(),
        base_model: "file:///models/a".into(),
        task: Task::Sft(SftTask::new(Training::on(vec!["file:///rows.jsonl".into()]), LossOn::default())),
        resources: Resources::default(),
        max_retries: 0,
    }
}

fn sft(spec: &mut pb::JobSpec) -> &mut pb::SftTask {
    match &mut spec.task {
        Some(pb::job_spec::Task::Sft(sft)) => sft,
        _ => panic!("no sft task"),
    }
}

#[test]
fn the_smallest_request_takes_every_default() {
    let (found, violations) = job_spec(Some(request_spec()));
    assert_eq!(violations, []);
    assert_eq!(found, spec());
}

/// The numbers that stand in the comments of spec.proto.
#[test]
fn the_defaults_are_those_the_proto_documents() {
    let (found, _) = job_spec(Some(request_spec()));
    let mut shown = message(found);
    assert_eq!(shown.resources.unwrap().devices, Some(1));
    let sft = sft(&mut shown).clone();
    let data = sft.data.unwrap();
    assert_eq!((data.eval_fraction, data.max_length), (Some(0.0), Some(1024)));
    assert_eq!(data.over_length(), pb::OverLength::Drop);
    assert_eq!((data.max_train_examples, data.max_eval_examples, data.chat_template), (None, None, None));
    let Some(pb::adapter_spec::Kind::Lora(lora)) = sft.adapter.unwrap().kind else { panic!("no lora") };
    assert_eq!((lora.rank, lora.alpha, lora.dropout), (Some(16), Some(32.0), Some(0.0)));
    assert_eq!((lora.use_rslora, lora.use_dora, lora.init()), (Some(false), Some(false), pb::LoraInit::Default));
    assert_eq!(lora.target_modules, ["all-linear"]);
    assert_eq!((lora.target_pattern, lora.exclude_modules.len(), lora.exclude_pattern), (None, 0, None));
    let lists = [lora.layers_to_transform.len(), lora.rank_pattern.len(), lora.alpha_pattern.len()];
    assert_eq!((lists, lora.modules_to_save.len()), ([0; 3], 0));
    let optimizer = sft.optimizer.unwrap();
    assert_eq!((optimizer.learning_rate, optimizer.beta1, optimizer.beta2), (Some(2e-4), Some(0.9), Some(0.999)));
    assert_eq!(
        (optimizer.epsilon, optimizer.weight_decay, optimizer.max_grad_norm),
        (Some(1e-8), Some(0.0), Some(1.0))
    );
    assert_eq!((optimizer.r#type(), optimizer.moments()), (pb::OptimizerType::Adamw, pb::MomentFormat::Float32));
    assert_eq!((optimizer.lora_plus_ratio, optimizer.momentum, optimizer.nesterov), (Some(1.0), None, None));
    let schedule = sft.schedule.unwrap();
    assert_eq!(schedule.r#type(), pb::ScheduleType::Cosine);
    assert_eq!(schedule.warmup, Some(pb::schedule_spec::Warmup::WarmupRatio(0.03)));
    assert_eq!(schedule.min_learning_rate_ratio, Some(0.0));
    let batch = sft.batch.unwrap();
    assert_eq!((batch.examples_per_step, batch.tokens_per_micro_batch), (Some(16), Some(2048)));
    assert_eq!(sft.length, Some(pb::sft_task::Length::Epochs(1.0)));
    let evaluation = sft.evaluation.unwrap();
    assert_eq!((evaluation.every_steps, evaluation.max_time_fraction), (None, Some(0.1)));
    assert_eq!((evaluation.hard_examples, evaluation.answer_hard_examples()), (Some(5), pb::AnswerHardExamples::Last));
    let checkpoints = sft.checkpoints.unwrap();
    assert_eq!(
        (checkpoints.every_steps, checkpoints.every_minutes, checkpoints.keep_last),
        (Some(0), Some(10.0), Some(0))
    );
    assert_eq!((sft.seed, sft.init_from), (Some(42), None));
    assert_eq!(sft.precision, i32::from(pb::Precision::Unspecified));
    assert_eq!((sft.order, sft.loss_on), (pb::Order::Shuffled.into(), pb::LossOn::Completion.into()));
}

#[test]
fn alpha_follows_the_rank_unless_it_is_given() {
    let mut request = request_spec();
    let lora = pb::LoraSpec { rank: Some(4), ..Default::default() };
    sft(&mut request).adapter = Some(pb::AdapterSpec { kind: Some(pb::adapter_spec::Kind::Lora(lora)) });
    let spec = job_spec(Some(request)).0;
    let lora = spec.task.training().unwrap().adapter.lora().unwrap();
    assert_eq!((lora.rank, lora.alpha), (4, 8.0));
}

#[test]
fn a_spec_that_sets_everything_survives_the_way_out_and_in() {
    let mut full = spec();
    full.display_name = "run".into();
    full.labels.insert("team".into(), "a".into());
    let Task::Sft(task) = &mut full.task else { panic!("an sft job") };
    task.loss_on = hone_job::spec::LossOn::Assistant;
    task.neftune_noise_alpha = 5.0;
    let training = &mut task.training;
    training.data.eval = vec!["s3://b/eval.jsonl".into()];
    training.data.over_length = hone_job::spec::OverLength::Split;
    training.data.chat_template = Some("{{ x }}".into());
    training.data.max_train_examples = Some(9);
    training.data.max_eval_examples = Some(8);
    training.adapter = Adapter::Lora(hone_job::spec::Lora {
        target_modules: Vec::new(),
        target_pattern: Some(".*_proj".into()),
        exclude_modules: vec!["k_proj".into()],
        rank_pattern: vec![hone_job::spec::RankPattern { pattern: "q_proj".into(), rank: 3 }],
        alpha_pattern: vec![hone_job::spec::AlphaPattern { pattern: "q_proj".into(), alpha: 5.0 }],
        modules_to_save: vec!["embed_tokens".into()],
        use_rslora: true,
        use_dora: true,
        ..hone_job::spec::Lora::default()
    });
    training.data.drop_duplicates = true;
    training.data.leakage_similarity = 0.6;
    let until = hone_job::spec::MixUntil::AllExhausted;
    training.data.mix = Some(hone_job::spec::Mix { weights: vec![2.5], until });
    training.init_from = Some("s3://b/adapter".into());
    training.schedule.warmup = Warmup::Steps(7);
    training.schedule.min_learning_rate_ratio = 0.1;
    training.optimizer.lora_plus_ratio = 16.0;
    training.optimizer.gradient_groups_every_steps = 5;
    training.optimizer.moments = MomentFormat::Block8;
    training.length = Length::MaxSteps(11);
    training.evaluation.every_steps = Some(3);
    training.evaluation.early_stopping =
        Some(hone_job::spec::EarlyStopping { patience: 7, threshold: 0.25, ..Default::default() });
    training.precision = Precision::Bfloat16;
    training.order = hone_job::spec::Order::Sequential;
    training.seed = 0;
    let training = training.clone();
    let survives = |full: &JobSpec| {
        let (back, violations) = job_spec(Some(message(full.clone())));
        assert_eq!(violations, []);
        assert_eq!(&back, full);
    };
    survives(&full);
    let plateau = Plateau { factor: 0.5, patience: 3, threshold: 0.0, cooldown: 1 };
    for kind in [
        ScheduleKind::Linear,
        ScheduleKind::CosineWithRestarts { num_cycles: 3 },
        ScheduleKind::Polynomial { power: 2.0 },
        ScheduleKind::InverseSqrt { timescale: None },
        ScheduleKind::InverseSqrt { timescale: Some(5) },
        ScheduleKind::WarmupStableDecay { decay: Decay::Steps(5), shape: DecayShape::OneMinusSqrt },
        ScheduleKind::WarmupStableDecay { decay: Decay::Ratio(0.2), shape: DecayShape::Linear },
        ScheduleKind::Plateau(plateau),
    ] {
        full.task.training_mut().unwrap().schedule.kind = kind;
        survives(&full);
    }
    for answers in [AnswerHardExamples::Last, AnswerHardExamples::Every, AnswerHardExamples::Never] {
        full.task.training_mut().unwrap().evaluation.answer_hard_examples = answers;
        survives(&full);
    }
    for rule in [UpdateRule::lion(), UpdateRule::Sgd { momentum: 0.5, nesterov: true }] {
        full.task.training_mut().unwrap().optimizer = Optimizer::of(rule);
        survives(&full);
    }

    for kind in PreferenceLoss::ALL {
        let losses = vec![WeightedLoss { kind, weight: 0.5 }];
        let preference = Preference {
            label_smoothing: 0.25,
            reference: Reference::Checkpoint("s3://b/sft".into()),
            length_alpha: 0.75,
            simpo_gamma: 1.5,
            discopop_tau: 0.1,
            ..Preference::with(losses)
        };
        full.task = Task::Dpo(DpoTask { training: training.clone(), preference });
        survives(&full);
    }
}

#[test]
fn all_weights_want_a_tenth_of_the_rate_and_lose_their_settings_nowhere() {
    let full = pb::AdapterSpec { kind: Some(pb::adapter_spec::Kind::Full(pb::FullSpec {})) };
    let mut request = request_spec();
    sft(&mut request).adapter = Some(full.clone());
    let (spec, violations) = job_spec(Some(request));
    assert_eq!(violations, []);
    let training = spec.task.training().unwrap();
    assert_eq!((&training.adapter, training.optimizer.learning_rate), (&Adapter::Full, 2e-5));
    assert_eq!(job_spec(Some(message(spec.clone()))).0, spec);
    let data = pb::DataSpec { train: vec!["file:///rows.jsonl".into()], ..Default::default() };
    let dpo = pb::DpoTask { data: Some(data), adapter: Some(full), ..Default::default() };
    let request = pb::JobSpec { task: Some(pb::job_spec::Task::Dpo(dpo)), ..request_spec() };
    assert_eq!(job_spec(Some(request)).0.task.training().unwrap().optimizer.learning_rate, 1e-6);
}

#[test]
fn an_export_survives_the_way_out_and_in_and_takes_no_empty_checkpoint() {
    use hone_job::spec::{ExportFormat, ExportTask, WeightType};
    let export = |checkpoint: Option<&str>, format, weight_type| {
        let checkpoint = checkpoint.map(str::to_string);
        JobSpec { task: Task::Export(ExportTask { checkpoint, format, weight_type, dequantize_base: true }), ..spec() }
    };
    for (format, weight_type) in [
        (ExportFormat::HuggingFace, WeightType::Auto),
        (ExportFormat::Gguf, WeightType::Float32),
        (ExportFormat::Gguf, WeightType::Bfloat16),
        (ExportFormat::HuggingFace, WeightType::Float16),
    ] {
        for checkpoint in [None, Some("s3://b/jobs/1/checkpoints/step-000010")] {
            let spec = export(checkpoint, format, weight_type);
            assert_eq!(job_spec(Some(message(spec.clone()))), (spec, Vec::new()));
        }
    }
    let empty = export(Some(""), ExportFormat::Gguf, WeightType::Auto);
    let fields: Vec<String> = empty.validate().into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["spec.export.checkpoint"]);
}

#[test]
fn evaluations_and_comparisons_survive_the_way_out_and_in_and_fill_in_their_defaults() {
    use hone_job::spec::{Candidate, CompareTask, EvaluateTask, LossOn, Precision, RowKind, ScoredRows, Scoring};
    let uri = || Some("s3://b/jobs/1/checkpoints/step-000010".to_string());
    for (kind, loss_on, precision) in [
        (RowKind::Auto, LossOn::Completion, Precision::Auto),
        (RowKind::Texts, LossOn::All, Precision::Float32),
        (RowKind::Pairs, LossOn::Assistant, Precision::Bfloat16),
    ] {
        let (chat_template, max_examples) = (Some("{{ messages }}".into()), Some(9));
        let data = ScoredRows { kind, loss_on, chat_template, max_examples, ..ScoredRows::of(vec!["ds-1".into()]) };
        let scoring = Scoring { precision, tokens_per_micro_batch: 7, shown_rows: 0, max_new_tokens: 3 };
        let candidate = |name: &str, checkpoint| Candidate { name: name.into(), checkpoint };
        let candidates = vec![candidate("base", None), candidate("sft", uri())];
        let evaluate = EvaluateTask { checkpoint: uri(), data: data.clone(), scoring: scoring.clone() };
        for task in [Task::Evaluate(evaluate), Task::Compare(CompareTask { candidates, data, scoring, seed: 5 })] {
            let spec = JobSpec { task, ..spec() };
            assert_eq!(job_spec(Some(message(spec.clone()))), (spec, Vec::new()));
        }
    }
    let data = pb::ScoredRows { rows: vec!["file:///rows.jsonl".into()], ..Default::default() };
    let evaluate = pb::EvaluateTask { data: Some(data), ..Default::default() };
    let request = pb::JobSpec { task: Some(pb::job_spec::Task::Evaluate(evaluate)), ..request_spec() };
    let (filled, violations) = job_spec(Some(request));
    let data = ScoredRows::of(vec!["file:///rows.jsonl".into()]);
    let expected = EvaluateTask { checkpoint: None, data, scoring: Scoring::default() };
    assert_eq!((filled.task, violations), (Task::Evaluate(expected), Vec::new()));
}

#[test]
fn dpo_takes_its_own_defaults() {
    let data = pb::DataSpec { train: vec!["file:///rows.jsonl".into()], ..Default::default() };
    let request = |losses: &[pb::PreferenceLossType]| {
        let losses = losses.iter().map(|kind| pb::PreferenceLoss { r#type: (*kind).into(), weight: None }).collect();
        let dpo = pb::DpoTask { data: Some(data.clone()), losses, ..Default::default() };
        pb::JobSpec { task: Some(pb::job_spec::Task::Dpo(dpo)), ..request_spec() }
    };
    let converted = |losses: &[pb::PreferenceLossType]| {
        let (spec, violations) = job_spec(Some(request(losses)));
        assert_eq!(violations, []);
        let Task::Dpo(task) = spec.task else { panic!("a dpo job") };
        task
    };
    let task = converted(&[]);
    assert_eq!(task.preference, Preference::default());
    assert_eq!(task.training.optimizer.learning_rate, 1e-5);
    let mut lion = request(&[]);
    let Some(pb::job_spec::Task::Dpo(dpo)) = &mut lion.task else { panic!("a dpo job") };
    dpo.optimizer = Some(pb::OptimizerSpec { r#type: pb::OptimizerType::Lion.into(), ..Default::default() });
    assert_eq!(job_spec(Some(lion)).0.task.training().unwrap().optimizer.learning_rate, 1e-6);
    assert_eq!(converted(&[pb::PreferenceLossType::Simpo]).preference.beta, 2.0);
    let bad = pb::PreferenceLoss { r#type: 99, weight: Some(-1.0) };
    let mut request = request(&[]);
    let Some(pb::job_spec::Task::Dpo(dpo)) = &mut request.task else { panic!("a dpo job") };
    (dpo.losses, dpo.divergence_alpha) = (vec![bad], Some(0.5));
    let fields: Vec<String> = job_spec(Some(request)).1.into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["spec.dpo.losses[0].weight", "spec.dpo.losses[0].type", "spec.dpo.divergence_alpha"]);
}

#[test]
fn every_start_of_an_adapter_survives_the_way_out_and_in() {
    use hone_job::spec::LoraInit::{Default, Gaussian, Olora, Orthogonal, Pissa};
    for init in [Default, Gaussian, Orthogonal, Pissa, Olora] {
        let mut full = spec();
        full.task.training_mut().unwrap().adapter = Adapter::Lora(hone_job::spec::Lora {
            init,
            layers_to_transform: vec![0, 5],
            exclude_pattern: Some("a|b".into()),
            ..hone_job::spec::Lora::default()
        });
        assert_eq!(job_spec(Some(message(full.clone()))), (full, Vec::new()));
    }
}

#[test]
fn settings_of_another_optimizer_or_schedule_are_refused_by_name() {
    let mut request = request_spec();
    let task = sft(&mut request);
    task.optimizer = Some(pb::OptimizerSpec {
        r#type: pb::OptimizerType::Sgd.into(),
        beta1: Some(0.9),
        epsilon: Some(1e-8),
        ..Default::default()
    });
    task.schedule = Some(pb::ScheduleSpec {
        r#type: pb::ScheduleType::Polynomial.into(),
        power: Some(2.0),
        num_cycles: Some(2),
        decay: Some(pb::schedule_spec::Decay::DecayRatio(0.1)),
        plateau: Some(pb::PlateauSpec::default()),
        ..Default::default()
    });
    let found: Vec<_> = job_spec(Some(request)).1.into_iter().map(|one| (one.field, one.description)).collect();
    let expected = [
        ("optimizer.beta1", "sgd"),
        ("optimizer.epsilon", "sgd"),
        ("schedule.num_cycles", "polynomial"),
        ("schedule.decay_ratio", "polynomial"),
        ("schedule.plateau", "polynomial"),
    ];
    let expected = expected
        .map(|(field, chosen)| (format!("spec.sft.{field}"), format!("{chosen} has no such setting; leave it out")));
    assert_eq!(found, expected);
}

#[test]
fn the_default_learning_rate_is_the_chosen_optimizers() {
    for (chosen, rate, beta2, momentum) in [
        (pb::OptimizerType::Unspecified, 2e-4, Some(0.999), None),
        (pb::OptimizerType::Lion, 2e-5, Some(0.99), None),
        (pb::OptimizerType::Sgd, 1e-3, None, Some(0.9)),
    ] {
        let mut request = request_spec();
        sft(&mut request).optimizer = Some(pb::OptimizerSpec { r#type: chosen.into(), ..Default::default() });
        let mut shown = message(job_spec(Some(request)).0);
        let shown = sft(&mut shown).optimizer.unwrap();
        assert_eq!((shown.learning_rate, shown.beta2, shown.momentum), (Some(rate), beta2, momentum));
    }
}

#[test]
fn numbers_of_unknown_enum_values_are_violations_not_defaults() {
    let mut request = request_spec();
    let task = sft(&mut request);
    (task.precision, task.order, task.loss_on) = (9, 9, 9);
    let lora = pb::LoraSpec { init: 9, ..Default::default() };
    task.adapter = Some(pb::AdapterSpec { kind: Some(pb::adapter_spec::Kind::Lora(lora)) });
    task.optimizer = Some(pb::OptimizerSpec { r#type: 9, moments: 9, ..Default::default() });
    task.schedule = Some(pb::ScheduleSpec { r#type: 9, ..Default::default() });
    task.data.get_or_insert_default().mix = Some(pb::MixSpec { until: 9, weights: vec![1.0] });
    let fields: Vec<String> = job_spec(Some(request)).1.into_iter().map(|violation| violation.field).collect();
    let expected = [
        "loss_on",
        "data.mix.until",
        "adapter.lora.init",
        "optimizer.type",
        "optimizer.moments",
        "schedule.type",
        "precision",
        "order",
    ];
    let expected = expected.map(|field| format!("spec.sft.{field}"));
    assert_eq!(fields, expected);
}
