//! Open Clip Art: drawings with the titles and keywords of their sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};
use serde_json::json;

use super::draw;
use crate::progress::Progress;
use crate::stage::Stage;
use crate::unpack::{Item, each};

/// Categories that are left out: parts of screens, bare shapes, signs, and what has no category.
const LEFT_OUT: [&str; 5] = ["computer", "shapes", "signs_and_symbols", "special", "unsorted"];
/// Pictures of more pixels are in the folder, but in no list.
const PIXELS: u64 = 16_000_000;
/// Titles and keywords, in lower case, that say nothing of the picture; the last is an artist.
const NOISE: [&str; 3] = ["hash", "unsorted", "architetto francesco rollandin"];

/// Fills the stage from the Debian packages; returns what was changed.
///
/// # Errors
/// If a package is damaged or something cannot be written.
pub fn make(png: &Path, svg: &Path, stage: &Stage) -> Result<&'static str> {
    let pictures = pictures(png, stage)?;
    let captions = captions(svg)?;
    let usable = usable(&pictures);
    let mut lists: BTreeMap<&str, String> = BTreeMap::new();
    let mut labels = BTreeSet::new();
    for (name, _) in pictures.keys().zip(usable).filter(|(_, usable)| *usable) {
        let stem = name.trim_end_matches(".png");
        let Some(captions) = captions.get(stem).filter(|captions| !captions.is_empty()) else {
            continue;
        };
        let label = name.split('/').next().unwrap_or_default().replace('_', " ");
        // Pictures with the same words are all seen in training, or none of them is.
        let list = match draw::number("openclipart", &captions[0].to_lowercase()) % 10 {
            0 => "test",
            1 => "val",
            _ => "train",
        };
        let group = captions[0].to_lowercase();
        let line = json!({"image": name, "captions": captions, "label": label, "group": group});
        *lists.entry(list).or_default() += &format!("{line}\n");
        labels.insert(label);
    }
    for (name, text) in &lists {
        stage.write(&format!("{name}.jsonl"), text)?;
    }
    let labels: Vec<String> = labels.into_iter().collect();
    stage.write("labels.txt", labels.join("\n") + "\n")?;
    Ok("five categories left out; a picture that several categories share is in one of them; \
        titles and keywords from the SVG files. Pictures are byte for byte as packaged: some are \
        gigantic, and those are in no list.")
}

/// Unpacks the pictures into the stage, each once; returns them by name.
fn pictures(package: &Path, stage: &Stage) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut links: BTreeMap<String, String> = BTreeMap::new();
    each(package, &mut |name, item| {
        if name == "usr/share/doc/openclipart-png/copyright" {
            if let Item::File(content) = item {
                stage.write("LICENSE", content.bytes()?)?;
            }
            return Ok(());
        }
        let folder = "usr/share/openclipart/png/";
        let Some(name) = name.strip_prefix(folder).filter(|name| name.ends_with(".png")) else {
            return Ok(());
        };
        match item {
            Item::File(content) => {
                files.insert(name.to_owned(), content.bytes()?);
            }
            Item::Link(target) => {
                if let Some(target) = target.strip_prefix(folder).filter(|_| kept(name)) {
                    links.insert(name.to_owned(), target.to_owned());
                }
            }
        }
        Ok(())
    })?;
    let chosen = chosen(files, &links);
    if chosen.is_empty() {
        bail!("{} holds no pictures", package.display());
    }
    for (name, bytes) in &chosen {
        stage.write(name, bytes)?;
    }
    Ok(chosen)
}

fn kept(name: &str) -> bool {
    name.split_once('/').is_some_and(|(category, _)| !LEFT_OUT.contains(&category))
}

/// The pictures of the categories that are kept, each once: under its own name, or, where that is
/// in a category left out, under the first link to it.
fn chosen(
    mut files: BTreeMap<String, Vec<u8>>,
    links: &BTreeMap<String, String>,
) -> BTreeMap<String, Vec<u8>> {
    for (name, target) in links {
        // A link may lead to a link.
        let target = links.get(target).unwrap_or(target);
        if !kept(target)
            && let Some(bytes) = files.remove(target)
        {
            files.insert(name.clone(), bytes);
        }
    }
    files.retain(|name, _| kept(name));
    files
}

/// Which pictures can be decoded without a fuss.
fn usable(pictures: &BTreeMap<String, Vec<u8>>) -> Vec<bool> {
    let pictures: Vec<&Vec<u8>> = pictures.values().collect();
    let next = AtomicUsize::new(0);
    let progress = std::sync::Mutex::new(Progress::new("decoding", pictures.len() as u64));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut good = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(bytes) = pictures.get(i) else { return good };
            if is_usable(bytes) {
                good.push(i);
            }
            if let Ok(mut progress) = progress.lock() {
                progress.add(1);
            }
        }
    };
    let mut usable = vec![false; pictures.len()];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            for i in worker.join().unwrap_or_default() {
                usable[i] = true;
            }
        }
    });
    usable
}

