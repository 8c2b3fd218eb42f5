//! Which modules get an adapter and which are trained whole, by PEFT's rules.

use fancy_regex::Regex;

use super::options::LoraOptions;
use crate::model::decoder::{EMBEDDING, HEAD};
use crate::model::error::Error;
use crate::model::linear::LinearInfo;

/// Modules, in one of PEFT's three ways to say which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear layer but the head.
    AllLinear,
    /// Those whose path is an entry, or ends with a dot and an entry.
    Named(Vec<String>),
    /// Those whose whole path matches a regular expression.
    Pattern(String),
}

impl TargetModules {
    /// A pattern where there is one, else names, of which a single `all-linear` means all.
    pub(super) fn of(names: &[String], pattern: Option<&String>) -> TargetModules {
        match (pattern, names) {
            (Some(pattern), _) => TargetModules::Pattern(pattern.clone()),
            (None, [only]) if only.eq_ignore_ascii_case("all-linear") => TargetModules::AllLinear,
            (None, names) => TargetModules::Named(names.to_vec()),
        }
    }
}

impl std::fmt::Display for TargetModules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TargetModules::AllLinear => write!(f, "all-linear"),
            TargetModules::Named(entries) => write!(f, "{entries:?}"),
            TargetModules::Pattern(pattern) => write!(f, "the pattern `{pattern}`"),
        }
    }
}

/// What an adapter touches in one model.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    /// Linear layers with low-rank matrices, in the model's order.
    pub(super) linears: Vec<&'a LinearInfo>,
    /// Whether the embedding has low-rank matrices.
    pub(super) embedding: bool,
    /// Whether a copy of the embedding is trained whole.
    pub(super) saves_embedding: bool,
    /// Whether a copy of the head is trained whole.
    pub(super) saves_head: bool,
}

/// Chooses among the linear layers of a model, its embedding and its head.
pub(super) fn choose<'a>(options: &LoraOptions, linears: &[&'a LinearInfo]) -> Result<Chosen<'a>, Error> {
    let saved = saved_modules(&options.modules_to_save, linears)?;
    let rules = Rules::new(options)?;
    // A module that is trained whole has no adapter, whatever the targets say.
    let is_target = |path: &str| !saved.contains(&path) && rules.mean(path);
    if options.target_modules != TargetModules::AllLinear && is_target(HEAD) {
        let what =
            format!("`{HEAD}` cannot have an adapter: the loss reads its weight directly; modules_to_save trains it");
        return Err(Error::Adapter(what));
    }
    let chosen = Chosen {
        linears: linears.iter().copied().filter(|linear| is_target(&linear.path)).collect(),
        embedding: options.target_modules != TargetModules::AllLinear && is_target(EMBEDDING),
        saves_embedding: saved.contains(&EMBEDDING),
        saves_head: saved.contains(&HEAD),
    };
    if chosen.linears.is_empty() && !chosen.embedding {
        return Err(Error::Adapter(format!("no module matches {}; there are {}", rules, kinds(linears))));
    }
    Ok(chosen)
}

/// PEFT takes every module whose path ends with an entry, be it in the middle of a name.
fn saved_modules(entries: &[String], linears: &[&LinearInfo]) -> Result<Vec<&'static str>, Error> {
    let ends = [EMBEDDING, HEAD];
    let is_end = |entry: &String| ends.iter().any(|end| end.ends_with(entry.as_str()));
    let is_linear = |entry: &String| linears.iter().any(|linear| linear.path.ends_with(entry.as_str()));
    if let Some(entry) = entries.iter().find(|entry| !is_end(entry) || is_linear(entry)) {
        let what = format!("modules_to_save `{entry}`: only the embedding and the head can be trained whole");
        return Err(Error::Adapter(format!("{what} (`embed_tokens`, `lm_head`)")));
    }
    Ok(ends.into_iter().filter(|end| entries.iter().any(|entry| end.ends_with(entry.as_str()))).collect())
}

