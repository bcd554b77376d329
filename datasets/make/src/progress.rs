//! A line on stderr that says how far something is, with an estimate.

use std::io::{IsTerminal, Read, Write};
use std::time::{Duration, Instant};

/// How far something is.
pub struct Progress {
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    shown: Option<Instant>,
    /// A terminal gets one line over and over, a log a line every few seconds.
    terminal: bool,
}

impl Progress {
    /// Begins something of `total` bytes or pieces.
    pub fn new(what: impl Into<String>, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let what = what.into();
        Progress { what, total, done: 0, started: Instant::now(), shown: None, terminal }
    }

    /// `n` more are done.
    pub fn add(&mut self, n: u64) {
        self.done += n;
        let pause = Duration::from_millis(if self.terminal { 200 } else { 5000 });
        if self.shown.unwrap_or(self.started).elapsed() < pause {
            return;
        }
        self.shown = Some(Instant::now());
        let left = left(self.done, self.total, self.started.elapsed());
        let percent = self.done.min(self.total) * 100 / self.total.max(1);
        let (start, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{start}{}: {percent} %, {left} s left{end}", self.what);
        let _ = std::io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// Seconds that what is left takes at the pace so far.
fn left(done: u64, total: u64, elapsed: Duration) -> u64 {
    let left = total.saturating_sub(done) as f64;
    (elapsed.as_secs_f64() * left / done.max(1) as f64).ceil() as u64
}

/// A reader that tells a progress how far it is.
pub struct Counted<R> {
    /// What is read.
    pub inner: R,
    /// Who is told.
    pub progress: Progress,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.progress.add(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_follows_the_pace() {
        assert_eq!(left(1, 4, Duration::from_secs(2)), 6);
        assert_eq!(left(0, 4, Duration::ZERO), 0);
        assert_eq!(left(9, 4, Duration::from_secs(2)), 0);
    }
}