/// Looks at the header first: the largest would take 2.5 GB.
fn is_usable(bytes: &[u8]) -> bool {
    let reader =
        || image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png);
    let pixels =
        reader().into_dimensions().map(|(width, height)| u64::from(width) * u64::from(height));
    pixels.is_ok_and(|pixels| pixels <= PIXELS) && reader().decode().is_ok()
}

/// Title and keywords of each drawing, by its name without ending.
fn captions(package: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut captions = BTreeMap::new();
    let mut links = BTreeMap::new();
    let folder = "usr/share/openclipart/svg/";
    let stem = |name: &str| Some(name.strip_prefix(folder)?.strip_suffix(".svg")?.to_owned());
    each(package, &mut |name, item| {
        let Some(name) = stem(name) else { return Ok(()) };
        match item {
            Item::File(content) => {
                captions.insert(name, described(&String::from_utf8_lossy(&content.bytes()?)));
            }
            Item::Link(target) => {
                links.extend(stem(&target).map(|target| (name, target)));
            }
        }
        Ok(())
    })?;
    for (name, target) in &links {
        let target = links.get(target).unwrap_or(target);
        if let Some(found) = captions.get(target).cloned() {
            captions.insert(name.clone(), found);
        }
    }
    Ok(captions)
}

/// The title, then the keywords, as far as they say something.
fn described(svg: &str) -> Vec<String> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let Ok(document) = roxmltree::Document::parse_with_options(svg, options) else {
        return Vec::new();
    };
    let Some(work) = document.descendants().find(|node| node.tag_name().name() == "Work") else {
        return Vec::new();
    };
    let part = |name: &str| work.children().find(|node| node.tag_name().name() == name);
    let title = part("title").and_then(|node| node.text()).map(plain);
    // The series of one artist have all the title of their first drawing.
    let title = title.filter(|title| says_something(title) && !title.starts_with("Clipart by"));
    let mut keywords: Vec<String> = Vec::new();
    for item in part("subject").iter().flat_map(|node| node.descendants()) {
        let word = item.text().map(plain).unwrap_or_default();
        if item.tag_name().name() == "li" && says_something(&word) && !keywords.contains(&word) {
            keywords.push(word);
        }
    }
    let keywords = (!keywords.is_empty()).then(|| keywords.join(", "));
    title.into_iter().chain(keywords).collect()
}

fn says_something(words: &str) -> bool {
    !words.is_empty() && !NOISE.contains(&words.to_lowercase().as_str())
}

/// Words with one space between them; underscores stand for spaces.
fn plain(text: &str) -> String {
    text.replace('_', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(title: &str, keywords: &[&str]) -> String {
        let keywords: String =
            keywords.iter().map(|word| format!("<rdf:li>{word}</rdf:li>")).collect();
        format!(
            "<!DOCTYPE svg><svg xmlns:dc='d' xmlns:rdf='r' xmlns:cc='c'><title>no</title>\
             <cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>{keywords}</rdf:Bag>\
             </dc:subject><dc:publisher><dc:title>public domain</dc:title></dc:publisher>\
             </cc:Work></svg>"
        )
    }

    #[test]
    fn titles_and_keywords_are_read_without_noise() {
        let words = ["", "hash", "tool", " a  b ", "tool"];
        assert_eq!(described(&svg("old_scale\n1", &words)), ["old scale 1", "tool, a b"]);
        assert_eq!(described(&svg("Clipart by Nicu - x", &["fruit"])), ["fruit"]);
        assert!(described(&svg("", &["hash"])).is_empty());
        assert!(described("<svg").is_empty());
        assert!(described("<svg/>").is_empty());
    }

    #[test]
    fn a_picture_is_kept_once() {
        let bytes = |name: &str| name.as_bytes().to_vec();
        let files = ["animals/a.png", "computer/b.png", "shapes/c.png", "top.png"];
        let files = files.into_iter().map(|name| (name.to_owned(), bytes(name))).collect();
        let links = [
            ("food/a.png", "animals/a.png"),
            ("food/b.png", "computer/b.png"),
            ("logos/b.png", "food/b.png"),
        ];
        let links = links.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        let found: Vec<(String, Vec<u8>)> = chosen(files, &links).into_iter().collect();
        let expected = [("animals/a.png", "animals/a.png"), ("food/b.png", "computer/b.png")];
        assert_eq!(found, expected.map(|(name, content)| (name.to_owned(), bytes(content))));
    }

    #[test]
    fn gigantic_and_broken_pictures_are_not_usable() {
        let picture = |width, height| {
            let mut bytes = std::io::Cursor::new(Vec::new());
            image::GrayImage::new(width, height)
                .write_to(&mut bytes, image::ImageFormat::Png)
                .unwrap();
            bytes.into_inner()
        };
        assert!(is_usable(&picture(20, 20)));
        assert!(!is_usable(&picture(4001, 4000)));
        assert!(!is_usable(&picture(20, 20)[..40]));
        assert!(!is_usable(b"GIF89a"));
    }
}
