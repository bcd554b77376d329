use std::io::Write;
use std::path::PathBuf;

use super::*;

type Files = Vec<(String, Vec<u8>)>;

/// What a package holds, links as `-> TARGET`.
fn read(name: &str, bytes: &[u8]) -> Result<Files> {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut files = Files::new();
    each(&path, &mut |name, item| {
        let content = match item {
            Item::File(content) => content.bytes()?,
            Item::Link(target) => format!("-> {target}").into_bytes(),
        };
        files.push((name.to_owned(), content));
        Ok(())
    })?;
    Ok(files)
}

fn refused(name: &str, bytes: &[u8], wanted: &str) {
    let error = format!("{:#}", read(name, bytes).unwrap_err());
    assert!(error.contains(name) && error.contains(wanted), "{error} lacks {wanted}");
    assert!(!error.contains('\n'), "{error}");
}

/// A tar entry with any name, also one that the library would not write.
fn entry(name: &str, kind: tar::EntryType, target: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = entry(name, tar::EntryType::Regular, "", content.len() as u64);
    bytes.extend(content);
    bytes.resize(bytes.len().div_ceil(512) * 512, 0);
    bytes
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(name, tar::EntryType::Symlink, target, 0)
}

fn tgz(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(&entries.concat()).unwrap();
    to.write_all(&[0; 1024]).unwrap();
    to.finish().unwrap()
}

/// `data.tar.xz` with the one file `./usr/a` that holds "hello" four times, by xz 5.4.
const DATA_TAR_XZ: &[u8] = include_bytes!("../../tests/data.tar.xz");

fn deb(member: &str, data: &[u8]) -> Vec<u8> {
    let mut to = ar::Builder::new(Vec::new());
    for (name, bytes) in [("debian-binary", b"2.0\n".as_slice()), (member, data)] {
        to.append(&ar::Header::new(name.into(), bytes.len() as u64), bytes).unwrap();
    }
    to.into_inner().unwrap()
}

fn whl(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut to = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        to.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        to.write_all(content).unwrap();
    }
    to.finish().unwrap().into_inner()
}

#[test]
fn every_kind_is_read() {
    let bytes = tgz(&[file("./p/a", b"one"), file("p/empty", b""), link("p/q/b", "../a")]);
    let expected =
        [("p/a", "one"), ("p/empty", ""), ("p/q/b", "-> p/a")].map(|(n, c)| (n.into(), c.into()));
    assert_eq!(read("x.tgz", &bytes).unwrap(), expected);
    let expected = vec![("usr/a".to_owned(), b"hellohellohellohello".to_vec())];
    assert_eq!(read("x.deb", &deb("data.tar.xz", DATA_TAR_XZ)).unwrap(), expected);
    let bytes = whl(&[("p/a", b"one"), ("p/", b"")]);
    assert_eq!(read("x.whl", &bytes).unwrap()[0], ("p/a".into(), b"one".to_vec()));
}

#[test]
fn nothing_leads_out() {
    for name in ["../a", "/etc/a", "p/../../a", "p/..", "p\\..\\a", "C:a"] {
        for bytes in [tgz(&[file(name, b"x")]), tgz(&[link("p/a", "b"), link(name, "b")])] {
            assert!(read("x.tgz", &bytes).is_err(), "{name}");
        }
        assert!(read("x.whl", &whl(&[(name, b"x")])).is_err(), "{name}");
    }
    refused("x.tgz", &tgz(&[file("../a", b"x")]), "leads out of the package");
    refused("x.tgz", &tgz(&[link("p/a", "../../etc/passwd")]), "the link `p/a`");
    refused("x.tgz", &tgz(&[link("p/a", "/etc/passwd")]), "leads out of the package");
}

#[test]
fn lying_sizes_are_found() {
    let huge = entry("p/a", tar::EntryType::Regular, "", LARGEST + 1);
    refused("x.tgz", &tgz(&[huge]), "which is too much");
    let longer = entry("p/a", tar::EntryType::Regular, "", 5000);
    refused("x.tgz", &tgz(&[longer]), "not the 5000 bytes");

    // The size stands in the local header at 22 and in the directory 24 bytes after its start.
    let good = whl(&[("a", b"one two three")]);
    let directory = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    for lie in [12u32, 14, u32::MAX - 1] {
        let mut bad = good.clone();
        bad[22..26].copy_from_slice(&lie.to_le_bytes());
        bad[directory + 24..directory + 28].copy_from_slice(&lie.to_le_bytes());
        assert!(read("x.whl", &bad).is_err(), "{lie}");
    }
}

#[test]
fn damage_is_an_error_and_no_panic() {
    let packages = [
        ("x.tgz", tgz(&[file("p/a", &[7; 3000])])),
        ("x.deb", deb("data.tar.xz", DATA_TAR_XZ)),
        ("x.whl", whl(&[("a", b"one two three")])),
    ];
    for (name, good) in packages {
        for cut in 0..good.len() - 12 {
            // A cut inside what follows the last file goes unseen in a tar.
            let cut_short = read(name, &good[..cut]);
            let whole = || read(name, &good).unwrap();
            assert!(cut_short.is_err() || cut_short.unwrap() == whole(), "{name}: {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            let _ = read(name, &bad);
        }
    }
    refused("x.deb", &deb("data.tar.zst", b"x"), "data.tar.zst is not read");
    refused("x.deb", &deb("control.tar.xz", b"x"), "no data.tar.xz");
    refused("x.rar", b"x", "not a package");
    let mut wrong = whl(&[("a", b"one two three")]);
    // The content is stored from 31 on: deflated it would be longer.
    wrong[33] ^= 1;
    assert!(read("x.whl", &wrong).is_err());
}
