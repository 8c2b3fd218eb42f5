//! What an adapter is like: PEFT's `LoraConfig`, as far as it decides what is computed.

use hone_job::spec::{self, LoraInit};

use super::targets::{TargetModules, ending};
use crate::model::error::Error;

/// What an adapter is like.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOptions {
    /// Rank r of the update.
    pub rank: i64,
    /// The update is multiplied by alpha / r.
    pub alpha: f64,
    /// Ranks of their own for the modules whose path ends, after a dot or as a whole, with what a regular expression
    /// matches. The first that matches counts. Alpha stays as it is.
    pub rank_pattern: Vec<(String, i64)>,
    /// The same for alpha.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Dropout on the input of A in training. Projections that share their input (q, k, v; gate, up) share its mask, where
    /// PEFT draws one for each.
    pub dropout: f64,
    /// Which layers.
    pub target_modules: TargetModules,
    /// Which of them are left out.
    pub exclude_modules: TargetModules,
    /// Only layers of these numbers; empty means all. Does not hold for modules named by their whole path.
    pub layers_to_transform: Vec<i64>,
    /// What stands before a layer's number in a path, as regular expressions; empty means anything.
    pub layers_pattern: Vec<String>,
    /// Modules trained and saved whole: the embedding, the head.
    pub modules_to_save: Vec<String>,
    /// alpha / √r in place of alpha / r (arXiv:2312.03732).
    pub use_rslora: bool,
    /// The length of every row is trained beside its direction (arXiv:2402.09353).
    pub use_dora: bool,
    /// What a fresh adapter starts with.
    pub init: LoraInit,
}

impl LoraOptions {
    /// The factor s of an update.
    pub fn scaling(&self, rank: i64, alpha: f64) -> f64 {
        let rank = rank as f64;
        if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Those of [`spec::NOT_FOR_VLLM`] that are set.
    pub fn not_for_vllm(&self) -> Vec<&'static str> {
        let is_set = [
            self.use_dora,
            !self.modules_to_save.is_empty(),
            !self.rank_pattern.is_empty(),
            !self.alpha_pattern.is_empty(),
        ];
        spec::NOT_FOR_VLLM.into_iter().zip(is_set).filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }

    /// Rank and alpha of modules by their paths. The patterns are those of an adapter that exists, so they are sound.
    pub fn sizes<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Vec<(&'a str, i64, f64)> {
        let sizes = Sizes::new(self).expect("an adapter was made with these patterns");
        paths.map(|path| (path, sizes.rank(path), sizes.alpha(path))).collect()
    }

    /// Options of an adapter that computes the same with twice the rank: the update of an adapter whose start is taken
    /// off the base is the difference of two products, `s (B A - B₀ A₀) = s [B, -B₀] [A; A₀]`.
    pub(super) fn doubled(&self) -> LoraOptions {
        self.resized(|rank| rank * 2, if self.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 })
    }

    /// The options of the adapter with its start taken off the base, of which these are the converted ones: half the rank.
    pub fn halved(&self, init: LoraInit) -> LoraOptions {
        let factor = if self.use_rslora { std::f64::consts::FRAC_1_SQRT_2 } else { 0.5 };
        LoraOptions { init, ..self.resized(|rank| rank / 2, factor) }
    }

    fn resized(&self, rank: impl Fn(i64) -> i64, alpha: f64) -> LoraOptions {
        LoraOptions {
            rank: rank(self.rank),
            alpha: self.alpha * alpha,
            rank_pattern: self.rank_pattern.iter().map(|(pattern, value)| (pattern.clone(), rank(*value))).collect(),
            alpha_pattern: self.alpha_pattern.iter().map(|(pattern, value)| (pattern.clone(), value * alpha)).collect(),
            init: LoraInit::Default,
            ..self.clone()
        }
    }
}

impl Default for LoraOptions {
    fn default() -> LoraOptions {
        LoraOptions::from(&spec::Lora::default())
    }
}

impl From<&spec::Lora> for LoraOptions {
    fn from(lora: &spec::Lora) -> LoraOptions {
        LoraOptions {
            rank: lora.rank.into(),
            alpha: lora.alpha,
            rank_pattern: lora.rank_pattern.iter().map(|one| (one.pattern.clone(), one.rank.into())).collect(),
            alpha_pattern: lora.alpha_pattern.iter().map(|one| (one.pattern.clone(), one.alpha)).collect(),
            dropout: lora.dropout,
            target_modules: TargetModules::of(&lora.target_modules, lora.target_pattern.as_ref()),
            exclude_modules: TargetModules::of(&lora.exclude_modules, lora.exclude_pattern.as_ref()),
            layers_to_transform: lora.layers_to_transform.iter().map(|&layer| layer.into()).collect(),
            layers_pattern: Vec::new(),
            modules_to_save: lora.modules_to_save.clone(),
            use_rslora: lora.use_rslora,
            use_dora: lora.use_dora,
            init: lora.init,
        }
    }
}

/// Ranks and scale numerators by path.
pub(super) struct Sizes<'a> {
    options: &'a LoraOptions,
    ranks: Vec<(fancy_regex::Regex, i64)>,
    alphas: Vec<(fancy_regex::Regex, f64)>,
}

impl<'a> Sizes<'a> {
    pub(super) fn new(options: &'a LoraOptions) -> Result<Sizes<'a>, Error> {
        Ok(Sizes {
            options,
            ranks: compiled("rank_pattern", &options.rank_pattern)?,
            alphas: compiled("alpha_pattern", &options.alpha_pattern)?,
        })
    }

    pub(super) fn rank(&self, path: &str) -> i64 {
        first_match(&self.ranks, path).unwrap_or(self.options.rank)
    }

    pub(super) fn alpha(&self, path: &str) -> f64 {
        first_match(&self.alphas, path).unwrap_or(self.options.alpha)
    }
}

fn compiled<T: Copy>(key: &str, patterns: &[(String, T)]) -> Result<Vec<(fancy_regex::Regex, T)>, Error> {
    patterns.iter().map(|(pattern, value)| Ok((ending(key, pattern)?, *value))).collect()
}

fn first_match<T: Copy>(patterns: &[(fancy_regex::Regex, T)], path: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(path).unwrap_or(false)).map(|(_, value)| *value)
}
