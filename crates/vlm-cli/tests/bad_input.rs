//! Pictures, caption files, labels, templates and arguments that cannot be used.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{example, fails, fresh, golden, limited, model, refuses, text, vlm, works};
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageFormat, Rgb, RgbImage};

fn embed(picture: &Path) -> Command {
    let mut vlm = vlm();
    vlm.arg("embed").arg("--model").arg(model()).arg("--image").arg(picture);
    vlm
}

fn eval(data: &Path) -> Command {
    let mut vlm = vlm();
    vlm.args(["eval", "--task", "retrieval", "--model"]).arg(model()).arg("--data").arg(data);
    vlm
}

fn zero_shot() -> Command {
    let mut vlm = vlm();
    vlm.arg("zero-shot").arg("--model").arg(model());
    vlm.arg("--image").arg(example("csv/cat.png"));
    vlm
}

/// The checksum of a PNG chunk.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 }
        })
    })
}

#[test]
fn pictures_that_are_none() {
    let dir = fresh("bad-pictures");
    let cut = |name: &str| {
        let bytes = fs::read(golden(name)).unwrap();
        bytes[..bytes.len() / 2].to_vec()
    };
    for (name, content, words) in [
        ("empty.png", Vec::new(), "empty"),
        ("cut.png", cut("wide.png"), "cut off"),
        ("cut.jpg", cut("cmyk.jpg"), "fetch or export it again"),
        ("text.png", b"a caption, not a picture".to_vec(), "not a picture"),
        ("bytes.jpg", vec![0xFF, 0, 1, 2, 3], "not a picture"),
        ("start.gif", b"GIF89a".to_vec(), "cut off"),
    ] {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        refuses(&mut embed(&path), 1, &[path.to_str().unwrap(), words]);
    }
    refuses(&mut embed(&dir), 1, &["bad-pictures", "is a folder"]);
    refuses(&mut embed(&dir.join("none.png")), 1, &["none.png", "No such file"]);
    // Among good ones it is the bad one that is named, and nothing is printed of the others.
    let mut both = embed(&example("csv/cat.png"));
    refuses(both.arg(dir.join("text.png")).arg("--json"), 1, &["text.png: not a picture"]);
    let strange = dir.join("two\nlines.png");
    refuses(&mut embed(&strange), 1, &["two lines.png"]);
}

