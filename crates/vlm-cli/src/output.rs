//! Results on stdout.

use std::io::Write;

use serde::Serialize;

/// Arguments that make no sense together; the program then ends with status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Prints a line. A reader that has gone away (`| head`) is no failure of ours.
///
/// # Errors
/// What the operating system reports, such as a full disk.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("stdout"))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON document.
///
/// # Errors
/// As [`line`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}
