//! What there is to draw of runs: panels of series of points.

use hone_proto::v1;
use plotters::style::RGBColor;

use super::Subject;
use super::pen::{HELD_OUT, TRAIN, colour};
use crate::run::{EvalPoint, Run};
use crate::smooth::smoothed;

mod machine;

/// What a panel is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Training and held-out loss.
    Loss,
    /// Share of pairs that are told apart.
    Accuracy,
    /// Difference of the rewards of a pair.
    Margin,
    /// The learning rate.
    LearningRate,
    /// The gradient's norm.
    GradNorm,
    /// Tokens a second.
    Throughput,
    /// Memory.
    Memory,
    /// What the time of a step goes to.
    Time,
    /// How busy processors and device are.
    Use,
    /// What storage moves.
    Storage,
    /// Power and temperature of the device.
    Power,
}

impl Topic {
    /// All of them, in the order of a picture.
    pub const ALL: [Topic; 11] = [
        Topic::Loss,
        Topic::Accuracy,
        Topic::Margin,
        Topic::LearningRate,
        Topic::GradNorm,
        Topic::Throughput,
        Topic::Memory,
        Topic::Time,
        Topic::Use,
        Topic::Storage,
        Topic::Power,
    ];

    /// Its word on command lines.
    pub fn word(self) -> &'static str {
        match self {
            Topic::Loss => "loss",
            Topic::Accuracy => "accuracy",
            Topic::Margin => "margin",
            Topic::LearningRate => "learning-rate",
            Topic::GradNorm => "grad-norm",
            Topic::Throughput => "throughput",
            Topic::Memory => "memory",
            Topic::Time => "time",
            Topic::Use => "use",
            Topic::Storage => "storage",
            Topic::Power => "power",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Topic::Loss => "Loss, in nats",
            Topic::Accuracy => "Reward accuracy, share of pairs",
            Topic::Margin => "Reward margin, chosen less rejected",
            Topic::LearningRate => "Learning rate",
            Topic::GradNorm => "Gradient norm, before clipping",
            Topic::Throughput => "Tokens per second",
            Topic::Memory => "Memory, in GiB",
            Topic::Time => "Time of a step, in seconds",
            Topic::Use => "Use: cores, device in percent",
            Topic::Storage => "Disk and storage, in MiB/s",
            Topic::Power => "Device: watts, degrees Celsius",
        }
    }

    /// Whether its axis begins at zero.
    fn is_amount(self) -> bool {
        !matches!(self, Topic::Loss | Topic::Accuracy | Topic::Margin)
    }

    fn lines(self, run: &Run, hue: &Hue) -> Vec<Series> {
        match self {
            Topic::Loss => hue.of_train(run.train_loss()).into_iter().chain(hue.of_held_out(run.eval_loss())).collect(),
            Topic::Accuracy => hue.pairs(run, |pairs| (pairs.accuracy, pairs.accuracy_standard_error)),
            Topic::Margin => hue.pairs(run, |pairs| (pairs.margin, pairs.margin_standard_error)),
            Topic::LearningRate => hue.plain(run.of_steps(|step| Some(step.learning_rate))),
            Topic::GradNorm => hue.of_train(run.of_steps(|step| step.grad_norm)),
            Topic::Throughput => hue.of_train(run.of_steps(|step| Some(step.tokens_per_second))),
            Topic::Memory => machine::memory(run, hue),
            Topic::Time => machine::time(run, hue),
            Topic::Use => machine::busy(run, hue),
            Topic::Storage => machine::storage(run, hue),
            Topic::Power => machine::power(run, hue),
        }
    }
}

/// A panel.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) series: Vec<Series>,
    /// What the axes span.
    pub(super) steps: (f64, f64),
    pub(super) values: (f64, f64),
    /// Whether the numbers want powers of ten.
    pub(super) is_tiny: bool,
    /// Whether there is more room at the top left than at the top right.
    pub(super) rises: bool,
}

/// Points that belong together.
#[derive(Debug)]
pub(super) struct Series {
    /// What the legend calls them; none where another line speaks for them.
    pub(super) label: Option<&'static str>,
    pub(super) colour: RGBColor,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) look: Look,
}

/// How points are drawn.
#[derive(Debug, PartialEq)]
pub(super) enum Look {
    /// A thin pale line behind others.
    Faint,
    /// A line.
    Line,
    /// A thinner line.
    Thin,
    /// Points on a line, in a band of one standard error each.
    Dots { errors: Vec<f64> },
}

/// The panels that runs have points for: of some topics, or of all where none is named.
pub(super) fn panels(jobs: &[Subject], topics: &[Topic]) -> Vec<Panel> {
    let topics = if topics.is_empty() { &Topic::ALL } else { topics };
    topics.iter().filter_map(|topic| panel(*topic, jobs)).collect()
}

