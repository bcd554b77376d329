//! `vlm search`: what it finds, keeps, passes over and writes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{copy, example, fails, fresh, model, refuses, signal, text, vlm, works};
use image::{Rgb, RgbImage};
use serde_json::Value;

/// A folder of pictures of many colours in folders, fresh.
fn set(name: &str, count: usize) -> PathBuf {
    let dir = fresh(&format!("search-{name}"));
    for i in 0..count {
        let folder = dir.join(format!("{}/deep", i % 3));
        fs::create_dir_all(&folder).unwrap();
        paint(&folder.join(format!("{i:03}.png")), i);
    }
    dir
}

fn paint(path: &Path, seed: usize) {
    let colour = |i: usize| (seed * 67 + i * 41) as u8;
    let picture = RgbImage::from_fn(20, 16, |x, y| {
        Rgb([colour(x as usize / 7), colour(y as usize / 5 + 3), colour(9)])
    });
    picture.save(path).unwrap();
}

fn search_with(model: &Path, images: &Path) -> Command {
    let mut vlm = vlm();
    vlm.arg("search").arg("--model").arg(model).arg("--images").arg(images);
    vlm
}

fn search(images: &Path) -> Command {
    search_with(&model(), images)
}

#[track_caller]
fn json(command: &mut Command) -> Value {
    serde_json::from_str(&works(command.arg("--json"))).unwrap()
}

fn hits(document: &Value) -> Vec<(String, f64)> {
    let hit = |hit: &Value| {
        (hit["image"].as_str().unwrap().to_owned(), hit["similarity"].as_f64().unwrap())
    };
    document["results"].as_array().unwrap().iter().map(hit).collect()
}

fn count(document: &Value, what: &str) -> u64 {
    document["index"][what].as_u64().unwrap()
}

fn fields(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn it_finds_what_retrieve_finds_and_keeps_what_it_saw() {
    let images = set("finds", 9);
    let document = json(search(&images).args(["--query", "a dog"]));
    assert_eq!(fields(&document), ["index", "milliseconds", "query", "results", "skipped"]);
    assert_eq!(fields(&document["index"]), ["computed", "dropped", "path", "pictures"]);
    assert_eq!(fields(&document["milliseconds"]), ["index", "model", "query", "search", "update"]);
    assert_eq!((count(&document, "computed"), count(&document, "pictures")), (9, 9));
    let found = hits(&document);
    let mut retrieve = vlm();
    retrieve.arg("retrieve").arg("--model").arg(model()).arg("--images").arg(&images);
    let brute = hits(&json(retrieve.args(["--query", "a dog", "--top-k", "20"])));
    assert_eq!(found.len(), 9);
    for (found, brute) in found.iter().zip(&brute) {
        assert!(found.0 == brute.0 && (found.1 - brute.1).abs() < 1e-5, "{found:?} {brute:?}");
    }

    let again = json(search(&images).args(["--query", "a dog"]));
    assert_eq!((count(&again, "computed"), hits(&again)), (0, found.clone()));
    // One new, one changed, one gone.
    paint(&images.join("new.PNG"), 100);
    paint(&images.join("0/deep/000.png"), 101);
    fs::remove_file(images.join("1/deep/001.png")).unwrap();
    let later = json(search(&images).args(["--query", "a dog"]));
    assert_eq!((count(&later, "computed"), count(&later, "dropped")), (2, 2));
    assert_eq!(count(&json(&mut search(&images)), "pictures"), 9);
    let few = json(search(&images).args(["--query", "a dog", "--top", "2"]));
    assert_eq!(hits(&few), hits(&later)[..2]);
    let least = hits(&later)[3].1;
    let near = json(search(&images).args(["--query", "a dog", "--threshold", &least.to_string()]));
    assert_eq!(hits(&near), hits(&later)[..4]);
    let lines = works(search(&images).args(["--query", "a dog", "--top", "3"]));
    assert_eq!(lines.lines().count(), 3);
    assert!(lines.lines().next().unwrap().ends_with(&hits(&later)[0].0), "{lines}");
}

#[test]
fn pictures_like_a_picture() {
    let images = set("like", 6);
    let own = images.join("2/deep/002.png");
    let document = json(search(&images).arg("--like").arg(&own));
    let found = hits(&document);
    assert_eq!((found.len(), document["like"].as_str()), (5, own.to_str()));
    assert!(found.iter().all(|(image, _)| Path::new(image) != own));
    // The same picture elsewhere is like itself first, then like the same others.
    let outside = fresh("search-like-outside").join("copy.png");
    fs::copy(&own, &outside).unwrap();
    let from_outside = hits(&json(search(&images).arg("--like").arg(&outside)));
    assert_eq!(Path::new(&from_outside[0].0), own);
    assert!((from_outside[0].1 - 1.0).abs() < 1e-5, "{from_outside:?}");
    for (a, b) in from_outside[1..].iter().zip(&found) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-5, "{a:?} {b:?}");
    }
    refuses(search(&images).args(["--like", "/none.png"]), 1, &["/none.png: "]);
    refuses(search(&images).args(["--like", "a.png", "--query", "x"]), 2, &["--like", "--query"]);
}

