//! Results on stdout.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use vlm_store::Float;

/// Arguments that make no sense together; the program then ends with status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Reads a number of results to print, which is not 0.
///
/// # Errors
/// In clap's manner, the reason.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("give at least 1".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("give a whole number from 1 up".into()),
    }
}

/// Names the model folder where the model is to blame.
pub fn blame(model: &Path) -> impl Fn(vlm_contrastive::Error) -> anyhow::Error + '_ {
    |error| match error {
        vlm_contrastive::Error::Features(_) => {
            anyhow::Error::from(error).context(model.display().to_string())
        }
        _ => error.into(),
    }
}

/// A line on stderr. Whoever read it may be gone, which is no reason to fail.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a line. A reader that has gone away (`| head`) is no failure of ours.
///
/// # Errors
/// What the operating system reports, such as a full disk.
pub fn line(text: &str) -> anyhow::Result<()> {
    written(&format!("{text}\n")).map(|_| ())
}

/// Whether somebody reads.
fn written(text: &str) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("stdout"))
        }
        outcome => Ok(outcome.is_ok()),
    }
}

/// Prints a piece of a line at once, as [`line()`] prints a whole one; breaks off if nobody reads.
///
/// # Errors
/// As [`line()`].
pub fn piece(text: &str) -> anyhow::Result<ControlFlow<()>> {
    Ok(if written(text)? { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
}

/// A question on stderr, which the answer follows on the same line.
pub fn ask(text: &str) {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// Prints one JSON document.
///
/// # Errors
/// As [`line()`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// The type that weights are stored in.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Stored {
    F32,
    F16,
    Bf16,
}

impl From<Stored> for Float {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::F32 => Float::F32,
            Stored::F16 => Float::F16,
            Stored::Bf16 => Float::Bf16,
        }
    }
}

/// A number of bytes.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
