//! The flags of an adapter, and the settings they make.

use clap::Args;
use hone_client::v1;

use crate::choice::lora_init;

/// Settings of LoRA and its kin.
#[derive(Debug, Args)]
#[command(next_help_heading = "Adapter (LoRA)")]
pub(crate) struct LoraArgs {
    /// Rank of the adapter, 1 to 1024. Default 16.
    #[arg(long, value_name = "N")]
    rank: Option<u32>,
    /// Scale: the update is multiplied by alpha / rank. Default: twice the rank.
    #[arg(long, value_name = "X")]
    alpha: Option<f64>,
    /// Rank-stabilised scaling: alpha / sqrt(rank).
    #[arg(long)]
    rslora: bool,
    /// Dropout on the adapter's input, 0 to below 1. Default 0.
    #[arg(long, value_name = "P")]
    dropout: Option<f64>,
    /// Modules to adapt, such as q_proj,v_proj. Default all-linear: every linear layer but the head.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    target_modules: Vec<String>,
    /// Modules to adapt, by a regular expression for the whole path.
    #[arg(long, value_name = "REGEX", conflicts_with = "target_modules")]
    target_pattern: Option<String>,
    /// Modules to leave out although they are meant.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    exclude_modules: Vec<String>,
    /// Modules to leave out, by a regular expression for the whole path.
    #[arg(long, value_name = "REGEX", conflicts_with = "exclude_modules")]
    exclude_pattern: Option<String>,
    /// Layers to adapt, from 0, such as 0,1,2. Default: all.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', conflicts_with = "target_pattern")]
    layers: Vec<u32>,
    /// A rank for the modules that a regular expression means, such as q_proj=32. May be repeated; the first match counts.
    #[arg(long, value_name = "REGEX=N", value_parser = rank)]
    rank_pattern: Vec<v1::RankPattern>,
    /// An alpha for the modules that a regular expression means. May be repeated; the first match counts.
    #[arg(long, value_name = "REGEX=X", value_parser = alpha)]
    alpha_pattern: Vec<v1::AlphaPattern>,
    /// Modules to train and save whole: embed_tokens, lm_head.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    modules_to_save: Vec<String>,
    /// DoRA: train the length of every row beside its direction.
    #[arg(long)]
    dora: bool,
    /// What a fresh adapter starts with. Default: A random, B zero.
    #[arg(long, value_name = "START", value_parser = lora_init(), conflicts_with = "init_from")]
    init: Option<v1::LoraInit>,
}

impl LoraArgs {
    /// The settings that these flags ask for.
    pub(crate) fn spec(&self) -> v1::LoraSpec {
        v1::LoraSpec {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            target_modules: self.target_modules.clone(),
            use_rslora: self.rslora.then_some(true),
            target_pattern: self.target_pattern.clone(),
            exclude_modules: self.exclude_modules.clone(),
            exclude_pattern: self.exclude_pattern.clone(),
            layers_to_transform: self.layers.clone(),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            modules_to_save: self.modules_to_save.clone(),
            use_dora: self.dora.then_some(true),
            init: self.init.unwrap_or_default().into(),
        }
    }
}

fn rank(text: &str) -> Result<v1::RankPattern, String> {
    let (pattern, rank) = pair(text)?;
    let rank = rank.parse().map_err(|_| format!("`{rank}` is no rank"))?;
    Ok(v1::RankPattern { pattern, rank })
}

fn alpha(text: &str) -> Result<v1::AlphaPattern, String> {
    let (pattern, alpha) = pair(text)?;
    let alpha = alpha.parse().map_err(|_| format!("`{alpha}` is no number"))?;
    Ok(v1::AlphaPattern { pattern, alpha })
}

/// What stands before and after the last `=`: a look-ahead has one too.
fn pair(text: &str) -> Result<(String, &str), String> {
    let (pattern, value) = text.rsplit_once('=').ok_or("expected REGEX=NUMBER")?;
    Ok((pattern.to_string(), value))
}