/// An encoder of pictures alone finds pictures, and refuses texts.
#[test]
fn an_encoder_of_pictures_alone() {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../vlm-encoders/tests/golden/encoders");
    let dir = fresh("search-vision-model").join("model");
    copy(&golden.join("dinov2"), &dir);
    let images = set("vision", 4);
    let config = r#"{"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16}}"#;
    fs::write(dir.join("preprocessor_config.json"), config).unwrap();
    let own = images.join("0/deep/000.png");
    let found = hits(&json(search_with(&dir, &images).arg("--like").arg(&own)));
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|(_, similarity)| similarity.abs() <= 1.0 + 1e-6), "{found:?}");
    let mut text = search_with(&dir, &images);
    refuses(text.args(["--query", "x"]), 1, &["only an image encoder"]);
}

#[test]
fn what_cannot_be_used_is_named_and_the_rest_is_found() {
    let images = set("broken", 3);
    let cut = fs::read(common::golden("wide.png")).unwrap();
    fs::write(images.join("cut.png"), &cut[..cut.len() / 2]).unwrap();
    fs::write(images.join("empty.jpg"), "").unwrap();
    fs::write(images.join("text.gif"), "words").unwrap();
    // The largest of Open Clip Art, of which only the header is looked at.
    fs::write(images.join("huge.pgm"), "P5 20990 29700 255\n").unwrap();
    let mut command = search(&images);
    let done = command.args(["--query", "x", "--json"]).output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    let said = text(&done.stderr);
    assert!(said.contains("skipped ") && said.contains("20990x29700 pixels"), "{said}");
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((count(&document, "pictures"), hits(&document).len()), (3, 3));
    let skipped = document["skipped"].as_array().unwrap();
    let names: Vec<&str> = skipped.iter().map(|s| s["image"].as_str().unwrap()).collect();
    let wanted = ["cut.png", "empty.jpg", "huge.pgm", "text.gif"].map(|name| images.join(name));
    assert_eq!(names, wanted.each_ref().map(|path| path.to_str().unwrap()));
    // They are not tried again, and so not told again either.
    let done = command.output().unwrap();
    assert_eq!(text(&done.stderr), "");
    let again: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(again["skipped"], document["skipped"]);
    // Until they change.
    paint(&images.join("cut.png"), 5);
    assert_eq!(count(&json(&mut search(&images)), "computed"), 1);

    let none = fresh("search-none");
    refuses(&mut search(&none), 1, &["search-none: no pictures"]);
    fs::write(none.join("empty.png"), "").unwrap();
    fails(search(&none).args(["--query", "x"]), 1, &["none of the pictures", "empty.png"]);
    refuses(&mut search(&none.join("absent")), 1, &["absent: No such file"]);
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_text_and_links() {
    use std::os::unix::ffi::OsStrExt;
    let images = set("names", 2);
    let odd = images.join(std::ffi::OsStr::from_bytes(b"\xff<b>&.png"));
    paint(&odd, 7);
    std::os::unix::fs::symlink(".", images.join("circle")).unwrap();
    let page = images.join("page.html");
    let mut command = search(&images);
    command.args(["--query", "<i>a\nb</i>", "--html"]).arg(&page);
    assert_eq!(hits(&json(&mut command)).len(), 3);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("%FF%3Cb%3E%26.png") && html.contains("&lt;b&gt;&amp;.png"), "{html}");
    assert!(html.contains("<h1>&lt;i&gt;a b&lt;/i&gt;</h1>"), "{html}");
    assert_eq!(count(&json(&mut search(&images)), "computed"), 0);
}

