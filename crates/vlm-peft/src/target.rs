//! Which linear maps an adapter hangs on.

use std::fmt;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{Error, Site};

/// All linear maps but the output head.
const ALL: &str = "all-linear";
/// What output heads are called.
const HEADS: [&str; 2] = ["lm_head", "head"];
/// Names that an error suggests.
const NEAR: usize = 4;

/// Which linear maps an adapter hangs on, as peft has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// A regular expression that the whole name has to match, or `all-linear`.
    Pattern(String),
    /// Names, or their last parts: `q_proj` is every map of that name.
    Names(Vec<String>),
}

impl Targets {
    /// All linear maps but the output head.
    pub fn all() -> Self {
        Targets::Pattern(ALL.to_owned())
    }

    /// Of names.
    pub fn of(names: &[&str]) -> Self {
        Targets::Names(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// The table of tokens of the part that reads text, or the first one.
    pub(crate) fn table_of_text(sites: &[Site]) -> Self {
        let reads = |site: &&Site| site.path.starts_with("text.");
        let chosen = sites.iter().find(reads).or(sites.first());
        Targets::Names(chosen.map(|site| site.module.clone()).into_iter().collect())
    }

    /// The maps of the stack that reads text, or of the first one; `stack_of` names that of a map, if the map is
    /// of a kind that is wanted.
    pub(crate) fn stack_of_text(sites: &[Site], stack_of: fn(&Site) -> Option<&str>) -> Self {
        let stacks: Vec<&str> = sites.iter().filter_map(stack_of).collect();
        let reads = |stack: &&&str| stack.split('.').any(|part| part == "text");
        // A fusion may have a stack for text of its own.
        let is_text = |stack: &&&str| stack.starts_with("text.");
        let chosen = stacks.iter().find(is_text).or_else(|| stacks.iter().find(reads));
        let chosen = chosen.or(stacks.first()).copied();
        let of = |site: &&Site| chosen.is_some() && stack_of(site) == chosen;
        Targets::Names(sites.iter().filter(of).map(|site| site.module.clone()).collect())
    }

    /// Those of a model's maps that fit. A map fits by its name in the reference or by its path here.
    ///
    /// # Errors
    /// [`Error::NoTarget`] if none does, [`Error::Pattern`] if the pattern is none.
    pub fn choose(&self, sites: &[Site]) -> Result<Vec<Site>, Error> {
        let fits = self.matcher()?;
        let chosen: Vec<Site> = sites.iter().filter(|site| fits(site)).cloned().collect();
        if chosen.is_empty() {
            return Err(Error::NoTarget { targets: self.to_string(), near: self.near(sites) });
        }
        Ok(chosen)
    }

    /// Whether the pattern is one.
    ///
    /// # Errors
    /// [`Error::Pattern`] if not.
    pub fn check(&self) -> Result<(), Error> {
        self.matcher().map(|_| ())
    }

    /// Whether a map fits.
    pub fn fits(&self, site: &Site) -> bool {
        self.matcher().is_ok_and(|fits| fits(site))
    }

    fn matcher(&self) -> Result<Box<Fits>, Error> {
        let by_name = |fits: Box<dyn Fn(&str) -> bool>| -> Box<Fits> {
            Box::new(move |site| fits(&site.module) || fits(own(site)))
        };
        Ok(match self {
            Targets::Pattern(pattern) if pattern == ALL => {
                Box::new(|site| !HEADS.contains(&last(&site.module)))
            }
            Targets::Pattern(pattern) => {
                let error = |e: regex::Error| Error::Pattern {
                    pattern: pattern.clone(),
                    reason: e.to_string().lines().last().unwrap_or_default().to_owned(),
                };
                let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(error)?;
                by_name(Box::new(move |name| regex.is_match(name)))
            }
            Targets::Names(names) => {
                let names = names.clone();
                by_name(Box::new(move |name| names.iter().any(|entry| is_or_ends(name, entry))))
            }
        })
    }

    /// Names of the model that are most like those asked for.
    fn near(&self, sites: &[Site]) -> Vec<String> {
        let asked: Vec<&str> = match self {
            Targets::Pattern(pattern) => vec![pattern],
            Targets::Names(names) => names.iter().map(String::as_str).collect(),
        };
        let mut known: Vec<&str> = sites.iter().map(|site| last(&site.module)).collect();
        known.sort_unstable();
        known.dedup();
        let likeness = |name: &str| {
            asked.iter().map(|entry| strsim::jaro_winkler(last(entry), name)).fold(0.0, f64::max)
        };
        known.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
        known.into_iter().take(NEAR).map(str::to_owned).collect()
    }
}

/// Whether a map fits.
type Fits = dyn Fn(&Site) -> bool;

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Targets::Pattern(pattern) => f.write_str(pattern),
            Targets::Names(names) => f.write_str(&names.join(", ")),
        }
    }
}

/// Whether a dotted name is the entry or ends in it.
pub(crate) fn is_or_ends(name: &str, entry: &str) -> bool {
    name.strip_suffix(entry).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn own(site: &Site) -> &str {
    site.path.strip_suffix(".weight").unwrap_or(&site.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites() -> Vec<Site> {
        let names = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.self_attn.v_proj",
            "model.layers.1.self_attn.q_proj",
            "model.vision.0.q_proj",
            "lm_head",
        ];
        let site = |module: &str| Site {
            path: format!("ours.{}.weight", module.replace("q_proj", "q")),
            module: module.to_owned(),
            input: 4,
            output: 4,
            context: 4,
            bias: false,
        };
        names.iter().map(|name| site(name)).collect()
    }

    fn chosen(targets: &Targets) -> Vec<usize> {
        let sites = sites();
        let chosen = targets.choose(&sites).unwrap();
        (0..sites.len()).filter(|i| chosen.contains(&sites[*i])).collect()
    }

    #[test]
    fn names_fit_whole_or_by_their_last_parts() {
        assert_eq!(chosen(&Targets::of(&["q_proj"])), [0, 2, 3]);
        assert_eq!(chosen(&Targets::of(&["0.self_attn.q_proj", "lm_head"])), [0, 4]);
        assert_eq!(chosen(&Targets::of(&["layers.0.self_attn.q"])), [0]);
        assert_eq!(chosen(&Targets::all()), [0, 1, 2, 3]);
    }

    #[test]
    fn a_pattern_has_to_match_the_whole_name() {
        let pattern = |text: &str| Targets::Pattern(text.to_owned());
        assert_eq!(chosen(&pattern(r"model\.layers\.\d+\.self_attn\.q_proj")), [0, 2]);
        assert!(pattern("self_attn").choose(&sites()).is_err());
        let error = pattern("a(").choose(&sites()).unwrap_err().to_string();
        assert!(error.contains("`a(` is no regular expression"), "{error}");
    }

    #[test]
    fn what_fits_nothing_is_told_what_is_near() {
        let error = Targets::of(&["qproj"]).choose(&sites()).unwrap_err().to_string();
        assert!(error.contains("`qproj`; near are q_proj, v_proj"), "{error}");
    }
}
