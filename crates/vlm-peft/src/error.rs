use std::path::PathBuf;

/// What can go wrong with adapters. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that makes no sense.
    #[error("{0}")]
    Setting(String),
    /// Nothing of the model fits the targets.
    #[error("no linear map of the model fits `{targets}`{}", suggestion(near))]
    NoTarget {
        /// What was asked for.
        targets: String,
        /// Names that are alike.
        near: Vec<String>,
    },
    /// A pattern that is none.
    #[error("`{pattern}` is no regular expression: {reason}; a list of names needs none")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// A model already has an adapter of that name, or none.
    #[error("the model {}", if *.there { format!("already has an adapter `{name}`; detach it or choose another name") } else { format!("has no adapter `{name}`; it has {}", list(has)) })]
    Name {
        /// The name.
        name: String,
        /// Whether it is there.
        there: bool,
        /// Those that are.
        has: Vec<String>,
    },
    /// An adapter that is no change of weights was to be merged.
    #[error(
        "`{name}` cannot be merged: {method} is no change of a weight; keep the adapter beside the model"
    )]
    Unmergeable {
        /// The adapter.
        name: String,
        /// Its method.
        method: &'static str,
    },
    /// A file of tensors cannot be read or written.
    #[error(transparent)]
    Store(#[from] vlm_store::Error),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `adapter_config.json` is not what is known here.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The adapter was made for another model.
    #[error("{}: the adapter does not fit the model: {}", path.display(), list(differences))]
    Misfit {
        /// The file.
        path: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names {
        [] => "none".to_owned(),
        names if names.len() <= SHOWN => names.join(", "),
        names => format!("{}, and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
    }
}

fn suggestion(near: &[String]) -> String {
    match near {
        [] => "; it has no linear map at all".to_owned(),
        near => format!("; near are {}", list(near)),
    }
}
