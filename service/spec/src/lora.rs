//! Settings of LoRA, there and back.

use hone_job::spec::{AlphaPattern, Lora, LoraInit, RankPattern};
use hone_proto::v1 as pb;

use super::Reader;

impl Reader {
    /// The settings at `path`. Alpha follows the rank unless it is given, and a target pattern stands in place of names.
    pub(super) fn lora(&mut self, path: &str, lora: pb::LoraSpec) -> Lora {
        let defaults = Lora::default();
        let rank = lora.rank.unwrap_or(defaults.rank);
        let use_default = lora.target_modules.is_empty() && lora.target_pattern.is_none();
        let rank_of = |one: pb::RankPattern| RankPattern { pattern: one.pattern, rank: one.rank };
        let alpha_of = |one: pb::AlphaPattern| AlphaPattern { pattern: one.pattern, alpha: one.alpha };
        Lora {
            rank,
            alpha: lora.alpha.unwrap_or(2.0 * f64::from(rank)),
            dropout: lora.dropout.unwrap_or(defaults.dropout),
            target_modules: if use_default { defaults.target_modules } else { lora.target_modules },
            target_pattern: lora.target_pattern,
            exclude_modules: lora.exclude_modules,
            exclude_pattern: lora.exclude_pattern,
            layers_to_transform: lora.layers_to_transform,
            rank_pattern: lora.rank_pattern.into_iter().map(rank_of).collect(),
            alpha_pattern: lora.alpha_pattern.into_iter().map(alpha_of).collect(),
            modules_to_save: lora.modules_to_save,
            use_rslora: lora.use_rslora.unwrap_or(defaults.use_rslora),
            use_dora: lora.use_dora.unwrap_or(defaults.use_dora),
            init: self.choice(format!("{path}.init"), lora.init, init),
        }
    }
}

fn init(value: pb::LoraInit) -> LoraInit {
    match value {
        pb::LoraInit::Unspecified | pb::LoraInit::Default => LoraInit::Default,
        pb::LoraInit::Gaussian => LoraInit::Gaussian,
        pb::LoraInit::Orthogonal => LoraInit::Orthogonal,
        pb::LoraInit::Pissa => LoraInit::Pissa,
        pb::LoraInit::Olora => LoraInit::Olora,
    }
}

/// The settings in force as a message.
pub(super) fn message(lora: Lora) -> pb::LoraSpec {
    let rank_of = |one: RankPattern| pb::RankPattern { pattern: one.pattern, rank: one.rank };
    let alpha_of = |one: AlphaPattern| pb::AlphaPattern { pattern: one.pattern, alpha: one.alpha };
    pb::LoraSpec {
        rank: Some(lora.rank),
        alpha: Some(lora.alpha),
        dropout: Some(lora.dropout),
        target_modules: lora.target_modules,
        use_rslora: Some(lora.use_rslora),
        target_pattern: lora.target_pattern,
        exclude_modules: lora.exclude_modules,
        exclude_pattern: lora.exclude_pattern,
        layers_to_transform: lora.layers_to_transform,
        rank_pattern: lora.rank_pattern.into_iter().map(rank_of).collect(),
        alpha_pattern: lora.alpha_pattern.into_iter().map(alpha_of).collect(),
        modules_to_save: lora.modules_to_save,
        use_dora: Some(lora.use_dora),
        init: match lora.init {
            LoraInit::Default => pb::LoraInit::Default,
            LoraInit::Gaussian => pb::LoraInit::Gaussian,
            LoraInit::Orthogonal => pb::LoraInit::Orthogonal,
            LoraInit::Pissa => pb::LoraInit::Pissa,
            LoraInit::Olora => pb::LoraInit::Olora,
        }
        .into(),
    }
}