#[test]
fn the_index_knows_its_model_and_folder() {
    let images = set("model", 3);
    works(&mut search(&images));
    // A copy is the same model.
    let other = fresh("search-model-other").join("model");
    copy(&model(), &other);
    assert_eq!(count(&json(&mut search_with(&other, &images)), "computed"), 0);
    let weights = other.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let at = bytes.len() - 2;
    bytes[at] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let done = search_with(&other, &images).arg("--json").output().unwrap();
    let said = text(&done.stderr);
    assert!(said.contains("the index is of another model"), "{said}");
    assert_eq!(count(&serde_json::from_slice(&done.stdout).unwrap(), "computed"), 3);
    // An index elsewhere, and one of other pictures.
    let index = fresh("search-model-index").join("index");
    let elsewhere = set("elsewhere", 2);
    works(search(&images).arg("--index").arg(&index));
    assert!(index.join("index.json").is_file());
    refuses(search(&elsewhere).arg("--index").arg(&index), 1, &["--index", "search-model"]);
    // A place where nothing can be written.
    let file = images.join("0/deep/000.png");
    refuses(search(&images).arg("--index").arg(&file), 1, &["000.png: ", "--index"]);
    refuses(search_with(Path::new("/no/model"), &images).args(["--query", "x"]), 1, &["/no/model"]);
}

#[test]
fn damage_and_two_at_once() {
    let images = set("damage", 5);
    let wanted = hits(&json(search(&images).args(["--query", "a cat"])));
    let index = images.join(".vlm-search");
    for entry in fs::read_dir(&index).unwrap() {
        fs::write(entry.unwrap().path(), "half").unwrap();
    }
    let done = search(&images).args(["--query", "a cat", "--json"]).output().unwrap();
    assert!(text(&done.stderr).contains("damaged"), "{}", text(&done.stderr));
    assert_eq!(hits(&serde_json::from_slice(&done.stdout).unwrap()), wanted);
    fs::remove_dir_all(&index).unwrap();
    let run = || {
        let mut vlm = search(&images);
        vlm.args(["--query", "a cat", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        vlm.spawn().unwrap()
    };
    for child in [run(), run(), run()] {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
        // Some are missing, where another was not done yet.
        let found = hits(&serde_json::from_slice(&done.stdout).unwrap());
        assert!(found.iter().all(|hit| wanted.contains(hit)), "{found:?}");
    }
    let after = json(search(&images).args(["--query", "a cat"]));
    assert_eq!((hits(&after), count(&after, "computed")), (wanted, 0));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done() {
    use std::io::{BufRead, BufReader};
    let images = fresh("search-stop");
    // Large, so that it takes seconds; one file under many names.
    let large = images.join("000.png");
    RgbImage::from_fn(1500, 1500, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]))
        .save(&large)
        .unwrap();
    for i in 1..400 {
        fs::hard_link(&large, images.join(format!("{i:03}.png"))).unwrap();
    }
    let mut child = search(&images).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("indexing"), "{first}");
    signal("INT", child.id());
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said:?}");
    let last = said.last().unwrap();
    assert!(last.starts_with("stopped: ") && last.contains("goes on"), "{said:?}");
    let kept: u64 = last.split(' ').nth(1).unwrap().parse().unwrap();
    assert!((32..400).contains(&kept), "{said:?}");
    for i in 40..400 {
        fs::remove_file(images.join(format!("{i:03}.png"))).unwrap();
    }
    let document = json(search(&images).args(["--query", "x"]));
    let computed = count(&document, "computed");
    assert_eq!((computed, count(&document, "pictures")), (40u64.saturating_sub(kept), 40));
}

#[test]
fn sheets_and_pages() {
    let images = set("sheets", 7);
    let out = fresh("search-sheets-out");
    let (sheet, page) = (out.join("sheet.png"), out.join("page.html"));
    let mut command = search(&images);
    command.args(["--query", "a dog", "--sheet"]).arg(&sheet).arg("--html").arg(&page);
    works(&mut command);
    let drawn = image::open(&sheet).unwrap();
    assert!(drawn.width() > 600 && drawn.height() > 600, "{}x{}", drawn.width(), drawn.height());
    let html = fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("src=\"data:image/jpeg;base64,").count(), 7);
    assert_eq!(html.matches("href=\"file:///").count(), 7);
    assert!(!html.contains("<script") && !html.contains("src=\"http"));
    let sheet = sheet.to_str().unwrap();
    refuses(search(&images).args(["--sheet", sheet]), 2, &["--query"]);
    refuses(search(&images).args(["--query", "x", "--sheet", "/none/a.png"]), 1, &["/none/a.png"]);
    refuses(search(&images).args(["--query", "x", "--top", "0"]), 2, &["--top"]);
    let like = example("csv/cat.png");
    works(search(&images).arg("--like").arg(like).args(["--top", "1", "--sheet", sheet]));
}
