//! Fetching packages with the registries' own clients, once.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::catalogue::{Client, Package};

/// Debian's pool, where packages lie that `apt-get` cannot fetch here.
const POOL: &str = "https://deb.debian.org/debian/pool/main/";

/// The package's file in `dir`, fetched if it is not there.
///
/// It appears there only when it is whole and the pinned one. What a broken-off client left is
/// kept for it to go on with, where it can (`apt-get`, `curl`).
///
/// # Errors
/// If it cannot be fetched, or is another than the pinned one.
pub fn fetch(package: &Package, dir: &Path) -> Result<PathBuf> {
    fetch_with(package, dir, &download)
}

fn fetch_with(
    package: &Package,
    dir: &Path,
    download: &dyn Fn(&Package, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let path = dir.join(package.file);
    if path.exists() {
        let found = sha256(&path)?;
        if found == package.sha256 {
            return Ok(path);
        }
        eprintln!("{}: damaged (sha256 {found}), fetched again", path.display());
    }
    eprintln!("fetching {} ({:.1} MB)", package.spec, package.size as f64 / 1e6);
    let partial = dir.join(format!(".fetching-{}", package.file));
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let by_hand = || {
        format!("{} cannot be fetched; try again, or put {} there", package.spec, path.display())
    };
    download(package, &partial).with_context(by_hand)?;
    let fetched = partial.join(package.file);
    if !fetched.is_file() {
        bail!("the client left no {} in {}; try again", package.file, partial.display());
    }
    let found = sha256(&fetched)?;
    if found != package.sha256 {
        let _ = fs::remove_dir_all(&partial);
        bail!(
            "{}: the fetched file's sha256 is {found}, not the pinned {}; thrown away, try again",
            package.spec,
            package.sha256
        );
    }
    File::open(&fetched)?.sync_all()?;
    fs::rename(&fetched, &path).with_context(|| format!("cannot write {}", path.display()))?;
    let _ = fs::remove_dir_all(&partial);
    Ok(path)
}

/// A file's sha256 as hexadecimal digits.
fn sha256(path: &Path) -> Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(cannot)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs the package's client in `dir`, where it leaves the file.
fn download(package: &Package, dir: &Path) -> Result<()> {
    match package.client {
        Client::Pip => {
            const PIPS: [&[&str]; 4] =
                [&["python3", "-m", "pip"], &["pip"], &["pip3"], &["python", "-m", "pip"]];
            let Some(pip) = PIPS.iter().find(|words| runs(words)) else {
                bail!("pip is needed; install Python with pip");
            };
            let args = ["download", "--no-deps", "--disable-pip-version-check", "-d", "."];
            run(Command::new(pip[0]).args(&pip[1..]).args(args).arg(package.spec), dir)
        }
        Client::Npm => {
            // On Windows npm is a script, which has to be named in full.
            let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
            if !runs(&[npm]) {
                bail!("npm is needed; install Node.js");
            }
            run(Command::new(npm).args(["pack", "--silent", package.spec]), dir)
        }
        Client::Apt(pool) => {
            if runs(&["apt-get"]) {
                // Its download user could not write here, which it would complain about.
                let args = ["-o", "APT::Sandbox::User=root", "download", package.spec];
                match run(Command::new("apt-get").args(args), dir) {
                    Ok(()) => return Ok(()),
                    Err(error) => eprintln!("{error:#}; fetched from Debian's pool instead"),
                }
            }
            if !runs(&["curl"]) {
                bail!("apt-get or curl is needed; install one, or get {POOL}{pool} yourself");
            }
            let url = format!("{POOL}{}", pool.replace('+', "%2b"));
            let args = ["--location", "--fail", "--continue-at", "-", "--progress-bar"];
            run(Command::new("curl").args(args).args(["--output", package.file, &url]), dir)
        }
    }
}

/// Whether a program is there.
fn runs(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("--version");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a client; what it says goes to stderr.
fn run(command: &mut Command, dir: &Path) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.current_dir(dir).stdin(Stdio::null()).stdout(std::io::stderr());
    let status = command.status().with_context(|| format!("{name} cannot be run"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sha256 of "hello".
    const PACKAGE: Package = Package {
        client: Client::Pip,
        spec: "hello==1",
        file: "hello-1.whl",
        sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        size: 5,
    };

    fn leaves(text: &'static str) -> impl Fn(&Package, &Path) -> Result<()> {
        move |package, dir| Ok(fs::write(dir.join(package.file), text)?)
    }

    fn never(_: &Package, _: &Path) -> Result<()> {
        bail!("no network")
    }

    #[test]
    fn a_fetched_package_is_not_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = fetch_with(&PACKAGE, dir.path(), &leaves("hello")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left over");
        assert_eq!(fetch_with(&PACKAGE, dir.path(), &never).unwrap(), path);
    }

    #[test]
    fn another_file_than_the_pinned_one_is_refused_and_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let error = fetch_with(&PACKAGE, dir.path(), &leaves("hallo")).unwrap_err().to_string();
        assert!(error.starts_with("hello==1: ") && error.contains("sha256"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(PACKAGE.file), "hel").unwrap();
        let path = fetch_with(&PACKAGE, dir.path(), &leaves("hello")).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "hello");
    }

    #[test]
    fn a_broken_off_client_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let breaks = |package: &Package, dir: &Path| {
            fs::write(dir.join(package.file), "hel")?;
            bail!("killed")
        };
        let error = fetch_with(&PACKAGE, dir.path(), &breaks).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("put ") && message.contains("killed"), "{message}");
        assert!(!dir.path().join(PACKAGE.file).exists());
        let resumes = |package: &Package, dir: &Path| {
            let path = dir.join(package.file);
            let rest = fs::read_to_string(&path)? + "lo";
            Ok(fs::write(path, rest)?)
        };
        fetch_with(&PACKAGE, dir.path(), &resumes).unwrap();
        let nothing = fetch_with(
            &Package { file: "other.whl", ..PACKAGE },
            dir.path(),
            &|_: &Package, _: &Path| Ok(()),
        );
        assert!(nothing.unwrap_err().to_string().contains("left no other.whl"));
    }
}
