//! Settings of LoRA and its kin, as in PEFT.

use serde::{Deserialize, Serialize};

use super::{Check, limits};

/// Settings of LoRA. What a job stored before a field existed lacks takes the field's default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lora {
    /// Rank r of the update. 1 to 1024, default 16.
    pub rank: u32,
    /// Scale numerator; the update is multiplied by alpha / r (alpha / sqrt(r) with `use_rslora`). Default 32.
    pub alpha: f64,
    /// Dropout on the adapter's input while training. 0 to below 1, default 0.
    pub dropout: f64,
    /// Modules to adapt: names (matched against the end of the path) or the single entry `all-linear`, the default.
    pub target_modules: Vec<String>,
    /// Modules to adapt in place of `target_modules`: a regular expression for the whole path.
    pub target_pattern: Option<String>,
    /// Modules that are left out although they are meant, by name.
    pub exclude_modules: Vec<String>,
    /// The same by a regular expression for the whole path, in place of `exclude_modules`.
    pub exclude_pattern: Option<String>,
    /// Layers to adapt, from 0; empty, the default, means all.
    pub layers_to_transform: Vec<u32>,
    /// Ranks of their own for some modules; the first pattern that matches counts. Alpha stays as it is.
    pub rank_pattern: Vec<RankPattern>,
    /// Scale numerators of their own for some modules; the first pattern that matches counts.
    pub alpha_pattern: Vec<AlphaPattern>,
    /// Modules trained and saved whole: `embed_tokens`, `lm_head`.
    pub modules_to_save: Vec<String>,
    /// Rank-stabilised scaling (arXiv 2312.03732). Default off.
    pub use_rslora: bool,
    /// Weight-decomposed adaptation (arXiv 2402.09353): the length of every row is trained beside its direction. Default off.
    pub use_dora: bool,
    /// What a fresh adapter starts with.
    pub init: LoraInit,
}

/// A rank for the modules whose path ends, after a dot or as a whole, with what a regular expression matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPattern {
    /// The regular expression.
    pub pattern: String,
    /// The rank. 1 to 1024.
    pub rank: u32,
}

/// A scale numerator for the modules whose path ends, after a dot or as a whole, with what a regular expression matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlphaPattern {
    /// The regular expression.
    pub pattern: String,
    /// The scale numerator, above 0.
    pub alpha: f64,
}

/// What a fresh adapter starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraInit {
    /// A uniform in ±1/√in, B zero. The default.
    #[default]
    Default,
    /// A normal with a standard deviation of 1/r, B zero.
    Gaussian,
    /// A and B from interleaved rows of one orthogonal matrix, so that their product is zero. Even ranks only.
    Orthogonal,
    /// The r largest singular components of the weight (arXiv 2404.02948), taken off the base.
    Pissa,
    /// The first r columns and rows of the weight's QR decomposition (arXiv 2406.01775), taken off the base.
    Olora,
}

impl LoraInit {
    /// Whether the product that A and B start with is taken off the base, so that the start is the base model.
    pub fn is_taken_off(self) -> bool {
        matches!(self, LoraInit::Pissa | LoraInit::Olora)
    }
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: vec!["all-linear".into()],
            target_pattern: None,
            exclude_modules: Vec::new(),
            exclude_pattern: None,
            layers_to_transform: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            use_rslora: false,
            use_dora: false,
            init: LoraInit::Default,
        }
    }
}

/// Settings for which vLLM refuses an adapter, or does not read them and computes something else.
pub const NOT_FOR_VLLM: [&str; 4] = ["use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"];