#[test]
fn pictures_that_claim_60000_pixels_cost_no_memory() {
    let dir = fresh("bad-huge");
    let mut png = fs::read(golden("dot.png")).unwrap();
    png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    let mut bmp = fs::read(golden("plain.bmp")).unwrap();
    bmp[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    let mut gif = fs::read(golden("moving.gif")).unwrap();
    gif[6..8].copy_from_slice(&60_000u16.to_le_bytes());
    gif[8..10].copy_from_slice(&60_000u16.to_le_bytes());
    // The pixels would be 10 GiB; the whole address space is held to one, which is too little
    // for the libraries of other backends.
    let limit = if cfg!(feature = "flex") { "ulimit -v 1048576" } else { "true" };
    for (name, bytes) in [("huge.png", png), ("huge.bmp", bmp), ("huge.gif", gif)] {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        let mut vlm = limited(limit);
        vlm.arg("embed").arg("--model").arg(model()).arg("--image").arg(&path);
        refuses(&mut vlm, 1, &[name, "declares 60000x60000 pixels"]);
    }
    let mut vlm = limited(limit);
    vlm.arg("embed").arg("--model").arg(model()).arg("--image").arg(golden("wide.png"));
    works(&mut vlm);
}

#[test]
fn unusual_pictures_simply_work() {
    let dir = fresh("good-pictures");
    let save = |name: &str, picture: DynamicImage| {
        let path = dir.join(name);
        picture.save_with_format(&path, ImageFormat::Png).unwrap();
        path
    };
    let grey_alpha =
        GrayAlphaImage::from_fn(9, 7, |x, y| image::LumaA([x as u8 * 9, y as u8 * 30]));
    let dot = RgbImage::from_pixel(1, 1, Rgb([9, 8, 7]));
    let mut pictures = vec![
        save("grey-alpha.png", grey_alpha.into()),
        save("one.png", dot.into()),
        save("line.png", GrayImage::new(300, 1).into()),
    ];
    for name in [
        "dot.png",
        "grey.png",
        "grey16.png",
        "alpha.png",
        "palette.png",
        "bits.png",
        "cmyk.jpg",
        "moving.gif",
        "moving.png",
        "moving.webp",
        "plain.bmp",
        "packed.tiff",
        "turned6.png",
    ] {
        pictures.push(golden(name));
    }
    let mut vlm = vlm();
    vlm.args(["embed", "--json", "--model"]).arg(model()).arg("--image").args(&pictures);
    let json: serde_json::Value = serde_json::from_str(&works(&mut vlm)).unwrap();
    let embeddings = json["embeddings"].as_array().unwrap();
    assert_eq!(embeddings.len(), pictures.len());
    for (embedding, path) in embeddings.iter().zip(&pictures) {
        let square: f64 = embedding["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap().powi(2))
            .sum();
        assert!((square - 1.0).abs() < 1e-4, "{}: {square}", path.display());
    }
}

/// A folder with a picture and these files.
fn set(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let dir = fresh(&format!("bad-set-{name}"));
    fs::copy(example("csv/cat.png"), dir.join("cat.png")).unwrap();
    for (file, content) in files {
        fs::write(dir.join(file), content).unwrap();
    }
    dir
}

#[test]
fn caption_files_name_the_line() {
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("a.csv", b"image,caption\ncat.png,x\nno.png,y\n", &["a.csv:3: ", "no.png", "missing"]),
        ("b.csv", b"image,caption\n../cat.png,x\n", &["b.csv:2: ", "climbs out"]),
        ("c.csv", b"image,caption\n/etc/passwd,x\n", &["c.csv:2: ", "climbs out"]),
        ("d.csv", b"image,caption\ncat.png,\xff\xfe\n", &["d.csv:2: ", "UTF-8"]),
        ("e.csv", b"image,caption\ncat.png,x\n\ncat.png,y\n", &["e.csv:3: ", "empty"]),
        ("f.csv", b"image,colour\ncat.png,x\n", &["f.csv:1: ", "unknown column `colour`"]),
        ("g.csv", b"image,caption\ncat.png\n", &["g.csv:2: ", "not a row"]),
        ("h.csv", b"image,caption\ncat.png,x,y\n", &["h.csv:2: ", "not a row"]),
        ("i.csv", b"image,caption\ncat.png,\"x\ncat.png,y\n", &["i.csv:2: ", "quote"]),
        ("j.csv", b"caption\nx\n", &["j.csv:1: ", "column image"]),
        ("k.csv", b"image,label\ncat.png,a\ncat.png,b\n", &["k.csv:3: ", "`b`", "`a`"]),
        ("l.csv", b"", &["l.csv: ", "empty"]),
        ("m.csv", b"image,caption\n", &["m.csv: ", "no sample"]),
        ("a.jsonl", b"{\"image\":\"no.png\",\"caption\":\"x\"}", &["a.jsonl:1: ", "missing"]),
        ("b.jsonl", b"{\"image\":\"../c.png\",\"caption\":\"x\"}", &["b.jsonl:1: ", "climbs out"]),
        ("c.jsonl", b"{\"image\":\"/c.png\",\"caption\":\"x\"}", &["c.jsonl:1: ", "climbs out"]),
        ("d.jsonl", b"{\"image\":\"cat.png\",\"caption\":\"\x80\"}", &["d.jsonl:1: ", "UTF-8"]),
        ("e.jsonl", b"\n{\"image\":\"cat.png\",\"caption\":\"x\"}", &["e.jsonl:1: ", "empty"]),
        ("f.jsonl", b"{\"image\":\"cat.png\",\"title\":\"x\"}", &["f.jsonl:1: ", "`title`"]),
        ("g.jsonl", b"{\"image\":\"cat.png\"", &["g.jsonl:1: ", "JSON"]),
        ("h.jsonl", b"{\"image\":\".\",\"caption\":\"x\"}", &["h.jsonl:1: ", "is a folder"]),
        ("a.parquet", b"PAR1", &["a.parquet: ", ".jsonl, .csv"]),
    ];
    for (file, content, words) in cases {
        let dir = set(&file.replace('.', "-"), &[(file, content)]);
        refuses(&mut eval(&dir.join(file)), 1, words);
    }
    // And where a run is to be trained on it: nothing is left behind.
    let dir = set("trained", &[("t.csv", b"image,caption\nno.png,x\n")]);
    let setting = format!("data.train={}", dir.join("t.csv").display());
    let mut train = vlm();
    train.arg("train").arg(common::config(&dir)).arg("--out").arg(dir.join("out"));
    refuses(train.args(["--set", &setting]), 1, &["t.csv:2: ", "no.png"]);
    assert!(!dir.join("out").exists());
}

#[test]
fn caption_folders_name_the_file() {
    /// A name, the files, and the words of the refusal.
    type Broken = (&'static str, &'static [(&'static str, &'static [u8])], &'static [&'static str]);
    let cases: &[Broken] = &[
        ("lone", &[("cat.txt", b"x"), ("dog.png", b"x")], &["dog.png", "no caption file"]),
        ("empty-line", &[("cat.txt", b"x\n\ny\n")], &["cat.txt:2: ", "empty"]),
        ("empty-text", &[("cat.txt", b"")], &["cat.txt: ", "empty"]),
        ("utf8", &[("cat.txt", b"good\n\xc3\x28\n")], &["cat.txt:2: ", "UTF-8"]),
        ("none", &[], &["pictures without captions"]),
        ("damaged", &[("cat.txt", b"x"), ("cat.png", b"no picture")], &["cat.png: not a picture"]),
    ];
    for (name, files, words) in cases {
        refuses(&mut eval(&set(name, files)), 1, words);
    }
    refuses(&mut eval(&fresh("bad-set-nothing")), 1, &["bad-set-nothing: no caption file"]);
    refuses(&mut eval(Path::new("/no/such/set")), 1, &["/no/such/set", "emoji"]);
    let split = format!("{}:nothing", example("jsonl").display());
    refuses(&mut eval(Path::new(&split)), 1, &["no split `nothing`", "test, train"]);
}

