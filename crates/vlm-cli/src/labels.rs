//! Labels from the command line.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use vlm_contrastive::Templates;

use crate::output::Usage;

/// What to choose among.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Labels {
    /// Labels, separated by commas.
    #[arg(long, value_name = "A,B,C")]
    labels: Option<String>,
    /// A file with one label a line.
    #[arg(long, value_name = "FILE")]
    labels_file: Option<PathBuf>,
}

impl Labels {
    /// The labels in the order given, each once.
    ///
    /// # Errors
    /// If there are none, one is twice there, or the file cannot be read.
    pub fn read(&self) -> Result<Vec<String>> {
        let (text, source) = match (&self.labels, &self.labels_file) {
            (Some(list), _) => (list.replace(',', "\n"), "--labels".to_owned()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("{}: cannot read the labels", path.display()))?;
                (text, path.display().to_string())
            }
            (None, None) => {
                return Err(Usage("no labels; add --labels or --labels-file".into()).into());
            }
        };
        let labels: Vec<String> = text
            .trim_start_matches('\u{feff}')
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        let refuse = |reason: String| match self.labels {
            Some(_) => anyhow::Error::from(Usage(reason)),
            None => anyhow!(reason),
        };
        if labels.is_empty() {
            return Err(refuse(format!("{source}: no labels in it; give at least one")));
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = labels.iter().find(|label| !seen.insert(label.as_str())) {
            return Err(refuse(format!("{source}: label `{twice}` is there twice; remove one")));
        }
        Ok(labels)
    }
}

/// How labels become captions.
#[derive(Args)]
pub struct TemplateChoice {
    /// Captions made of a label: none (the label itself), clip80 (CLIP's 80 prompts, averaged),
    /// or a file with one template a line, `{}` standing for the label.
    #[arg(long, value_name = "clip80|none|FILE", default_value = "none")]
    templates: String,
}

impl TemplateChoice {
    /// The templates.
    ///
    /// # Errors
    /// If the file is missing or a line has no single `{}`.
    pub fn read(&self) -> Result<Templates> {
        Ok(Templates::parse(&self.templates)?)
    }

    /// Whether others than none were asked for.
    pub fn is_given(&self) -> bool {
        self.templates != "none"
    }
}