impl Lora {
    /// Those of [`NOT_FOR_VLLM`] that are set.
    pub fn not_for_vllm(&self) -> Vec<&'static str> {
        let is_set = [
            self.use_dora,
            !self.modules_to_save.is_empty(),
            !self.rank_pattern.is_empty(),
            !self.alpha_pattern.is_empty(),
        ];
        NOT_FOR_VLLM.into_iter().zip(is_set).filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.within(f64::from(self.rank), RANKS, "adapter.lora.rank");
        check.that(is_scale(self.alpha), "adapter.lora.alpha", "must be above 0");
        check.that((0.0..1.0).contains(&self.dropout), "adapter.lora.dropout", "must be from 0 to below 1");
        if self.has_short_lists(check) {
            self.validate_targets(check);
            self.validate_patterns(check);
        }
        for module in &self.modules_to_save {
            let ok = ["embed_tokens", "model.embed_tokens", "lm_head"].contains(&module.as_str());
            check.that(ok, "adapter.lora.modules_to_save", format!("`{module}`: only embed_tokens and lm_head"));
        }
        let ranks = self.rank_pattern.iter().map(|pattern| pattern.rank).chain([self.rank]);
        let odd = self.init == LoraInit::Orthogonal && ranks.into_iter().any(|rank| rank % 2 == 1);
        check.that(!odd, "adapter.lora.init", "orthogonal needs even ranks");
    }

    fn validate_targets(&self, check: &mut Check<'_>) {
        let field = "adapter.lora.target_modules";
        check.that(!self.target_modules.is_empty() || self.target_pattern.is_some(), field, "must name a module");
        let both = !self.target_modules.is_empty() && self.target_pattern.is_some();
        check.that(!both, field, "target_modules and target_pattern exclude each other");
        let is_head = |entry: &String| entry == "lm_head" && !self.modules_to_save.contains(entry);
        let message = "`lm_head` cannot have an adapter: the loss reads its weight directly; modules_to_save trains it";
        check.that(!self.target_modules.iter().any(is_head), field, message);
        let both = !self.exclude_modules.is_empty() && self.exclude_pattern.is_some();
        let message = "exclude_modules and exclude_pattern exclude each other";
        check.that(!both, "adapter.lora.exclude_modules", message);
        for (field, entries) in [(field, &self.target_modules), ("adapter.lora.exclude_modules", &self.exclude_modules)]
        {
            check.that(!entries.iter().any(String::is_empty), field, "an entry is empty");
        }
        let layers = self.layers_to_transform.is_empty() || self.target_pattern.is_none();
        let message = "layers_to_transform and target_pattern exclude each other: name the layers in the pattern";
        check.that(layers, "adapter.lora.layers_to_transform", message);
    }

    /// Whether all lists are short enough to look at their entries.
    fn has_short_lists(&self, check: &mut Check<'_>) -> bool {
        let lens = [
            ("adapter.lora.target_modules", self.target_modules.len()),
            ("adapter.lora.exclude_modules", self.exclude_modules.len()),
            ("adapter.lora.layers_to_transform", self.layers_to_transform.len()),
            ("adapter.lora.rank_pattern", self.rank_pattern.len()),
            ("adapter.lora.alpha_pattern", self.alpha_pattern.len()),
            ("adapter.lora.modules_to_save", self.modules_to_save.len()),
        ];
        let most = limits::MAX_MODULES;
        for (field, len) in lens {
            check.that(len <= most, field, format!("has {len} entries; at most {most} are allowed"));
        }
        lens.iter().all(|(_, len)| *len <= most)
    }

    fn validate_patterns(&self, check: &mut Check<'_>) {
        let ranks = self.rank_pattern.iter().map(|one| ("adapter.lora.rank_pattern", &one.pattern));
        let alphas = self.alpha_pattern.iter().map(|one| ("adapter.lora.alpha_pattern", &one.pattern));
        let targets = self.target_pattern.iter().map(|pattern| ("adapter.lora.target_pattern", pattern));
        let excluded = self.exclude_pattern.iter().map(|pattern| ("adapter.lora.exclude_pattern", pattern));
        for (field, pattern) in targets.chain(excluded).chain(ranks).chain(alphas) {
            let (len, most) = (pattern.len(), limits::MAX_PATTERN_BYTES);
            if len > most {
                check.that(false, field, format!("a pattern has {len} bytes; at most {most} are allowed"));
                continue;
            }
            // A few letters can ask for an automaton of many megabytes.
            let compiled = fancy_regex::RegexBuilder::new(pattern).delegate_size_limit(MAX_COMPILED_BYTES).build();
            if let Err(error) = compiled {
                check.that(false, field, format!("`{pattern}` is no regular expression: {error}"));
            }
        }
        for one in &self.rank_pattern {
            check.within(f64::from(one.rank), RANKS, "adapter.lora.rank_pattern");
        }
        let alphas = self.alpha_pattern.iter().all(|one| is_scale(one.alpha));
        check.that(alphas, "adapter.lora.alpha_pattern", "an alpha must be above 0");
    }
}

