//! `metrics.jsonl`: one line of numbers for each record, appended as a run goes on.
//!
//! A line is a JSON object with `step`, `epoch`, `kind` and any further numbers:
//! `{"step":20,"epoch":1,"kind":"train","loss":3.21,"lr":0.001}`. JSON knows neither NaN nor
//! infinity; they are written as `null` and read as NaN.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// Steps finished when it was written.
    pub step: u64,
    /// The pass over the training data, counted from 0.
    pub epoch: u64,
    /// What was measured: `train` for batches that were trained on, `val` for data held out.
    pub kind: String,
    /// The numbers by name; `null` became NaN.
    #[serde(flatten, deserialize_with = "nulls_as_nan")]
    pub values: BTreeMap<String, f64>,
}

fn nulls_as_nan<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(from)?;
    Ok(values.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

/// What can go wrong with the log. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The operating system refused.
    #[error("{}: {source}{}", path.display(), advice(source))]
    Io {
        /// The log.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A line, other than a half-written last one, is not a record.
    #[error("{}: line {line} is not a record ({reason}); correct or delete that line", path.display())]
    Line {
        /// The log.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the reader says.
        reason: String,
    },
    /// A number carries the name of one of the fixed fields, or of another number.
    #[error("{}: a number cannot be named `{name}`, that name is taken; choose another", path.display())]
    Name {
        /// The log.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "; free some space and resume the run",
        io::ErrorKind::PermissionDenied => "; check who may write there",
        io::ErrorKind::NotFound => "; check that the folder exists",
        _ => "",
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> MetricsError + '_ {
    move |source| MetricsError::Io { path: path.to_owned(), source }
}

/// The log of a run, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines: what a failed write is cut back to.
    length: u64,
}

impl MetricsLog {
    /// Opens the log at `path`, or starts it.
    ///
    /// With `resume_step`, records of later steps are dropped, since those steps will be made
    /// again; without, all are kept. A half-written last line, which a power cut leaves behind,
    /// is dropped either way. The log is replaced as a whole, so nothing is lost if that fails.
    ///
    /// # Errors
    /// What the operating system reports, or a line in the middle that is not a record.
    pub fn open(path: &Path, resume_step: Option<u64>) -> Result<Self, MetricsError> {
        let io = at(path);
        cut(path, resume_step.unwrap_or(u64::MAX))?;
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(&io)?;
        let length = file.metadata().map_err(&io)?.len();
        Ok(MetricsLog { path: path.to_owned(), file, length })
    }

    /// Appends one record: `step` counts finished steps, `epoch` passes over the data from 0.
    ///
    /// The line goes to the operating system in one piece, so a reader never sees two mixed.
    ///
    /// # Errors
    /// What the operating system reports, a full disk say; the log then ends with the record
    /// before. Or a name that is used twice.
    pub fn write(
        &mut self,
        step: u64,
        epoch: u64,
        kind: &str,
        values: &[(&str, f64)],
    ) -> Result<(), MetricsError> {
        let kind = Value::from(kind);
        let mut line = format!(r#"{{"step":{step},"epoch":{epoch},"kind":{kind}"#);
        let mut taken = vec!["step", "epoch", "kind"];
        for &(name, value) in values {
            if taken.contains(&name) {
                return Err(MetricsError::Name { path: self.path.clone(), name: name.to_owned() });
            }
            taken.push(name);
            // As a `Value`, a name is escaped and what JSON cannot write becomes null.
            line += &format!(",{}:{}", Value::from(name), Value::from(value));
        }
        line += "}\n";
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // Half a line would spoil the next one; if even this fails, resuming repairs it.
            let _ = self.file.set_len(self.length);
            return Err(at(&self.path)(error));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Reads a whole log, also one that a run is still writing: half a line at its end is left out.
    ///
    /// # Errors
    /// What the operating system reports, or a line in the middle that is not a record.
    pub fn read(path: &Path) -> Result<Vec<Record>, MetricsError> {
        let bytes = fs::read(path).map_err(at(path))?;
        Ok(parse(path, &bytes)?.into_iter().map(|(_, record)| record).collect())
    }
}

/// The records with the line that each stood on.
fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(&'a [u8], Record)>, MetricsError> {
    let mut records = Vec::new();
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(record) => records.push((line.trim_ascii(), record)),
            // The line break of a torn write may have reached the disk when its beginning did not.
            Err(_) if lines.peek().is_none() => {}
            Err(error) => {
                let (path, reason) = (path.to_owned(), error.to_string());
                return Err(MetricsError::Line { path, line: index + 1, reason });
            }
        }
    }
    Ok(records)
}

fn cut(path: &Path, last_step: u64) -> Result<(), MetricsError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(path)(error)),
    };
    let mut kept = Vec::with_capacity(bytes.len());
    for (line, record) in parse(path, &bytes)? {
        if record.step <= last_step {
            kept.extend_from_slice(line);
            kept.push(b'\n');
        }
    }
    if kept == bytes { Ok(()) } else { replace(path, &kept).map_err(at(path)) }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(dir)?;
    temporary.write_all(content)?;
    // Temporary files are private; the log keeps the permissions that it had.
    temporary.as_file().set_permissions(fs::metadata(path)?.permissions())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests;