/// The options' rules with their patterns compiled.
struct Rules<'a> {
    options: &'a LoraOptions,
    target: Option<Regex>,
    excluded: Option<Regex>,
    /// Each has the layer's number as its group.
    layers: Vec<Regex>,
}

impl<'a> Rules<'a> {
    fn new(options: &'a LoraOptions) -> Result<Rules<'a>, Error> {
        let pattern = |key: &str, modules: &TargetModules| match modules {
            TargetModules::Pattern(pattern) => regex(key, pattern, &format!(r"\A(?:{pattern})\z")).map(Some),
            _ => Ok(None),
        };
        let layer = |before: &String| regex("layers_pattern", before, &format!(r"\A(?:|.*?\.)(?:{before})\.(\d+)\."));
        let any = || regex("layers_pattern", "", r"\A.*?\.[^.]*\.(\d+)\.");
        Ok(Rules {
            options,
            target: pattern("target_modules", &options.target_modules)?,
            excluded: pattern("exclude_modules", &options.exclude_modules)?,
            layers: match options.layers_pattern.as_slice() {
                [] => vec![any()?],
                patterns => patterns.iter().map(layer).collect::<Result<_, _>>()?,
            },
        })
    }

    /// Whether a path is meant and not excluded.
    fn mean(&self, path: &str) -> bool {
        let is_match =
            |regex: &Option<Regex>| regex.as_ref().is_some_and(|regex| regex.is_match(path).unwrap_or(false));
        let is_excluded = match &self.options.exclude_modules {
            TargetModules::Named(entries) => entries.iter().any(|entry| names(entry, path)),
            TargetModules::Pattern(_) => is_match(&self.excluded),
            TargetModules::AllLinear => false,
        };
        let is_meant = || match &self.options.target_modules {
            TargetModules::AllLinear => self.is_in_layers(path),
            TargetModules::Named(entries) => {
                entries.iter().any(|entry| entry == path)
                    || entries.iter().any(|entry| names(entry, path)) && self.is_in_layers(path)
            }
            TargetModules::Pattern(_) => is_match(&self.target),
        };
        !is_excluded && is_meant()
    }

    fn is_in_layers(&self, path: &str) -> bool {
        self.options.layers_to_transform.is_empty()
            || self.layer_of(path).is_some_and(|layer| self.options.layers_to_transform.contains(&layer))
    }

    fn layer_of(&self, path: &str) -> Option<i64> {
        let captures = self.layers.iter().find_map(|regex| regex.captures(path).ok().flatten())?;
        captures.get(1)?.as_str().parse().ok()
    }
}

impl std::fmt::Display for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.options.target_modules)?;
        if !self.options.layers_to_transform.is_empty() {
            write!(f, " in the layers {:?}", self.options.layers_to_transform)?;
        }
        match &self.options.exclude_modules {
            TargetModules::Named(entries) if entries.is_empty() => Ok(()),
            excluded => write!(f, " without {excluded}"),
        }
    }
}

/// `path == entry`, or `path` ends with `.entry`.
fn names(entry: &str, path: &str) -> bool {
    path.strip_suffix(entry).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The keys of rank_pattern and alpha_pattern: the end of a path, after a dot or as a whole.
pub(super) fn ending(key: &str, pattern: &str) -> Result<Regex, Error> {
    regex(key, pattern, &format!(r"\A(?:.*\.)?(?:{pattern})\z"))
}

fn regex(key: &str, pattern: &str, whole: &str) -> Result<Regex, Error> {
    Regex::new(whole).map_err(|error| Error::Adapter(format!("{key} `{pattern}` is no regular expression: {error}")))
}

/// The last names of paths, each once.
fn kinds(linears: &[&LinearInfo]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for name in linears.iter().filter_map(|linear| linear.path.rsplit('.').next()) {
        if !kinds.contains(&name) {
            kinds.push(name);
        }
    }
    format!(
        "{} (in {} layers' paths such as {})",
        kinds.join(", "),
        linears.len() / kinds.len().max(1),
        linears.first().map_or("none", |linear| linear.path.as_str())
    )
}
