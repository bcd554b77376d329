//! Running other programs from the root of the workspace.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Characters of a command that an error repeats.
const SHOWN: usize = 100;

/// A program that was run did not succeed.
#[derive(Debug)]
pub struct Failed {
    what: String,
    /// Its exit code; 1 if it had none.
    pub code: u8,
}

impl std::error::Error for Failed {}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It stands in full above what it said.
        let mut what: String = self.what.chars().take(SHOWN).collect();
        if what.len() < self.what.len() {
            what.push('…');
        }
        write!(f, "`{what}` failed (exit code {})", self.code)
    }
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// A program, to be run in the root of the workspace.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The same program in the same environment, without arguments.
pub fn again(other: &Command) -> Command {
    let mut next = command(other.get_program());
    next.envs(other.get_envs().filter_map(|(name, value)| Some((name, value?))));
    next
}

/// The cargo that runs this program, to be run in the root of the workspace.
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The command as a person would type it.
pub fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or(program.as_os_str()).to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    words.join(" ")
}

/// Says what is run, runs it and waits for it.
///
/// # Errors
/// If it cannot be started, or ends with an exit code other than 0 ([`Failed`]).
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", show(command));
    let status = command.status().with_context(|| format!("`{}` cannot be run", show(command)))?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(Failed { what: show(command), code }.into())
}

/// Says what is run and becomes it, where the system can; elsewhere as [`run`].
///
/// A program that saves its work on Ctrl-C must not be left behind by a parent that ends at
/// once, and its second Ctrl-C must reach it.
///
/// # Errors
/// As [`run`].
pub fn become_it(command: &mut Command) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        eprintln!("$ {}", show(command));
        let error = command.exec();
        Err(error).with_context(|| format!("`{}` cannot be run", show(command)))
    }
    #[cfg(not(unix))]
    run(command)
}

/// What a program prints on stdout, if it can be run and succeeds.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_workspace() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[cfg(unix)]
    #[test]
    fn an_exit_code_is_handed_on() {
        let error = run(command("sh").args(["-c", "exit 7"])).unwrap_err();
        assert_eq!(error.downcast_ref::<Failed>().unwrap().code, 7);
        assert_eq!(error.to_string(), "`sh -c exit 7` failed (exit code 7)");
        assert!(run(command("sh").args(["-c", "exit 0"])).is_ok());
        assert_eq!(output(command("sh").args(["-c", "echo a; exit 1"])), None);
    }
}
