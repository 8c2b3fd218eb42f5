//! `train sft`: what it has beside the flags of all training.

use clap::Args;
use hone_client::v1;

use crate::choice::loss_on;
use crate::failure::Failure;
use crate::training::TrainingArgs;

/// Settings of supervised fine-tuning.
#[derive(Debug, Args)]
pub(crate) struct SftArgs {
    #[command(flatten)]
    pub(crate) training: TrainingArgs,
    /// Which tokens are trained on. Default completion: in a conversation the last assistant turn.
    #[arg(long, value_name = "WHICH", value_parser = loss_on(), help_heading = "Model and rows")]
    loss_on: Option<v1::LossOn>,
    /// Noise on the embeddings while training (NEFTune), 0 to 100; 5 is usual. Default 0: none.
    #[arg(long, value_name = "ALPHA", help_heading = "Training")]
    neftune_noise_alpha: Option<f64>,
}

impl SftArgs {
    /// The spec that these flags ask for.
    pub(crate) fn spec(&self) -> Result<v1::JobSpec, Failure> {
        let parts = self.training.parts()?;
        let task = v1::SftTask {
            loss_on: self.loss_on.unwrap_or_default().into(),
            neftune_noise_alpha: self.neftune_noise_alpha,
            ..parts.into()
        };
        Ok(self.training.job(v1::job_spec::Task::Sft(task)))
    }
}
