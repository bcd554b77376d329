//! Stopping a run from outside: Ctrl-C, or the signals of `kill`, a batch system or a closing
//! terminal.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The signal handler could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for Ctrl-C: {0}; another part of the program may have set a handler")]
pub struct StopError(#[from] ctrlc::Error);

/// Says whether the user has asked the run to stop. Cheap to ask and to clone; all clones agree.
#[derive(Debug, Clone)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Listens for Ctrl-C, SIGTERM and SIGHUP from now on, for the whole process.
    ///
    /// The first signal sets the flag and says so on stderr, so that the run can finish its step
    /// and save; the second leaves at once with exit code 130. SIGHUP stays ignored where it was
    /// (under `nohup`). Later calls return the same flag.
    ///
    /// # Errors
    /// When the operating system refuses the handler.
    pub fn install() -> Result<Self, StopError> {
        static INSTALLED: Mutex<Option<StopFlag>> = Mutex::new(None);
        let mut installed = INSTALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(flag) = &*installed {
            return Ok(flag.clone());
        }
        let flag = StopFlag::never();
        let handler = flag.clone();
        keeping_nohup(|| {
            ctrlc::set_handler(move || {
                if handler.signalled(&mut io::stderr()) {
                    std::process::exit(130); // as shells do: 128 + SIGINT
                }
            })
        })?;
        *installed = Some(flag.clone());
        Ok(flag)
    }

    /// A flag that no signal sets, for tests and for programs that handle signals themselves.
    pub fn never() -> Self {
        StopFlag(Arc::new(AtomicBool::new(false)))
    }

    /// Whether the run should finish its step, save and end.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks the run to stop, as the first signal does, but in silence.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// One signal came; says whether the process should leave at once.
    fn signalled(&self, say: &mut dyn Write) -> bool {
        if self.0.swap(true, Ordering::Relaxed) {
            return true;
        }
        // The terminal may be gone: that is what SIGHUP means. The run must be saved all the same.
        let text = "\nstopping after this step; saving (press again to leave at once)\n";
        let _ = say.write_all(text.as_bytes());
        false
    }
}

/// The handler takes SIGHUP too, also where `nohup` had it ignored so that a run outlives its
/// terminal; this puts that back.
#[cfg(unix)]
fn keeping_nohup<T>(install: impl FnOnce() -> T) -> T {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: neither disposition runs any code of ours.
    let before = unsafe { signal(Signal::SIGHUP, SigHandler::SigDfl) };
    let installed = install();
    if matches!(before, Ok(SigHandler::SigIgn)) {
        // SAFETY: as above.
        let _ = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
    }
    installed
}

#[cfg(not(unix))]
fn keeping_nohup<T>(install: impl FnOnce() -> T) -> T {
    install()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_asks_and_the_second_leaves() {
        let flag = StopFlag::never();
        let run = flag.clone();
        let mut said = Vec::new();
        assert!(!run.is_set());
        assert!(!flag.signalled(&mut said));
        assert!(run.is_set());
        assert!(String::from_utf8(said.clone()).unwrap().contains("press again to leave at once"));
        let length = said.len();
        assert!(flag.signalled(&mut said));
        assert_eq!(said.len(), length, "the second signal says nothing");
    }

    /// Real signals to a real process: this test run again as its own child.
    #[cfg(unix)]
    #[test]
    fn a_process_survives_one_signal_and_leaves_with_130_at_the_second() {
        use nix::sys::signal::{Signal, kill, raise};
        use nix::unistd::Pid;
        use std::io::{BufRead, BufReader, Read};
        use std::process::{Command, Stdio};
        use std::time::Duration;

        const CHILD: &str = "VLM_TRAIN_STOP_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            // SAFETY: ignoring runs no code. This is what `nohup` does.
            unsafe {
                nix::sys::signal::signal(Signal::SIGHUP, nix::sys::signal::SigHandler::SigIgn)
            }
            .unwrap();
            let flag = StopFlag::install().unwrap();
            let again = StopFlag::install().unwrap();
            raise(Signal::SIGHUP).unwrap();
            println!("\nREADY {}", flag.is_set());
            while !again.is_set() {
                std::thread::sleep(Duration::from_millis(5));
            }
            println!("\nSTOPPING {}", flag.is_set());
            std::thread::sleep(Duration::from_secs(60));
            return; // the parent sees exit code 0 and fails
        }
        let (_, name) = concat!(
            module_path!(),
            "::a_process_survives_one_signal_and_leaves_with_130_at_the_second"
        )
        .split_once("::")
        .unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wait_for = |start: &str| {
            let line = lines.find(|line| line.as_ref().unwrap().starts_with(start));
            line.unwrap_or_else(|| panic!("the child ended before {start}")).unwrap()
        };
        assert_eq!(wait_for("READY"), "READY false", "an ignored SIGHUP must not stop the run");
        kill(pid, Signal::SIGTERM).unwrap();
        assert_eq!(wait_for("STOPPING"), "STOPPING true");
        kill(pid, Signal::SIGINT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said.matches("stopping after this step").count(), 1, "{said}");
    }
}
