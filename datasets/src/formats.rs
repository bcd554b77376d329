//! The file formats.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::files::{Finder, PICTURES, bad, collect, has_extension, lines, listing, text};
use crate::{Error, Sample};

/// Endings of caption files.
const TABLES: [&str; 3] = ["jsonl", "csv", "tsv"];

/// What was read.
pub(crate) struct Read {
    /// The folder that pictures are relative to.
    pub root: PathBuf,
    /// The caption file, if there is one for all.
    pub table: Option<PathBuf>,
    /// The samples, in the order of the files.
    pub samples: Vec<Sample>,
}

/// Reads a set.
pub(crate) fn read(path: &Path, split: Option<&str>, default_split: &str) -> Result<Read, Error> {
    let Place { root, table: file, entries } = find(path, split, default_split, &TABLES)?;
    let samples = match &file {
        Some(file) => table(&root, file)?,
        None => folder(&root, &entries)?,
    };
    Ok(Read { root, table: file, samples })
}

/// Where a set lies.
pub(crate) struct Place {
    /// The folder that pictures are relative to.
    pub root: PathBuf,
    /// The file that lists the samples; without it the folder itself does.
    pub table: Option<PathBuf>,
    /// What is in the folder, where that was looked at.
    pub entries: Vec<PathBuf>,
}

