//! `train dpo`: what it has beside the flags of all training.

use clap::Args;
use hone_client::v1;
use v1::reference_policy::Policy;

use crate::choice::{divergence, preference_loss};
use crate::failure::Failure;
use crate::training::TrainingArgs;

/// Settings of preference optimisation.
#[derive(Debug, Args)]
pub(crate) struct DpoArgs {
    #[command(flatten)]
    pub(crate) training: TrainingArgs,
    /// The losses, each with its weight where that is not 1, such as sigmoid,sft:0.1. Default sigmoid.
    #[arg(long, value_name = "LOSS[:WEIGHT]", value_delimiter = ',', value_parser = weighted_loss, help_heading = "Preference")]
    loss: Vec<v1::PreferenceLoss>,
    /// How strongly the policy is held to the reference, above 0. Default 0.1; 2 for simpo.
    #[arg(long, value_name = "X", help_heading = "Preference")]
    beta: Option<f64>,
    /// Share of pairs taken to be labelled the wrong way round, 0 to below 0.5. Default 0.
    #[arg(long, value_name = "SHARE", help_heading = "Preference")]
    label_smoothing: Option<f64>,
    /// What the policy is compared with: initial (as it was before the first step), base (the model without adapter), or a
    /// checkpoint: a URI, JOB/CHECKPOINT, or JOB for its last checkpoint. Default initial.
    #[arg(long, value_name = "POLICY", help_heading = "Preference")]
    reference: Option<String>,
    /// What holds the policy to the reference. Default reverse_kl.
    #[arg(long, value_parser = divergence(), help_heading = "Preference")]
    divergence: Option<v1::Divergence>,
    /// Exponent of the divergence alpha. Default 0.5.
    #[arg(long, value_name = "X", help_heading = "Preference")]
    divergence_alpha: Option<f64>,
    /// Weight of tokens past the length of the shorter answer (LD-DPO), 0 to 1. Default 1.
    #[arg(long, value_name = "X", help_heading = "Preference")]
    length_alpha: Option<f64>,
    /// Weight pairs by how likely the policy itself would write them (WPO).
    #[arg(long, help_heading = "Preference")]
    use_weighting: bool,
    /// Margin that simpo asks for. Default 0.5.
    #[arg(long, value_name = "X", help_heading = "Preference")]
    simpo_gamma: Option<f64>,
    /// Temperature of discopop's blend. Default 0.05.
    #[arg(long, value_name = "X", help_heading = "Preference")]
    discopop_tau: Option<f64>,
}

/// The word of the reference that is no adapter.
const INITIAL: &str = "initial";
/// The same without any adapter.
const BASE: &str = "base";

impl DpoArgs {
    /// The spec that these flags ask for.
    pub(crate) fn spec(&self) -> Result<v1::JobSpec, Failure> {
        let parts = self.training.parts()?;
        let policy = match self.reference.as_deref() {
            None => None,
            Some(INITIAL) => Some(Policy::Initial(v1::InitialPolicy {})),
            Some(BASE) => Some(Policy::Base(v1::BasePolicy {})),
            Some(named) => Some(Policy::Checkpoint(named.to_owned())),
        };
        let task = v1::DpoTask {
            losses: self.loss.clone(),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            reference: policy.map(|policy| v1::ReferencePolicy { policy: Some(policy) }),
            divergence: self.divergence.unwrap_or_default().into(),
            divergence_alpha: self.divergence_alpha,
            length_alpha: self.length_alpha,
            use_weighting: self.use_weighting.then_some(true),
            simpo_gamma: self.simpo_gamma,
            discopop_tau: self.discopop_tau,
            ..parts.into()
        };
        Ok(self.training.job(v1::job_spec::Task::Dpo(task)))
    }
}

/// `sigmoid`, or `sigmoid:0.5`.
fn weighted_loss(text: &str) -> Result<v1::PreferenceLoss, String> {
    let (name, weight) = match text.split_once(':') {
        Some((name, weight)) => {
            (name, Some(weight.parse().map_err(|_| format!("the weight {weight:?} is no number"))?))
        }
        None => (text, None),
    };
    Ok(v1::PreferenceLoss { r#type: preference_loss(name)?.into(), weight })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use crate::args::{Cli, Command, TrainCommand};
    use crate::json::line;

    /// The dpo part of the spec that `hone train dpo --model m --train d` makes with further flags.
    fn dpo(flags: &[&str]) -> Result<Value, clap::Error> {
        let start = ["hone", "train", "dpo", "--model", "m", "--train", "d"];
        let cli = Cli::try_parse_from(start.iter().chain(flags))?;
        let Command::Train(TrainCommand::Dpo(args)) = cli.command else { panic!("another command") };
        let spec = args.spec().expect("a spec");
        let json: Value = serde_json::from_str(&line("JobSpec", &spec)).expect("JSON");
        let mut dpo = json["dpo"].clone();
        dpo.as_object_mut().expect("an object").remove("data");
        Ok(dpo)
    }

    #[test]
    fn every_flag_sets_its_field_and_no_other() {
        let check = |flags: &[&str], expected: Value| assert_eq!(dpo(flags).expect("flags"), expected, "{flags:?}");
        check(&[], json!({}));
        check(
            &["--loss", "ipo,sft:0.1"],
            json!({"losses": [{"type": "PREFERENCE_LOSS_TYPE_IPO"}, {"type": "PREFERENCE_LOSS_TYPE_SFT", "weight": 0.1}]}),
        );
        check(&["--beta", "0.3"], json!({"beta": 0.3}));
        check(&["--label-smoothing", "0.1"], json!({"label_smoothing": 0.1}));
        check(&["--reference", "initial"], json!({"reference": {"initial": {}}}));
        check(&["--reference", "base"], json!({"reference": {"base": {}}}));
        check(&["--reference", "job-1"], json!({"reference": {"checkpoint": "job-1"}}));
        check(&["--divergence", "forward_kl"], json!({"divergence": "DIVERGENCE_FORWARD_KL"}));
        check(&["--divergence-alpha", "0.7"], json!({"divergence_alpha": 0.7}));
        check(&["--length-alpha", "0.5"], json!({"length_alpha": 0.5}));
        check(&["--use-weighting"], json!({"use_weighting": true}));
        check(&["--simpo-gamma", "1"], json!({"simpo_gamma": 1.0}));
        check(&["--discopop-tau", "0.1"], json!({"discopop_tau": 0.1}));
        check(&["--full"], json!({"adapter": {"full": {}}}));
        check(
            &["--learning-rate", "5e-6", "--max-steps", "3"],
            json!({"optimizer": {"learning_rate": 5e-6}, "max_steps": "3"}),
        );
    }

    #[test]
    fn what_is_no_loss_is_told_with_what_is() {
        let error = dpo(&["--loss", "dpo"]).expect_err("no loss").to_string();
        assert!(error.contains("sigmoid") && error.contains("sppo_hard"), "{error}");
        assert!(dpo(&["--loss", "ipo:x"]).expect_err("no weight").to_string().contains("no number"));
        assert!(dpo(&["--loss-on", "all"]).is_err(), "answers are what is trained on");
    }
}