fn panel(topic: Topic, jobs: &[Subject]) -> Option<Panel> {
    let hue = |place| if jobs.len() == 1 { Hue::alone() } else { Hue::among_others(place) };
    let series: Vec<Series> = jobs
        .iter()
        .enumerate()
        .flat_map(|(place, job)| topic.lines(&job.run, &hue(place)))
        .filter(|series| !series.points.is_empty())
        .collect();
    if series.is_empty() {
        return None;
    }
    let series = said_once(series);
    let last_step = jobs.iter().map(|job| job.run.last_step()).max().unwrap_or_default();
    let (low, high) = span(&series);
    let low = if topic.is_amount() { 0.0 } else { low };
    let room = ((high - low) * 0.08).max(high.abs() * 1e-3).max(f64::MIN_POSITIVE);
    let low = if topic.is_amount() { 0.0 } else { low - room };
    let largest = series.iter().filter(|series| series.look != Look::Faint).max_by_key(|series| series.points.len());
    let rises = largest.is_some_and(|series| match (series.points.first(), series.points.last()) {
        (Some(first), Some(last)) => last.1 > first.1,
        _ => false,
    });
    Some(Panel {
        title: topic.title(),
        steps: (0.0, last_step.max(1) as f64 * 1.015),
        values: (low, high + room),
        is_tiny: high < 0.01,
        rises,
        series,
    })
}

/// A legend has each label once, at its first series.
fn said_once(mut series: Vec<Series>) -> Vec<Series> {
    let mut said = Vec::new();
    for one in &mut series {
        if let Some(label) = one.label {
            match said.contains(&label) {
                true => one.label = None,
                false => said.push(label),
            }
        }
    }
    series
}

/// The lowest and the highest value, bands included. What a single step threw far away does not count: it would flatten the
/// rest.
fn span(series: &[Series]) -> (f64, f64) {
    let mut low = f64::INFINITY;
    let mut high = f64::NEG_INFINITY;
    for one in series {
        let values = match &one.look {
            Look::Faint => {
                let mut sorted: Vec<f64> = one.points.iter().map(|point| point.1).collect();
                sorted.sort_by(f64::total_cmp);
                let few = sorted.len() / 200;
                vec![sorted[few], sorted[sorted.len() - 1 - few]]
            }
            Look::Dots { errors } => {
                let points = one.points.iter().zip(errors);
                points.flat_map(|(point, error)| [point.1 - error, point.1 + error]).collect()
            }
            Look::Line | Look::Thin => one.points.iter().map(|point| point.1).collect(),
        };
        low = values.iter().copied().fold(low, f64::min);
        high = values.iter().copied().fold(high, f64::max);
    }
    (low, high)
}

/// The colours of a run: one that is alone has one for training and one for what is held out, one among others a single one.
struct Hue {
    train: RGBColor,
    held_out: RGBColor,
    is_alone: bool,
}

impl Hue {
    fn alone() -> Hue {
        Hue { train: TRAIN, held_out: HELD_OUT, is_alone: true }
    }

    fn among_others(place: usize) -> Hue {
        Hue { train: colour(place), held_out: colour(place), is_alone: false }
    }

    /// Every step faintly, and a smooth line through them.
    fn of_train(&self, points: Vec<(u64, f64)>) -> Vec<Series> {
        let smooth = floats(&smoothed(&points));
        let (label, look) = match self.is_alone {
            true => ("training (faint: each step)", Look::Line),
            false => ("training, smoothed", Look::Thin),
        };
        let line = Series { label: Some(label), colour: self.train, points: smooth, look };
        let faint = Series { label: None, colour: self.train, points: floats(&points), look: Look::Faint };
        if self.is_alone { vec![faint, line] } else { vec![line] }
    }

    fn of_held_out(&self, points: Vec<EvalPoint>) -> Vec<Series> {
        let errors = points.iter().map(|point| point.error).collect();
        let points = points.iter().map(|point| (point.step as f64, point.value)).collect();
        let look = Look::Dots { errors };
        vec![Series { label: Some("held out ± standard error"), colour: self.held_out, points, look }]
    }

    fn plain(&self, points: Vec<(u64, f64)>) -> Vec<Series> {
        vec![Series { label: None, colour: self.train, points: floats(&points), look: Look::Line }]
    }

    fn pairs(&self, run: &Run, of: impl Fn(&v1::PreferenceMetrics) -> (f64, f64)) -> Vec<Series> {
        let train = run.of_steps(|step| step.preference.as_ref().map(|pairs| of(pairs).0));
        let held_out = run.of_evaluations(|result| result.preference.as_ref().map(&of));
        self.of_train(train).into_iter().chain(self.of_held_out(held_out)).collect()
    }
}

fn floats(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    points.iter().map(|point| (point.0 as f64, point.1)).collect()
}
