//! The rules, one function each for files, exceptions and packages. Each returns what is wrong,
//! a line a complaint that names the file and what to do.

use serde_json::Value;

use super::tree::File;

/// Lines that a Rust file may have.
const LINES: usize = 500;
/// Bytes that a file may have: git keeps every version of it for good.
const BYTES: u64 = 2_000_000;

/// Rust files that may be longer, each with the reason.
const LONG: [(&str, &str); 0] = [];
/// Files that may be larger, each with the reason.
const LARGE: [(&str, &str); 0] = [];

/// What no source may hold, each with what to do instead. In pieces, so that this file does not
/// hold them either.
const MARKS: [(&str, &str); 5] = [
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "fix it, or open an issue"),
    (concat!("todo", "!("), "write it, or return an error that says it is not there"),
    (concat!("unimple", "mented!("), "write it, or return an error that says it is not there"),
    (concat!("#[ign", "ore"), "run the test, or delete it"),
];
/// What excuses a mark in its line: such a test is run after all, by this command.
const EXCUSE: &str = "run by cargo xtask test --real\"]";
/// Where the marks are looked for.
const SOURCES: [&str; 5] = [".rs", ".py", ".toml", ".md", ".sh"];

fn excepted(list: &[(&str, &str)], name: &str) -> bool {
    list.iter().any(|(file, _)| *file == name)
}

fn lines(file: &File) -> usize {
    file.text.as_ref().map_or(0, |text| text.lines().count())
}

/// What is wrong with one file.
pub fn file(file: &File) -> Vec<String> {
    let name = &file.name;
    let mut complaints = Vec::new();
    if file.size > BYTES && !excepted(&LARGE, name) {
        complaints.push(format!(
            "{name}: {:.1} MB, more than {} MB; fetch or make it instead of keeping it in git",
            file.size as f64 / 1e6,
            BYTES / 1_000_000
        ));
    }
    if name.ends_with(".rs") && lines(file) > LINES && !excepted(&LONG, name) {
        complaints.push(format!(
            "{name}: {} lines, more than {LINES}; give one of its jobs a file of its own",
            lines(file)
        ));
    }
    if SOURCES.iter().any(|end| name.ends_with(end)) {
        for (number, line) in file.text.iter().flat_map(|text| text.lines()).enumerate() {
            for (mark, remedy) in
                MARKS.iter().filter(|(mark, _)| line.contains(mark) && !line.ends_with(EXCUSE))
            {
                let mark = mark.trim_end_matches('(');
                complaints.push(format!("{name}:{}: {mark}: {remedy}", number + 1));
            }
        }
    }
    complaints
}

/// Exceptions that are not needed any more.
pub fn exceptions(files: &[File]) -> Vec<String> {
    let needed = |name: &str, too_much: &dyn Fn(&File) -> bool| {
        files.iter().any(|file| file.name == name && too_much(file))
    };
    let long = LONG.iter().filter(|(name, _)| !needed(name, &|file| lines(file) > LINES));
    let large = LARGE.iter().filter(|(name, _)| !needed(name, &|file| file.size > BYTES));
    long.chain(large)
        .map(|(name, _)| {
            format!("{name}: needs no exception; delete it from xtask/src/tidy/rules.rs")
        })
        .collect()
}

/// What is wrong with the packages that `cargo metadata` lists: each says what it is, in its
/// manifest and at the top of each of its libraries and programs.
pub fn packages(metadata: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut complaints = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = package["name"].as_str().unwrap_or_default();
        if package["description"].as_str().unwrap_or_default().trim().is_empty() {
            complaints
                .push(format!("{name}: no `description` in its Cargo.toml; say what it is for"));
        }
        for target in list(&package["targets"]) {
            let kinds = list(&target["kind"]);
            let documented = |kind: &Value| ["lib", "bin", "proc-macro"].iter().any(|k| kind == k);
            let Some(path) = target["src_path"].as_str().filter(|_| kinds.iter().any(documented))
            else {
                continue;
            };
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if !is_documented(&text) {
                let root = format!("{}/", metadata["workspace_root"].as_str().unwrap_or_default());
                let path = path.strip_prefix(&root).unwrap_or(path);
                complaints.push(format!("{path}: no `//!` at its top; say what `{name}` is"));
            }
        }
    }
    complaints
}

fn is_documented(text: &str) -> bool {
    let doc = text.lines().take_while(|line| line.starts_with("//!"));
    // A stub's one word says nothing.
    doc.map(|line| line.trim_start_matches("//!").trim().len()).sum::<usize>() >= 20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> File {
        File { name: name.into(), size: text.len() as u64, text: Some(text.into()) }
    }

    #[test]
    fn long_and_large_files_are_named() {
        assert!(file(&source("a.rs", &"x\n".repeat(LINES))).is_empty());
        let complaints = file(&source("a.rs", &"x\n".repeat(LINES + 1)));
        assert!(
            complaints.len() == 1 && complaints[0].starts_with("a.rs: 501 lines"),
            "{complaints:?}"
        );
        assert!(file(&source("a.json", &"x\n".repeat(LINES + 1))).is_empty());
        let large = File { name: "a.bin".into(), size: BYTES + 1, text: None };
        assert!(file(&large)[0].starts_with("a.bin: 2.0 MB"));
    }

    #[test]
    fn marks_are_found_with_their_line() {
        for (mark, remedy) in MARKS {
            let text = format!("fine\n  // {mark}x\n");
            let complaints = file(&source("b.rs", &text));
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(complaints[0].starts_with("b.rs:2: ") && complaints[0].ends_with(remedy));
            assert!(file(&source("b.json", &text)).is_empty());
        }
        let excused = format!("#[{} = \"needs models; {EXCUSE}", concat!("ign", "ore"));
        assert!(file(&source("d.rs", &excused)).is_empty());
        assert!(file(&source("c.rs", "a method, todos, ignored, todo list")).is_empty());
    }

    #[test]
    fn packages_must_say_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.rs");
        let metadata = |description: &str| {
            serde_json::json!({ "workspace_root": dir.path(), "packages": [{
                "name": "a", "description": description,
                "targets": [
                    { "kind": ["lib"], "src_path": path },
                    { "kind": ["test"], "src_path": "absent" },
                ],
            }]})
        };
        std::fs::write(&path, "//! A crate that does a thing.\n").unwrap();
        assert!(packages(&metadata("what it does")).is_empty());
        assert_eq!(packages(&metadata(" ")).len(), 1);
        for text in ["", "//! Stub.\n", "// Not a doc comment, though long.\n"] {
            std::fs::write(&path, text).unwrap();
            let complaints = packages(&metadata("what it does"));
            assert!(
                complaints.len() == 1 && complaints[0].starts_with("lib.rs: "),
                "{complaints:?}"
            );
        }
    }
}