#[test]
fn labels_and_templates() {
    let dir = fresh("bad-labels");
    let file = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    refuses(zero_shot().args(["--labels", ""]), 2, &["--labels: no labels"]);
    refuses(zero_shot().args(["--labels", " , ,"]), 2, &["--labels: no labels"]);
    refuses(zero_shot().args(["--labels", "a,b,a"]), 2, &["`a` is there twice"]);
    refuses(&mut zero_shot(), 2, &["--labels"]);
    for (name, content, words) in [
        ("empty.txt", &b""[..], "no labels"),
        ("blank.txt", b"\n  \n", "no labels"),
        ("twice.txt", b"a\nb\na\n", "`a` is there twice"),
        ("bytes.txt", b"a\n\xff\n", "UTF-8"),
    ] {
        let path = file(name, content);
        refuses(zero_shot().arg("--labels-file").arg(&path), 1, &[name, words]);
    }
    refuses(zero_shot().args(["--labels-file", "/no/labels"]), 1, &["/no/labels: "]);

    let run = |templates: &Path| {
        let mut vlm = zero_shot();
        vlm.args(["--labels", "a,b", "--templates"]).arg(templates);
        vlm
    };
    refuses(&mut run(Path::new("clip800")), 1, &["clip800: ", "clip80"]);
    refuses(&mut run(&file("bare.txt", b"a {}\na photo\n")), 1, &["bare.txt:2: ", "{}"]);
    refuses(&mut run(&file("two.txt", b"{} and {}\n")), 1, &["two.txt:1: ", "has 2"]);
    refuses(&mut run(&file("none.txt", b"\n")), 1, &["none.txt: no template"]);
    works(&mut run(&file("good.txt", b"a photo of a {}\n")));
}

