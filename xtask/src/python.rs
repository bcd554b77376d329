//! The virtual environment `.venv` in the root of the workspace: libtorch, golden files and
//! comparisons with PyTorch come from it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// The libtorch that burn-tch 0.22 asks for, as a package of PyPI.
pub const TORCH: &str = "torch==2.9.0";

/// A virtual environment.
#[derive(Debug)]
pub struct Venv(PathBuf);

impl Venv {
    /// `.venv`, if it is there.
    pub fn existing() -> Option<Venv> {
        let venv = Venv(shell::root().join(".venv"));
        venv.program("python").exists().then_some(venv)
    }

    /// `.venv` with these packages (`name` or `name==version`), made and installed where missing.
    ///
    /// # Errors
    /// If there is no Python, or pip fails.
    pub fn with(packages: &[&str]) -> Result<Venv> {
        let venv = match Venv::existing() {
            Some(venv) => venv,
            None => {
                let python = if cfg!(windows) { "python" } else { "python3" };
                shell::run(shell::command(python).args(["-m", "venv", ".venv"])).context(
                    "no virtual environment; install Python 3.10 or newer with its venv module",
                )?;
                Venv::existing().context(".venv holds no python; delete .venv and try again")?
            }
        };
        let installed = venv.installed()?;
        let missing = missing(packages, &installed);
        if !missing.is_empty() {
            eprintln!("installing {} into .venv (torch alone: some 7 GB)…", missing.join(", "));
            let pip = ["-m", "pip", "install", "--disable-pip-version-check"];
            shell::run(venv.python().args(pip).args(&missing))?;
        }
        Ok(venv)
    }

    /// Its Python, to be run in the root of the workspace.
    pub fn python(&self) -> Command {
        shell::command(self.program("python"))
    }

    fn program(&self, name: &str) -> PathBuf {
        let folder = if cfg!(windows) { "Scripts" } else { "bin" };
        self.0.join(folder).join(name).with_extension(std::env::consts::EXE_EXTENSION)
    }

    /// `name==version`, one a line.
    fn installed(&self) -> Result<String> {
        let pip = ["-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"];
        shell::output(self.python().args(pip))
            .context("pip in .venv does not run; delete .venv and try again")
    }

    /// Whether libtorch is installed here.
    pub fn has_libtorch(&self) -> bool {
        self.site_packages().is_ok_and(|packages| packages.join("torch/lib").is_dir())
    }

    fn site_packages(&self) -> Result<PathBuf> {
        if cfg!(windows) {
            return Ok(self.0.join("Lib").join("site-packages"));
        }
        folders(&self.0.join("lib"))
            .into_iter()
            .map(|python| python.join("site-packages"))
            .find(|packages| packages.is_dir())
            .context(".venv has no site-packages; delete .venv and try again")
    }

    /// What building and running with this libtorch needs.
    ///
    /// # Errors
    /// If the environment is damaged.
    pub fn libtorch_environment(&self) -> Result<Vec<(&'static str, OsString)>> {
        let packages = self.site_packages()?;
        let mut libraries = vec![packages.join("torch/lib")];
        // The CUDA libraries that torch was built with are packages of their own.
        let nvidia = folders(&packages.join("nvidia"));
        libraries
            .extend(nvidia.into_iter().map(|name| name.join("lib")).filter(|lib| lib.is_dir()));
        let programs = self.program("python").parent().map(Path::to_owned).unwrap_or_default();
        let search = match std::env::consts::OS {
            "macos" => "DYLD_LIBRARY_PATH",
            "windows" => "PATH",
            _ => "LD_LIBRARY_PATH",
        };
        let path = |first: Vec<PathBuf>, name| {
            let before = std::env::var_os(name).unwrap_or_default();
            std::env::join_paths(first.into_iter().chain(std::env::split_paths(&before)))
                .context("the path of the workspace has a character that search paths cannot hold")
        };
        let mut variables: Vec<(&'static str, OsString)> =
            vec![("LIBTORCH_USE_PYTORCH", "1".into()), ("VIRTUAL_ENV", self.0.clone().into())];
        if search == "PATH" {
            variables.push(("PATH", path([vec![programs], libraries].concat(), "PATH")?));
        } else {
            variables.push(("PATH", path(vec![programs], "PATH")?));
            variables.push((search, path(libraries, search)?));
        }
        Ok(variables)
    }

    /// Writes `.venv/tch.env`, to be sourced by a shell.
    ///
    /// # Errors
    /// If the environment is damaged or cannot be written to.
    pub fn write_libtorch_environment(&self) -> Result<PathBuf> {
        if !self.has_libtorch() {
            bail!("pip installed torch, but .venv holds no torch/lib; delete .venv and try again");
        }
        let mut text = String::new();
        for (name, value) in self.libtorch_environment()? {
            text += &format!("export {name}={}\n", quoted(&value.to_string_lossy()));
        }
        let file = self.0.join("tch.env");
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The packages that pip does not list, or in another version than the one asked for.
fn missing<'a>(packages: &[&'a str], installed: &str) -> Vec<&'a str> {
    // Names are equal whatever their case, and `-` and `_` are the same.
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let have: Vec<(String, String)> = installed
        .lines()
        .filter_map(|line| line.trim().split_once("=="))
        // Wheels of other origins say so after a plus sign: 2.9.0+cpu.
        .map(|(name, version)| {
            (plain(name), version.split('+').next().unwrap_or(version).to_owned())
        })
        .collect();
    let is_there = |package: &&str| match package.split_once("==") {
        Some((name, version)) => have.iter().any(|(n, v)| *n == plain(name) && v == version),
        None => have.iter().any(|(n, _)| *n == plain(package)),
    };
    packages.iter().copied().filter(|package| !is_there(package)).collect()
}

/// The folders in a folder, in order; none if it is not there.
fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_installed() {
        let installed = "torch==2.9.0+cpu\nPillow==11.0\nopen-clip-torch==3.2.0\n";
        let packages = ["torch==2.9.0", "pillow", "open_clip_torch==3.3.0", "numpy"];
        assert_eq!(missing(&packages, installed), ["open_clip_torch==3.3.0", "numpy"]);
        assert_eq!(missing(&packages, "").len(), 4);
    }

    #[cfg(unix)]
    #[test]
    fn the_environment_of_libtorch_names_its_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let packages = dir.path().join("lib/python3.11/site-packages");
        for folder in ["torch/lib", "nvidia/cudnn/lib", "nvidia/empty"] {
            fs::create_dir_all(packages.join(folder)).unwrap();
        }
        let venv = Venv(dir.path().to_owned());
        assert!(venv.has_libtorch());
        let file = venv.write_libtorch_environment().unwrap();
        let text = fs::read_to_string(file).unwrap();
        let root = dir.path().display();
        assert!(text.contains("export LIBTORCH_USE_PYTORCH='1'\n"), "{text}");
        assert!(text.contains(&format!("export VIRTUAL_ENV='{root}'\n")), "{text}");
        assert!(text.contains(&format!("export PATH='{root}/bin:")), "{text}");
        let first = format!("LIBRARY_PATH='{0}/torch/lib:{0}/nvidia/cudnn/lib", packages.display());
        assert!(text.contains(&first) && !text.contains("empty"), "{text}");
        assert!(!Venv(dir.path().join("lib")).has_libtorch());
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        let word = "it's $HOME \"here\" `x`";
        let echo = format!("printf %s {}", quoted(word));
        assert_eq!(shell::output(shell::command("sh").args(["-c", &echo])).unwrap(), word);
    }
}
