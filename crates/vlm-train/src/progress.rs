//! How far a run is: one line on a terminal, rewritten in place; a line now and then in a file.

mod format;
mod pace;

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use pace::Pace;

/// A terminal line is redrawn at most five times a second: more costs time and cannot be read.
const REDRAW: Duration = Duration::from_millis(200);
/// A log file gets a line in this time.
const LOG: Duration = Duration::from_secs(15);

/// Goes back to the first column, stops the terminal from breaking a line that is too long for
/// it (a broken one could not be rewritten).
const BEGIN_LINE: &str = "\r\x1b[?7l";
/// Wipes what is left of a longer line before, and lets lines break again.
const END_LINE: &str = "\x1b[K\x1b[?7h";

/// Shows a run's progress on stderr:
/// `train  step 120/640 (19 %)  loss 3.21  lr 1.2e-3  85 img/s  2:31 gone, 9:40 left`.
///
/// On a terminal that is one line, rewritten in place; anywhere else, so that a log file stays
/// readable, a plain line at the start, every 15 seconds and at the end. That stderr may be
/// closed or full is never an error: no run should end for want of a progress line.
///
/// The rate is that of the last half minute, with nothing counted that earlier runs of a resumed
/// training did. The time left is that of the remaining steps at this run's average step, so
/// that validation and saving have their share in it.
pub struct Progress {
    output: Box<dyn Write + Send>,
    clock: Box<dyn Fn() -> Duration + Send>,
    terminal: bool,
    label: String,
    unit: String,
    total: u64,
    pace: Pace,
    /// The newest line, drawn or not.
    line: String,
    /// When a line was last drawn.
    drawn: Option<Duration>,
    /// The newest line is not on the screen.
    pending: bool,
    finished: bool,
}

impl Progress {
    /// Progress towards `total_steps` of a run that begins after `start_step` finished steps
    /// (0 unless it resumes). `label` begins the line, unless it is empty.
    pub fn new(total_steps: u64, start_step: u64, label: &str) -> Self {
        let terminal = std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let begin = Instant::now();
        let clock = move || begin.elapsed();
        Self::with_output(total_steps, start_step, label, std::io::stderr(), terminal, clock)
    }

    /// As [`new`](Self::new), to any output, with the time since any fixed moment from `clock`.
    pub fn with_output(
        total_steps: u64,
        start_step: u64,
        label: &str,
        output: impl Write + Send + 'static,
        terminal: bool,
        clock: impl Fn() -> Duration + Send + 'static,
    ) -> Self {
        Progress {
            pace: Pace::new(clock(), start_step),
            output: Box::new(output),
            clock: Box::new(clock),
            terminal,
            label: label.to_owned(),
            unit: "img".to_owned(),
            total: total_steps,
            line: String::new(),
            drawn: None,
            pending: false,
            finished: false,
        }
    }

    /// Names what the rate counts, `img` unless said otherwise.
    pub fn unit(mut self, unit: &str) -> Self {
        unit.clone_into(&mut self.unit);
        self
    }

    /// `step` steps are finished now, the last of them on `samples` samples more; `fields` are
    /// shown by name.
    pub fn tick(&mut self, step: u64, samples: usize, fields: &[(&str, f64)]) {
        let now = (self.clock)();
        self.pace.add(now, step, samples as u64);
        self.finished = false;
        let interval = if self.terminal { REDRAW } else { LOG };
        let due = self.drawn.is_none_or(|drawn| now.saturating_sub(drawn) >= interval);
        self.line = self.compose(now, step, fields);
        self.pending = true;
        if due {
            self.draw(now);
        }
    }

    /// Prints a line of its own, leaving the progress line whole.
    pub fn message(&mut self, text: &str) {
        if !self.terminal || self.finished || self.line.is_empty() {
            self.write(&format!("{text}\n"));
            return;
        }
        self.write(&format!("\r\x1b[K{text}\n"));
        self.draw((self.clock)());
    }

    /// Shows the newest state and ends the line. Dropping does the same.
    pub fn finish(&mut self) {
        if self.finished || self.line.is_empty() {
            return;
        }
        if self.pending {
            self.draw((self.clock)());
        }
        if self.terminal {
            self.write("\n");
        }
        self.finished = true;
    }

    fn compose(&self, now: Duration, step: u64, fields: &[(&str, f64)]) -> String {
        let (label, total) = (&self.label, self.total);
        let percent = if total == 0 { 100.0 } else { 100.0 * step as f64 / total as f64 };
        // Rounded down: 100 % must mean that it is done.
        let mut line = if label.is_empty() { String::new() } else { format!("{label}  ") };
        line += &format!("step {step}/{total} ({} %)", percent.floor());
        for (name, value) in fields {
            line += &format!("  {name} {}", format::number(*value));
        }
        if let Some(rate) = self.pace.rate() {
            // What takes minutes is counted by the hour.
            let (rate, per) = if rate < 0.05 { (3600.0 * rate, "h") } else { (rate, "s") };
            line += &format!("  {} {}/{per}", format::rate(rate), self.unit);
        }
        line += &format!("  {} gone", format::time(self.pace.gone(now)));
        if let Some(left) = self.pace.left(now, self.total) {
            line += &format!(", {} left", format::time(left));
        }
        line
    }

    fn draw(&mut self, now: Duration) {
        let text = if self.terminal {
            format!("{BEGIN_LINE}{}{END_LINE}", self.line)
        } else {
            format!("{}\n", self.line)
        };
        self.write(&text);
        self.drawn = Some(now);
        self.pending = false;
    }

    fn write(&mut self, text: &str) {
        let _ = self.output.write_all(text.as_bytes());
        let _ = self.output.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests;