/// Largest compiled pattern.
const MAX_COMPILED_BYTES: usize = 256 << 10;

const RANKS: std::ops::RangeInclusive<f64> = 1.0..=1024.0;

fn is_scale(alpha: f64) -> bool {
    alpha.is_finite() && alpha > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(lora: &Lora) -> Vec<String> {
        let mut check = Check { path: "t", found: Vec::new() };
        lora.validate(&mut check);
        check.found.into_iter().map(|violation| violation.field.replace("t.adapter.lora.", "")).collect()
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let bad = Lora {
            alpha: 0.0,
            target_modules: vec!["lm_head".into(), String::new()],
            target_pattern: Some("(".into()),
            exclude_modules: vec!["a".into()],
            exclude_pattern: Some("[".into()),
            layers_to_transform: vec![1],
            rank_pattern: vec![RankPattern { pattern: "*".into(), rank: 0 }],
            alpha_pattern: vec![AlphaPattern { pattern: "a)".into(), alpha: f64::NAN }],
            modules_to_save: vec!["norm".into()],
            rank: 3,
            init: LoraInit::Orthogonal,
            ..Lora::default()
        };
        let expected = [
            "alpha",
            "target_modules",
            "target_modules",
            "exclude_modules",
            "target_modules",
            "layers_to_transform",
            "target_pattern",
            "exclude_pattern",
            "rank_pattern",
            "alpha_pattern",
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
            "init",
        ];
        assert_eq!(violations(&bad), expected);
    }

    #[test]
    fn patterns_that_are_many_long_or_large_when_compiled_are_refused() {
        let one = |pattern: &str| Lora { exclude_pattern: Some(pattern.into()), ..Lora::default() };
        assert_eq!(violations(&one(&"a".repeat(limits::MAX_PATTERN_BYTES + 1))), ["exclude_pattern"]);
        assert_eq!(violations(&one(r"(\w{100}){100}")), ["exclude_pattern"]);
        let pattern = RankPattern { pattern: "(".into(), rank: 1 };
        let many = Lora { rank_pattern: vec![pattern; limits::MAX_MODULES + 1], ..Lora::default() };
        assert_eq!(violations(&many), ["rank_pattern"], "none of them is compiled");
    }

    #[test]
    fn what_peft_allows_is_allowed() {
        let full = Lora {
            target_modules: vec!["q_proj".into(), "embed_tokens".into(), "lm_head".into()],
            exclude_pattern: Some(r".*\.1\..*".into()),
            layers_to_transform: vec![0, 2],
            rank_pattern: vec![RankPattern { pattern: "q_(?!x)proj".into(), rank: 8 }],
            alpha_pattern: vec![AlphaPattern { pattern: "q_proj".into(), alpha: 0.5 }],
            modules_to_save: vec!["lm_head".into()],
            use_dora: true,
            init: LoraInit::Orthogonal,
            ..Lora::default()
        };
        assert_eq!(violations(&full), Vec::<String>::new());
        assert_eq!(full.not_for_vllm(), ["use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"]);
        let pattern = Lora { target_modules: Vec::new(), target_pattern: Some(".*_proj".into()), ..Lora::default() };
        assert_eq!(violations(&pattern), Vec::<String>::new());
        assert!(pattern.not_for_vllm().is_empty());
    }

    #[test]
    fn a_spec_stored_before_a_field_existed_is_read() {
        let old = r#"{"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": ["q_proj"], "use_rslora": true}"#;
        let expected =
            Lora { rank: 4, alpha: 8.0, target_modules: vec!["q_proj".into()], use_rslora: true, ..Lora::default() };
        assert_eq!(serde_json::from_str::<Lora>(old).unwrap(), expected);
    }
}