/// Finds the file of a split, with one of the `endings` in the order of their liking.
pub(crate) fn find(
    path: &Path,
    split: Option<&str>,
    default_split: &str,
    endings: &[&str],
) -> Result<Place, Error> {
    if path.is_file() {
        let root = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        return Ok(Place { root, table: Some(path.to_owned()), entries: Vec::new() });
    }
    let root = path.to_owned();
    let wanted = split.unwrap_or(default_split);
    let named = endings.iter().map(|e| path.join(format!("{wanted}.{e}"))).find(|p| p.exists());
    if named.is_some() {
        return Ok(Place { root, table: named, entries: Vec::new() });
    }
    let entries = listing(path)?;
    let tables: Vec<&PathBuf> = entries.iter().filter(|p| has_extension(p, endings)).collect();
    if let (None, [only]) = (split, tables.as_slice()) {
        let table = Some((*only).clone());
        return Ok(Place { root, table, entries });
    }
    if split.is_some() || !tables.is_empty() {
        let names: Vec<String> = tables
            .iter()
            .filter_map(|p| Some(p.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        let reason = format!("there is no split `{wanted}`; there are: {}", names.join(", "));
        return Err(Error::Set { path: root, reason });
    }
    Ok(Place { root, table: None, entries })
}

/// Reads a caption file.
pub(crate) fn table(root: &Path, path: &Path) -> Result<Vec<Sample>, Error> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl") => jsonl(root, path),
        Some("csv" | "tsv") => csv(root, path),
        _ => {
            let reason = "not a caption file; give .jsonl, .csv, .tsv or a folder".into();
            Err(Error::Set { path: path.to_owned(), reason })
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    image: String,
    caption: Option<String>,
    captions: Option<Vec<String>>,
    label: Option<String>,
    group: Option<String>,
}

fn jsonl(root: &Path, path: &Path) -> Result<Vec<Sample>, Error> {
    let mut finder = Finder::new(root)?;
    let mut samples = Vec::new();
    for (number, text) in lines(path)? {
        let refuse = |reason| bad(path, number, reason);
        let value = serde_json::from_str(&text)
            .map_err(|e| refuse(format!("not a sample in JSON: {e}")))?;
        let origin = format!("{}:{number}", path.display());
        samples.push(row(value, &mut finder, &origin).map_err(refuse)?);
    }
    Ok(samples)
}

/// A picture with captions, from a line of JSON; the reason is without its place.
pub(crate) fn row(value: Value, finder: &mut Finder, origin: &str) -> Result<Sample, String> {
    let asks = ["question", "conversations", "messages"].iter().any(|f| value.get(f).is_some());
    if asks {
        return Err("a question, not a caption; such a set is for tasks that generate text".into());
    }
    let line: Line =
        serde_json::from_value(value).map_err(|e| format!("not a sample in JSON: {e}"))?;
    let captions: Vec<String> =
        line.caption.into_iter().chain(line.captions.into_iter().flatten()).collect();
    checked(Sample {
        image: finder.find(&line.image)?,
        image_ref: line.image,
        captions,
        label: line.label,
        group: line.group,
        origin: origin.to_owned(),
    })
}

/// Refuses a sample that says nothing, and gives one with a label only the label as caption.
fn checked(mut sample: Sample) -> Result<Sample, String> {
    if sample.captions.iter().any(|caption| caption.trim().is_empty()) {
        return Err("a caption is empty; fill it or remove the line".into());
    }
    if sample.label.as_ref().is_some_and(|label| label.trim().is_empty()) {
        return Err("the label is empty; fill it or leave it out".into());
    }
    if sample.captions.is_empty() {
        match &sample.label {
            Some(label) => sample.captions = vec![label.clone()],
            None => return Err("neither caption nor label; add one".into()),
        }
    }
    Ok(sample)
}

/// The columns under our names and open_clip's.
const COLUMNS: [(&str, &str); 6] = [
    ("image", "image"),
    ("filepath", "image"),
    ("caption", "caption"),
    ("title", "caption"),
    ("label", "label"),
    ("group", "group"),
];

fn csv(root: &Path, path: &Path) -> Result<Vec<Sample>, Error> {
    let mut finder = Finder::new(root)?;
    // Empty lines are errors, which the reader would skip in silence.
    let rows = lines(path)?;
    let header = rows.first().map_or("", |(_, line)| line.as_str());
    let delimiter = if header.contains('\t') { b'\t' } else { b',' };
    let body = text(path)?;
    if let Some(line) = open_quote(&body, delimiter) {
        return Err(bad(path, line, "a quote is opened and never closed; close it"));
    }
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(body.as_bytes());
    let mut places: HashMap<&str, usize> = HashMap::new();
    let columns = reader.headers().map_err(|e| bad(path, 1, e.to_string()))?.clone();
    for (i, column) in columns.iter().enumerate() {
        let column = column.trim();
        let Some((_, role)) = COLUMNS.iter().find(|(name, _)| *name == column) else {
            let reason = format!("unknown column `{column}`; known: image, caption, label, group");
            return Err(bad(path, 1, reason));
        };
        if places.insert(*role, i).is_some() {
            return Err(bad(path, 1, format!("the header has two columns for {role}; keep one")));
        }
    }
    if !places.contains_key("image")
        || !places.contains_key("caption") && !places.contains_key("label")
    {
        return Err(bad(path, 1, "the header needs a column image and one of caption and label"));
    }
    let mut samples: Vec<Sample> = Vec::new();
    let mut by_image: HashMap<String, usize> = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| {
            let line = e.position().map_or(0, |p| p.line() as usize);
            bad(path, line, format!("not a row: {e}"))
        })?;
        let number = record.position().map_or(0, |p| p.line() as usize);
        let field = |role: &str| {
            places.get(role).and_then(|i| record.get(*i)).map(|text| text.trim().to_owned())
        };
        let filled = |role: &str| field(role).filter(|text| !text.is_empty());
        let image_ref = field("image").unwrap_or_default();
        let sample = checked(Sample {
            image: finder.find(&image_ref).map_err(|reason| bad(path, number, reason))?,
            image_ref: image_ref.clone(),
            captions: field("caption").into_iter().collect(),
            label: filled("label"),
            group: filled("group"),
            origin: format!("{}:{number}", path.display()),
        })
        .map_err(|reason| bad(path, number, reason))?;
        match by_image.get(&image_ref) {
            // Several rows of one picture are its several captions.
            Some(i) => merge(&mut samples[*i], sample)?,
            None => {
                by_image.insert(image_ref, samples.len());
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}

/// The line of a quote that runs to the end of a table, which the reader would swallow in
/// silence with all rows behind it. A quote opens only at the start of a field, and two of them
/// inside are one that is meant.
fn open_quote(body: &str, delimiter: u8) -> Option<usize> {
    let (mut line, mut begun) = (1, 1);
    let (mut inside, mut starts, mut closed) = (false, true, false);
    for byte in body.bytes() {
        let closes = byte == b'"' && inside;
        if closes {
            inside = false;
        } else if byte == b'"' && (starts || closed) {
            inside = true;
            // The second of a pair goes on with what the first seemed to close.
            begun = if closed { begun } else { line };
        }
        closed = closes;
        starts = byte == delimiter || byte == b'\n' || byte == b'\r';
        line += usize::from(byte == b'\n');
    }
    inside.then_some(begun)
}

/// Adds the captions of a further row of the same picture, which must not contradict the first.
fn merge(into: &mut Sample, row: Sample) -> Result<(), Error> {
    for (what, old, new) in
        [("label", &mut into.label, row.label), ("group", &mut into.group, row.group)]
    {
        match (old.as_ref(), new) {
            (Some(old), Some(new)) if *old != new => {
                let reason = format!(
                    "picture `{}` has the {what} `{new}` here and `{old}` in {}; keep one",
                    row.image_ref, into.origin
                );
                return Err(Error::Line { origin: row.origin, reason });
            }
            (None, Some(new)) => *old = Some(new),
            _ => {}
        }
    }
    into.captions.extend(row.captions);
    Ok(())
}

/// Pictures with captions beside them, or one folder of pictures a class.
pub(crate) fn folder(root: &Path, entries: &[PathBuf]) -> Result<Vec<Sample>, Error> {
    let mut pictures = Vec::new();
    collect(root, &mut pictures)?;
    let captioned = pictures.iter().any(|p| p.with_extension("txt").exists());
    if pictures.is_empty() {
        let reason = "no caption file and no pictures in it".into();
        return Err(Error::Set { path: root.to_owned(), reason });
    }
    if !captioned && entries.iter().any(|p| has_extension(p, &PICTURES)) {
        let reason = "pictures without captions: put NAME.txt beside each NAME.png, or sort the \
                      pictures into one folder a class";
        return Err(Error::Set { path: root.to_owned(), reason: reason.into() });
    }
    let mut samples = Vec::new();
    for image in pictures {
        let image_ref = image.strip_prefix(root).unwrap_or(&image).display().to_string();
        let (captions, label) = if captioned {
            let beside = image.with_extension("txt");
            if !beside.exists() {
                let reason = format!("no caption file {} beside it", beside.display());
                return Err(Error::Set { path: image, reason });
            }
            (lines(&beside)?.into_iter().map(|(_, line)| line).collect(), None)
        } else {
            let class = image.parent().and_then(Path::file_name).unwrap_or_default();
            let label = class.to_string_lossy().replace('_', " ");
            (vec![label.clone()], Some(label))
        };
        let origin = image.display().to_string();
        samples.push(Sample { image, image_ref, captions, label, group: None, origin });
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;

    fn set(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    fn open(dir: &tempfile::TempDir) -> Result<Dataset, Error> {
        Dataset::open(dir.path().to_str().unwrap(), "test")
    }

    #[test]
    fn every_format_opens() {
        let csv = b"image,caption,label\na.png,\"one, two\",x\na.png,three,x\nb.png,four,y\n";
        let dir = set(&[("test.csv", csv), ("a.png", b""), ("b.png", b"")]);
        let data = open(&dir).unwrap();
        assert_eq!(data.samples[0].captions, ["one, two", "three"]);
        assert_eq!(data.labels, ["x", "y"]);
        assert_eq!(data.truth().unwrap(), [0, 1]);

        let tsv = b"\xef\xbb\xbffilepath\ttitle\r\na.png\tone\r\n";
        let data = open(&set(&[("any.tsv", tsv), ("a.png", b"")])).unwrap();
        assert_eq!(data.samples[0].captions, ["one"]);

        let line = br#"{"image":"a.png","captions":["p","q"],"label":"l","group":"g"}"#;
        let data = open(&set(&[("train.jsonl", line), ("a.png", b"")])).unwrap();
        assert_eq!(data.samples[0].captions, ["p", "q"]);
        assert_eq!(data.samples[0].group.as_deref(), Some("g"));

        let files: &[(&str, &[u8])] = &[("a.png", b""), ("a.txt", b"one\ntwo\n")];
        assert_eq!(open(&set(files)).unwrap().samples[0].captions, ["one", "two"]);

        let files: &[(&str, &[u8])] = &[("hot_dog/1.png", b""), ("cat/2.png", b"")];
        let data = open(&set(files)).unwrap();
        assert_eq!(data.labels, ["cat", "hot dog"]);
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        let cases: [(&str, &[u8], &str); 15] = [
            ("t.csv", b"image,caption\nno.png,x\n", "t.csv:2: picture `no.png` is missing"),
            ("t.csv", b"image,caption\n../a.png,x\n", "t.csv:2: picture `../a.png` climbs out"),
            ("t.csv", b"image,caption\n\na.png,x\n", "t.csv:2: the line is empty"),
            ("t.csv", b"image,caption\na.png,\n", "t.csv:2: a caption is empty"),
            ("t.csv", b"image,colour\na.png,x\n", "t.csv:1: unknown column `colour`"),
            ("t.jsonl", b"{\"image\":\"a.png\",\"caption\":\"\xff\"}", "t.jsonl:1: not UTF-8"),
            ("t.jsonl", b"{\"image\":\"/etc/passwd\",\"caption\":\"x\"}", "climbs out"),
            ("t.jsonl", b"{\"image\":\"a.png\",\"kaption\":\"x\"}", "kaption"),
            ("t.jsonl", b"{\"image\":\"a.png\"}", "neither caption nor label"),
            ("t.jsonl", b"", "the file is empty"),
            ("t.jsonl", b"{\"image\":\"a.png\",\"label\":\" \"}", "the label is empty"),
            ("t.csv", b"image,caption\na.png,\"x\nb.png,y\n", "t.csv:2: a quote is opened"),
            ("t.csv", b"image,title,caption\na.png,x,y\n", "t.csv:1: the header has two columns"),
            ("t.csv", b"image,caption\na.png\n", "t.csv:2: not a row"),
            (
                "t.csv",
                b"image,caption,label\na.png,p,x\na.png,q,y\n",
                "t.csv:3: picture `a.png` has the label `y` here and `x` in",
            ),
        ];
        for (name, content, wanted) in cases {
            let error = open(&set(&[(name, content), ("a.png", b"")])).unwrap_err().to_string();
            assert!(error.contains(wanted) && !error.contains('\n'), "{error} lacks {wanted}");
        }
        let twice = set(&[
            ("t.csv", b"image,label\na.png,x\n"),
            ("a.png", b""),
            ("labels.txt", b"x\ny\nx\n"),
        ]);
        assert!(open(&twice).unwrap_err().to_string().contains("labels.txt:3"));
        let error = Dataset::open("no-such-set", "test").unwrap_err().to_string();
        assert!(error.contains("emoji"), "{error}");
        let error = Dataset::open("emoji:nothing", "test").unwrap_err().to_string();
        assert!(error.contains("test-unseen"), "{error}");
    }

    #[test]
    fn quotes_that_are_closed_are_no_error() {
        for good in [
            "a,\"b\"\n",
            "a,\"say \"\"hi\"\"\"\n",
            "a,5\" long\n",
            "a,5\"\" long\n",
            "\"a\nb\",c",
            "a,\"\"\n",
        ] {
            assert_eq!(open_quote(good, b','), None, "{good}");
        }
        for (bad, line) in [("a,\"b\n", 1), ("x\na,\"say \"\"hi\"\"\nb,c\n", 2), ("a\t\"", 1)] {
            let delimiter = if bad.contains('\t') { b'\t' } else { b',' };
            assert_eq!(open_quote(bad, delimiter), Some(line), "{bad}");
        }
    }

    #[test]
    fn rows_of_a_picture_complete_each_other() {
        let rows = b"image,caption,label,group\na.png,p,,g\na.png,q,x,\n";
        let data = open(&set(&[("t.csv", rows), ("a.png", b"")])).unwrap();
        let sample = &data.samples[0];
        assert_eq!((sample.label.as_deref(), sample.group.as_deref()), (Some("x"), Some("g")));
        assert_eq!(sample.captions, ["p", "q"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let dir = set(&[("t.csv", b"image,caption\na.png,x\n")]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a.png")).unwrap();
        assert!(open(&dir).unwrap_err().to_string().contains("link out"));
    }

    #[test]
    fn the_shipped_set_is_whole() {
        let count =
            |split: &str| Dataset::open(&format!("emoji:{split}"), "").unwrap().samples.len();
        assert_eq!(
            [
                "train",
                "val",
                "test",
                "test-unseen",
                "unseen",
                "style-train",
                "style-val",
                "style-test",
                "subgroup-style-train",
                "subgroup-style-val",
                "group-style-test"
            ]
            .map(count),
            [3149, 185, 1667, 185, 370, 926, 371, 370, 926, 463, 463]
        );
    }
}
