//! The runs of a comparison, one after the other or several at once.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vlm_train::{Progress, StopFlag};

use crate::config::RunConfig;
use crate::{diverged, output};

/// What a run that Ctrl-C stopped ends with, after saving.
const STOPPED: i32 = 130;
/// What libraries that compute read their number of threads from.
const THREADS: [&str; 2] = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"];
/// How often others look whether the first run has begun.
const WAIT: Duration = Duration::from_millis(100);
/// How much of what a failed run said is shown.
const LAST_LINES: usize = 5;

/// A run of `vlm finetune`.
pub struct Run {
    /// What it is, for people.
    pub name: String,
    pub dir: PathBuf,
    /// Behind the program's name.
    pub arguments: Vec<OsString>,
    /// What they amount to.
    pub config: RunConfig,
}

impl Run {
    /// Whether it came to its end, or to where it cannot go on.
    fn is_finished(&self) -> bool {
        self.dir.join("summary.json").exists() || diverged::is(&self.dir)
    }

    /// Whether what is in its folder, if anything, is this run and no other.
    fn check(&self) -> Result<()> {
        let path = self.dir.join("config.toml");
        if !path.exists() {
            return Ok(());
        }
        let differs = || {
            format!(
                "{}: holds another run; choose another --out, or delete this folder",
                self.dir.display()
            )
        };
        let there = RunConfig::read(&path, &[]).with_context(differs)?;
        let (was, is) = (serde_json::to_value(there)?, serde_json::to_value(&self.config)?);
        match vlm_train::difference(&was, &is) {
            None => Ok(()),
            Some(what) => bail!("{} ({what})", differs()),
        }
    }

    /// Whether it has made a step, which it does not before it has looked at all pictures.
    fn has_begun(&self) -> bool {
        self.is_finished() || self.dir.join("metrics.jsonl").exists()
    }

    /// Makes it in a process of its own, so that its memory can be told apart; says whether it came to its
    /// end, and was not stopped.
    fn make(&self, threads: Option<usize>) -> Result<bool> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null());
        if self.dir.join("checkpoints").exists() {
            command.arg("--resume");
        }
        let log = threads.map(|_| {
            let mut log = self.dir.clone().into_os_string();
            log.push(".log");
            PathBuf::from(log)
        });
        if let Some(log) = &log {
            log.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            command.stderr(File::create(log).with_context(|| log.display().to_string())?);
        }
        for name in THREADS.iter().filter(|name| std::env::var_os(name).is_none()) {
            threads.iter().for_each(|count| {
                command.env(name, count.to_string());
            });
        }
        let status = command.status()?;
        match (status.code(), log) {
            (Some(0), _) => {
                // They are to go on from, and some take more than the model; if they stay, nothing is lost.
                let _ = std::fs::remove_dir_all(self.dir.join("checkpoints"));
                Ok(true)
            }
            (Some(STOPPED), _) => Ok(false),
            _ if diverged::is(&self.dir) => Ok(true),
            (_, None) => {
                bail!("{}: the run failed ({status}); what it said is above", self.name)
            }
            (_, Some(log)) => {
                bail!("{}: the run failed ({status}); {}", self.name, last_words(&log))
            }
        }
    }
}

/// The end of a log.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    format!("{} ends with\n{last}", log.display())
}

/// Makes those that are not finished, so many at once; says whether they all are now.
///
/// # Errors
/// If one fails, and those beside it have come to their end; or before any is made, if a folder holds another run.
pub fn make(runs: &[&Run], jobs: usize) -> Result<bool> {
    runs.iter().try_for_each(|run| run.check())?;
    let stop = StopFlag::install()?;
    if jobs == 1 {
        for (number, run) in runs.iter().enumerate().filter(|(_, run)| !run.is_finished()) {
            output::note(&format!("{}: run {} of {}", run.name, number + 1, runs.len()));
            if stop.is_set() || !run.make(None)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let left: Vec<&Run> = runs.iter().filter(|run| !run.is_finished()).copied().collect();
    if left.is_empty() {
        return Ok(true);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / jobs).max(1);
    let folder = left[0].dir.parent().unwrap_or(&left[0].dir);
    output::note(&format!(
        "{jobs} runs at once, threads of each: {threads}; what they say is in {}/*.log",
        folder.display()
    ));
    let done = (runs.len() - left.len()) as u64;
    let progress = Progress::new(runs.len() as u64, done, "run").unit("run");
    let finished = Mutex::new((done, progress));
    let next = Mutex::new(left.iter());
    // What the first run finds out about the pictures is kept for the others; where it comes to nothing, no
    // run is left.
    let looked =
        || left.len() < runs.len() || left[0].has_begun() || open(&next).as_slice().is_empty();
    let one = |run: &Run| -> Result<bool> {
        if stop.is_set() || !run.make(Some(threads))? {
            return Ok(false);
        }
        let (done, progress) = &mut *open(&finished);
        *done += 1;
        progress.tick(*done, 1, &[]);
        Ok(true)
    };
    let worker = |number: usize| -> Result<bool> {
        while number > 0 && !looked() {
            std::thread::sleep(WAIT);
        }
        loop {
            let Some(run) = open(&next).next() else { return Ok(true) };
            let made = one(run);
            if !matches!(made, Ok(true)) {
                // No more are begun.
                *open(&next) = [].iter();
                return made;
            }
        }
    };
    let ends: Vec<Result<bool>> = std::thread::scope(|scope| {
        let worker = &worker;
        let numbers = 0..jobs.min(left.len());
        let workers: Vec<_> = numbers.map(|number| scope.spawn(move || worker(number))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(Ok(false))).collect()
    });
    open(&finished).1.finish();
    ends.into_iter().try_fold(true, |whole, end| Ok(end? && whole))
}

/// A lock, also after a panic elsewhere.
fn open<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