#[test]
fn wrong_usage_ends_with_status_2() {
    let picture = example("csv/cat.png");
    refuses(vlm().args(["embed", "--text", "x"]), 2, &["--model"]);
    refuses(embed(&picture).args(["--text", "x"]), 2, &["--text"]);
    refuses(vlm().arg("embed").arg("--model").arg(model()), 2, &["--image", "--text"]);
    refuses(embed(&picture).arg("--jsno"), 2, &["--jsno"]);
    refuses(vlm().arg("trian"), 2, &["trian"]);
    refuses(
        embed(&picture).args(["--device", "nonsense"]),
        2,
        &["--device nonsense", "this build has"],
    );
    refuses(embed(&picture).args(["--device", "flex:x"]), 2, &["--device flex:x"]);
    refuses(eval(&picture).args(["--task", "nothing"]), 2, &["--task"]);
    refuses(zero_shot().args(["--labels", "a,b", "--top-k", "0"]), 2, &["--top-k", "at least 1"]);
    refuses(vlm().arg("inspect"), 2, &["DIR"]);
    let help = vlm().arg("--help").output().unwrap();
    assert!(help.status.success() && text(&help.stdout).contains("zero-shot"));
}

#[test]
fn a_set_without_labels_or_pictures() {
    let empty = fresh("bad-retrieve");
    let mut retrieve = vlm();
    retrieve.arg("retrieve").arg("--model").arg(model()).args(["--query", "x", "--images"]);
    refuses(retrieve.arg(&empty), 1, &["bad-retrieve: no pictures"]);
    let partly = set("partly", &[("t.csv", b"image,caption,label\ncat.png,x,a\ndog.png,y,\n")]);
    fs::copy(example("csv/dog.png"), partly.join("dog.png")).unwrap();
    let mut zero_shot = vlm();
    zero_shot.args(["eval", "--task", "zero-shot", "--model"]).arg(model()).arg("--data");
    refuses(zero_shot.arg(&partly), 1, &["t.csv:3: ", "no label"]);
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for stderr_too in [false, true] {
        let mut vlm = vlm();
        vlm.args(["embed", "--model"]).arg(model()).arg("--text");
        vlm.args((0..500).map(|i| format!("text {i}"))).stdout(Stdio::piped());
        if stderr_too {
            vlm.args(["--device", "nonsense"]);
        }
        let mut child = vlm.stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let stderr = child.stderr.take();
        let done = if stderr_too {
            drop(stderr);
            child.wait().unwrap()
        } else {
            let said = std::io::read_to_string(stderr.unwrap()).unwrap();
            assert_eq!(said, "");
            child.wait().unwrap()
        };
        assert_eq!(done.code(), Some(if stderr_too { 2 } else { 0 }));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_harms_no_earlier_result() {
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let picture = example("csv/cat.png");
    for arguments in [&["--json"][..], &[]] {
        let done = embed(&picture).args(arguments).stdout(full()).output().unwrap();
        assert_eq!(done.status.code(), Some(1));
        assert!(text(&done.stderr).starts_with("error: stdout: No space left"));
    }
    let dir = fresh("bad-full");
    let out = dir.join("features.safetensors");
    fs::write(&out, "an earlier result").unwrap();
    let texts: Vec<String> = (0..200).map(|i| format!("text {i}")).collect();
    let mut vlm = limited("trap '' XFSZ; ulimit -f 8");
    vlm.args(["embed", "--model"]).arg(model()).arg("--out").arg(&out).arg("--text").args(&texts);
    fails(&mut vlm, 1, &["features.safetensors: ", "too large"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "an earlier result");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "leftovers");
    // A device is no file to be replaced.
    let device = dir.join("device");
    std::os::unix::fs::symlink("/dev/full", &device).unwrap();
    refuses(embed(&picture).arg("--out").arg(&device), 1, &["device: No space left"]);
    assert!(device.is_symlink());
    let folder = dir.join("folder");
    fs::create_dir(&folder).unwrap();
    refuses(embed(&picture).arg("--out").arg(&folder), 1, &["folder: "]);
}
