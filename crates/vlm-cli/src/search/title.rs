//! What a sheet or page of pictures is called.

use std::path::Path;

use super::Args;

/// The heading and the line below it.
pub struct Title {
    /// What was looked for.
    pub heading: String,
    /// Where.
    pub below: String,
    /// The picture that others should be like.
    pub like: Option<std::path::PathBuf>,
}

impl Title {
    /// Of a search among so many pictures.
    pub fn of(args: &Args, pictures: usize) -> Self {
        let heading = match (&args.query, &args.like) {
            (Some(text), _) => one_line(text),
            (None, Some(like)) => format!("like {}", name(like)),
            (None, None) => String::new(),
        };
        let below = format!("best of {pictures} pictures in {}", plain(&args.images));
        Title { heading, below, like: args.like.clone() }
    }
}

/// The last part of a path, on one line.
pub fn name(path: &Path) -> String {
    one_line(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
}

/// A path on one line.
pub fn plain(path: &Path) -> String {
    one_line(&path.display().to_string())
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
